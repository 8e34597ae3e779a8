/* The clusters that the policy chooses hosts of: what their configuration says, and which of them a worker thread has.
 *
 * The filter finds a request's cluster here by the name that its route leads to. So one filter serves all clusters of an
 * Envoy, each with its own table, and nothing of a route needs to be told twice. */
#include "picker.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const COUNTER_NAMES[] = {"predicted", "explored",      "random",        "least_request",
                                            "fallback",  "tables_loaded", "tables_refused"};

/* One of this thread's; the one that was asked for last comes first. */
typedef struct member {
    struct member *next;
    const cluster *of;
    const void *balancer;
    text name;
} member;

static _Thread_local member *members;

static bool is_name(text value) {
    static const char SIGNS[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    for (uint32_t at = 0; at < value.size; at++)
        if (!value.at[at] || !strchr(SIGNS, value.at[at]))
            return false;
    return value.size && value.size <= MAX_NAME;
}

/* False: there is no such setting, or the value does not fit. A value ends with a zero. */
static bool set(cluster *to, const char *key, text value) {
    if (!strcmp(key, "service") && is_name(value))
        to->service = value;
    else if (!strcmp(key, "zone") && value.size)
        to->zone = value;
    else if (!strcmp(key, "zone_factor")) {
        char *end = NULL;
        to->far = strtof(value.at, &end);
        return value.size && !*end && to->far >= 1 && to->far <= 1000;
    } else if (!strcmp(key, "table") && *value.at == '/' && !to->tables)
        return (to->tables = source_new(value)) != NULL;
    else
        return false;
    return true;
}

static bool read_settings(cluster *to, buffer settings) {
    char *rest = to->bytes = calloc(settings.length + 1, 1), *line = NULL;
    if (rest && settings.length)
        memcpy(rest, settings.ptr, settings.length);
    while (rest && (line = strsep(&rest, "\n"))) {
        char *value = strchr(line, '=');
        if (!*line)
            continue;
        if (value)
            *value++ = 0;
        if (!value || !set(to, line, (text){value, (uint32_t)strlen(value)})) {
            fprintf(stderr,
                    "fingerpost: the policy's configuration is refused: %s=%s; lines are table=/PATH, service=NAME, "
                    "zone=NAME, zone_factor=NUMBER from 1 to 1000\n",
                    line, value ? value : "");
            return false;
        }
    }
    return to->bytes;
}

cluster *cluster_new(void *envoy, buffer settings) {
    static atomic_uint_fast64_t numbers = 1;
    cluster *made = calloc(1, sizeof *made);
    if (!made)
        return NULL;
    made->envoy = envoy;
    made->far = 1;
    made->number = atomic_fetch_add(&numbers, 1);
    if (!read_settings(made, settings)) {
        cluster_free(made);
        return NULL;
    }
    for (size_t each = 0; each < COUNTERS; each++) {
        buffer counter = {COUNTER_NAMES[each], strlen(COUNTER_NAMES[each])};
        CALL(lb_config_define_counter)(envoy, counter, NULL, 0, &made->counters[each]);
    }
    return made;
}

void cluster_free(cluster *gone) {
    source_free(gone->tables);
    free(gone->bytes);
    free(gone);
}

void cluster_count(const cluster *of, int counter) {
    CALL(lb_config_increment_counter)(of->envoy, of->counters[counter], NULL, 0, 1);
}

bool cluster_join(const cluster *of, buffer name, const void *balancer) {
    char *kept = strndup(name.ptr ? name.ptr : "", name.length);
    member *made = malloc(sizeof *made);
    if (!kept || !made) {
        free(kept);
        free(made);
        return false;
    }
    *made = (member){members, of, balancer, {kept, (uint32_t)name.length}};
    members = made;
    return true;
}

void cluster_leave(const void *balancer) {
    for (member **link = &members; *link; link = &(*link)->next)
        if ((*link)->balancer == balancer) {
            member *gone = *link;
            *link = gone->next;
            free((char *)(uintptr_t)gone->name.at);
            free(gone);
            return;
        }
}

const cluster *cluster_named(buffer name) {
    for (member **link = &members; *link; link = &(*link)->next)
        if (same_text((*link)->name, (text){name.ptr, (uint32_t)name.length})) {
            member *found = *link;
            *link = found->next;
            found->next = members;
            members = found;
            look seen = found->of->tables ? source_look(found->of->tables) : LOOK_SAME;
            if (seen != LOOK_SAME)
                cluster_count(found->of, seen == LOOK_LOADED ? TABLES_LOADED : TABLES_REFUSED);
            return found->of;
        }
    return NULL;
}
