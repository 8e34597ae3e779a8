/* The load-balancing policy: the host with the least predicted cost, by Envoy's own counts of requests in flight. */
#include "picker.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { PREDICTED, EXPLORED, RANDOM, LEAST_REQUEST, FALLBACK, COUNTERS };
static const char *const COUNTER_NAMES[] = {"predicted", "explored", "random", "least_request", "fallback"};

typedef struct {
    void *envoy;
    size_t counters[COUNTERS];
} policy_config;

/* The healthy hosts of one priority, on one worker thread. */
typedef struct {
    policy_config *config;
    uint64_t serial; /* of the table that `column` belongs to; 0: all is to be found anew */
    uint32_t priority;
    size_t all, healthy;
    uint32_t *place, *column; /* of a healthy host: its place among all hosts, its column in the table */
} balancer;

typedef struct {
    balancer *of;
    void *envoy, *context;
    bool retry;
} choice;

static void forget(balancer *of) {
    free(of->place);
    free(of->column);
    of->place = of->column = NULL;
    of->serial = 0;
    of->healthy = 0;
}

static bool same_text(buffer one, buffer other) {
    return one.length == other.length && (one.ptr == other.ptr || !memcmp(one.ptr, other.ptr, one.length));
}

static uint32_t column_of(const table *with, void *envoy, uint32_t priority, size_t place, buffer address) {
    buffer name = {NULL, 0};
    if (!CALL(lb_get_host_metadata_string)(envoy, priority, place, LITERAL(SPACE), LITERAL("host"), &name) ||
        !name.ptr || name.length > UINT16_MAX)
        name = address;
    uint64_t hash = hash_bytes(0, name.ptr, name.length);
    uint32_t found = find_name(&with->host_index, hash, (text){name.ptr, (uint32_t)name.length});
    return found == NONE ? with->hosts : found;
}

/* Envoy lists its healthy hosts in the order of all of them: each is found by its address, going forward. */
static bool survey(balancer *of, void *envoy, uint32_t priority, const table *with) {
    size_t all = CALL(lb_get_hosts_count)(envoy, priority), healthy = CALL(lb_get_healthy_hosts_count)(envoy, priority);
    uint64_t serial = with ? with->serial : 1;
    if (of->healthy == healthy && of->all == all && of->priority == priority && of->place &&
        (of->serial == serial || (!with && of->serial)))
        return true;
    forget(of);
    of->place = calloc(healthy + 1, sizeof *of->place);
    of->column = calloc(healthy + 1, sizeof *of->column);
    if (!of->place || !of->column)
        return false;
    size_t at = 0;
    for (size_t each = 0; each < healthy; each++, at++) {
        buffer address = {NULL, 0}, other = {NULL, 0};
        if (!CALL(lb_get_healthy_host_address)(envoy, priority, each, &address) || !address.ptr)
            return false;
        while (at < all && (!CALL(lb_get_host_address)(envoy, priority, at, &other) || !other.ptr ||
                            !same_text(address, other)))
            at++;
        if (at == all)
            return false;
        of->place[each] = (uint32_t)at;
        of->column[each] = with ? column_of(with, envoy, priority, at, address) : 0;
    }
    of->all = all;
    of->healthy = healthy;
    of->priority = priority;
    of->serial = serial;
    return true;
}

static uint64_t active(const choice *by, size_t host) {
    return CALL(lb_get_host_stat)(by->envoy, by->of->priority, by->of->place[host], STAT_ACTIVE_REQUESTS);
}

/* At a retry Envoy may refuse a host, such as one that was tried before. */
static bool refused(const choice *by, size_t host) {
    return by->retry && CALL(lb_context_should_select_another_host)(by->envoy, by->context, by->of->priority,
                                                                    by->of->place[host]);
}

static size_t any_host(const choice *by) {
    size_t host = dice() % by->of->healthy;
    for (int tries = 0; tries < 8 && refused(by, host); tries++)
        host = dice() % by->of->healthy;
    return host;
}

static float cost_of(const choice *by, const cell *row, float scale, size_t host) {
    cell at = row[by->of->column[host]];
    return at.slope * (scale * (float)active(by, host) + 1) + at.offset;
}

static const cell *row_of(const slot *at) {
    const table *with = at->table;
    size_t row = (size_t)at->arm->matrix * with->categories + at->category;
    return with->cells + row * (with->hosts + 1u);
}

/* Envoy's least request: the least (active + 1) / weight of some hosts drawn at random, of all where `choices` is 0. */
static size_t least_request(const choice *by, uint32_t choices) {
    size_t healthy = by->of->healthy, best = any_host(by), start = choices ? 0 : dice() % healthy;
    double least = INFINITY;
    size_t count = choices ? choices : healthy;
    for (size_t draw = 0; draw < count; draw++) {
        size_t host = choices ? dice() % healthy : (start + draw) % healthy;
        uint32_t weight = CALL(lb_get_healthy_host_weight)(by->envoy, by->of->priority, host);
        double load = (double)(active(by, host) + 1) / (weight ? weight : 1);
        if (load < least && !refused(by, host)) {
            least = load;
            best = host;
        }
    }
    return best;
}

