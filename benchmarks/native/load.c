/* The load client: many event streams in one process with one epoll.

   It checks every message of every stream and costs less than any server, so
   that the server is what is measured. It is told what to do by lines on its
   standard input and answers each with one line of JSON:

   connect TOTAL FLIGHT     open streams until there are TOTAL, FLIGHT at a time
   run SECONDS BATCH        publish BATCH messages together, wait until every stream
                            has them, again, until SECONDS have passed
   paced COUNT PER_SECOND   publish COUNT messages at a fixed rate; latencies
   churn COUNT FLIGHT       open COUNT streams, FLIGHT at a time, and close each at
                            its first byte
   listen SECONDS 0         only read; latencies
   turnover COUNT FLIGHT    open COUNT streams, FLIGHT at a time; each has to end after
                            --count messages; latencies

   Messages are JSON objects that begin with their number: {"n": 17, ... "}. The
   numbers of a server go up by one, and a stream gets each from the next one on
   that is published after it has opened.

   With --own 1 each stream has numbers of its own, from 1 on, and a message says
   when it was due: {"n": 17, "due": 1234.567, ... "}, by CLOCK_MONOTONIC. Its
   latency begins there. With --numbered 1 the path of a stream ends with the
   number of the stream. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { CLOSED, CONNECTING, HEADER, BODY };
enum { SIZE, EXTENSION, DATA, DATA_END, ALL };

struct stream {
    int fd;
    char state, chunks, ready, churned, ended;
    long left;        /* of the size being read, or of the chunk's data */
    uint64_t next;    /* the number that is to come */
    uint64_t seen;    /* a bit for each of the 64 numbers before it */
    long pending;     /* the number of the event being read, or -1 */
    double due;       /* the time that the event being read gives, or 0 */
    char *part;       /* a line, or the header, that is not complete yet */
    size_t part_length, part_room;
    double started;
};

static int port, control_port, over_http, most_a_second, greets = 1, own, numbered;
static uint64_t per_stream;                /* messages until a stream ends; 0: it never does */
static double patience = 5;
static const char *path = "/news", *publish_path = "/publish", *text = "";

static int poller, control = -1;
static struct stream *streams;
static int room, used, ready, connecting, finished;
static uint64_t published;                 /* numbers given out */
static uint64_t got, missing, late, doubles, broken, hung_up, failed, refused;
static double *samples;                    /* seconds */
static size_t sample_count, sample_room;
static int sampling;
static double sent_at[1 << 16];            /* by number */
static char *out;                          /* for the control connection */
static size_t out_length, out_sent, out_room;
static double now;
static int spin = 1;
static double in_vain;                     /* seconds that nothing was there to do */

/* Milliseconds. */
enum { SOON = 100 };

static double clock_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static double cpu_now(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return u.ru_utime.tv_sec + u.ru_stime.tv_sec +
           (u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static void die(const char *what)
{
    fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void sample(double seconds)
{
    if (sample_count == sample_room) {
        sample_room = sample_room ? sample_room * 2 : 1 << 16;
        samples = realloc(samples, sample_room * sizeof *samples);
        if (!samples)
            die("realloc");
    }
    samples[sample_count++] = seconds;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double percentile(double part)
{
    if (!sample_count)
        return 0;
    size_t i = (size_t)(part * sample_count);
    return samples[i < sample_count ? i : sample_count - 1];
}

static int tcp_connect(struct stream *s)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
    if (fd < 0)
        return -1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct sockaddr_in to = {.sin_family = AF_INET};
    if (s) {
        /* One address has ports for some 28,000 connections. */
        struct sockaddr_in from = {.sin_family = AF_INET};
        from.sin_addr.s_addr = htonl(0x7f000001 + (s - streams) / 25000);
        setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
        if (bind(fd, (struct sockaddr *)&from, sizeof from) < 0)
            die("bind");
    }
    to.sin_port = htons(s ? port : control_port);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (connect(fd, (struct sockaddr *)&to, sizeof to) < 0 && errno != EINPROGRESS) {
        close(fd);
        return -1;
    }
    return fd;
}

static void hang_up(struct stream *s)
{
    if (!s->ready)
        connecting--;
    else
        ready--;
    close(s->fd);
    free(s->part);
    memset(s, 0, sizeof *s);
}

static void open_stream(struct stream *s, int churned)
{
    memset(s, 0, sizeof *s);
    s->started = clock_now();
    s->fd = tcp_connect(s);
    if (s->fd < 0) {
        failed++;
        return;
    }
    s->state = CONNECTING;
    s->churned = churned;
    s->next = own ? 1 : published + 1;
    s->seen = ~0ull;
    s->pending = -1;
    connecting++;
    struct epoll_event e = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = s};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, s->fd, &e) < 0)
        die("epoll_ctl");
}

