/* Code of a caller's that is loaded into whatever takes LD_PRELOAD: leaves a mark, and speaks where only the launcher is believed. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

__attribute__((constructor)) static void loaded(void) {
    const char *mark = getenv("MARK"), *path = getenv("SOCKET");
    char answer[512] = "";
    if (!mark)
        return;
    if (path) {
        struct sockaddr_un at = {.sun_family = AF_UNIX};
        strncpy(at.sun_path, path, sizeof at.sun_path - 1);
        int s = socket(AF_UNIX, SOCK_SEQPACKET, 0);
        const char *question = "claviger-launch/1 tool alone";
        if (connect(s, (struct sockaddr *)&at, sizeof at) == 0 && send(s, question, strlen(question), 0) > 0)
            recv(s, answer, sizeof answer - 1, 0);
    }
    FILE *file = fopen(mark, "a");
    char own[512] = "";
    readlink("/proc/self/exe", own, sizeof own - 1);
    if (file) {
        fprintf(file, "%s %s\n", own, answer);
        fclose(file);
    }
}
