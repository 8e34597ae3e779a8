#include "table.h"

#include <stdlib.h>
#include <string.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the table file is little-endian"
#endif

static const char MAGIC[8] = {'F', 'P', 'T', 'A', 'B', 'L', 'E', 2};
static atomic_uint_fast64_t serials = 2; /* 1 is of a survey without a table */

/* Reads forward and never past the end; one failure makes all that follows fail. */
typedef struct {
    const char *at;
    size_t left;
    bool good;
} reader;

static const char *take(reader *from, size_t size) {
    if (!from->good || size > from->left) {
        from->good = false;
        return NULL;
    }
    const char *at = from->at;
    from->at += size;
    from->left -= size;
    return at;
}

static void take_value(reader *from, void *value, size_t size) {
    const char *at = take(from, size);
    if (at)
        memcpy(value, at, size);
}

static uint32_t take_number(reader *from, uint32_t least, uint32_t most) {
    uint32_t value = 0;
    take_value(from, &value, sizeof value);
    if (value < least || value > most)
        from->good = false;
    return from->good ? value : 0;
}

static float take_share(reader *from, float most) {
    float value = 0;
    take_value(from, &value, sizeof value);
    if (!(value >= 0 && value <= most))
        from->good = false;
    return value;
}

static text take_text(reader *from) {
    uint16_t size = 0;
    take_value(from, &size, sizeof size);
    const char *at = take(from, size);
    return at ? (text){at, size} : (text){"", 0};
}

/* Two running sums over 32-bit words: enough to tell a file that was cut or mixed from a whole one, at memory's speed. */
static uint64_t checksum(const char *at, size_t size) {
    uint64_t first = 0, second = 0;
    for (size_t place = 0; place + 4 <= size; place += 4) {
        uint32_t word;
        memcpy(&word, at + place, 4);
        first += word;
        second += first;
    }
    return first ^ (second << 1);
}

uint64_t hash_bytes(uint64_t seed, const char *at, size_t size) {
    uint64_t hash = seed ? seed : 0xcbf29ce484222325u; /* FNV-1a, 64 bits */
    for (size_t place = 0; place < size; place++)
        hash = (hash ^ (unsigned char)at[place]) * 0x100000001b3u;
    return hash;
}

static bool index_names(name_index *index, const text *names, uint32_t count) {
    uint32_t size = 2;
    while (size < 2 * count)
        size *= 2;
    index->names = names;
    index->mask = size - 1;
    index->slots = malloc(size * sizeof *index->slots);
    if (!index->slots)
        return false;
    memset(index->slots, 0xff, size * sizeof *index->slots);
    for (uint32_t place = 0; place < count; place++) {
        uint32_t slot = (uint32_t)hash_bytes(0, names[place].at, names[place].size) & index->mask;
        while (index->slots[slot] != NONE)
            slot = (slot + 1) & index->mask;
        index->slots[slot] = place;
    }
    return true;
}

uint32_t find_name(const name_index *index, uint64_t hash, text name) {
    for (uint32_t slot = (uint32_t)hash & index->mask; index->slots[slot] != NONE; slot = (slot + 1) & index->mask)
        if (same_text(index->names[index->slots[slot]], name))
            return index->slots[slot];
    return NONE;
}

static uint32_t node_slot(const table *with, uint32_t parent, text segment) {
    uint32_t slot = (uint32_t)hash_bytes(hash_bytes(0, (const char *)&parent, sizeof parent), segment.at, segment.size);
    for (slot &= with->node_mask; with->node_slots[slot] != NONE; slot = (slot + 1) & with->node_mask) {
        const route_node *found = &with->nodes[with->node_slots[slot]];
        if (found->parent == parent && same_text(found->segment, segment))
            break;
    }
    return slot;
}

uint32_t find_node(const table *with, uint32_t parent, text segment) {
    return with->node_slots[node_slot(with, parent, segment)];
}

static bool add_template(table *to, text route) {
    uint32_t node = 0, segments = 0;
    for (uint32_t at = 0; at < route.size;) {
        if (route.at[at] == '/') {
            at++;
            continue;
        }
        uint32_t end = at;
        while (end < route.size && route.at[end] != '/')
            end++;
        if (++segments > MAX_SEGMENTS)
            return false;
        text segment = {route.at + at, end - at};
        uint32_t *slot = &to->node_slots[node_slot(to, node, segment)];
        if (*slot == NONE) {
            *slot = to->node_count++;
            to->nodes[*slot] = (route_node){segment, node, NONE, false};
            if (segment.size == 1 && segment.at[0] == '*')
                to->nodes[node].wild = *slot;
        }
        node = *slot;
        at = end;
    }
    to->nodes[node].ends = true;
    return true;
}

static bool take_names(reader *from, text **names, uint32_t count) {
    *names = calloc(count + 1u, sizeof **names);
    for (uint32_t place = 0; *names && place < count; place++)
        (*names)[place] = take_text(from);
    return *names && from->good;
}

