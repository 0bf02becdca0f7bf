/*
 * C: level-triggered epoll, one shared read buffer, one write per read. UDP is a blocking loop.
 *
 * Usage: epoll tcp|udp PORT
 */

#define _GNU_SOURCE
#include <ctype.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { READ = 65536, LIMIT = 16384, EVENTS = 256 };

/* What a connection holds between two events: an unfinished line, and replies not yet taken. */
struct connection {
    int fd;
    size_t held, owed;
    char *rest, *unsent;
};

static char in[LIMIT + READ];
/* At worst every byte is an LF, and each of them is answered with seven. */
static char out[7 * (LIMIT + READ)];
static int polling;

static void drop(struct connection *c) {
    close(c->fd);
    free(c->rest);
    free(c->unsent);
    free(c);
}

static void listenFor(struct connection *c, unsigned events) {
    struct epoll_event event = {.events = events, .data.ptr = c};
    epoll_ctl(polling, EPOLL_CTL_MOD, c->fd, &event);
}

static int keep(char **where, size_t *length, const char *from, size_t count) {
    char *kept = count ? malloc(count) : NULL;
    if (count && !kept)
        return -1;
    if (count)
        memcpy(kept, from, count);
    free(*where);
    *where = kept;
    *length = count;
    return 0;
}

/* Send replies; what the peer does not take now is kept, and nothing is read until it did. */
static void answer(struct connection *c, const char *replies, size_t count) {
    ssize_t sent = send(c->fd, replies, count, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN)
        return drop(c);
    size_t taken = sent < 0 ? 0 : sent;
    int waited = c->owed > 0;
    if (taken == count && !waited)
        return;
    if (keep(&c->unsent, &c->owed, replies + taken, count - taken) < 0)
        return drop(c);
    listenFor(c, c->owed ? EPOLLOUT : EPOLLIN);
}

static void receive(struct connection *c) {
    if (c->held)
        memcpy(in, c->rest, c->held);
    ssize_t count = recv(c->fd, in + c->held, READ, 0);
    if (count < 0 && errno == EAGAIN)
        return;
    if (count <= 0)
        return drop(c);
    char *line = in, *end = in + c->held + count, *lf, *reply = out;
    while ((lf = memchr(line, '\n', end - line))) {
        reply = mempcpy(reply, "Echo=>", 6);
        reply = mempcpy(reply, line, lf + 1 - line);
        line = lf + 1;
    }
    size_t left = end - line;
    if (left > LIMIT || ((left || c->held) && keep(&c->rest, &c->held, line, left) < 0))
        return drop(c);
    if (reply > out)
        answer(c, out, reply - out);
}

static void acceptAll(int listening) {
    int fd;
    while ((fd = accept4(listening, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        struct connection *c = calloc(1, sizeof *c);
        if (!c) {
            close(fd);
            return;
        }
        c->fd = fd;
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
        epoll_ctl(polling, EPOLL_CTL_ADD, fd, &event);
    }
}

static int echo(int listening) {
    struct epoll_event events[EVENTS], event = {.events = EPOLLIN, .data.ptr = NULL};
    polling = epoll_create1(EPOLL_CLOEXEC);
    if (listen(listening, 1024) < 0 || epoll_ctl(polling, EPOLL_CTL_ADD, listening, &event) < 0)
        return 1;
    for (;;) {
        int count = epoll_wait(polling, events, EVENTS, -1);
        for (int i = 0; i < count; i++) {
            struct connection *c = events[i].data.ptr;
            if (!c)
                acceptAll(listening);
            else if (c->owed)
                answer(c, c->unsent, c->owed);
            else
                receive(c);
        }
    }
}

static _Noreturn void upper(int fd) {
    for (;;) {
        struct sockaddr_in peer;
        socklen_t size = sizeof peer;
        ssize_t count = recvfrom(fd, in, READ, 0, (struct sockaddr *)&peer, &size);
        for (ssize_t i = 0; i < count; i++)
            in[i] = toupper((unsigned char)in[i]);
        if (count >= 0)
            sendto(fd, in, count, 0, (struct sockaddr *)&peer, size);
    }
}

int main(int argc, char **argv) {
    if (argc < 3)
        return 2;
    int udp = !strcmp(argv[1], "udp"), on = 1;
    int fd = socket(AF_INET, udp ? SOCK_DGRAM : SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[2]))};
    here.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&here, sizeof here) < 0)
        return 1;
    if (udp)
        upper(fd);
    return echo(fd);
}