/* The host of least cost, of all or of a sample; ties break at random, `ties` is how many there were. */
static size_t least_cost(const choice *by, const cell *row, const table *with, float *least, uint32_t *ties) {
    size_t healthy = by->of->healthy, best = SIZE_MAX;
    bool scan = healthy <= with->scan_limit;
    size_t count = scan ? healthy : with->sample;
    *least = INFINITY;
    *ties = 0;
    for (size_t draw = 0; draw < count; draw++) {
        size_t host = scan ? draw : dice() % healthy;
        /* Too dear even with nothing in flight: its count, which is what takes time, need not be asked for. */
        cell at = row[by->of->column[host]];
        if (at.slope + at.offset > *least)
            continue;
        float cost = cost_of(by, row, with->inflight_scale, host);
        if (!(cost <= *least) || cost == INFINITY || refused(by, host))
            continue;
        if (cost < *least)
            *ties = 0;
        *least = cost;
        if (dice() % ++*ties == 0)
            best = host;
    }
    return best;
}

static size_t by_prediction(const choice *by, slot *at) {
    const table *with = at->table;
    const cell *row = row_of(at);
    uint32_t ties = 0;
    float least = INFINITY;
    size_t healthy = by->of->healthy, best = least_cost(by, row, with, &least, &ties);
    if (best == SIZE_MAX) {
        at->fell = FELL_NO_ROW;
        return best;
    }
    at->explore = at->explore && !by->retry;
    size_t host = at->explore ? any_host(by) : best;
    float cost = cost_of(by, row, with->inflight_scale, host);
    at->cost = (double)cost < INFINITY ? (double)cost : 0;
    if (healthy <= with->scan_limit && !by->retry) {
        double share = (double)with->exploration;
        at->propensity = share / (double)healthy + (cost <= least ? (1 - share) / ties : 0);
    }
    return host;
}

static size_t choose(const choice *by, slot *at, uint32_t *counted) {
    size_t host = SIZE_MAX;
    at->propensity = at->cost = 0;
    at->chosen = true;
    if (!at->fell && at->policy == POLICY_FINGERPOST && (host = by_prediction(by, at)) != SIZE_MAX) {
        *counted = at->explore ? EXPLORED : PREDICTED;
        return host;
    }
    bool random = !at->fell && at->policy == POLICY_RANDOM;
    *counted = at->fell ? FALLBACK : random ? RANDOM : LEAST_REQUEST;
    at->policy = random ? POLICY_RANDOM : POLICY_LEAST_REQUEST;
    at->explore = false;
    host = random ? any_host(by) : least_request(by, at->table ? at->table->choices : 2);
    if (random)
        at->propensity = 1.0 / (double)by->of->healthy;
    if (!at->fell) {
        float cost = cost_of(by, row_of(at), at->table->inflight_scale, host);
        at->cost = cost > 0 && cost < INFINITY ? (double)cost : 0;
    }
    return host;
}

/* Whether the place that the survey found for a host is still that of this host. */
static bool still_there(const choice *by, size_t host) {
    buffer one = {NULL, 0}, other = {NULL, 0};
    return CALL(lb_get_healthy_host_address)(by->envoy, by->of->priority, host, &one) && one.ptr &&
           CALL(lb_get_host_address)(by->envoy, by->of->priority, by->of->place[host], &other) && other.ptr &&
           same_text(one, other);
}

static slot *slot_of(void *context) {
    buffer id = {NULL, 0};
    if (!context || !CALL(lb_context_get_downstream_header)(context, LITERAL(ID_HEADER), &id, 0, NULL) || !id.ptr)
        return NULL;
    return slot_find((text){id.ptr, id.length <= MAX_ID ? (uint32_t)id.length : 0});
}

HOOK bool envoy_dynamic_module_on_lb_choose_host(void *envoy, balancer *of, void *context, uint32_t *priority,
                                                 uint32_t *index) {
    size_t priorities = CALL(lb_get_priority_set_size)(envoy);
    uint32_t at = 0, counted = FALLBACK;
    while (at < priorities && !CALL(lb_get_healthy_hosts_count)(envoy, at))
        at++;
    if (at == priorities)
        return false;
    slot unknown = {.fell = FELL_NO_TABLE, .policy = POLICY_LEAST_REQUEST};
    slot *found = slot_of(context);
    slot *with = found ? found : &unknown;
    choice by = {of, envoy, context, with->chosen};
    for (int tries = 0; tries < 2; tries++) {
        if (!survey(of, envoy, at, with->table)) {
            forget(of);
            continue;
        }
        size_t host = choose(&by, with, &counted);
        if (!still_there(&by, host)) {
            forget(of);
            continue;
        }
        CALL(lb_config_increment_counter)(of->config->envoy, of->config->counters[counted], NULL, 0, 1);
        *priority = at;
        *index = (uint32_t)host;
        return true;
    }
    return false;
}

HOOK void *envoy_dynamic_module_on_lb_config_new(void *envoy, buffer name, buffer settings) {
    (void)name, (void)settings;
    policy_config *made = calloc(1, sizeof *made);
    if (!made)
        return NULL;
    made->envoy = envoy;
    for (size_t each = 0; each < COUNTERS; each++) {
        buffer counter = {COUNTER_NAMES[each], strlen(COUNTER_NAMES[each])};
        CALL(lb_config_define_counter)(envoy, counter, NULL, 0, &made->counters[each]);
    }
    return made;
}

HOOK void envoy_dynamic_module_on_lb_config_destroy(policy_config *gone) { free(gone); }

HOOK void *envoy_dynamic_module_on_lb_new(policy_config *config, void *envoy) {
    (void)envoy;
    balancer *made = calloc(1, sizeof *made);
    if (made)
        made->config = config;
    return made;
}

HOOK void envoy_dynamic_module_on_lb_destroy(balancer *gone) {
    forget(gone);
    free(gone);
}

HOOK void envoy_dynamic_module_on_lb_on_host_membership_update(void *envoy, balancer *of, size_t added,
                                                               size_t removed) {
    (void)envoy, (void)added, (void)removed;
    forget(of);
}
