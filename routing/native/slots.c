/* The book of the requests that a worker thread has under way, and its dice. Nothing here is shared between threads. */
#include "picker.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { PAGE = 256, PAGES = 256, BUCKETS = 8192 };

typedef struct {
    slot *pages[PAGES];
    uint32_t used;
    slot *first_free;
    slot *by_id[BUCKETS]; /* by the hash of a request id: the chains go through `next_same` */
    uint64_t state;
} worker;

static _Thread_local worker *mine;

static worker *book(void) {
    if (!mine && (mine = calloc(1, sizeof *mine))) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        mine->state = (uint64_t)now.tv_nsec ^ ((uint64_t)(uintptr_t)mine << 16) ^ (uint64_t)now.tv_sec << 40;
    }
    return mine;
}

uint64_t dice(void) {
    static _Thread_local uint64_t spare = 0x9e3779b97f4a7c15u;
    worker *at = book();
    uint64_t *state = at ? &at->state : &spare;
    uint64_t z = *state += 0x9e3779b97f4a7c15u; /* splitmix64 */
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static slot *fresh(worker *at) {
    if (at->first_free) {
        slot *found = at->first_free;
        at->first_free = found->next_free;
        return found;
    }
    if (at->used == PAGE * PAGES)
        return NULL;
    slot **page = &at->pages[at->used / PAGE];
    if (!*page && !(*page = calloc(PAGE, sizeof **page)))
        return NULL;
    return &(*page)[at->used++ % PAGE];
}

slot *slot_new(void) {
    worker *at = book();
    slot *made = at ? fresh(at) : NULL;
    if (made)
        memset(made, 0, sizeof *made);
    else if ((made = calloc(1, sizeof *made)))
        made->lone = true; /* the book is full: the policy will not find this one, and the request falls back */
    return made;
}

static slot **bucket(worker *at, uint64_t hash) { return &at->by_id[hash % BUCKETS]; }

static void forget_id(worker *at, slot *gone) {
    if (!gone->id_size)
        return;
    for (slot **link = bucket(at, gone->id_hash); *link; link = &(*link)->next_same)
        if (*link == gone) {
            *link = gone->next_same;
            break;
        }
    gone->id_size = 0;
}

void slot_free(slot *gone) {
    table_release(gone->table);
    gone->table = NULL;
    if (gone->lone) {
        free(gone);
        return;
    }
    worker *at = book();
    forget_id(at, gone);
    gone->next_free = at->first_free;
    at->first_free = gone;
}

void slot_name(slot *of, text id) {
    worker *at = book();
    if (of->lone || !at)
        return;
    forget_id(at, of);
    if (!id.size || id.size > MAX_ID)
        return;
    memcpy(of->id, id.at, id.size);
    of->id_size = id.size;
    of->id_hash = hash_bytes(0, id.at, id.size);
    slot **first = bucket(at, of->id_hash);
    of->next_same = *first;
    *first = of;
}

slot *slot_find(text id) {
    worker *at = book();
    if (!at || !id.size || id.size > MAX_ID)
        return NULL;
    slot *found = *bucket(at, hash_bytes(0, id.at, id.size));
    while (found && (found->id_size != id.size || memcmp(found->id, id.at, id.size)))
        found = found->next_same;
    return found;
}

void slots_close(void) {
    for (uint32_t page = 0; mine && page < PAGES; page++)
        free(mine->pages[page]);
    free(mine);
    mine = NULL;
}
