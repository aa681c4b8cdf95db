/* The publisher: the same events for each server, in the way it takes them, on an absolute schedule or as fast as the
   slowest client of the load receives them.

   An event is the payload of one of our triggers, of exactly `--size` bytes; the row's key is `~SEQ-NS-` and padding.
   Dialects of the inlet: a line each; NATS; MQTT; HTTP POST on one kept connection. PostgreSQL's is publish_postgres.py.
   Open loop: an event that is due is sent, however late the server is. */

#include <arpa/inet.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/socket.h>

#include "board.h"

#define BEFORE "{\"operation\":\"update\",\"table\":\"bench\",\"sent_at\":\"2030-01-01T00:00:00Z\",\"key\":[\"id\"],\"keys\":[\"~"
#define AFTER "\"]}"
#define SEQ_DIGITS 9
#define NS_DIGITS 19
#define EVENT_MAX 8000 /* as PostgreSQL has it */
#define BATCH_SIZE (64 << 10)
#define POSTS_AHEAD 64 /* requests without an answer yet */

enum dialect { LINES, NATS, MQTT, HTTP };

static struct {
    int port;
    enum dialect dialect;
    uint32_t events, burst, window;
    double every_s, limit_s;
    size_t size;
    const char *board;
} wish = {.burst = 1, .every_s = 0, .limit_s = 600, .size = 184};

static struct board *board;
static uint64_t *stamps;
static int inlet;
static char batch[BATCH_SIZE + 2 * EVENT_MAX];
static size_t batched;
static char event[EVENT_MAX];
static char head[256]; /* what comes before each event in the inlet's dialect */
static size_t head_size;
static uint32_t answered; /* posts */

static void digits(char *at, int count, uint64_t number) {
    while (count--) at[count] = (char)('0' + number % 10), number /= 10;
}

static void prepare(void) {
    size_t fixed = sizeof BEFORE - 1 + SEQ_DIGITS + 1 + NS_DIGITS + 1 + sizeof AFTER - 1;
    if (wish.size < fixed || wish.size > EVENT_MAX) die("--size");
    memset(event, 'x', wish.size);
    memcpy(event, BEFORE, sizeof BEFORE - 1);
    event[sizeof BEFORE - 1 + SEQ_DIGITS] = '-';
    event[sizeof BEFORE - 1 + SEQ_DIGITS + 1 + NS_DIGITS] = '-';
    memcpy(event + wish.size - (sizeof AFTER - 1), AFTER, sizeof AFTER - 1);
    if (wish.dialect == NATS) {
        head_size = (size_t)sprintf(head, "PUB bench %zu\r\n", wish.size);
    } else if (wish.dialect == HTTP) {
        head_size = (size_t)sprintf(head, "POST /publish HTTP/1.1\r\nHost: bench\r\nContent-Length: %zu\r\n\r\n", wish.size);
    } else if (wish.dialect == MQTT) { /* PUBLISH, QoS 0, topic "bench" */
        size_t length = 7 + wish.size;
        head[head_size++] = 0x30;
        for (; length > 127; length >>= 7) head[head_size++] = (char)(0x80 | (length & 127));
        head[head_size++] = (char)length;
        memcpy(head + head_size, "\0\5bench", 7);
        head_size += 7;
    }
}

static void put(uint32_t seq) {
    uint64_t at_ns = now_ns();
    if (stamps) stamps[seq] = at_ns;
    memcpy(batch + batched, head, head_size);
    batched += head_size;
    memcpy(batch + batched, event, wish.size);
    digits(batch + batched + sizeof BEFORE - 1, SEQ_DIGITS, seq);
    digits(batch + batched + sizeof BEFORE - 1 + SEQ_DIGITS + 1, NS_DIGITS, at_ns);
    batched += wish.size;
    if (wish.dialect == LINES) batch[batched++] = '\n';
    if (wish.dialect == NATS) batch[batched++] = '\r', batch[batched++] = '\n';
}

static void send_batch(void) {
    for (size_t at = 0; at < batched;) {
        ssize_t sent = send(inlet, batch + at, batched - at, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR) continue;
        if (sent <= 0) die("the server closed its inlet");
        at += (size_t)sent;
    }
    batched = 0;
}

/* Read what the server answers; with HTTP, count the answers, each of which must be a success. */
static void read_answers(int flags) {
    static char text[1 << 16];
    static size_t held;
    for (ssize_t got; (got = recv(inlet, text + held, sizeof text - 1 - held, flags)) > 0; flags = MSG_DONTWAIT) {
        if (wish.dialect != HTTP) continue;
        held += (size_t)got;
        text[held] = 0;
        char *at = text, *status;
        while ((status = strstr(at, "HTTP/1.1 ")) && status + 12 <= text + held) {
            if (status[9] != '2') die("a post was refused");
            answered++;
            at = status + 12;
        }
        if (!status && text + held - at > 9) at = text + held - 9; /* the beginning of a status may be in there */
        held -= (size_t)(at - text);
        memmove(text, at, held);
    }
}

