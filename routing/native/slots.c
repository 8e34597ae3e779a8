/* The book of the requests that a worker thread has under way, and its dice. Nothing here is shared between threads. */
#include "picker.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

/* As many places as four digits name. */
enum { PAGE = 256, PAGES = 256, BUCKETS = 8192 };

typedef struct {
    slot *pages[PAGES];
    uint32_t used;
    slot *first_free;
    slot *by_context[BUCKETS]; /* the chains go through `next_same` */
    uint64_t state;
} worker;

static _Thread_local worker *mine;

static worker *book(void) {
    if (!mine && (mine = calloc(1, sizeof *mine)) &&
        getrandom(&mine->state, sizeof mine->state, GRND_NONBLOCK) != sizeof mine->state) {
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

static slot *place_of(const worker *at, uint32_t place) {
    return place < at->used ? &at->pages[place / PAGE][place % PAGE] : NULL;
}

static slot *fresh(worker *at) {
    slot *found = at->first_free;
    if (found) {
        at->first_free = found->next_free;
        return found;
    }
    if (at->used == PAGE * PAGES)
        return NULL;
    slot **page = &at->pages[at->used / PAGE];
    if (!*page && !(*page = calloc(PAGE, sizeof **page)))
        return NULL;
    found = &(*page)[at->used % PAGE];
    found->place = at->used++;
    return found;
}

static const char HEX[16] = "0123456789abcdef";

/* Where the key's shape has digits of the place and of the secret. */
static const uint8_t PLACE_AT[] = {12, 13, 14, 15}, SECRET_AT[] = {17, 18, 19, 20, 22, 23, 24, 25,
                                                                 27, 28, 29, 30, 32, 33, 34, 35};

static void write_hex(char key[KEY_SIZE], const uint8_t *at, size_t digits, uint64_t value) {
    while (digits-- > 0) {
        key[at[digits]] = HEX[value & 15];
        value >>= 4;
    }
}

slot *slot_new(void) {
    worker *at = book();
    slot *made = at ? fresh(at) : NULL;
    if (made) {
        /* The room for texts goes on with the place. */
        *made = (slot){.place = made->place, .told = made->told, .room = made->room, .secret = dice()};
        memcpy(made->key, KEY_SHAPE, KEY_SIZE);
        write_hex(made->key, PLACE_AT, sizeof PLACE_AT, made->place);
        write_hex(made->key, SECRET_AT, sizeof SECRET_AT, made->secret);
        made->named = true;
    } else if ((made = calloc(1, sizeof *made)))
        made->lone = true; /* the book is full: the policy will not find this one, and the request falls back */
    return made;
}

static slot **bucket(worker *at, const void *context) {
    return &at->by_context[((uintptr_t)context * 0x9e3779b97f4a7c15u >> 32) % BUCKETS];
}

void slot_free(slot *gone) {
    peer_left(gone);
    if (gone->lone) {
        free(gone->told);
        free(gone);
        return;
    }
    worker *at = book();
    for (slot **link = gone->context ? bucket(at, gone->context) : NULL; link && *link; link = &(*link)->next_same)
        if (*link == gone) {
            *link = gone->next_same;
            break;
        }
    gone->context = NULL;
    gone->named = false;
    gone->next_free = at->first_free;
    at->first_free = gone;
}

/* The slot of a key; NULL if it is none, or that of a request that is over. */
static slot *keyed(const worker *at, text key) {
    uint64_t place = 0;
    if (key.size != KEY_SIZE)
        return NULL;
    for (size_t digit = 0; digit < sizeof PLACE_AT; digit++) {
        char c = key.at[PLACE_AT[digit]];
        if (c >= '0' && c <= '9')
            place = place << 4 | (uint64_t)(c - '0');
        else if (c >= 'a' && c <= 'f')
            place = place << 4 | (uint64_t)(c - 'a' + 10);
        else
            return NULL;
    }
    slot *found = place_of(at, (uint32_t)place);
    return found && found->named && !memcmp(found->key, key.at, KEY_SIZE) ? found : NULL;
}

slot *slot_find(text key, const void *context) {
    worker *at = book();
    if (!at || !context)
        return NULL;
    slot *found = *bucket(at, context);
    while (found && found->context != context)
        found = found->next_same;
    if (found || !(found = keyed(at, key)))
        return found;
    if (found->context)
        return NULL; /* a copy of the request, such as one that is mirrored */
    found->context = context;
    slot **first = bucket(at, context);
    found->next_same = *first;
    *first = found;
    return found;
}

bool slot_tell(slot *of, const text what[TOLD]) {
    size_t size = 0;
    for (int each = 0; each < TOLD; each++)
        size += what[each].size;
    if (size > of->room) {
        char *more = realloc(of->told, size);
        if (!more)
            return false;
        of->told = more;
        of->room = size;
    }
    char *to = of->told;
    for (int each = 0; each < TOLD; each++) {
        if (what[each].size)
            memcpy(to, what[each].at, what[each].size);
        of->said[each] = (text){to, what[each].size};
        to += what[each].size;
    }
    return true;
}

void slots_close(void) {
    for (uint32_t place = 0; mine && place < mine->used; place++)
        free(place_of(mine, place)->told);
    for (uint32_t page = 0; mine && page < PAGES; page++)
        free(mine->pages[page]);
    free(mine);
    mine = NULL;
}