static void became_ready(struct stream *s)
{
    s->ready = 1;
    connecting--;
    ready++;
    if (sampling)
        sample(now - s->started);
}

/* One message has come whole. */
static void delivered(struct stream *s, uint64_t number)
{
    if (number == s->next) {
        s->seen = s->seen << 1 | 1;
        s->next++;
        got++;
    } else if (number > s->next) {
        uint64_t gap = number - s->next;
        missing += gap;
        s->seen = gap + 1 < 64 ? s->seen << (gap + 1) | 1 : 1;
        s->next = number + 1;
        got++;
    } else {
        uint64_t ago = s->next - 1 - number;
        if (ago < 64 && !(s->seen >> ago & 1)) {
            s->seen |= 1ull << ago;
            missing--;
            late++;
            got++;
        } else {
            doubles++;
        }
    }
    if (own) {
        if (sampling && s->due > 0)
            sample(now - s->due);
        return;
    }
    if (number > published)
        broken++;
    if (sampling)
        sample(now - sent_at[number & 0xffff]);
}

static void line(struct stream *s, const char *from, size_t length)
{
    if (length && from[length - 1] == '\r')
        length--;
    if (!length) {
        if (s->pending >= 0)
            delivered(s, s->pending);
        s->pending = -1;
        return;
    }
    if (length < 5 || memcmp(from, "data:", 5))
        return;
    const char *end = from + length, *at = from + 5;
    while (at < end && *at == ' ')
        at++;
    if (end - at < 8 || memcmp(at, "{\"n\":", 5) || end[-1] != '}' || end[-2] != '"') {
        broken++;
        return;
    }
    at += 5;
    while (at < end && *at == ' ')
        at++;
    long number = 0;
    while (at < end && *at >= '0' && *at <= '9')
        number = number * 10 + (*at++ - '0');
    s->pending = number;
    if (own) {
        while (at < end && (*at == ',' || *at == ' '))
            at++;
        s->due = end - at > 8 && !memcmp(at, "\"due\":", 6) ? strtod(at + 6, 0) : 0;
    }
}

static void keep(struct stream *s, const char *from, size_t length)
{
    if (s->part_length + length > s->part_room) {
        s->part_room = (s->part_length + length) * 2;
        s->part = realloc(s->part, s->part_room);
        if (!s->part)
            die("realloc");
    }
    memcpy(s->part + s->part_length, from, length);
    s->part_length += length;
}

static void body(struct stream *s, const char *from, size_t length)
{
    if (!s->ready)
        became_ready(s);
    while (length) {
        const char *end = memchr(from, '\n', length);
        if (!end) {
            keep(s, from, length);
            return;
        }
        size_t taken = end - from;
        if (s->part_length) {
            keep(s, from, taken);
            line(s, s->part, s->part_length);
            free(s->part);
            s->part = 0;
            s->part_length = s->part_room = 0;
        } else {
            line(s, from, taken);
        }
        from += taken + 1;
        length -= taken + 1;
    }
}

/* The server has ended the stream. */
static void ended(struct stream *s)
{
    if (per_stream)
        s->ended = 1;
    else
        hung_up++;
}

static void finish(struct stream *s)
{
    if (s->next - 1 < per_stream)
        missing += per_stream - (s->next - 1);
    if (s->next - 1 > per_stream)
        doubles += s->next - 1 - per_stream;
    finished++;
    hang_up(s);
}