static void greet(void) {
    char answer[4096];
    if (wish.dialect == NATS) {
        const char *hello = "CONNECT {\"verbose\":false,\"pedantic\":false}\r\n";
        if (recv(inlet, answer, sizeof answer, 0) <= 0 || send(inlet, hello, strlen(hello), 0) < 0) die("nats");
    } else if (wish.dialect == MQTT) {
        if (send(inlet, "\x10\x10\0\4MQTT\4\2\0\0\0\4head", 18, 0) < 0) die("mqtt");
        if (recv(inlet, answer, 4, MSG_WAITALL) != 4 || answer[3]) die("mqtt");
    }
}

static void connect_inlet(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)wish.port)};
    inet_pton(AF_INET, "127.0.0.1", &address.sin_addr);
    inlet = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int on = 1;
    setsockopt(inlet, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(inlet, (struct sockaddr *)&address, sizeof address)) die("connect");
    greet();
}

static void sleep_until(uint64_t at_ns) {
    struct timespec at = {(time_t)(at_ns / 1000000000u), (long)(at_ns % 1000000000u)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL) == EINTR) {}
}

/* How many events may be published now, of all. */
static uint32_t allowed(uint32_t sent, uint64_t begun_ns) {
    uint32_t most = wish.events;
    for (;;) {
        if (wish.window) {
            uint32_t received = atomic_load(&board->received);
            most = received + wish.window < wish.events ? received + wish.window : wish.events;
            if (most <= sent) await_change(board, received);
        }
        if (wish.dialect == HTTP && most > answered + POSTS_AHEAD) {
            read_answers(sent >= answered + POSTS_AHEAD ? 0 : MSG_DONTWAIT);
            if (most > answered + POSTS_AHEAD) most = answered + POSTS_AHEAD;
        }
        if (most > sent) return most;
        if ((double)(now_ns() - begun_ns) / 1e9 > wish.limit_s) die("nobody received events");
    }
}

static void publish(uint64_t begun_ns) {
    uint64_t late_ns = 0;
    for (uint32_t sent = 0, turn = 0; sent < wish.events; turn++) {
        uint32_t until = wish.events;
        if (wish.every_s > 0) {
            uint64_t due_ns = begun_ns + (uint64_t)(turn * wish.every_s * 1e9);
            sleep_until(due_ns);
            uint64_t lateness_ns = now_ns() - due_ns;
            if (lateness_ns > late_ns) late_ns = lateness_ns;
            if (sent + wish.burst < until) until = sent + wish.burst;
        }
        while (sent < until) {
            uint32_t most = allowed(sent, begun_ns);
            if (most > until) most = until;
            while (sent < most && batched < BATCH_SIZE) put(sent++);
            send_batch();
            atomic_store(&board->sent, sent);
        }
        if (wish.dialect != HTTP) read_answers(MSG_DONTWAIT);
    }
    printf("{\"events\": %u, \"seconds\": %.6f, \"late_us\": %.1f, \"cpu_us\": %lu}\n", wish.events,
           (double)(now_ns() - begun_ns) / 1e9, (double)late_ns / 1e3, cpu_us());
    fflush(stdout);
}

int main(int count, char **texts) {
    static const struct option known[] = {
        {"port", 1, 0, 'p'},  {"dialect", 1, 0, 'd'}, {"events", 1, 0, 'e'}, {"burst", 1, 0, 'b'}, {"every", 1, 0, 'v'},
        {"window", 1, 0, 'w'}, {"size", 1, 0, 'z'},   {"limit", 1, 0, 'l'},  {"board", 1, 0, 'o'}, {0, 0, 0, 0}};
    static const char *dialects[] = {"lines", "nats", "mqtt", "http"};
    for (int option; (option = getopt_long(count, texts, "", known, NULL)) != -1;) {
        switch (option) {
        case 'p': wish.port = atoi(optarg); break;
        case 'd':
            while (wish.dialect < HTTP && strcmp(optarg, dialects[wish.dialect])) wish.dialect++;
            break;
        case 'e': wish.events = (uint32_t)strtoul(optarg, NULL, 10); break;
        case 'b': wish.burst = (uint32_t)strtoul(optarg, NULL, 10); break;
        case 'v': wish.every_s = atof(optarg); break;
        case 'w': wish.window = (uint32_t)strtoul(optarg, NULL, 10); break;
        case 'z': wish.size = strtoul(optarg, NULL, 10); break;
        case 'l': wish.limit_s = atof(optarg); break;
        case 'o': wish.board = optarg; break;
        default: exit(2);
        }
    }
    if (!wish.port || !wish.board || !wish.burst) die("options");
    board = open_board(wish.board, &stamps);
    prepare();
    connect_inlet();
    publish(now_ns());
    /* The inlet stays until the bench ends it: a server may take its end for a reason to stop. */
    pause();
    return 0;
}
