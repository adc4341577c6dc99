/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * connections ADDRESS COUNT RATE: so many TCP connections to a child of this process at this rate a second, each closed at
 * once, by the client first. Prints the seconds it took.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now(void)
{
	struct timespec at;

	clock_gettime(CLOCK_MONOTONIC, &at);
	return at.tv_sec + at.tv_nsec / 1e9;
}

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static void serve(int listening, long count)
{
	char octet;

	while (count--) {
		struct sockaddr_in peer;
		socklen_t length = sizeof(peer);
		int end = accept4(listening, (struct sockaddr *)&peer, &length, SOCK_CLOEXEC);

		if (end < 0)
			fail("accept4");
		if (read(end, &octet, 1) != 0)
			fail("read");
		close(end);
	}
}

int main(int argc, char **argv)
{
	struct sockaddr_in address = { .sin_family = AF_INET };
	socklen_t length = sizeof(address);
	int listening = socket(AF_INET, SOCK_STREAM, 0), status;
	long count, done;
	double rate, began;
	pid_t server;

	if (argc != 4 || !inet_aton(argv[1], &address.sin_addr))
		return 2;
	count = atol(argv[2]);
	rate = atof(argv[3]);
	if (bind(listening, (struct sockaddr *)&address, length) || listen(listening, 4096) ||
	    getsockname(listening, (struct sockaddr *)&address, &length))
		fail("listen");
	server = fork();
	if (server == 0) {
		serve(listening, count);
		_exit(0);
	}
	began = now();
	for (done = 0; done < count; done++) {
		int end = socket(AF_INET, SOCK_STREAM, 0);
		double ahead = done / rate - (now() - began);

		if (ahead > 0.001)
			usleep(1000);
		if (connect(end, (struct sockaddr *)&address, length))
			fail("connect");
		close(end);
	}
	waitpid(server, &status, 0);
	printf("%.3f\n", now() - began);
	return status != 0;
}
