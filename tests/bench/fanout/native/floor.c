/* The floor: what the kernel alone costs. One send() of ready-made bytes for each client and batch, and nothing else.

   No limits, no slow clients, no answers to control frames: a server that did less would not deliver. `--batch N` joins
   N events in one send(), and those that wait when none came for a while; without it, all that one read brought. */

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "board.h"

#define CLIENTS_MAX 16384
#define READ_SIZE (64 << 10)
#define OUT_SIZE (16 << 20)
#define PATIENCE_MS 5
#define ANSWER "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" \
               "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n" /* to the load's constant key */

static int clients[CLIENTS_MAX], client_count, batch;
static char out[OUT_SIZE], in[READ_SIZE + 8192];
static size_t out_size, in_size;
static int events_in_out;

static int listen_anywhere(int *port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listener, (struct sockaddr *)&address, size) || listen(listener, 1024)) die("listen");
    getsockname(listener, (struct sockaddr *)&address, &size);
    *port = ntohs(address.sin_port);
    return listener;
}

static void flush(void) {
    for (int each = 0; each < client_count && out_size; each++)
        for (size_t at = 0; at < out_size;) {
            ssize_t sent = send(clients[each], out + at, out_size - at, MSG_NOSIGNAL);
            if (sent <= 0) break;
            at += (size_t)sent;
        }
    out_size = 0;
    events_in_out = 0;
}

static void frame(const char *text, size_t size) {
    if (out_size + size + 4 > OUT_SIZE) flush();
    out[out_size++] = (char)0x81;
    if (size < 126) {
        out[out_size++] = (char)size;
    } else {
        out[out_size++] = 126;
        out[out_size++] = (char)(size >> 8);
        out[out_size++] = (char)size;
    }
    memcpy(out + out_size, text, size);
    out_size += size;
    if (++events_in_out == batch) flush();
}

static void read_inlet(int inlet) {
    ssize_t got = recv(inlet, in + in_size, READ_SIZE, 0);
    if (got <= 0) exit(0);
    in_size += (size_t)got;
    char *at = in, *end = in + in_size, *line;
    while ((line = memchr(at, '\n', (size_t)(end - at)))) {
        frame(at, (size_t)(line - at));
        at = line + 1;
    }
    in_size = (size_t)(end - at);
    memmove(in, at, in_size);
    if (!batch) flush();
}

/* A request comes whole, in one read: this server knows its one client. */
static void read_client(int epoll, int client) {
    char text[4096];
    ssize_t got = recv(client, text, sizeof text, 0);
    if (got > 4 && !memcmp(text, "GET ", 4)) {
        if (client_count == CLIENTS_MAX || send(client, ANSWER, sizeof ANSWER - 1, 0) < 0) die("client");
        clients[client_count++] = client;
        send(client, "\x81\x05ready", 7, 0);
    } else if (got <= 0) {
        epoll_ctl(epoll, EPOLL_CTL_DEL, client, NULL);
    }
}

int main(int count, char **texts) {
    int port, inlet_port, epoll = epoll_create1(0), inlet = -1;
    int listener = listen_anywhere(&port), inlet_listener = listen_anywhere(&inlet_port);
    if (count == 3 && !strcmp(texts[1], "--batch")) batch = atoi(texts[2]);
    int listeners[] = {listener, inlet_listener};
    for (int each = 0; each < 2; each++) {
        struct epoll_event readable = {.events = EPOLLIN, .data.fd = listeners[each]};
        epoll_ctl(epoll, EPOLL_CTL_ADD, listeners[each], &readable);
    }
    printf("%d %d\n", port, inlet_port);
    fflush(stdout);
    struct epoll_event events[64];
    for (;;) {
        int got = epoll_wait(epoll, events, 64, events_in_out ? PATIENCE_MS : -1);
        if (!got) flush();
        for (int each = 0; each < got; each++) {
            int ready = events[each].data.fd, on = 1;
            if (ready == listener || ready == inlet_listener) {
                int taken = accept(ready, NULL, NULL);
                if (ready == inlet_listener) inlet = taken;
                setsockopt(taken, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
                struct epoll_event readable = {.events = EPOLLIN, .data.fd = taken};
                epoll_ctl(epoll, EPOLL_CTL_ADD, taken, &readable);
            } else if (ready == inlet) {
                read_inlet(ready);
            } else {
                read_client(epoll, ready);
            }
        }
    }
}
