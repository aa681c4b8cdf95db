/* The load: many WebSocket clients in one thread, that check and time each event they get.

   Prints one line of JSON when all are connected and subscribed, and one at the end: when each client has every event,
   when nothing came for a while, when its time is over, or at SIGTERM. It is no judge: it counts, the bench compares.
   A connection that breaks is not made anew. */

#include <arpa/inet.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "dialects.h"

#define READ_SIZE (256 << 10)
#define FRAME_MAX (4 << 20) /* a longer frame or message is a fault */
#define STUCK_BUFFER 4096   /* the least the kernel takes: the server is to feel it early */
#define WAKES 256
/* The key and its answer from RFC 6455, section 1.3: a server need not compute what is always the same. */
#define KEY "dGhlIHNhbXBsZSBub25jZQ=="
#define ACCEPT "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

enum state { NOT_YET, CONNECTING, UPGRADING, JOINING, LIVE, CLOSED };

struct bytes {
    char *data;
    size_t size, room;
};

struct connection {
    int socket;
    uint8_t state, in_message, is_stuck, was_cut;
    uint32_t passed; /* milestones */
    uint16_t close_code;
    struct place place;
    int64_t cursor;
    double as_of_ms;
    uint64_t marked_ns;
    struct bytes unread;  /* the beginning of a frame */
    struct bytes message; /* the beginning of a message, or of what a stream of frames holds */
};

static struct {
    const char *host, *path, *subprotocol, *first, *board;
    int port, clients, parallel, is_binary, has_subscribe;
    enum dialect dialect;
    uint32_t events, step, warm;
    size_t event_size;
    double limit_s, quiet_s, wake_s;
} wish = {.host = "127.0.0.1", .path = "/", .clients = 1, .parallel = 64, .step = 100, .event_size = 184,
          .limit_s = 60, .quiet_s = 20, .wake_s = -1};

static struct connection *connections;
static struct totals totals;
static struct board *board;
static uint64_t *stamps;
static uint32_t *arrivals, milestones, milestone; /* how many passed each; the first that not all have passed */
static int epoll, started, ready, closed, complete, counted;
static uint64_t read_ns; /* when the bytes in hand were read */
static char buffer[FRAME_MAX + READ_SIZE + 1];
static char complaint[200];
static volatile sig_atomic_t stopping;

static void on_signal(int number) { stopping = number; }

static void keep(struct bytes *bytes, const char *data, size_t size) {
    if (bytes->room < size) {
        bytes->room = size < 512 ? 512 : size + size / 2;
        bytes->data = realloc(bytes->data, bytes->room);
        if (!bytes->data) die("realloc");
    }
    memmove(bytes->data, data, size);
    bytes->size = size;
}

static void append(struct bytes *bytes, const char *data, size_t size) {
    size_t before = bytes->size;
    if (bytes->room < before + size) {
        bytes->room = 2 * (before + size);
        bytes->data = realloc(bytes->data, bytes->room);
        if (!bytes->data) die("realloc");
    }
    memcpy(bytes->data + before, data, size);
    bytes->size = before + size;
}

static void drop(struct bytes *bytes) {
    free(bytes->data);
    *bytes = (struct bytes){0};
}

/* --- progress */

static void pass(struct connection *connection, uint32_t until) {
    while (connection->passed < until) arrivals[connection->passed++]++;
    uint32_t before = milestone;
    while (milestone < milestones && arrivals[milestone] == (uint32_t)wish.clients) milestone++;
    if (milestone != before && board) {
        uint64_t received = (uint64_t)milestone * wish.step;
        tell(board, received < wish.events ? (uint32_t)received : wish.events);
    }
}

static void end(struct connection *connection, int code) {
    if (connection->state == CLOSED) return;
    connection->close_code = (uint16_t)code;
    if (connection->state == LIVE) closed += !connection->is_stuck;
    else if (!stopping) snprintf(complaint, sizeof complaint, "connection ended in state %d", connection->state);
    connection->state = CLOSED;
    close(connection->socket);
    drop(&connection->unread);
    drop(&connection->message);
    pass(connection, milestones); /* nobody waits for it */
}

/* --- what the dialects tell */

static void on_malformed(struct connection *connection, const char *what) {
    (void)connection;
    totals.malformed++;
    if (!*complaint) snprintf(complaint, sizeof complaint, "%s", what);
}

static void on_ready(struct connection *connection) {
    if (connection->state != JOINING) return;
    connection->state = LIVE;
    ready++;
    if (connection->is_stuck) {
        struct epoll_event none = {.events = 0, .data.ptr = connection};
        epoll_ctl(epoll, EPOLL_CTL_MOD, connection->socket, &none);
    }
}

