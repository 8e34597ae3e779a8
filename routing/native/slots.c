/* The book of the requests that a worker thread has under way, and its dice. Nothing here is shared between threads. */
#include "picker.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { PAGE = 256, PAGES = 256, CONTEXTS = 4096 };

typedef struct {
    slot *pages[PAGES];
    uint32_t used;
    slot *first_free;
    slot *by_context[CONTEXTS];
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
    slot *found = &(*page)[at->used % PAGE];
    found->place = at->used++;
    return found;
}

slot *slot_new(void) {
    worker *at = book();
    slot *made = at ? fresh(at) : NULL;
    if (!made) {
        /* The book is full: a slot that the policy will not find, so that the request falls back. */
        made = calloc(1, sizeof *made);
        if (made)
            made->place = NONE;
        return made;
    }
    *made = (slot){.place = made->place, .generation = made->generation + 1, .in_use = true};
    return made;
}

static slot **context_place(worker *at, const void *context) {
    return &at->by_context[((uintptr_t)context * 0x9e3779b97f4a7c15u >> 48) % CONTEXTS];
}

void slot_free(slot *gone) {
    table_release(gone->table);
    gone->table = NULL;
    if (gone->place == NONE) {
        free(gone);
        return;
    }
    worker *at = book();
    if (gone->context && *context_place(at, gone->context) == gone)
        *context_place(at, gone->context) = NULL;
    gone->context = NULL;
    gone->in_use = false;
    gone->next_free = at->first_free;
    at->first_free = gone;
}

void slot_remember(slot *with, const void *context) {
    worker *at = book();
    if (!at || with->context)
        return;
    with->context = context;
    *context_place(at, context) = with;
}

static uint32_t hex8(const char *at) {
    uint32_t value = 0;
    for (uint32_t place = 0; place < 8; place++) {
        uint32_t c = (unsigned char)at[place];
        value = value << 4 | (c >= 'a' ? c - 'a' + 10 : c - '0');
    }
    return value;
}

void slots_close(void) {
    for (uint32_t page = 0; mine && page < PAGES; page++)
        free(mine->pages[page]);
    free(mine);
    mine = NULL;
}

slot *slot_find(buffer header, const void *context) {
    worker *at = book();
    if (!at)
        return NULL;
    if (header.ptr && header.length == SLOT_TEXT) {
        uint32_t place = hex8(header.ptr), generation = hex8(header.ptr + 8);
        slot *found = place < at->used ? &at->pages[place / PAGE][place % PAGE] : NULL;
        return found && found->in_use && found->generation == generation ? found : NULL;
    }
    slot *found = *context_place(at, context);
    return found && found->context == context ? found : NULL;
}

void slot_text(const slot *of, char written[SLOT_TEXT]) {
    static const char DIGITS[] = "0123456789abcdef";
    uint64_t value = (uint64_t)of->place << 32 | of->generation;
    for (uint32_t place = SLOT_TEXT; place-- > 0; value >>= 4)
        written[place] = DIGITS[value & 15];
}