/* Take the body out of its chunks. */
static void unchunk(struct stream *s, const char *at, size_t length)
{
    const char *end = at + length;
    while (at < end) {
        switch (s->chunks) {
        case ALL:
            body(s, at, end - at);
            return;
        case SIZE: {
            char c = *at++ | 32;
            if (c >= '0' && c <= '9')
                s->left = s->left * 16 + c - '0';
            else if (c >= 'a' && c <= 'f')
                s->left = s->left * 16 + c - 'a' + 10;
            else if (c == ('\n' | 32)) {
                /* A size of zero ends the stream; that the connection closes is counted. */
                s->chunks = DATA;
                if (!s->left)
                    ended(s);
            } else
                s->chunks = EXTENSION;
            break;
        }
        case EXTENSION:
            if (*at++ == '\n') {
                s->chunks = DATA;
                if (!s->left)
                    ended(s);
            }
            break;
        case DATA: {
            size_t take = end - at < s->left ? end - at : s->left;
            body(s, at, take);
            at += take;
            s->left -= take;
            if (!s->left)
                s->chunks = DATA_END;
            break;
        }
        case DATA_END:
            if (*at++ == '\n') {
                s->chunks = SIZE;
                s->left = 0;
            }
            break;
        }
    }
}

static void received(struct stream *s, char *at, size_t length)
{
    if (s->state == BODY) {
        unchunk(s, at, length);
        return;
    }
    keep(s, at, length);
    char *end = memmem(s->part, s->part_length, "\r\n\r\n", 4);
    if (!end)
        return;
    char *header = s->part;
    size_t header_length = end + 4 - header, rest = s->part_length - header_length;
    end[2] = 0;
    if (strncmp(header, "HTTP/1.1 200", 12)) {
        fprintf(stderr, "load: %.*s\n", 60, header);
        failed++;
    }
    s->chunks = strcasestr(header, "transfer-encoding: chunked") ? SIZE : ALL;
    s->state = BODY;
    s->part = 0;
    s->part_length = s->part_room = 0;
    if (!greets)
        became_ready(s);
    if (rest)
        unchunk(s, header + header_length, rest);
    free(header);
}

static char buffer[1 << 18];

static void on_stream(struct stream *s, uint32_t events)
{
    if (s->state == CLOSED)
        return;
    if (s->state == CONNECTING && events & EPOLLOUT && !(events & EPOLLERR)) {
        int length = snprintf(buffer, sizeof buffer,
                              "GET %s%.*d HTTP/1.1\r\nHost: localhost\r\n"
                              "Accept: text/event-stream\r\n\r\n", path,
                              /* Nothing is printed of a zero with a precision of zero. */
                              numbered, numbered ? (int)(s - streams) : 0);
        if (send(s->fd, buffer, length, MSG_NOSIGNAL) != length) {
            failed++;
            hang_up(s);
            return;
        }
        s->state = HEADER;
    }
    while (events & (EPOLLIN | EPOLLERR | EPOLLHUP | EPOLLRDHUP)) {
        ssize_t n = recv(s->fd, buffer, sizeof buffer, 0);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (n <= 0) {
            if (s->ready && per_stream) {
                finish(s);
                return;
            }
            if (s->ready)
                hung_up++;
            else
                failed++;
            hang_up(s);
            return;
        }
        received(s, buffer, n);
        if (s->churned && s->ready) {
            hang_up(s);
            return;
        }
        if (s->ended) {
            finish(s);
            return;
        }
        if ((size_t)n < sizeof buffer && !(events & EPOLLRDHUP))
            return;
    }
}

static void flush_control(void)
{
    while (out_sent < out_length) {
        ssize_t n = send(control, out + out_sent, out_length - out_sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN)
            return;
        if (n < 0)
            die("control");
        out_sent += n;
    }
    out_sent = out_length = 0;
}

static void on_control(void)
{
    flush_control();
    for (;;) {
        ssize_t n = recv(control, buffer, sizeof buffer - 1, 0);
        if (n < 0 && errno == EAGAIN)
            return;
        if (n <= 0)
            die("the control connection was closed");
        buffer[n] = 0;
        for (char *at = buffer; (at = strstr(at, "HTTP/1.1 ")); at += 9)
            if (at[9] && at[9] != '2')
                refused++;
    }
}

/* Wait for the next second of the wall clock if this one has had as many as may be. */
static void hold_back(int count)
{
    static time_t second;
    static int had;
    while (most_a_second) {
        struct timespec t;
        clock_gettime(CLOCK_REALTIME, &t);
        if (t.tv_sec != second) {
            second = t.tv_sec;
            had = 0;
        }
        if (had + count <= most_a_second) {
            had += count;
            return;
        }
        usleep((1000000000 - t.tv_nsec) / 1000 + 1);
    }
}