static void on_event(struct connection *connection, uint32_t seq, uint64_t published_ns) {
    if (seq >= wish.events) {
        on_malformed(connection, "an event that was not published");
        return;
    }
    if (!totals.deliveries) totals.first_ns = read_ns;
    totals.last_ns = read_ns;
    if (!place_event(&totals, &connection->place, seq)) return;
    if (stamps) published_ns = stamps[seq];
    if (seq >= wish.warm && !connection->is_stuck) record(&totals.latency_ns, read_ns - published_ns);
    if (connection->is_stuck) return;
    uint32_t expected = connection->place.expected;
    if (expected >= wish.events) complete++;
    pass(connection, expected >= wish.events ? milestones : expected / wish.step);
}

static void on_wide(struct connection *connection) {
    totals.wide++;
    connection->place.is_wide = 1;
}

static void on_chain(struct connection *connection, int64_t p, int64_t s) {
    if (p >= 0 && p != connection->cursor) totals.chain_breaks++;
    connection->cursor = s;
}

static void on_mark(struct connection *connection, double as_of_ms) {
    double age_ms = (double)read_ns / 1e6 - as_of_ms;
    if (age_ms < 0 || as_of_ms < connection->as_of_ms) on_malformed(connection, "a mark of another time");
    connection->as_of_ms = as_of_ms;
    if (connection->state != LIVE || connection->is_stuck) return;
    record(&totals.mark_age_us, age_ms < 0 ? 0 : (uint64_t)(age_ms * 1000));
    if (connection->marked_ns) record(&totals.mark_interval_us, (read_ns - connection->marked_ns) / 1000);
    connection->marked_ns = read_ns;
}

/* A frame, masked with zeros, which is no mask: nobody between a bench and its servers needs to be misled. */
static void say(struct connection *connection, int opcode, const char *data, size_t size) {
    unsigned char frame[1024] = {(unsigned char)(0x80 | opcode)};
    size_t head = size < 126 ? 2 : 4;
    if (size > sizeof frame - 8) die("a message too long to send");
    frame[1] = (unsigned char)(0x80 | (size < 126 ? size : 126));
    if (size >= 126) frame[2] = (unsigned char)(size >> 8), frame[3] = (unsigned char)size;
    memcpy(frame + head + 4, data, size);
    size_t whole = head + 4 + size;
    if (send(connection->socket, frame, whole, MSG_NOSIGNAL) != (ssize_t)whole) end(connection, 1006);
}

/* --- frames (RFC 6455, section 5) */

static void whole_message(struct connection *connection, const char *data, size_t size) {
    if (wish.dialect == TEXT) read_text(connection, data, size, wish.event_size);
    else read_ours(connection, data, size);
}

/* Frames of NATS and MQTT are a stream: what they hold may begin and end anywhere. */
static void stream(struct connection *connection, const char *data, size_t size) {
    struct bytes *tail = &connection->message;
    int has_tail = tail->size > 0;
    if (has_tail) append(tail, data, size), data = tail->data, size = tail->size;
    size_t used = wish.dialect == NATS ? read_nats(connection, data, size) : read_mqtt(connection, data, size);
    if (connection->state == CLOSED) return;
    if (used < size) keep(tail, data + used, size - used);
    else if (has_tail) drop(tail);
}

static void content(struct connection *connection, int opcode, int is_final, const char *data, size_t size) {
    struct bytes *begun = &connection->message;
    if ((opcode == 0) != connection->in_message) {
        on_malformed(connection, "a frame out of its message");
        end(connection, 1002);
        return;
    }
    connection->in_message = !is_final;
    if (wish.dialect == NATS || wish.dialect == MQTT) {
        stream(connection, data, size);
    } else if (is_final && opcode) {
        whole_message(connection, data, size);
    } else {
        append(begun, data, size);
        if (begun->size > FRAME_MAX) die("a message without end");
        if (is_final) {
            whole_message(connection, begun->data, begun->size);
            drop(begun);
        }
    }
}

