/* Many processes that hold a lease each: SOCK COUNT REQUEST [together]. One after the other connects, asks and closes, so that they need no
   more connections than anybody has; together they are all there before the first is answered. What they were answered is one JSON line: the leases. At the end of standard input all are killed at
   once; this process ends when the last of them is gone. Small, so that thousands fit. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

enum { NAME = 32 }; /* lease-ULID */

static void hold(const char *sock, const char *request, int tell)
{
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	int s = socket(AF_UNIX, SOCK_STREAM, 0);
	char answer[16384] = "", name[NAME] = "";
	size_t have = 0;
	ssize_t len;
	char *at;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	strcpy(to.sun_path, sock);
	if (connect(s, (struct sockaddr *)&to, sizeof to) == 0 && write(s, request, strlen(request)) > 0)
		while (have < sizeof answer - 1 && (len = read(s, answer + have, sizeof answer - 1 - have)) > 0)
			have += len;
	close(s);
	if ((at = strstr(answer, "\"lease-")) && strstr(answer, " 201 "))
		memcpy(name, at + 1, NAME);
	if (write(tell, name, NAME) != NAME)
		_exit(1);
	close(tell);
	for (;;)
		pause();
}

int main(int argc, char **argv)
{
	struct sockaddr_un to;
	int count, ends[2], together = argc == 5 && strcmp(argv[4], "together") == 0;
	pid_t *pids;
	char name[NAME], byte;

	if ((argc != 4 && !together) || strlen(argv[1]) >= sizeof to.sun_path || (count = atoi(argv[2])) < 1 || !(pids = calloc(count, sizeof *pids)))
		return 1;
	printf("{\"leases\":[");
	fflush(stdout);
	/* What is written to a pipe at a time and is short arrives whole. */
	if (together && pipe2(ends, 02000000) < 0)
		return 1;
	for (int n = 0; together && n < count; n++) {
		if ((pids[n] = fork()) == 0)
			hold(argv[1], argv[3], ends[1]);
		if (pids[n] < 0)
			return 1;
	}
	for (int n = 0; together && n < count; n++) {
		if (read(ends[0], name, NAME) != NAME)
			return 1;
		printf("%s\"%.*s\"", n ? "," : "", NAME, name);
	}
	for (int n = 0; !together && n < count; n++) {
		if (pipe2(ends, 02000000) < 0)
			return 1;
		fflush(stdout);
		if ((pids[n] = fork()) == 0)
			hold(argv[1], argv[3], ends[1]);
		close(ends[1]);
		if (pids[n] < 0 || read(ends[0], name, NAME) != NAME)
			return 1;
		close(ends[0]);
		printf("%s\"%.*s\"", n ? "," : "", NAME, name);
	}
	printf("]}\n");
	fflush(stdout);
	while (read(0, &byte, 1) > 0)
		;
	for (int n = 0; n < count; n++)
		kill(pids[n], SIGKILL);
	while (wait(0) > 0)
		;
	return 0;
}