static void publish(int count)
{
    hold_back(count);
    double t = clock_now();
    size_t each = strlen(text) + strlen(publish_path) + 256;
    if (out_length + each * count > out_room) {
        out_room = out_length + each * count;
        out = realloc(out, out_room);
        if (!out)
            die("realloc");
    }
    for (int i = 0; i < count; i++) {
        sent_at[++published & 0xffff] = t;
        if (over_http) {
            char message[each];
            int length = sprintf(message, "{\"n\": %lu, \"text\": \"%s\"}", published, text);
            out_length += sprintf(out + out_length,
                                  "POST %s HTTP/1.1\r\nHost: localhost\r\n"
                                  "Content-Length: %d\r\n\r\n%s", publish_path, length, message);
        }
    }
    if (!over_http)
        out_length += sprintf(out + out_length, "publish %d\n", count);
    flush_control();
}

/* Who sleeps in epoll_wait has to be woken, and on one machine that is charged to the
   server: it costs more than the sending does, and the more the slower a server is, as its
   clients then sleep more often. Clients on other machines cost it nothing of the kind. So
   while anything is to come this asks again and again, and counts how long in vain. */
static void turn(int milliseconds)
{
    struct epoll_event events[512];
    double began = clock_now();
    int asking = spin && milliseconds == SOON;
    int n = epoll_wait(poller, events, 512, asking ? 0 : milliseconds);
    now = clock_now();
    /* What takes longer was not asking: somebody else had the core. */
    if (asking && n == 0 && now - began < 5e-6)
        in_vain += now - began;
    for (int i = 0; i < n; i++) {
        if (events[i].data.ptr)
            on_stream(events[i].data.ptr, events[i].events);
        else
            on_control();
    }
}

/* Wait until each stream has everything; false if nothing has come for too long. */
static int settle(uint64_t goal)
{
    uint64_t before = got;
    double moved = clock_now();
    while (got < goal) {
        turn(SOON);
        if (got != before) {
            before = got;
            moved = now;
        } else if (now - moved > patience || (hung_up && now - moved > 0.2)) {
            return 0;
        }
    }
    return 1;
}

/* What has not come by now is missing, and what comes now is too much. */
static void look_back(void)
{
    double until = clock_now() + 0.03;
    while (clock_now() < until)
        turn(10);
    if (own)
        return;
    for (int i = 0; i < used; i++)
        if (streams[i].state != CLOSED && streams[i].next <= published) {
            missing += published + 1 - streams[i].next;
            streams[i].next = published + 1;
            streams[i].seen = ~0ull;
        }
}

static void forget(void)
{
    got = missing = late = doubles = broken = hung_up = failed = refused = 0;
    sample_count = 0;
    in_vain = 0;
}

static void answer(double seconds, double cpu, uint64_t messages, uint64_t count)
{
    qsort(samples, sample_count, sizeof *samples, ascending);
    double busy = cpu > in_vain ? cpu - in_vain : 0;
    printf("{\"seconds\": %.6f, \"cpu\": %.6f, \"busy\": %.6f, \"messages\": %lu, \"deliveries\": %lu, "
           "\"streams\": %d, \"missing\": %ld, \"late\": %lu, \"doubles\": %lu, "
           "\"broken\": %lu, \"hung_up\": %lu, \"failed\": %lu, \"refused\": %lu, "
           "\"p50\": %.6f, \"p99\": %.6f}\n",
           seconds, cpu, busy, messages, count, ready, (long)missing, late, doubles, broken, hung_up,
           failed, refused, percentile(0.5), percentile(0.99));
    fflush(stdout);
}

static void run(double seconds, int batch)
{
    double cpu = cpu_now(), started = clock_now(), taken;
    uint64_t messages = 0, goal = 0;
    do {
        publish(batch);
        messages += batch;
        goal += (uint64_t)ready * batch;
        if (!settle(goal))
            break;
        taken = clock_now() - started;
    } while (taken < seconds || messages < 3 * (uint64_t)batch);
    taken = clock_now() - started;
    cpu = cpu_now() - cpu;
    uint64_t deliveries = got;
    look_back();
    answer(taken, cpu, messages, deliveries);
}

static void paced(int count, double rate)
{
    double cpu = cpu_now(), started = clock_now();
    uint64_t goal = 0;
    sampling = 1;
    for (int i = 0; i < count; i++) {
        double due = started + i / rate;
        while ((now = clock_now()) < due)
            turn((int)((due - now) * 1000) + (due - now < 0.001 ? 0 : 1));
        publish(1);
        goal += own ? 1 : ready;
    }
    settle(goal);
    sampling = 0;
    double taken = clock_now() - started;
    cpu = cpu_now() - cpu;
    uint64_t deliveries = got;
    look_back();
    answer(taken, cpu, count, deliveries);
}