/* Read frames; returns what was used of `data`. */
static size_t frames(struct connection *connection, const char *data, size_t size) {
    size_t at = 0;
    while (connection->state != CLOSED && size - at >= 2) {
        const unsigned char *head = (const unsigned char *)data + at;
        int opcode = head[0] & 15, is_final = head[0] >> 7;
        uint64_t length = head[1] & 0x7f;
        size_t head_size = length == 127 ? 10 : length == 126 ? 4 : 2;
        if (head[0] & 0x70 || head[1] & 0x80 || (opcode > 2 && opcode < 8) || opcode > 10) {
            on_malformed(connection, "a frame with bits that were not agreed upon");
            end(connection, 1002);
            break;
        }
        if (size - at < head_size) break;
        if (head_size > 2) {
            length = 0;
            for (size_t place = 2; place < head_size; place++) length = length << 8 | head[place];
        }
        if (length > FRAME_MAX - 16) die("a frame too long");
        if (size - at < head_size + length) break;
        const char *payload = data + at + head_size;
        at += head_size + length;
        totals.frames++;
        if (opcode < 8) content(connection, opcode, is_final, payload, length);
        else if (opcode == 9) say(connection, 10, payload, length), totals.pings++;
        else if (opcode == 8)
            end(connection, length < 2 ? 1005 : (unsigned char)payload[0] << 8 | (unsigned char)payload[1]);
    }
    return at;
}

/* --- a connection's life */

static void open_one(struct connection *connection) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)wish.port)};
    inet_pton(AF_INET, wish.host, &address.sin_addr);
    connection->socket = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (connection->socket < 0) die("socket");
    int on = 1, small = STUCK_BUFFER;
    setsockopt(connection->socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connection->is_stuck) setsockopt(connection->socket, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    if (connect(connection->socket, (struct sockaddr *)&address, sizeof address) && errno != EINPROGRESS) die("connect");
    struct epoll_event writable = {.events = EPOLLOUT, .data.ptr = connection};
    epoll_ctl(epoll, EPOLL_CTL_ADD, connection->socket, &writable);
    connection->state = CONNECTING;
}

static void upgrade(struct connection *connection) {
    char request[1024];
    int size = snprintf(request, sizeof request,
                        "GET %s HTTP/1.1\r\nHost: %s:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                        "Sec-WebSocket-Key: " KEY "\r\nSec-WebSocket-Version: 13\r\n%s%s%s\r\n",
                        wish.path, wish.host, wish.port, wish.subprotocol ? "Sec-WebSocket-Protocol: " : "",
                        wish.subprotocol ? wish.subprotocol : "", wish.subprotocol ? "\r\n" : "");
    if (send(connection->socket, request, (size_t)size, MSG_NOSIGNAL) != size) die("connect");
    struct epoll_event readable = {.events = EPOLLIN, .data.ptr = connection};
    epoll_ctl(epoll, EPOLL_CTL_MOD, connection->socket, &readable);
    connection->state = UPGRADING;
}

/* MQTT 3.1.1: CONNECT as `load` with the connection's number, without keep-alive, and SUBSCRIBE to "bench". */
static void say_mqtt(struct connection *connection) {
    char data[64];
    int name = snprintf(data + 14, 20, "load%06ld", (long)(connection - connections) % 1000000);
    memcpy(data, "\x10\x00\x00\x04MQTT\x04\x02\x00\x00\x00\x0a", 14);
    data[1] = (char)(12 + name);
    memcpy(data + 14 + name, "\x82\x0a\x00\x01\x00\x05" "bench\x00", 12);
    say(connection, 2, data, (size_t)(26 + name));
}

/* Returns what was used of `data`: the whole answer, or nothing. */
static size_t answered(struct connection *connection, const char *data, size_t size) {
    const char *end_of_head = memmem(data, size, "\r\n\r\n", 4);
    if (!end_of_head) return 0;
    if (memcmp(data, "HTTP/1.1 101", 12) || !memmem(data, size, ACCEPT, sizeof ACCEPT - 1)) {
        fprintf(stderr, "the server refused: %.*s\n", (int)(end_of_head - data), data);
        exit(1);
    }
    connection->state = JOINING;
    if (wish.dialect == MQTT) say_mqtt(connection);
    else if (wish.first) say(connection, wish.is_binary ? 2 : 1, wish.first, strlen(wish.first));
    if (!wish.has_subscribe) on_ready(connection);
    return (size_t)(end_of_head + 4 - data);
}