static bool take_templates(reader *from, table *to) {
    uint32_t most = to->templates * MAX_SEGMENTS + 1, slots = 2;
    while (slots < 2 * most)
        slots *= 2;
    to->nodes = calloc(most, sizeof *to->nodes);
    to->node_slots = malloc(slots * sizeof *to->node_slots);
    if (!to->nodes || !to->node_slots)
        return false;
    memset(to->node_slots, 0xff, slots * sizeof *to->node_slots);
    to->node_mask = slots - 1;
    to->nodes[0] = (route_node){{"", 0}, NONE, NONE, false};
    to->node_count = 1;
    for (uint32_t place = 0; place < to->templates; place++)
        if (!add_template(to, take_text(from)) || !from->good)
            return false;
    return true;
}

static void take_arms(reader *from, table *to) {
    float before = 0;
    for (uint32_t place = 0; place < to->arm_count; place++) {
        arm *each = &to->arms[place];
        each->policy = take_number(from, 0, POLICIES - 1);
        each->matrix = take_number(from, 0, to->matrices - 1);
        each->until = take_share(from, 1);
        each->name = take_text(from);
        each->model_version = take_text(from);
        if (each->until < before)
            from->good = false;
        before = each->until;
    }
}

/* Of equal prefixes the first is found, since it was put in first. */
static bool index_prefixes(table *to) {
    enum { PARTS = 5 };
    to->prefix = calloc(to->categories * (PARTS - 1) + 1u, sizeof *to->prefix);
    to->prefix_of = calloc(to->categories * (PARTS - 1) + 1u, sizeof *to->prefix_of);
    if (!to->prefix || !to->prefix_of)
        return false;
    for (uint32_t place = 0; place < to->categories; place++) {
        text name = to->category[place];
        for (uint32_t at = 0, parts = 1; place != to->other && at <= name.size && parts <= PARTS; at++)
            if (at == name.size || name.at[at] == '|') {
                if (parts++ > 1) {
                    to->prefix[to->prefixes] = (text){name.at, at};
                    to->prefix_of[to->prefixes++] = place;
                }
            }
    }
    return index_names(&to->prefix_index, to->prefix, to->prefixes);
}

static bool read_table(table *to, const char *bytes, size_t size) {
    reader from = {bytes, size, size <= UINT32_MAX && size >= 24 && !memcmp(bytes, MAGIC, sizeof MAGIC)};
    uint64_t sum = 0;
    take(&from, sizeof MAGIC);
    take_value(&from, &sum, sizeof sum);
    if (!from.good || sum != checksum(from.at, from.left))
        return false;
    if (take_number(&from, 0, UINT32_MAX) != size)
        return false;
    take_number(&from, 0, 0);
    take_value(&from, &to->created_us, 8);
    take_value(&from, &to->expires_us, 8);
    to->hosts = take_number(&from, 0, MAX_HOSTS);
    to->categories = take_number(&from, 0, MAX_CATEGORIES);
    to->templates = take_number(&from, 0, MAX_TEMPLATES);
    to->arm_count = take_number(&from, 1, MAX_ARMS);
    to->matrices = take_number(&from, 1, MAX_MATRICES);
    to->scan_limit = take_number(&from, 1, MAX_HOSTS);
    to->sample = take_number(&from, 1, MAX_HOSTS);
    to->choices = take_number(&from, 0, MAX_HOSTS);
    to->arm_mode = take_number(&from, 0, ARM_MODES - 1);
    to->arm_seconds = take_number(&from, 1, UINT32_MAX);
    to->exploration = take_share(&from, 1);
    to->version = take_text(&from);
    to->salt = take_text(&from);
    to->arm_header = take_text(&from);
    if (!from.good || !take_names(&from, &to->host, to->hosts) || !take_names(&from, &to->category, to->categories))
        return false;
    if (!take_templates(&from, to))
        return false;
    take_arms(&from, to);
    take(&from, (4 - (size_t)(from.at - bytes) % 4) % 4);
    size_t cells = (size_t)to->matrices * to->categories * (to->hosts + 1u);
    if (!from.good || from.left != cells * (sizeof(cell) + sizeof(float)))
        return false;
    to->cells = (const cell *)(const void *)take(&from, cells * sizeof(cell));
    to->explore = (const float *)(const void *)from.at;
    for (size_t each = 0; each < cells; each++)
        if (!(to->explore[each] >= 0 && to->explore[each] <= 1))
            return false;
    if (!index_names(&to->host_index, to->host, to->hosts))
        return false;
    if (!index_names(&to->category_index, to->category, to->categories))
        return false;
    to->other = find_name(&to->category_index, hash_bytes(0, "other", 5), (text){"other", 5});
    return index_prefixes(to);
}

static void table_free(table *gone) {
    free(gone->prefix);
    free(gone->prefix_of);
    free(gone->prefix_index.slots);
    free(gone->host);
    free(gone->category);
    free(gone->host_index.slots);
    free(gone->category_index.slots);
    free(gone->nodes);
    free(gone->node_slots);
    free(gone->bytes);
    free(gone);
}

table *table_parse(char *bytes, size_t size) {
    table *made = calloc(1, sizeof *made);
    if (!made)
        return NULL;
    if (!read_table(made, bytes, size)) {
        table_free(made); /* made->bytes is not set yet: the caller keeps them */
        return NULL;
    }
    made->bytes = bytes;
    made->serial = atomic_fetch_add(&serials, 1);
    atomic_init(&made->holders, 1);
    return made;
}

void table_hold(table *held) { atomic_fetch_add(&held->holders, 1); }

void table_release(table *held) {
    if (held && atomic_fetch_sub(&held->holders, 1) == 1)
        table_free(held);
}