static void listen_for(double seconds)
{
    double cpu = cpu_now(), started = clock_now(), until = started + seconds;
    sampling = 1;
    do
        turn(SOON);
    while (now < until && !hung_up);
    sampling = 0;
    answer(clock_now() - started, cpu_now() - cpu, 0, got);
}

static void turnover(int total, int flight)
{
    double cpu = cpu_now(), started = clock_now(), moved = started;
    int opened = 0, first = used;
    uint64_t before = 0;
    if (used + total > room)
        die("more streams than --room");
    used += total;
    finished = 0;
    sampling = 1;
    while (!failed && finished < total) {
        while (!failed && opened < total && connecting + ready < flight)
            open_stream(&streams[first + opened++], 0);
        turn(SOON);
        if (got + finished != before) {
            before = got + finished;
            moved = now;
        } else if (now - moved > patience) {
            failed += opened - finished;
        }
    }
    sampling = 0;
    answer(clock_now() - started, cpu_now() - cpu, total, got);
    used = first;
}

static void open_all(int total, int flight, int churned)
{
    double cpu = cpu_now(), started = clock_now(), moved = started;
    int opened = 0, first = used, before = -1;
    if (used + total > room)
        die("more streams than --room");
    used += total;
    sampling = 1;
    while (!failed && (opened < total || connecting)) {
        while (!failed && opened < total && connecting < flight)
            open_stream(&streams[first + opened++], churned);
        turn(SOON);
        if (opened - connecting != before) {
            before = opened - connecting;
            moved = now;
        } else if (now - moved > patience) {
            failed += connecting;
        }
    }
    sampling = 0;
    double taken = clock_now() - started;
    if (churned)
        used = first;
    answer(taken, cpu_now() - cpu, 0, opened);
}

int main(int argc, char **argv)
{
    for (int i = 1; i + 1 < argc; i += 2) {
        const char *name = argv[i], *value = argv[i + 1];
        if (!strcmp(name, "--port")) port = atoi(value);
        else if (!strcmp(name, "--control")) control_port = atoi(value);
        else if (!strcmp(name, "--over-http")) over_http = atoi(value);
        else if (!strcmp(name, "--greets")) greets = atoi(value);
        else if (!strcmp(name, "--most-a-second")) most_a_second = atoi(value);
        else if (!strcmp(name, "--patience")) patience = atof(value);
        else if (!strcmp(name, "--spin")) spin = atoi(value);
        else if (!strcmp(name, "--own")) own = atoi(value);
        else if (!strcmp(name, "--numbered")) numbered = atoi(value);
        else if (!strcmp(name, "--count")) per_stream = atol(value);
        else if (!strcmp(name, "--path")) path = value;
        else if (!strcmp(name, "--text")) text = value;
        else if (!strcmp(name, "--room")) room = atoi(value);
        else { fprintf(stderr, "load: what is %s?\n", name); return 2; }
    }
    if (!room)
        room = 20000;
    streams = calloc(room, sizeof *streams);
    poller = epoll_create1(0);
    if (!streams || poller < 0)
        die("begin");
    control = tcp_connect(0);
    if (control < 0)
        die("control");
    struct epoll_event e = {.events = EPOLLIN | EPOLLOUT | EPOLLET};
    epoll_ctl(poller, EPOLL_CTL_ADD, control, &e);

    char command[256], word[16];
    double one, two;
    while (fgets(command, sizeof command, stdin)) {
        if (sscanf(command, "%15s %lf %lf", word, &one, &two) != 3) {
            fprintf(stderr, "load: what is %s", command);
            return 2;
        }
        /* Heartbeats and the like, that have come since the last command. */
        turn(0);
        forget();
        if (!strcmp(word, "connect")) open_all((int)one - ready, (int)two, 0);
        else if (!strcmp(word, "run")) run(one, (int)two);
        else if (!strcmp(word, "paced")) paced((int)one, two);
        else if (!strcmp(word, "churn")) open_all((int)one, (int)two, 1);
        else if (!strcmp(word, "listen")) listen_for(one);
        else if (!strcmp(word, "turnover")) turnover((int)one, (int)two);
        else { fprintf(stderr, "load: what is %s", command); return 2; }
    }
    return 0;
}