static void readable(struct connection *connection) {
    size_t held = connection->unread.size;
    if (held) memcpy(buffer, connection->unread.data, held);
    ssize_t got = recv(connection->socket, buffer + held, READ_SIZE, 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (got <= 0) {
        end(connection, 1006);
        return;
    }
    read_ns = now_ns();
    totals.reads++;
    totals.bytes += (uint64_t)got;
    size_t size = held + (size_t)got, used = 0;
    if (connection->state == UPGRADING) used = answered(connection, buffer, size);
    if (connection->state >= JOINING) used += frames(connection, buffer + used, size - used);
    if (connection->state == CLOSED) return;
    if (used < size) keep(&connection->unread, buffer + used, size - used);
    else if (held) drop(&connection->unread);
}

static void happened(struct epoll_event *what) {
    struct connection *connection = what->data.ptr;
    if (connection->state == CONNECTING) {
        int error = 0;
        socklen_t size = sizeof error;
        getsockopt(connection->socket, SOL_SOCKET, SO_ERROR, &error, &size);
        if ((errno = error)) die("connect");
        upgrade(connection);
    } else if (connection->is_stuck && connection->state == LIVE && !(what->events & EPOLLIN)) {
        connection->was_cut = 1; /* by the server; what is left in the kernel can still be read */
        struct epoll_event readable = {.events = EPOLLIN, .data.ptr = connection};
        epoll_ctl(epoll, EPOLL_CTL_MOD, connection->socket, &readable);
    } else if (connection->state != CLOSED) {
        readable(connection);
    }
}

static void wake(struct connection *connection) {
    struct epoll_event readable = {.events = EPOLLIN, .data.ptr = connection};
    if (connection->state == LIVE) epoll_ctl(epoll, EPOLL_CTL_MOD, connection->socket, &readable);
}

static void connect_all(uint64_t begun_ns) {
    struct epoll_event events[WAKES];
    while (ready < wish.clients && !stopping) {
        while (started < wish.clients && started - ready < wish.parallel) open_one(&connections[started++]);
        int count = epoll_wait(epoll, events, WAKES, 100);
        for (int each = 0; each < count; each++) happened(&events[each]);
        if ((double)(now_ns() - begun_ns) / 1e9 > wish.limit_s || (*complaint && ready < wish.clients)) {
            fprintf(stderr, "only %d of %d got ready %s\n", ready, wish.clients, complaint);
            exit(1);
        }
    }
    uint64_t took_ns = now_ns() - begun_ns;
    printf("{\"ready\": %d, \"seconds\": %.3f, \"cpu_us\": %lu}\n", ready, (double)took_ns / 1e9, cpu_us());
    fflush(stdout);
}

static int has_all(const struct connection *stuck) {
    int is_done = wish.events && complete + closed >= counted;
    return is_done && (!stuck || stuck->state == CLOSED || stuck->place.expected >= wish.events);
}

static void receive_all(void) {
    struct epoll_event events[WAKES];
    uint64_t begun_ns = now_ns(), progress_ns = begun_ns, before = 0;
    struct connection *stuck = wish.wake_s >= 0 ? connections : NULL, *asleep = stuck;
    while (!stopping && !has_all(stuck)) {
        int count = epoll_wait(epoll, events, WAKES, 100);
        for (int each = 0; each < count; each++) happened(&events[each]);
        uint64_t now = now_ns();
        if (totals.deliveries != before) before = totals.deliveries, progress_ns = now;
        if (asleep && (double)(now - begun_ns) / 1e9 >= wish.wake_s) wake(asleep), asleep = NULL, progress_ns = now;
        if ((double)(now - begun_ns) / 1e9 > wish.limit_s) break;
        if (totals.deliveries && !asleep && (double)(now - progress_ns) / 1e9 > wish.quiet_s) break;
    }
}

/* What nobody was told of by the end is lost too. Cursors tell whether the others stand where all stand. */
static void settle(struct connection *connection) {
    if (connection->place.expected < wish.events) skip(&totals, &connection->place, wish.events);
}

static void print_stuck(const struct connection *stuck, uint64_t deliveries, uint64_t lost) {
    printf("\"stuck\": {\"was_cut\": %s, \"close_code\": %d, \"untold\": %lu, \"conflated\": %u, \"is_at_head\": %s, "
           "\"others\": %lu}, ",
           stuck->was_cut || stuck->state == CLOSED ? "true" : "false", stuck->close_code, lost, stuck->place.conflated,
           stuck->cursor == connections[wish.clients - 1].cursor ? "true" : "false", deliveries);
}

static void print_totals(uint64_t connecting_us) {
    struct connection *stuck = wish.wake_s >= 0 ? connections : NULL;
    int code = 0;
    for (int each = stuck ? 1 : 0; each < wish.clients; each++) {
        settle(&connections[each]);
        if (connections[each].close_code) code = connections[each].close_code;
    }
    printf("{\"clients\": %d, \"closed\": %d, \"close_code\": %d, \"deliveries\": %lu, \"lost\": %lu, "
           "\"duplicated\": %lu, \"reordered\": %lu, \"conflated\": %lu, \"wide\": %lu, \"malformed\": %lu, "
           "\"chain_breaks\": %lu, ",
           wish.clients, closed, code, totals.deliveries, totals.lost, totals.duplicated, totals.reordered,
           totals.conflated, totals.wide, totals.malformed, totals.chain_breaks);
    if (stuck) {
        uint64_t lost = totals.lost, deliveries = totals.deliveries;
        settle(stuck);
        print_stuck(stuck, deliveries, totals.lost - lost);
    }
    printf("\"frames\": %lu, \"reads\": %lu, \"bytes\": %lu, \"pings\": %lu, ", totals.frames, totals.reads,
           totals.bytes, totals.pings);
    print_histogram("latency_us", &totals.latency_ns, 1e3);
    print_histogram("mark_age_ms", &totals.mark_age_us, 1e3);
    print_histogram("mark_interval_ms", &totals.mark_interval_us, 1e3);
    printf("\"first_ns\": %lu, \"last_ns\": %lu, \"cpu_us\": %lu, \"complaint\": \"%s\"}\n", totals.first_ns,
           totals.last_ns, cpu_us() - connecting_us, complaint);
}

static void options(int count, char **texts) {
    static const struct option known[] = {
        {"port", 1, 0, 'p'},    {"path", 1, 0, 'a'},   {"subprotocol", 1, 0, 's'}, {"first", 1, 0, 'f'},
        {"binary", 0, 0, 'b'},  {"wait", 0, 0, 'w'},   {"dialect", 1, 0, 'd'},     {"clients", 1, 0, 'c'},
        {"events", 1, 0, 'e'},  {"step", 1, 0, 't'},   {"warm", 1, 0, 'r'},        {"size", 1, 0, 'z'},
        {"limit", 1, 0, 'l'},   {"quiet", 1, 0, 'q'},  {"wake", 1, 0, 'k'},        {"board", 1, 0, 'o'},
        {"parallel", 1, 0, 'n'}, {0, 0, 0, 0}};
    static const char *dialects[] = {"text", "nats", "mqtt", "ours"};
    for (int option; (option = getopt_long(count, texts, "", known, NULL)) != -1;) {
        switch (option) {
        case 'p': wish.port = atoi(optarg); break;
        case 'a': wish.path = optarg; break;
        case 's': wish.subprotocol = optarg; break;
        case 'f': wish.first = optarg; break;
        case 'b': wish.is_binary = 1; break;
        case 'w': wish.has_subscribe = 1; break;
        case 'd':
            while (wish.dialect < OURS && strcmp(optarg, dialects[wish.dialect])) wish.dialect++;
            break;
        case 'c': wish.clients = atoi(optarg); break;
        case 'e': wish.events = (uint32_t)strtoul(optarg, NULL, 10); break;
        case 't': wish.step = (uint32_t)strtoul(optarg, NULL, 10); break;
        case 'r': wish.warm = (uint32_t)strtoul(optarg, NULL, 10); break;
        case 'z': wish.event_size = strtoul(optarg, NULL, 10); break;
        case 'l': wish.limit_s = atof(optarg); break;
        case 'q': wish.quiet_s = atof(optarg); break;
        case 'k': wish.wake_s = atof(optarg); break;
        case 'o': wish.board = optarg; break;
        case 'n': wish.parallel = atoi(optarg); break;
        default: exit(2);
        }
    }
    if (!wish.port || wish.clients < 1 || !wish.step || wish.parallel < 1) die("options");
}

int main(int count, char **texts) {
    options(count, texts);
    signal(SIGTERM, on_signal);
    signal(SIGINT, on_signal);
    if (wish.board) board = open_board(wish.board, &stamps);
    milestones = (wish.events + wish.step - 1) / wish.step;
    arrivals = calloc(milestones + 1, sizeof *arrivals);
    connections = calloc((size_t)wish.clients, sizeof *connections);
    epoll = epoll_create1(EPOLL_CLOEXEC);
    if (!arrivals || !connections || epoll < 0) die("memory");
    counted = wish.clients;
    if (wish.wake_s >= 0) {
        connections->is_stuck = 1;
        counted--;
        pass(connections, milestones); /* the publisher does not wait for it */
    }
    connect_all(now_ns());
    uint64_t connecting_us = cpu_us();
    receive_all();
    stopping = 1;
    print_totals(connecting_us);
    return 0;
}
