/* A program that gives itself another's face by prctl(2) PR_SET_MM_MAP, and asks: SOCK FACE|- ARGV|- [FIRST].

   FACE: its /proc/PID/exe becomes that file, though none of its bytes are run. ARGV: that file is mapped where its arguments and environment
   are said to be, so whoever reads /proc/PID/cmdline or environ asks that file's system. Neither needs a privilege: a helper that shares the
   memory map, in a user namespace of its own, has the one that the kernel looks for.

   What comes on standard input is written to the connection, which is standard output. With FIRST it connects and asks that before it
   changes, and waits for one byte of input; without, it has changed before it connects. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/prctl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static char stack[64 * 1024] __attribute__((aligned(16)));

struct piece {
	unsigned long begin, end;
	int prot;
};

static void need(int good, const char *what)
{
	if (!good) {
		perror(what);
		_exit(1);
	}
}

/* The kernel exchanges the executable only of who has nothing of it mapped: each piece is copied to memory of no file, in its place. */
static void leave_own_file(void)
{
	struct piece pieces[16];
	char own[4096] = "", line[8192], path[4096];
	int count = 0;
	FILE *maps = fopen("/proc/self/maps", "r");

	need(maps != 0 && readlink("/proc/self/exe", own, sizeof own - 1) > 0, "maps");
	while (fgets(line, sizeof line, maps) && count < 16) {
		struct piece *p = &pieces[count];
		char r, w, x;

		path[0] = 0;
		if (sscanf(line, "%lx-%lx %c%c%c%*c %*s %*s %*s %4095s", &p->begin, &p->end, &r, &w, &x, path) < 5 || strcmp(path, own))
			continue;
		p->prot = (r == 'r' ? PROT_READ : 0) | (w == 'w' ? PROT_WRITE : 0) | (x == 'x' ? PROT_EXEC : 0);
		count++;
	}
	fclose(maps);
	for (int n = 0; n < count; n++) {
		void *at = (void *)pieces[n].begin;
		size_t len = pieces[n].end - pieces[n].begin;
		void *copy = mmap(0, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		need(copy != MAP_FAILED, "mmap");
		memcpy(copy, at, len);
		need(mprotect(copy, len, pieces[n].prot) == 0, "mprotect");
		need(mremap(copy, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, at) == at, "mremap");
	}
}

static int helper(void *map)
{
	return prctl(PR_SET_MM, PR_SET_MM_MAP, map, sizeof(struct prctl_mm_map), 0) == 0 ? 0 : errno;
}

static void change(const char *face, const char *file)
{
	struct prctl_mm_map map = { .exe_fd = (unsigned)-1 };
	unsigned long at[52] = { 0 };
	char text[4096];
	int fd = open("/proc/self/stat", O_RDONLY), n = 2, status = 0;
	ssize_t len = read(fd, text, sizeof text - 1);
	pid_t pid;

	need(len > 0, "stat");
	close(fd);
	text[len] = 0;
	/* proc_pid_stat(5), by number; the name ends at the last parenthesis. */
	for (char *word = strtok(strrchr(text, ')') + 1, " "); word && n < 51; word = strtok(0, " "))
		at[++n] = strtoul(word, 0, 10);
	map.start_code = at[26];
	map.end_code = at[27];
	map.start_stack = at[28];
	map.start_data = at[45];
	map.end_data = at[46];
	map.start_brk = at[47];
	map.brk = (unsigned long)sbrk(0);
	map.arg_start = at[48];
	map.arg_end = at[49];
	map.env_start = at[50];
	map.env_end = at[51];
	if (strcmp(file, "-")) {
		char *there;

		fd = open(file, O_RDONLY);
		there = mmap(0, 8192, PROT_READ, MAP_PRIVATE, fd, 0);
		need(fd >= 0 && there != MAP_FAILED, file);
		map.arg_start = (unsigned long)there;
		map.arg_end = map.env_start = map.arg_start + 4096;
		map.env_end = map.env_start + 4096;
	}
	if (strcmp(face, "-")) {
		leave_own_file();
		map.exe_fd = open(face, O_RDONLY);
		need((int)map.exe_fd >= 0, face);
	}
	pid = clone(helper, stack + sizeof stack, CLONE_VM | CLONE_NEWUSER | SIGCHLD, &map);
	need(pid > 0 && waitpid(pid, &status, 0) == pid, "clone");
	errno = WEXITSTATUS(status);
	need(status == 0, "PR_SET_MM_MAP");
}

int main(int argc, char **argv)
{
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	char text[8192];
	ssize_t len;

	if (argc < 4 || strlen(argv[1]) >= sizeof to.sun_path)
		return 1;
	strcpy(to.sun_path, argv[1]);
	if (argc == 4)
		change(argv[2], argv[3]);
	need(connect(1, (struct sockaddr *)&to, sizeof to) == 0, "connect");
	if (argc == 5) {
		need(write(1, argv[4], strlen(argv[4])) > 0 && read(0, text, 1) == 1, "first");
		change(argv[2], argv[3]);
	}
	while ((len = read(0, text, sizeof text)) > 0)
		need(write(1, text, len) == len, "write");
	return 0;
}
