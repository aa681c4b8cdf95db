/* What the payload of a frame says, in each server's way: a text per event, NATS, MQTT, or pgcachewatch.v1.

   In every one of them an event is the text `~SEQ-NS-`, in a row's key: its number, and the monotonic nanosecond at
   which it was published. */

#ifndef DIALECTS_H
#define DIALECTS_H

#include <ctype.h>

#include "tally.h"

enum dialect { TEXT, NATS, MQTT, OURS };

/* What the load makes of it; in load.c. */
struct connection;
static void on_ready(struct connection *);
static void on_event(struct connection *, uint32_t seq, uint64_t published_ns);
static void on_wide(struct connection *);                           /* an item without key: everything may have changed */
static void on_chain(struct connection *, int64_t p, int64_t s);    /* of ev and mark; p -1 where the chain begins */
static void on_mark(struct connection *, double as_of_ms);
static void on_malformed(struct connection *, const char *what);
static void say(struct connection *, int opcode, const char *data, size_t size);

static int event_at(struct connection *connection, const char *at, const char *end) {
    uint64_t numbers[2] = {0, 0};
    at++;
    for (int which = 0; which < 2; which++, at++) {
        const char *first = at;
        while (at < end && *at >= '0' && *at <= '9') numbers[which] = numbers[which] * 10 + (uint64_t)(*at++ - '0');
        if (at == first || at >= end || *at != '-') return 0;
    }
    on_event(connection, (uint32_t)numbers[0], numbers[1]);
    return 1;
}

/* --- a text per event, exactly as it was published */

static void read_text(struct connection *connection, const char *data, size_t size, size_t event_size) {
    const char *at = memchr(data, '~', size);
    if (size == 5 && !memcmp(data, "ready", 5)) {
        on_ready(connection);
    } else if (!at || size != event_size || !event_at(connection, at, data + size)) {
        on_malformed(connection, "a text that is no event");
    }
}

/* --- NATS: lines and counted payloads; a frame may hold several of them, or a part. Returns what was used. */

static size_t read_nats(struct connection *connection, const char *data, size_t size) {
    const char *at = data, *end = data + size, *line;
    while ((line = memchr(at, '\r', (size_t)(end - at))) && line + 1 < end) {
        if (!memcmp(at, "MSG ", line - at < 4 ? (size_t)(line - at) : 4)) {
            const char *count = line;
            while (count[-1] != ' ') count--;
            size_t length = strtoul(count, NULL, 10);
            const char *payload = line + 2, *after = payload + length;
            if (after + 2 > end) break;
            const char *mark = memchr(payload, '~', length);
            if (!mark || !event_at(connection, mark, after)) on_malformed(connection, "a message that is no event");
            at = after + 2;
            continue;
        }
        if (!memcmp(at, "PING", 4)) say(connection, 2, "PONG\r\n", 6);
        else if (!memcmp(at, "PONG", 4)) on_ready(connection);
        else if (*at == '-') on_malformed(connection, "an error of the server");
        at = line + 2;
    }
    return (size_t)(at - data);
}

/* --- MQTT 3.1.1: packets with a length of up to four bytes of seven bits. Returns what was used. */

static size_t read_mqtt(struct connection *connection, const char *data, size_t size) {
    const char *at = data, *end = data + size;
    while (end - at >= 2) {
        size_t length = 0;
        const char *body = at + 1;
        for (int shift = 0; shift < 28; shift += 7) {
            if (body >= end) return (size_t)(at - data);
            length |= (size_t)(*body & 0x7f) << shift;
            if (!(*body++ & 0x80)) break;
        }
        if (body + length > end) break;
        int kind = (unsigned char)*at >> 4;
        const char *mark = kind == 3 ? memchr(body, '~', length) : NULL;
        if (kind == 9) on_ready(connection); /* SUBACK */
        else if (kind == 3 && !(mark && event_at(connection, mark, body + length)))
            on_malformed(connection, "a message that is no event");
        at = body + length;
    }
    return (size_t)(at - data);
}

/* --- pgcachewatch.v1: JSON, read member by member, in whatever order. Each reader returns NULL for what is no JSON. */

static const char *spaces(const char *at, const char *end) {
    while (at < end && (*at == ' ' || *at == '\n' || *at == '\r' || *at == '\t')) at++;
    return at;
}

/* Behind the string that begins at `at`. */
static const char *string(const char *at, const char *end) {
    if (at >= end || *at != '"') return NULL;
    for (const char *from = at + 1;;) {
        const char *quote = memchr(from, '"', (size_t)(end - from));
        if (!quote) return NULL;
        const char *back = quote;
        while (back > at + 1 && back[-1] == '\\') back--;
        if ((quote - back) % 2 == 0) return quote + 1;
        from = quote + 1;
    }
}

