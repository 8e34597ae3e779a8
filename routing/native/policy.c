/* The load-balancing policy: the host with the least predicted cost, by Envoy's own counts of requests in flight. */
#include "picker.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* On one worker thread; a survey for each priority that was chosen from so far. */
typedef struct {
    const cluster *of;
    survey *surveys;
    uint32_t count;
} balancer;

typedef struct {
    const survey *of;
    void *envoy, *context;
    uint32_t priority;
    moment now;
    double share; /* the probability of this priority */
    bool retry;
} choice;

static uint64_t active(const choice *by, size_t host) {
    return CALL(lb_get_host_stat)(by->envoy, by->priority, by->of->place[host], STAT_ACTIVE_REQUESTS);
}

/* At a retry Envoy may refuse a host, such as one that was tried before. */
static bool refused(const choice *by, size_t host) {
    return by->retry &&
           CALL(lb_context_should_select_another_host)(by->envoy, by->context, by->priority, by->of->place[host]);
}

/* SIZE_MAX if Envoy refuses them all. */
static size_t any_host(const choice *by) {
    size_t healthy = by->of->healthy, start = dice() % healthy;
    for (size_t step = 0; step < healthy; step++)
        if (!refused(by, (start + step) % healthy))
            return (start + step) % healthy;
    return SIZE_MAX;
}

static inline float cost_of(const choice *by, cell at, size_t host) {
    float others = peer_others(by->of->peer[host], &by->now);
    return (at.slope * ((float)active(by, host) + others + 1) + at.offset) * by->of->far[host];
}

/* A cost as it is without regard to zones, for the log; 0 where there is none. */
static double told_cost(const choice *by, float cost, size_t host) {
    return cost > 0 && cost < INFINITY ? (double)(cost / by->of->far[host]) : 0;
}

/* Where the row of the slot's category begins among the table's cells. */
static size_t row_of(const slot *at, const table *with) {
    size_t row = (size_t)with->arms[at->arm].matrix * with->categories + at->category;
    return row * (with->hosts + 1u);
}

/* Envoy's least request: the least (active + 1) / weight of some hosts drawn at random, of all where `choices` is 0. */
static size_t least_request(const choice *by, uint32_t choices) {
    size_t healthy = by->of->healthy, best = SIZE_MAX, start = choices ? 0 : dice() % healthy;
    double least = INFINITY;
    size_t count = choices ? choices : healthy;
    for (size_t draw = 0; draw < count; draw++) {
        size_t host = choices ? dice() % healthy : (start + draw) % healthy;
        uint32_t weight = CALL(lb_get_healthy_host_weight)(by->envoy, by->priority, host);
        double load = (double)(active(by, host) + 1) / (weight ? weight : 1) * (double)by->of->far[host];
        if (load < least && !refused(by, host)) {
            least = load;
            best = host;
        }
    }
    return best == SIZE_MAX ? any_host(by) : best;
}

/* What was seen of the hosts' costs while choosing. Counts go on changing meanwhile, for other threads choose too: what
 * is asked for a second time may be another answer. */
typedef struct {
    size_t best;         /* of the least cost, SIZE_MAX if none can serve; ties break at random */
    float least, wanted; /* costs, of the best and of a host that was asked for; infinite where not looked at */
    uint32_t ties;
} sight;

/* Looks at all hosts, or at a sample of them. */
static sight look_around(const choice *by, const cell *row, const table *with, size_t wanted) {
    sight seen = {SIZE_MAX, INFINITY, INFINITY, 0};
    size_t healthy = by->of->healthy;
    const uint32_t *column = by->of->column;
    bool scan = healthy <= with->scan_limit;
    size_t count = scan ? healthy : with->sample;
    for (size_t draw = 0; draw < count; draw++) {
        size_t host = scan ? draw : dice() % healthy;
        /* Too dear even with nothing in flight: its count, which is what takes time, need not be asked for. */
        cell at = row[column[host]];
        if ((at.slope + at.offset) * by->of->far[host] > seen.least)
            continue;
        float cost = cost_of(by, at, host);
        if (host == wanted)
            seen.wanted = cost;
        if (!(cost <= seen.least) || cost == INFINITY || refused(by, host))
            continue;
        if (cost < seen.least)
            seen.ties = 0;
        seen.least = cost;
        if (++seen.ties == 1 || dice() % seen.ties == 0)
            seen.best = host;
    }
    return seen;
}

/* One of the hosts in proportion to their weights. */
static size_t explored_host(const choice *by, const float *explore, float total) {
    float drawn = (float)dice_share(dice()) * total;
    size_t found = SIZE_MAX;
    for (size_t host = 0; host < by->of->healthy && drawn >= 0; host++) {
        float weight = explore[by->of->column[host]];
        found = weight > 0 ? host : found;
        drawn -= weight;
    }
    return found;
}

static size_t by_prediction(const choice *by, slot *at, const table *with) {
    size_t begin = row_of(at, with), healthy = by->of->healthy, explored = SIZE_MAX;
    const cell *row = with->cells + begin;
    const float *explore = with->explore + begin;
    bool explores = with->exploration > 0 && !by->retry;
    float total = 0;
    for (size_t host = 0; explores && host < healthy; host++)
        total += explore[by->of->column[host]];
    explores = total > 0;
    at->explore = at->explore && explores;
    if (at->explore)
        explored = explored_host(by, explore, total);
    sight seen = look_around(by, row, with, explored);
    if (seen.best == SIZE_MAX) {
        at->explore = false;
        at->fell = FELL_NO_ROW;
        return SIZE_MAX;
    }
    size_t host = at->explore ? explored : seen.best;
    float cost = !at->explore ? seen.least : seen.wanted;
    if (at->explore && cost == INFINITY)
        cost = cost_of(by, row[by->of->column[host]], host);
    at->cost = told_cost(by, cost, host);
    if (healthy <= with->scan_limit && !by->retry) {
        double share = explores ? (double)with->exploration : 0;
        double drawn = explores ? (double)(explore[by->of->column[host]] / total) : 0;
        bool least = !at->explore || seen.wanted <= seen.least;
        at->propensity = by->share * (share * drawn + (least ? (1 - share) / seen.ties : 0));
    }
    return host;
}

