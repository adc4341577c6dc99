/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Both ends of a TLS session in one process, over a pair of BIOs: for each number on stdin so many exchanges, and the CPU time in ns
 * that one took. An exchange is two writes and two reads. Arguments: what the client writes, what the server answers.
 */
#include <openssl/ssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static double cpu_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
	return now.tv_sec * 1e9 + now.tv_nsec;
}

static void fail(const char *what)
{
	fprintf(stderr, "%s failed\n", what);
	exit(1);
}

static void transfer(SSL *from, SSL *to, const char *octets, int length)
{
	char received[16384];

	if (SSL_write(from, octets, length) != length)
		fail("SSL_write");
	if (SSL_read(to, received, sizeof(received)) != length)
		fail("SSL_read");
}

int main(int argc, char **argv)
{
	SSL_CTX *context = SSL_CTX_new(TLS_method());
	BIO *one, *other;
	SSL *client, *server;
	long many;

	if (argc != 4 || SSL_CTX_use_certificate_file(context, argv[3], SSL_FILETYPE_PEM) != 1 ||
	    SSL_CTX_use_PrivateKey_file(context, argv[3], SSL_FILETYPE_PEM) != 1 ||
	    BIO_new_bio_pair(&one, 1 << 16, &other, 1 << 16) != 1)
		fail("setup");
	client = SSL_new(context);
	server = SSL_new(context);
	SSL_set_bio(client, one, one);
	SSL_set_bio(server, other, other);
	SSL_set_connect_state(client);
	SSL_set_accept_state(server);
	while ((SSL_do_handshake(client) != 1) | (SSL_do_handshake(server) != 1))
		;
	while (scanf("%ld", &many) == 1) {
		double begin = cpu_ns();
		long i;

		for (i = 0; i < many; i++) {
			transfer(client, server, argv[1], strlen(argv[1]));
			transfer(server, client, argv[2], strlen(argv[2]));
		}
		printf("%.1f\n", (cpu_ns() - begin) / many);
		fflush(stdout);
	}
	return 0;
}
