/* Keeps how many requests of other proxies each host has, as the host told with its answers; by address, for all worker
 * threads. routing/inflight.py is the definition. */
#define _GNU_SOURCE
#include "picker.h"

#include <pthread.h>
#include <string.h>

enum { MAX_COUNT = 1000000, MAX_COUNT_DIGITS = 7, MAX_REPORT = 8192 };
/* How old a count is, is measured in answers: as many as there are hosts are a round, whatever traffic there is. */
enum { GONE_ROUNDS = 32, GONE_MS = 300000, CLOCKS = 64 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
/* Places are found by `heads` and `next`, which hold a place and one more; 0 is the end. A host that no survey holds
 * keeps its place until another one needs it: what is left out for a while comes back with what it told. */
static peer peers[MAX_HOSTS];
static uint32_t heads[MAX_HOSTS], used;
/* Answers with a count so far, of each policy; another one gets the same clock when a process has had so many. */
static atomic_uint_fast64_t answers[CLOCKS];

static uint32_t *head_of(uint64_t owner, const char *address, size_t size) {
    return &heads[hash_bytes(owner, address, size) % MAX_HOSTS];
}

/* A place for another host: the one that has been without a holder for longest where all were given. */
static peer *free_place(void) {
    if (used < MAX_HOSTS)
        return &peers[used++];
    peer *oldest = NULL;
    for (uint32_t at = 0; at < used; at++)
        if (!peers[at].users && (!oldest || peers[at].left_ms < oldest->left_ms))
            oldest = &peers[at];
    if (!oldest)
        return NULL;
    uint32_t *link = head_of(oldest->owner, oldest->address, oldest->size), place = (uint32_t)(oldest - peers) + 1;
    while (*link != place)
        link = &peers[*link - 1].next;
    *link = oldest->next;
    atomic_fetch_add(&oldest->generation, 1);
    oldest->told = oldest->own = oldest->tells = 0;
    return oldest;
}

peer *peer_take(uint64_t owner, buffer address) {
    if (address.length > PEER_ADDRESS)
        return NULL;
    pthread_mutex_lock(&lock);
    uint32_t *head = head_of(owner, address.ptr, address.length), place = *head;
    while (place && (peers[place - 1].owner != owner || peers[place - 1].size != address.length ||
                     memcmp(peers[place - 1].address, address.ptr, address.length)))
        place = peers[place - 1].next;
    peer *found = place ? &peers[place - 1] : free_place();
    if (found && !place) {
        found->owner = owner;
        found->size = (uint32_t)address.length;
        memcpy(found->address, address.ptr, address.length);
        found->next = *head;
        *head = (uint32_t)(found - peers) + 1;
    }
    if (found)
        found->users++;
    pthread_mutex_unlock(&lock);
    return found;
}

void peer_give_back(peer *gone) {
    if (!gone)
        return;
    pthread_mutex_lock(&lock);
    if (!--gone->users)
        gone->left_ms = now_ms(CLOCK_MONOTONIC);
    pthread_mutex_unlock(&lock);
}

moment peers_now(uint64_t owner, size_t hosts) {
    uint64_t now = atomic_load_explicit(&answers[owner % CLOCKS], memory_order_relaxed);
    return (moment){now, now_ms(CLOCK_MONOTONIC_COARSE), 1.0f / (GONE_ROUNDS * (float)hosts)};
}

/* The part of the way to its end that is behind a count. */
static float passed(uint64_t from, uint64_t to, float each) { return to > from ? (float)(to - from) * each : 0; }

float peer_told_others(const peer *of, uint64_t told, const moment *at) {
    float by_answers = passed(told >> PEER_COUNT_BITS, at->answers, at->answer_part);
    float by_time = passed(atomic_load_explicit(&of->told_ms, memory_order_relaxed), at->ms, 1.0f / GONE_MS);
    float gone = by_answers > by_time ? by_answers : by_time;
    return gone < 1 ? (float)(told & PEER_COUNT) * (1 - gone) : 0;
}

static bool is_there(const slot *what) {
    return what->peer && atomic_load_explicit(&what->peer->generation, memory_order_relaxed) == what->generation;
}

void peer_left(slot *what) {
    if (what->counted && is_there(what)) {
        unsigned own = what->peer->own;
        while (own && !atomic_compare_exchange_weak(&what->peer->own, &own, own - 1))
            ;
    }
    what->counted = false;
    what->peer = NULL;
}

void peer_sent(slot *what, peer *to) {
    if (what->lone)
        return;
    peer_left(what);
    what->peer = to;
    if (!to)
        return;
    what->generation = atomic_load_explicit(&to->generation, memory_order_relaxed);
    if (atomic_load_explicit(&to->tells, memory_order_relaxed)) {
        atomic_fetch_add_explicit(&to->own, 1, memory_order_relaxed);
        what->counted = true;
    }
}

void peer_told(slot *what, uint32_t count) {
    if (!is_there(what))
        return;
    peer *of = what->peer;
    if (!what->counted) {
        atomic_store_explicit(&of->tells, true, memory_order_relaxed);
        return;
    }
    uint32_t own = atomic_load_explicit(&of->own, memory_order_relaxed);
    uint64_t others = count > own ? count - own : 0;
    uint64_t now = atomic_fetch_add_explicit(&answers[of->owner % CLOCKS], 1, memory_order_relaxed) + 1;
    atomic_store_explicit(&of->told_ms, now_ms(CLOCK_MONOTONIC_COARSE), memory_order_relaxed);
    atomic_store_explicit(&of->told, now << PEER_COUNT_BITS | others, memory_order_relaxed);
}

static bool is_digit(char c) { return c >= '0' && c <= '9'; }

static bool read_count(text value, uint32_t *count) {
    *count = 0;
    for (uint32_t at = 0; at < value.size && at < MAX_COUNT_DIGITS + 1; at++) {
        if (!is_digit(value.at[at]))
            return false;
        *count = *count * 10 + (uint32_t)(value.at[at] - '0');
    }
    return value.size && value.size <= MAX_COUNT_DIGITS && *count <= MAX_COUNT;
}

/* A number that begins here, such as `3`, `3.0` or `2.6`, to the nearest whole one. */
static bool read_number(text value, uint32_t *count) {
    uint32_t end = 0;
    while (end < value.size && is_digit(value.at[end]))
        end++;
    if (!read_count((text){value.at, end}, count))
        return false;
    if (end + 1 < value.size && value.at[end] == '.' && is_digit(value.at[end + 1])) {
        *count += value.at[end + 1] >= '5';
        end += 2;
        while (end < value.size && is_digit(value.at[end]))
            end++;
    }
    /* Nothing that would make it another number. */
    return end == value.size || !strchr("+-.eE_", value.at[end]);
}

static text skip(text from, uint32_t size) { return (text){from.at + size, from.size - size}; }

static text skip_spaces(text from) {
    while (from.size && (*from.at == ' ' || *from.at == '\t'))
        from = skip(from, 1);
    return from;
}

/* Goes on after `name`, spaces and `mark`, if that is how the text begins. */
static bool after(text *from, text name, char mark) {
    if (from->size <= name.size || memcmp(from->at, name.at, name.size))
        return false;
    text rest = skip_spaces(skip(*from, name.size));
    if (!rest.size || *rest.at != mark)
        return false;
    *from = skip_spaces(skip(rest, 1));
    return true;
}

static bool read_json(text rest, uint32_t *count) {
    static const text NAME = {"\"inflight\"", 10};
    for (const char *at; (at = memmem(rest.at, rest.size, NAME.at, NAME.size)); rest = skip(rest, 1)) {
        rest = skip(rest, (uint32_t)(at - rest.at));
        text number = rest;
        if (after(&number, NAME, ':') && read_number(number, count))
            return true;
    }
    return false;
}

static bool read_pairs(text rest, uint32_t *count) {
    static const text LONG = {"named_metrics.inflight", 22}, SHORT = {"inflight", 8};
    for (const char *end = rest.at; end; rest = end ? skip(rest, (uint32_t)(end - rest.at) + 1) : rest) {
        text pair = skip_spaces(rest);
        end = memchr(rest.at, ',', rest.size);
        if (pair.size && (*pair.at == 'n' || *pair.at == 'i') && (after(&pair, LONG, '=') || after(&pair, SHORT, '=')) &&
            read_number(pair, count))
            return true;
    }
    return false;
}

bool read_orca(text value, uint32_t *count) {
    enum { KIND = 5 };
    if (value.size <= KIND || value.size > MAX_REPORT)
        return false;
    if (!memcmp(value.at, "JSON ", KIND))
        return read_json(skip(value, KIND), count);
    return !memcmp(value.at, "TEXT ", KIND) && read_pairs(skip(value, KIND), count);
}
