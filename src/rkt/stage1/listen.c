/* Tell an app which sockets it got (sd_listen_fds(3)), then become its program.
 *
 *     listen keep|receive COUNT NAMES PROGRAM [ARGS...]
 *
 * It runs in the app, as the app: whoever started it has already given up all that the app may not
 * have.  LISTEN_PID can be known nowhere else, since all apps of a pod share its PID namespace.
 * `keep`: the sockets are descriptors 3 and up.  `receive`: descriptor 2 is a unix socket on which a
 * message with the app's standard error and them waits.  NAMES goes into LISTEN_FDNAMES; empty for
 * none.
 *
 * No allocation, and few system calls, for the app's filter of them is in force: planning.py has a
 * list of those that it must allow.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

enum { FIRST = 3, MOST = 252, CANNOT = 126 };

static void fail(const char *what, const char *name, const char *why)
{
	const char *part[] = { "rkt: cannot ", what, " \"", name, "\": ", why, "\n" };
	enum { PARTS = sizeof(part) / sizeof(*part) };
	struct iovec out[PARTS];

	for (int i = 0; i < PARTS; i++)
		out[i] = (struct iovec){ (void *)part[i], strlen(part[i]) };
	if (writev(2, out, PARTS) < 0)
		_exit(CANNOT);
	_exit(CANNOT);
}

static void receive(int count)
{
	union {
		struct cmsghdr head;
		char space[CMSG_SPACE((MOST + 1) * sizeof(int))];
	} control;
	char byte;
	struct iovec data = { &byte, 1 };
	struct msghdr message = { .msg_iov = &data, .msg_iovlen = 1, .msg_control = &control,
				  .msg_controllen = sizeof(control) };

	if (recvmsg(2, &message, 0) != 1)
		_exit(CANNOT);
	struct cmsghdr *head = CMSG_FIRSTHDR(&message);
	if (!head || head->cmsg_level != SOL_SOCKET || head->cmsg_type != SCM_RIGHTS)
		_exit(CANNOT);
	int *fd = (int *)CMSG_DATA(head);
	int got = (head->cmsg_len - CMSG_LEN(0)) / sizeof(int);
	if (got != count + 1 || dup3(fd[0], 2, 0) < 0)
		_exit(CANNOT);
	/* They were given the lowest free numbers in this order: each comes down, none is lost. */
	for (int i = 0; i < count; i++)
		if (fd[i + 1] <= FIRST + i || dup3(fd[i + 1], FIRST + i, 0) < 0)
			_exit(CANNOT);
	for (int i = 0; i < got; i++)
		if (fd[i] >= FIRST + count)
			close(fd[i]);
}

static int number(const char *text)
{
	char *end;
	long value = strtol(text, &end, 10);

	return *text && !*end && value > 0 && value <= MOST ? (int)value : 0;
}

/* Give "NAME=VALUE" in a buffer. */
static char *variable(char *buffer, const char *name, const char *value)
{
	return strcat(strcpy(buffer, name), value);
}

static char *decimal(char *buffer, int value)
{
	*buffer = 0;
	do
		*--buffer = '0' + value % 10;
	while (value /= 10);
	return buffer;
}

int main(int argc, char **argv)
{
	int count = argc > 4 ? number(argv[2]) : 0;
	int receives = argc > 4 && !strcmp(argv[1], "receive");

	if (!count || (!receives && strcmp(argv[1], "keep")))
		fail("start", argc > 4 ? argv[4] : "", strerror(EINVAL));
	if (receives)
		receive(count);

	int size = 0;
	while (environ[size])
		size++;
	char *changed[size + 4], digits[16], *end = digits + sizeof(digits) - 1;
	char pid[32], fds[32], names[sizeof("LISTEN_FDNAMES=") + strlen(argv[3])];
	int used = 0;
	for (int i = 0; i < size; i++)
		if (strncmp(environ[i], "LISTEN_PID=", 11) && strncmp(environ[i], "LISTEN_FDS=", 11) &&
		    strncmp(environ[i], "LISTEN_FDNAMES=", 15))
			changed[used++] = environ[i];
	changed[used++] = variable(pid, "LISTEN_PID=", decimal(end, getpid()));
	changed[used++] = variable(fds, "LISTEN_FDS=", decimal(end, count));
	if (*argv[3])
		changed[used++] = variable(names, "LISTEN_FDNAMES=", argv[3]);
	changed[used] = NULL;
	environ = changed;
	execvp(argv[4], argv + 4);
	const char *why = strerror(errno);
	if (errno == ENOENT && strchr(argv[4], '/') && !access(argv[4], F_OK))
		why = "its interpreter is not in the app";
	fail("execute", argv[4], why);
}
