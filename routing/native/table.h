/* The picker's table in memory: read once from the router's file (routing/table_file.py), then never changed. */
#ifndef FINGERPOST_TABLE_H
#define FINGERPOST_TABLE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define NONE UINT32_MAX

enum { POLICY_FINGERPOST, POLICY_LEAST_REQUEST, POLICY_RANDOM, POLICIES };
enum { ARM_BY_REQUEST, ARM_BY_HEADER, ARM_BY_TIME, ARM_MODES };
enum { MAX_HOSTS = 16384, MAX_CATEGORIES = 4096, MAX_TEMPLATES = 8192, MAX_ARMS = 16, MAX_MATRICES = 16 };
enum { MAX_SEGMENTS = 7, MAX_ROUTE = 1024 };

typedef struct {
    const char *at;
    uint32_t size;
} text;

static inline bool same_text(text one, text other) {
    return one.size == other.size && (!one.size || !memcmp(one.at, other.at, one.size));
}

typedef struct {
    text name, model_version;
    uint32_t policy, matrix;
    float until; /* this arm takes the requests whose dice fall below it and not below that of the arm before */
} arm;

/* Names to their places: open addressing, at most half full. */
typedef struct {
    uint32_t *slots, mask;
    const text *names;
} name_index;

/* A segment of route templates below `parent`; `wild` is its child `*`. Children by their words are in the index. */
typedef struct {
    text segment;
    uint32_t parent, wild;
    bool ends;
} route_node;

typedef struct {
    float slope, offset; /* cost = slope * (in-flight + 1) + offset, seconds */
} cell;

typedef struct {
    atomic_uint holders;
    uint64_t serial; /* differs from that of every other table of this process */
    char *bytes;
    uint64_t created_us, expires_us;
    uint32_t hosts, categories, templates, arm_count, matrices;
    uint32_t scan_limit, sample, choices, arm_mode, arm_seconds, other;
    float exploration;
    text version, salt, arm_header;
    text *host, *category;
    text *prefix; /* what categories begin with, from their route and size on, whole names among them */
    uint32_t *prefix_of, prefixes;
    arm arms[MAX_ARMS];
    name_index host_index, category_index, prefix_index;
    route_node *nodes;
    uint32_t node_count, *node_slots, node_mask; /* the slots are open addressing, at most half full */
    const cell *cells; /* [matrix][category][hosts + 1]: the last column is for hosts the table does not know */
    const float *explore; /* of each of them: its weight where requests are explored, 0..1; 0 if it cannot serve */
} table;

/* Takes over `bytes` (from malloc) if it holds a table; else returns NULL and leaves it. */
table *table_parse(char *bytes, size_t size);
void table_hold(table *held);
void table_release(table *held);

uint64_t hash_bytes(uint64_t seed, const char *at, size_t size);
uint32_t find_name(const name_index *index, uint64_t hash, text name);
/* The child of a node of the route templates by its word; NONE if there is none. */
uint32_t find_node(const table *with, uint32_t parent, text segment);

/* What a category is made of, as the client sent it. */
typedef struct {
    text method, path, authorization, user_agent, country;
    uint64_t length;
    bool api_key, cookie, unsized; /* `unsized`: there is a body, and its length is not declared */
} request;

/* The place of the request's category; NONE if the table has none for it. fingerpost/category.py is the definition. */
uint32_t category_of(const table *with, const request *what);

#endif
