/* The hosts that a worker thread may choose among: which are healthy, where the table has them, and which priority. */
#include "picker.h"

#include <stdlib.h>
#include <string.h>

/* Envoy's overprovisioning factor, which a module cannot ask for: a priority whose healthy part is at least 1 / 1.4 of
 * it bears all traffic; below that the next one bears the rest. */
enum { FULL = 100, OVERPROVISIONED = 140, MAX_PRIORITIES = 128 };

void survey_forget(survey *of) {
    for (size_t each = 0; of->peer && each < of->healthy; each++)
        peer_give_back(of->peer[each]);
    free(of->place);
    free(of->column);
    free(of->peer);
    free(of->far);
    *of = (survey){.by = of->by};
}

static bool same_bytes(buffer one, buffer other) {
    return one.length == other.length && (one.ptr == other.ptr || !memcmp(one.ptr, other.ptr, one.length));
}

static uint32_t column_of(const table *with, void *envoy, uint32_t priority, size_t place) {
    buffer name = {NULL, 0};
    if (!CALL(lb_get_host_metadata_string)(envoy, priority, place, LITERAL(SPACE), LITERAL("host"), &name) ||
        !name.ptr || name.length > UINT16_MAX)
        CALL(lb_get_host_address)(envoy, priority, place, &name);
    if (!name.ptr || name.length > UINT16_MAX)
        return with->hosts;
    uint64_t hash = hash_bytes(0, name.ptr, name.length);
    uint32_t found = find_name(&with->host_index, hash, (text){name.ptr, (uint32_t)name.length});
    return found == NONE ? with->hosts : found;
}

static float distance(const cluster *by, void *envoy, uint32_t priority, size_t place) {
    buffer region = {NULL, 0}, zone = {NULL, 0}, subzone = {NULL, 0};
    bool known = by->zone.size && CALL(lb_get_host_locality)(envoy, priority, place, &region, &zone, &subzone) &&
                 zone.ptr && zone.length;
    return known && !same_bytes((buffer){by->zone.at, by->zone.size}, zone) ? by->far : 1;
}

/* Envoy lists its healthy hosts in the order of all of them: each is found by its address, going forward. */
static bool look_at_hosts(survey *of, void *envoy, uint32_t priority) {
    size_t at = 0;
    for (size_t each = 0; each < of->healthy; each++, at++) {
        buffer address = {NULL, 0}, other = {NULL, 0};
        if (!CALL(lb_get_healthy_host_address)(envoy, priority, each, &address) || !address.ptr)
            return false;
        while (at < of->all && (!CALL(lb_get_host_address)(envoy, priority, at, &other) || !other.ptr ||
                                !same_bytes(address, other)))
            at++;
        if (at == of->all)
            return false;
        of->place[each] = (uint32_t)at;
        of->peer[each] = peer_take(of->by->number, address);
        of->far[each] = distance(of->by, envoy, priority, at);
    }
    return true;
}

static bool survey_hosts(survey *of, void *envoy, uint32_t priority, size_t all, size_t healthy) {
    survey_forget(of);
    of->place = calloc(healthy + 1, sizeof *of->place);
    of->column = calloc(healthy + 1, sizeof *of->column);
    of->peer = calloc(healthy + 1, sizeof(peer *));
    of->far = calloc(healthy + 1, sizeof *of->far);
    if (!of->place || !of->column || !of->peer || !of->far)
        return false;
    of->all = all;
    of->healthy = healthy;
    return look_at_hosts(of, envoy, priority);
}

bool survey_take(survey *of, void *envoy, uint32_t priority, const table *with) {
    size_t all = CALL(lb_get_hosts_count)(envoy, priority), healthy = CALL(lb_get_healthy_hosts_count)(envoy, priority);
    bool known = of->serial && of->healthy == healthy && of->all == all;
    if (known && (!with || of->serial == with->serial))
        return true;
    if (!known && !survey_hosts(of, envoy, priority, all, healthy))
        return false;
    for (size_t each = 0; with && each < healthy; each++)
        of->column[each] = column_of(with, envoy, priority, of->place[each]);
    of->serial = with ? with->serial : 1;
    return true;
}

bool survey_holds(const survey *of, void *envoy, uint32_t priority, size_t host) {
    buffer one = {NULL, 0}, other = {NULL, 0};
    return CALL(lb_get_healthy_host_address)(envoy, priority, host, &one) && one.ptr &&
           CALL(lb_get_host_address)(envoy, priority, of->place[host], &other) && other.ptr && same_bytes(one, other);
}

uint32_t priority_draw(void *envoy, uint64_t thrown, double *share) {
    size_t count = CALL(lb_get_priority_set_size)(envoy), health[MAX_PRIORITIES], total = 0;
    *share = 1;
    if (count == 1)
        return CALL(lb_get_healthy_hosts_count)(envoy, 0) ? 0 : NONE;
    for (uint32_t each = 0; each < count && each < MAX_PRIORITIES; each++) {
        size_t all = CALL(lb_get_hosts_count)(envoy, each);
        health[each] = all ? OVERPROVISIONED * CALL(lb_get_healthy_hosts_count)(envoy, each) / all : 0;
        health[each] = health[each] < FULL ? health[each] : FULL;
        total += health[each];
    }
    total = total < FULL ? total : FULL;
    if (!total)
        return NONE;
    size_t left = FULL, below = 0, drawn = (size_t)(thrown % FULL);
    uint32_t chosen = NONE, first = NONE;
    for (uint32_t each = 0; each < count && each < MAX_PRIORITIES; each++) {
        size_t load = health[each] * FULL / total;
        load = load < left ? load : left;
        left -= load;
        health[each] = load;
        first = first == NONE && load ? each : first;
    }
    /* What rounding leaves goes to the first one that bears anything. */
    health[first] += left;
    for (uint32_t each = 0; chosen == NONE && each < count && each < MAX_PRIORITIES; each++)
        if (drawn < (below += health[each]))
            chosen = each;
    *share = (double)health[chosen] / FULL;
    return chosen;
}
