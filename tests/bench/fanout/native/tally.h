/* What is counted of deliveries: order and completeness of each connection, and histograms of times. */

#ifndef TALLY_H
#define TALLY_H

#include "board.h"

#define OCTAVE_BITS 5 /* 32 buckets an octave: a percentile is read at most 3 % too high */
#define BUCKETS ((64 - OCTAVE_BITS + 1) << OCTAVE_BITS)

struct histogram {
    uint64_t count, max, buckets[BUCKETS];
};

static void record(struct histogram *histogram, uint64_t value) {
    int shift = value < (1u << OCTAVE_BITS) ? 0 : 63 - OCTAVE_BITS - __builtin_clzll(value);
    histogram->buckets[((uint64_t)shift << OCTAVE_BITS) + (value >> shift)]++;
    histogram->count++;
    if (value > histogram->max) histogram->max = value;
}

static uint64_t percentile(const struct histogram *histogram, double share) {
    uint64_t wanted = (uint64_t)(share * (double)histogram->count + 0.5), seen = 0;
    for (uint64_t place = 0; place < BUCKETS; place++) {
        seen += histogram->buckets[place];
        if (seen && seen >= wanted) {
            uint64_t octave = place >> OCTAVE_BITS, shift = octave ? octave - 1 : 0;
            uint64_t top = ((place - (shift << OCTAVE_BITS) + 1) << shift) - 1;
            return top < histogram->max ? top : histogram->max;
        }
    }
    return histogram->max;
}

static void print_histogram(const char *name, const struct histogram *histogram, double unit) {
    printf("\"%s\": {\"count\": %lu, \"p50\": %.3f, \"p99\": %.3f, \"max\": %.3f}, ", name, histogram->count,
           (double)percentile(histogram, 0.5) / unit, (double)percentile(histogram, 0.99) / unit,
           (double)histogram->max / unit);
}

struct totals {
    uint64_t deliveries, lost, duplicated, reordered, conflated, wide, malformed, chain_breaks;
    uint64_t frames, reads, bytes, pings;
    uint64_t first_ns, last_ns; /* of deliveries */
    struct histogram latency_ns, mark_age_us, mark_interval_us;
};

/* One connection's place in the sequence of events. */
struct place {
    uint32_t expected;  /* the next event */
    uint32_t conflated; /* events that an item without key stood for */
    uint64_t recent;    /* bit n: event expected - 1 - n came */
    uint8_t is_wide;    /* an item without key came since the last event */
};

static void skip(struct totals *totals, struct place *place, uint32_t to) {
    uint32_t missed = to - place->expected;
    if (place->is_wide) {
        totals->conflated += missed;
        place->conflated += missed;
    } else {
        totals->lost += missed;
    }
    place->recent = missed < 64 ? place->recent << missed : 0;
    place->expected = to;
}

/* Count event `seq`. Returns how far the connection's place moved. */
static uint32_t place_event(struct totals *totals, struct place *place, uint32_t seq) {
    uint32_t before = place->expected;
    totals->deliveries++;
    if (seq < before) {
        uint32_t back = before - 1 - seq;
        if (back < 64 && !(place->recent >> back & 1)) {
            place->recent |= (uint64_t)1 << back;
            totals->reordered++;
            if (totals->lost) totals->lost--;
        } else {
            totals->duplicated++;
        }
        return 0;
    }
    if (seq > before) skip(totals, place, seq);
    place->is_wide = 0;
    place->expected = seq + 1;
    place->recent = place->recent << 1 | 1;
    return place->expected - before;
}

#endif
