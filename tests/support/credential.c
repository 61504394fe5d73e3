/* Loaded into another program: asks for a credential as systemd does, under a number and the name in $NAME, and writes what comes to $ANSWER. */
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

__attribute__((constructor)) static void ask(void) {
    const char *name = getenv("NAME"), *answer = getenv("ANSWER");
    if (!name || !answer) return;
    struct sockaddr_un own = {.sun_family = AF_UNIX}, daemon = {.sun_family = AF_UNIX};
    int length = snprintf(own.sun_path + 1, sizeof own.sun_path - 1, "%x/%s", getpid(), name);
    strcpy(daemon.sun_path, "/run/claviger/credentials.sock");
    int s = socket(AF_UNIX, SOCK_STREAM, 0), out = open(answer, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (bind(s, (struct sockaddr *)&own, offsetof(struct sockaddr_un, sun_path) + 1 + length)) _exit(91);
    if (connect(s, (struct sockaddr *)&daemon, sizeof daemon)) _exit(92);
    char bytes[300];
    ssize_t n = read(s, bytes, sizeof bytes);
    if (n > 0 && write(out, bytes, n) != n) _exit(93);
    _exit(0);
}
