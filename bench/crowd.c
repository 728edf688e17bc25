/* A crowd that comes at its own rate, whether it is answered or not: an open loop over HTTP/1.1.
 *
 * crowd HOST PORT CONNECTIONS RATE SECONDS SKUS buy|hold
 *
 * RATE times a second somebody comes, takes a connection that is free and reserves one unit of one
 * of SKUS; who gets it and is to buy commits at once. Who finds no free connection goes away. The reserves and
 * the commits count from when they were due, so that a crowd that is held up is not forgiven
 * (coordinated omission). Prints one JSON object: counts, and times in ms.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

enum { BUFFER = 8192, TIMES = 1 << 20, ID = 36, HEARD_AT_ONCE = 64 };

struct caller {
    int fd;
    enum { IDLE, RESERVING, COMMITTING } doing;
    double since;
    size_t got;
    char answer[BUFFER];
};

static double taken[2][TIMES]; /* of reserves that were granted, of commits that were done */
static long done[2], refused[2], failed, absent, came;
static int buys, ears;
static struct sockaddr_in service;

static double now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec + at.tv_nsec / 1e9;
}

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void join(struct caller *caller) {
    int one = 1;
    caller->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (caller->fd < 0 || connect(caller->fd, (struct sockaddr *)&service, sizeof service))
        fail("connect");
    setsockopt(caller->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    fcntl(caller->fd, F_SETFL, O_NONBLOCK);
    struct epoll_event look = {.events = EPOLLIN, .data.ptr = caller};
    if (epoll_ctl(ears, EPOLL_CTL_ADD, caller->fd, &look)) fail("epoll_ctl");
    caller->doing = IDLE;
}

static void say(struct caller *caller, const char *path, const char *body) {
    char text[1024];
    int length = snprintf(text, sizeof text,
                          "POST %s HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
                          "content-length: %zu\r\n\r\n%s", path, strlen(body), body);
    caller->got = 0;
    if (write(caller->fd, text, length) != length) fail("write");
}

/* What became of a request whose answer is whole, and what its caller does next. */
static void hear(struct caller *caller) {
    int status = atoi(caller->answer + 9), verb = caller->doing == COMMITTING;
    double at = now();
    if (status == 200 || status == 201) {
        if (done[verb] < TIMES) taken[verb][done[verb]] = (at - caller->since) * 1000;
        done[verb]++;
    } else if (status == 503 && strstr(caller->answer, "\"code\":\"overloaded\"") &&
               strstr(caller->answer, "\"outcome\":\"none\"") &&
               strstr(caller->answer, "retry-after: ")) {
        refused[verb]++;
    } else {
        fprintf(stderr, "%.300s\n", caller->answer);
        failed++;
    }
    char *id = strstr(caller->answer, "\"id\":\"");
    if (status == 201 && id && buys) {
        char path[128];
        snprintf(path, sizeof path, "/v1/reservations/%.*s/commit", ID, id + 6);
        caller->doing = COMMITTING;
        caller->since = at;
        say(caller, path, "{}");
    } else {
        caller->doing = IDLE;
    }
}

static void listen_to(struct caller *caller) {
    ssize_t count = read(caller->fd, caller->answer + caller->got, BUFFER - 1 - caller->got);
    if (count < 0 && errno == EAGAIN) return;
    if (count <= 0) fail("read");
    caller->got += count;
    caller->answer[caller->got] = 0;
    char *end = strstr(caller->answer, "\r\n\r\n");
    char *length = strstr(caller->answer, "content-length: ");
    if (end && length && caller->got >= (size_t)(end + 4 - caller->answer) + atoi(length + 16))
        hear(caller);
}

static int ascending(const void *one, const void *other) {
    double difference = *(const double *)one - *(const double *)other;
    return (difference > 0) - (difference < 0);
}

static double rank(int verb, double share) {
    long number = done[verb] < TIMES ? done[verb] : TIMES;
    return number ? taken[verb][(long)(share * (number - 1))] : 0;
}

int main(int count, char **words) {
    if (count != 8) return 2;
    buys = !strcmp(words[7], "buy");
    int callers = atoi(words[3]), skus = atoi(words[6]), next = 0;
    double rate = atof(words[4]), seconds = atof(words[5]);
    service.sin_family = AF_INET;
    service.sin_port = htons(atoi(words[2]));
    if (inet_pton(AF_INET, words[1], &service.sin_addr) != 1) return 2;
    struct caller *crowd = calloc(callers, sizeof *crowd);
    /* Not poll: to look at every connection each time made an echo's p99 2.0 ms where it is 1.4. */
    struct epoll_event heard[HEARD_AT_ONCE];
    if ((ears = epoll_create1(0)) < 0) fail("epoll_create1");
    for (int n = 0; n < callers; n++) join(&crowd[n]);
    double start = now(), at;
    while ((at = now()) - start < seconds) {
        for (; came < (at - start) * rate; came++) {
            int tried = 0;
            while (tried < callers && crowd[next].doing != IDLE) next = (next + 1) % callers, tried++;
            if (tried == callers) {
                absent++;
                continue;
            }
            char body[128];
            snprintf(body, sizeof body,
                     "{\"channel\":\"web\",\"lines\":[{\"sku\":\"tee-%ld\",\"quantity\":1}]}",
                     came % skus);
            crowd[next].doing = RESERVING;
            crowd[next].since = start + came / rate;
            say(&crowd[next], "/v1/reservations", body);
        }
        int answers = epoll_wait(ears, heard, HEARD_AT_ONCE, 1);
        if (answers < 0) fail("epoll_wait");
        for (int n = 0; n < answers; n++) listen_to(heard[n].data.ptr);
    }
    double passed = now() - start;
    for (int verb = 0; verb < 2; verb++)
        qsort(taken[verb], done[verb] < TIMES ? done[verb] : TIMES, sizeof(double), ascending);
    printf("{\"came\": %ld, \"absent\": %ld, \"failed\": %ld, \"reserved\": %ld, \"committed\": %ld, "
           "\"reserves_refused\": %ld, \"commits_refused\": %ld, \"committed_per_second\": %.1f, "
           "\"reserve_p50_ms\": %.2f, \"reserve_p99_ms\": %.2f, \"commit_p50_ms\": %.2f, "
           "\"commit_p99_ms\": %.2f}\n",
           came, absent, failed, done[0], done[1], refused[0], refused[1], done[1] / passed,
           rank(0, 0.5), rank(0, 0.99), rank(1, 0.5), rank(1, 0.99));
    return 0;
}
