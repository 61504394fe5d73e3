/* A program that connects its standard output to argv[1], asks there (argv[2]), waits to be told, leaves a helper that shares its memory
   map, and becomes argv[3]: so the map that was pinned outlives the exec. The helper goes with its parent. */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static char stack[64 * 1024] __attribute__((aligned(16)));

static int helper(void *told)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	*(volatile int *)told = 1;
	for (;;)
		pause();
	return 0;
}

int main(int argc, char **argv)
{
	static volatile int there;
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	char byte;

	if (argc != 4 || strlen(argv[1]) >= sizeof to.sun_path)
		return 1;
	strcpy(to.sun_path, argv[1]);
	if (connect(1, (struct sockaddr *)&to, sizeof to) < 0 || write(1, argv[2], strlen(argv[2])) < 0 || read(0, &byte, 1) != 1)
		return 1;
	if (clone(helper, stack + sizeof stack, CLONE_VM | SIGCHLD, (void *)&there) < 0)
		return 1;
	while (!there)
		usleep(100);
	execl(argv[3], argv[3], (char *)0);
	return 1;
}
