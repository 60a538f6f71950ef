/* The least that a server of event streams can do: one send of one buffer, which
   all share and which has its chunk around it already, for each client.

   It checks nothing, bounds nothing and answers whatever is asked with a stream.

   floor PORT CONTROL TEXT */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define MOST 40000

static int clients[MOST], where[MOST + 64], count;
static int poller;
static unsigned long number;
static char *buffer;
static size_t room;
static const char *text;

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static int listening(const char *port)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(atoi(port))};
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (struct sockaddr *)&at, sizeof at) < 0 || listen(fd, 4096) < 0)
        die(port);
    return fd;
}

static void follow(int fd)
{
    struct epoll_event e = {.events = EPOLLIN, .data.fd = fd};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &e) < 0)
        die("epoll_ctl");
}

static void send_all(int fd, const char *from, size_t length)
{
    while (length) {
        ssize_t n = send(fd, from, length, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN)
            return;
        if (n < 0) {
            struct pollfd full = {.fd = fd, .events = POLLOUT};
            poll(&full, 1, 1000);
            continue;
        }
        from += n;
        length -= n;
    }
}

static void publish(int messages)
{
    size_t most = 32 + messages * (strlen(text) + 64), length = 0;
    if (most > room) {
        room = most;
        buffer = realloc(buffer, room);
    }
    /* The chunk's size is filled in when it is known. */
    char *body = buffer + 10;
    for (int i = 0; i < messages; i++)
        length += sprintf(body + length, "data: {\"n\": %lu, \"text\": \"%s\"}\n\n", ++number, text);
    char size[16];
    int digits = sprintf(size, "%zx\r\n", length);
    char *start = body - digits;
    memcpy(start, size, digits);
    memcpy(body + length, "\r\n", 2);
    for (int i = 0; i < count; i++)
        send_all(clients[i], start, digits + length + 2);
}

static void greet(int fd)
{
    static const char header[] =
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
        "Transfer-Encoding: chunked\r\n\r\n5\r\n:ok\n\n\r\n";
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    where[fd] = count;
    clients[count++] = fd;
    send_all(fd, header, sizeof header - 1);
}

int main(int argc, char **argv)
{
    if (argc != 4)
        return 2;
    text = argv[3];
    poller = epoll_create1(0);
    int http = listening(argv[1]), control = listening(argv[2]), publisher = -1;
    memset(where, -1, sizeof where);
    follow(http);
    follow(control);
    for (;;) {
        struct epoll_event events[256];
        int n = epoll_wait(poller, events, 256, -1);
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd;
            if (fd == http || fd == control) {
                int come;
                while ((come = accept4(fd, 0, 0, SOCK_NONBLOCK)) >= 0) {
                    if (come >= MOST + 64 || count >= MOST)
                        return 1;
                    if (fd == control)
                        publisher = come;
                    follow(come);
                }
                continue;
            }
            char said[4096];
            ssize_t length = recv(fd, said, sizeof said - 1, 0);
            if (length < 0 && errno == EAGAIN)
                continue;
            if (length <= 0) {
                if (where[fd] >= 0) {
                    int last = clients[--count];
                    clients[where[fd]] = last;
                    where[last] = where[fd];
                    where[fd] = -1;
                }
                close(fd);
                continue;
            }
            said[length] = 0;
            if (fd == publisher)
                /* A loop that is closed has one command at a time. */
                publish(atoi(said + strlen("publish ")));
            else
                greet(fd);
        }
    }
}