/* SIZE_MAX: Envoy refuses every host. */
static size_t choose(const choice *by, slot *at, const table *with, uint32_t *counted) {
    size_t host = SIZE_MAX;
    at->propensity = at->cost = 0;
    if (!at->fell && at->policy == POLICY_FINGERPOST && (host = by_prediction(by, at, with)) != SIZE_MAX) {
        *counted = at->explore ? EXPLORED : PREDICTED;
        return host;
    }
    bool random = !at->fell && at->policy == POLICY_RANDOM;
    *counted = at->fell ? FALLBACK : random ? RANDOM : LEAST_REQUEST;
    at->policy = random ? POLICY_RANDOM : POLICY_LEAST_REQUEST;
    at->explore = false;
    host = random ? any_host(by) : least_request(by, with ? with->choices : 2);
    if (host == SIZE_MAX)
        return host;
    if (random && !by->retry)
        at->propensity = by->share / (double)by->of->healthy;
    if (!at->fell) {
        float cost = cost_of(by, with->cells[row_of(at, with) + by->of->column[host]], host);
        at->cost = told_cost(by, cost, host);
    }
    return host;
}

static slot *slot_of(void *context) {
    buffer key = {NULL, 0};
    bool strict = false;
    if (!context)
        return NULL;
    bool told = CALL(lb_context_get_override_host)(context, &key, &strict) && key.ptr && key.length == KEY_SIZE;
    return slot_find(told ? (text){key.ptr, KEY_SIZE} : (text){"", 0}, context);
}

static survey *survey_of(balancer *of, uint32_t priority) {
    if (priority >= of->count) {
        survey *more = realloc(of->surveys, (priority + 1u) * sizeof *more);
        if (!more)
            return NULL;
        of->surveys = more;
        while (of->count <= priority)
            of->surveys[of->count++] = (survey){.by = of->of};
    }
    return &of->surveys[priority];
}

static void forget(balancer *of) {
    for (uint32_t each = 0; each < of->count; each++)
        survey_forget(&of->surveys[each]);
}

/* A host of one priority, SIZE_MAX if there is none. What the slot says is as if nothing had happened then. */
static size_t choose_in(choice by, balancer *of, slot *at, const table *with, uint32_t *counted) {
    const slot before = *at;
    for (int tries = 0; tries < 2; tries++) {
        survey *seen = survey_of(of, by.priority);
        if (seen && survey_take(seen, by.envoy, by.priority, with) && seen->healthy) {
            by.of = seen;
            by.now = peers_now(of->of->number, seen->healthy);
            size_t host = choose(&by, at, with, counted);
            if (host == SIZE_MAX)
                return host;
            if (survey_holds(seen, by.envoy, by.priority, host)) {
                peer_sent(at, seen->peer[host]);
                return host;
            }
        }
        if (seen)
            survey_forget(seen);
        *at = before;
    }
    return SIZE_MAX;
}

HOOK bool envoy_dynamic_module_on_lb_choose_host(void *envoy, balancer *of, void *context, uint32_t *priority,
                                                 uint32_t *index) {
    slot unknown = {.fell = FELL_NO_TABLE, .policy = POLICY_LEAST_REQUEST, .lone = true};
    slot *found = slot_of(context), *at = found ? found : &unknown;
    table *with = table_for(at, of->of);
    choice by = {.envoy = envoy, .context = context, .retry = at->chosen};
    uint32_t counted = FALLBACK, drawn = priority_draw(envoy, dice(), &by.share);
    size_t host = SIZE_MAX, others = by.retry ? CALL(lb_get_priority_set_size)(envoy) : 0;
    *priority = by.priority = drawn;
    if (drawn != NONE)
        host = choose_in(by, of, at, with, &counted);
    /* Where a retry finds none that was not tried, there may be one of another priority. */
    for (uint32_t each = 0; host == SIZE_MAX && each < others; each++)
        if (each != drawn) {
            *priority = by.priority = each;
            host = choose_in(by, of, at, with, &counted);
        }
    table_release(with);
    if (host == SIZE_MAX)
        return false;
    at->chosen = true;
    cluster_count(of->of, (int)counted);
    *index = (uint32_t)host;
    return true;
}

HOOK void *envoy_dynamic_module_on_lb_config_new(void *envoy, buffer name, buffer settings) {
    (void)name;
    return cluster_new(envoy, settings);
}

HOOK void envoy_dynamic_module_on_lb_config_destroy(cluster *gone) { cluster_free(gone); }

HOOK void *envoy_dynamic_module_on_lb_new(const cluster *of, void *envoy) {
    balancer *made = calloc(1, sizeof *made);
    buffer name = {NULL, 0};
    CALL(lb_get_cluster_name)(envoy, &name);
    if (made)
        made->of = of;
    if (made && !cluster_join(of, name, made)) {
        free(made);
        return NULL;
    }
    return made;
}

HOOK void envoy_dynamic_module_on_lb_destroy(balancer *gone) {
    cluster_leave(gone);
    forget(gone);
    free(gone->surveys);
    free(gone);
}

HOOK void envoy_dynamic_module_on_lb_on_host_membership_update(void *envoy, balancer *of, size_t added,
                                                               size_t removed) {
    (void)envoy, (void)added, (void)removed;
    forget(of);
}