/* Behind any value. */
static const char *value(const char *at, const char *end) {
    int depth = 0;
    do {
        at = spaces(at, end);
        if (at >= end) return NULL;
        if (*at == '"') at = string(at, end);
        else if (*at == '{' || *at == '[') depth++, at++;
        else if (*at == '}' || *at == ']') depth--, at++;
        else if (depth && (*at == ',' || *at == ':')) at++;
        else {
            const char *first = at;
            while (at < end && (strchr("+-._", *at) ? *at : isalnum((unsigned char)*at))) at++;
            if (at == first) return NULL;
        }
    } while (at && depth > 0);
    return depth == 0 ? at : NULL;
}

static const char *separator(const char *at, const char *end, char close, int *is_last) {
    at = spaces(at, end);
    if (at >= end || (*at != ',' && *at != close)) return NULL;
    *is_last = *at == close;
    return at + 1;
}

/* An item is [sid, op, key, detail?]; in stream mode the key is in the detail. */
static const char *item(struct connection *connection, const char *at, const char *end) {
    at = spaces(at, end);
    if (at >= end || *at++ != '[') return NULL;
    const char *key = NULL, *first = at;
    for (int place = 0, is_last = 0; !is_last; place++) {
        at = spaces(at, end);
        if (place == 2) key = at;
        if (!(at = value(at, end)) || !(at = separator(at, end, ']', &is_last))) return NULL;
    }
    if (!key) return NULL;
    const char *mark = *key == '"' ? key + 1 : memchr(key, '~', (size_t)(at - key));
    if (mark && *mark == '~') return event_at(connection, mark, at) ? at : NULL;
    if (*first == '0' || *key == 'n') on_wide(connection);
    return at;
}

static const char *items(struct connection *connection, const char *at, const char *end) {
    if (at >= end || *at++ != '[') return NULL;
    at = spaces(at, end);
    if (at < end && *at == ']') return at + 1;
    for (int is_last = 0; !is_last;)
        if (!(at = item(connection, at, end)) || !(at = separator(at, end, ']', &is_last))) return NULL;
    return at;
}

static const char *message(struct connection *connection, const char *at, const char *end) {
    const char *type = "";
    size_t type_size = 0;
    int64_t p = -1, s = -1;
    double as_of_ms = -1;
    at = spaces(at, end);
    if (at >= end || *at++ != '{') return NULL;
    for (int is_last = 0; !is_last;) {
        const char *name = spaces(at, end), *behind = string(name, end);
        if (!behind || (at = spaces(behind, end)) >= end || *at++ != ':') return NULL;
        size_t size = (size_t)(behind - name) - 2;
        const char *content = at = spaces(at, end);
        if (size == 1 && name[1] == 'i' && *content == '[') {
            at = items(connection, content, end);
        } else {
            at = value(content, end);
            if (size == 1 && name[1] == 'p') p = strtoll(content, NULL, 10);
            if (size == 1 && name[1] == 's') s = strtoll(content, NULL, 10);
            if (size == 5 && !memcmp(name + 1, "as_of", 5)) as_of_ms = strtod(content, NULL);
            if (at && size == 1 && name[1] == 't') type = content + 1, type_size = (size_t)(at - content) - 2;
        }
        if (!at || !(at = separator(at, end, '}', &is_last))) return NULL;
    }
#define IS(text) (type_size == sizeof(text) - 1 && !memcmp(type, text, type_size))
    if (IS("ev") || IS("mark")) {
        if (p < 0 || s < p) return NULL;
        on_chain(connection, p, s);
        if (as_of_ms >= 0) on_mark(connection, as_of_ms);
    } else if (IS("welcome") || IS("reset")) {
        on_chain(connection, -1, s);
        if (IS("reset")) on_wide(connection);
    } else if (IS("subok")) {
        on_ready(connection);
    } else if (!IS("stale") && !IS("bye")) {
        return NULL; /* an error; nothing else was asked for */
    }
#undef IS
    return at;
}

static void read_ours(struct connection *connection, const char *data, size_t size) {
    const char *at = spaces(data, data + size), *end = data + size;
    if (at < end && *at == '[') {
        at++;
        for (int is_last = 0; at && !is_last;)
            if ((at = message(connection, at, end))) at = separator(at, end, ']', &is_last);
    } else {
        at = message(connection, at, end);
    }
    if (!at || spaces(at, end) != end) on_malformed(connection, "a frame that is not of the protocol");
}

#endif
