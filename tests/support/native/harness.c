/* Runs the picker without Envoy: plays Envoy's part with hosts and requests it is given. For tests and measurements.
 *
 *   harness run TABLE HOSTS < REQUESTS     one line for each request: what was logged of it
 *   harness parse FILE...                  1 or 0 for each file: whether it holds a table
 *   harness race TABLE HOSTS N             the same for N requests, while another thread sends others to the hosts
 *   harness hold TABLE OTHER HOSTS N       N streams, each begun with a table of its own, OTHER and TABLE in turn: what
 *                                          was logged of them at their ends, then the bytes of memory used meanwhile
 *   harness storm TABLE TABLE HOSTS N      N rounds of everything that can happen, on two threads
 *   harness time TABLE HOSTS N < REQUESTS  nanoseconds of a request in the filter, and of a choice of host
 *   harness play TABLE HOSTS < COMMANDS    streams that overlap; a line each, and what it answers:
 *       send PATH              a request, the next number from 0 on; the host's name
 *       answer NUMBER NAME VALUE   its response's headers, one of them with this name
 *       retry NUMBER           it is sent again, to another host than the first; the host's name
 *       end NUMBER             it is over; what was logged of it
 *       active PLACE COUNT     requests in flight of the host in this line of HOSTS
 *       health PLACE HEALTHY   whether it is healthy, 1 or 0
 *       wait MS                the clocks go on
 *
 * The dice fall alike at every run, where no threads race. HOSTS has a line for each: name, requests in flight, whether
 * healthy (1 or 0), weight, priority, zone (- for none). The policy is configured by the variable POLICY, its cluster is
 * `hosts`; with the variable OF_CLUSTER requests are routed to the cluster of that name, with BODY a body follows. A request is eight texts, each
 * a 32-bit length and its bytes, or the length 0xffffffff if the header is not sent: method, path, authorization,
 * user agent, country, content length, API key, cookie.
 */
#define _GNU_SOURCE
#include "picker.h"

#include <malloc.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { HEADERS = 8, LINE = 2048, PRIORITIES = 3 };
static const char *const HEADER_NAMES[HEADERS] = {":method", ":path", "authorization", "user-agent", "cf-ipcountry",
                                                  "content-length", "x-api-key", "cookie"};

typedef struct {
    char name[64], address[32], zone[64];
    atomic_uint_fast64_t active;
    uint32_t weight;
    bool healthy;
} host;

typedef struct {
    host *hosts;
    size_t count;
} part;

typedef struct {
    part at[PRIORITIES];
    size_t priorities;
} fleet;

typedef struct {
    buffer headers[HEADERS];
    char key[64], host[64], logged[LINE], path[64], told_name[64], told[LINE]; /* `told`: with the response */
    bool refuse_first; /* a retry, which asks for another host than the first */
} stream;

static atomic_size_t counted[16]; /* by the counters' ids */
static bool raced; /* other threads run whenever a count is asked for */
static buffer route = LITERAL("hosts"); /* the cluster that all requests are routed to */

void *envoy_dynamic_module_on_http_filter_config_new(void *, buffer, buffer);
void envoy_dynamic_module_on_http_filter_config_destroy(void *);
void *envoy_dynamic_module_on_http_filter_new(void *, void *);
int envoy_dynamic_module_on_http_filter_request_headers(void *, void *, bool);
int envoy_dynamic_module_on_http_filter_response_headers(void *, void *, bool);
void envoy_dynamic_module_on_http_filter_stream_complete(void *, void *);
void envoy_dynamic_module_on_http_filter_destroy(void *);
void *envoy_dynamic_module_on_lb_config_new(void *, buffer, buffer);
void envoy_dynamic_module_on_lb_config_destroy(void *);
void *envoy_dynamic_module_on_lb_new(void *, void *);
void envoy_dynamic_module_on_lb_destroy(void *);
void envoy_dynamic_module_on_lb_on_host_membership_update(void *, void *, size_t, size_t);
bool envoy_dynamic_module_on_lb_choose_host(void *, void *, void *, uint32_t *, uint32_t *);

/* In place of the system's: the picker's dice fall alike at every run. */
ssize_t getrandom(void *to, size_t size, unsigned flags) {
    (void)flags;
    memset(to, 7, size);
    return (ssize_t)size;
}

static atomic_int_fast64_t later_ms; /* than the system's clocks */

int clock_gettime(clockid_t clock, struct timespec *now) {
    long failed = syscall(SYS_clock_gettime, clock, now);
    int64_t later = later_ms;
    now->tv_sec += later / 1000;
    now->tv_nsec += later % 1000 * 1000000;
    now->tv_sec += now->tv_nsec / 1000000000;
    now->tv_nsec %= 1000000000;
    return (int)failed;
}

static bool named(buffer key, const char *name) {
    return key.length == strlen(name) && !memcmp(key.ptr, name, key.length);
}

static bool header_of(stream *of, buffer key, buffer *value, size_t *values) {
    bool sent = false;
    *value = (buffer){NULL, 0};
    for (size_t each = 0; each < HEADERS; each++)
        if (named(key, HEADER_NAMES[each]) && of->headers[each].ptr) {
            *value = of->headers[each];
            sent = true;
        }
    if (values)
        *values = sent;
    return sent;
}

bool CALL(http_get_header)(void *of, int kind, buffer key, buffer *value, size_t index, size_t *values) {
    (void)index;
    if (kind == REQUEST_HEADERS)
        return header_of(of, key, value, values);
    const stream *to = of;
    *value = (buffer){to->told, strlen(to->told)};
    return named(key, to->told_name);
}

bool CALL(http_get_cluster_name)(void *of, buffer *value) {
    (void)of;
    *value = route;
    return true;
}

size_t CALL(http_get_headers_size)(void *of, int kind) {
    (void)kind;
    size_t sent = 0;
    for (size_t each = 0; each < HEADERS; each++)
        sent += ((stream *)of)->headers[each].ptr != NULL;
    return sent;
}

bool CALL(http_get_headers)(void *of, int kind, header *all) {
    (void)kind;
    for (size_t each = 0; each < HEADERS; each++)
        if (((stream *)of)->headers[each].ptr)
            *all++ = (header){{HEADER_NAMES[each], strlen(HEADER_NAMES[each])}, ((stream *)of)->headers[each]};
    return true;
}

bool CALL(http_set_upstream_override_host)(void *to, buffer address, bool strict) {
    stream *of = to;
    if (strict || address.length >= sizeof of->key)
        abort();
    snprintf(of->key, sizeof of->key, "%.*s", (int)address.length, address.ptr);
    return true;
}

bool CALL(lb_context_get_override_host)(void *context, buffer *address, bool *strict) {
    const stream *of = context;
    *strict = false;
    *address = (buffer){of->key, strlen(of->key)};
    return address->length && !of->refuse_first;
}

bool CALL(http_set_header)(void *to, int kind, buffer key, buffer value) {
    size_t usual = sizeof DECISION_HEADER - 1;
    if (kind != REQUEST_HEADERS || key.length < usual || memcmp(key.ptr, DECISION_HEADER, usual))
        abort();
    /* What the name has beyond the usual one, before the decision. */
    snprintf(((stream *)to)->logged, LINE, "%.*s%.*s", (int)(key.length - usual), key.ptr + usual, (int)value.length,
             value.ptr);
    return true;
}

static int define(size_t *id) {
    static size_t defined;
    *id = defined++ % 16;
    return 0;
}
int CALL(http_filter_config_define_counter)(void *c, buffer n, buffer *l, size_t s, size_t *id) {
    (void)c, (void)n, (void)l, (void)s;
    return define(id);
}
int CALL(lb_config_define_counter)(void *c, buffer n, buffer *l, size_t s, size_t *id) {
    (void)c, (void)n, (void)l, (void)s;
    return define(id);
}
int CALL(http_filter_increment_counter)(void *f, size_t id, buffer *l, size_t s, uint64_t by) {
    (void)f, (void)l, (void)s;
    counted[id] += by;
    return 0;
}
int CALL(lb_config_increment_counter)(void *f, size_t id, buffer *l, size_t s, uint64_t by) {
    (void)f, (void)l, (void)s;
    counted[id] += by;
    return 0;
}

static const part *part_of(const void *lb, uint32_t p) {
    static const part none;
    return p < ((const fleet *)lb)->priorities ? &((const fleet *)lb)->at[p] : &none;
}

void CALL(lb_get_cluster_name)(void *lb, buffer *value) {
    (void)lb;
    *value = LITERAL("hosts");
}

bool CALL(lb_get_host_locality)(void *lb, uint32_t p, size_t index, buffer *region, buffer *zone, buffer *subzone) {
    const host *found = index < part_of(lb, p)->count ? &part_of(lb, p)->hosts[index] : NULL;
    *region = *subzone = (buffer){NULL, 0};
    *zone = found && *found->zone != '-' ? (buffer){found->zone, strlen(found->zone)} : (buffer){NULL, 0};
    return found;
}

size_t CALL(lb_get_priority_set_size)(void *lb) { return ((fleet *)lb)->priorities; }
size_t CALL(lb_get_hosts_count)(void *lb, uint32_t p) { return part_of(lb, p)->count; }
size_t CALL(lb_get_healthy_hosts_count)(void *lb, uint32_t p) {
    const part *of = part_of(lb, p);
    size_t healthy = 0;
    for (size_t each = 0; each < of->count; each++)
        healthy += of->hosts[each].healthy;
    return healthy;
}

static host *healthy_host(const void *lb, uint32_t p, size_t index) {
    const part *of = part_of(lb, p);
    for (size_t each = 0; each < of->count; each++)
        if (of->hosts[each].healthy && index-- == 0)
            return &of->hosts[each];
    return NULL;
}

static host *host_at(const void *lb, uint32_t p, size_t index) {
    const part *of = part_of(lb, p);
    return index < of->count ? &of->hosts[index] : NULL;
}

static bool tell(const host *of, bool address, buffer *value) {
    const char *told = !of ? NULL : address ? of->address : of->name;
    *value = told ? (buffer){told, strlen(told)} : (buffer){NULL, 0};
    return told;
}

bool CALL(lb_get_healthy_host_address)(void *lb, uint32_t p, size_t index, buffer *value) {
    const host *found = host_at(lb, p, index);
    /* With all hosts healthy, as in measurements, nothing is searched. */
    bool all = found && found->healthy && CALL(lb_get_healthy_hosts_count)(lb, p) == part_of(lb, p)->count;
    return tell(all ? found : healthy_host(lb, p, index), true, value);
}
uint32_t CALL(lb_get_healthy_host_weight)(void *lb, uint32_t p, size_t index) {
    const host *found = healthy_host(lb, p, index);
    return found ? found->weight : 0;
}
uint64_t CALL(lb_get_host_stat)(void *lb, uint32_t p, size_t index, int stat) {
    host *found = host_at(lb, p, index);
    if (raced)
        sched_yield();
    return stat == STAT_ACTIVE_REQUESTS && found ? found->active : 0;
}
bool CALL(lb_get_host_address)(void *lb, uint32_t p, size_t index, buffer *value) {
    return tell(host_at(lb, p, index), true, value);
}
bool CALL(lb_get_host_metadata_string)(void *lb, uint32_t p, size_t index, buffer space, buffer key, buffer *value) {
    return tell(named(space, SPACE) && named(key, "host") ? host_at(lb, p, index) : NULL, false, value);
}
bool CALL(lb_context_should_select_another_host)(void *lb, void *context, uint32_t p, size_t index) {
    (void)lb;
    return ((stream *)context)->refuse_first && p == 0 && index == 0;
}

static fleet read_hosts(const char *path) {
    fleet read = {.priorities = 1};
    FILE *file = fopen(path, "r");
    host next = {0};
    unsigned long active = 0;
    int healthy = 0;
    unsigned priority = 0;
    if (!file)
        exit(2);
    while (fscanf(file, "%63s %lu %d %u %u %63s", next.name, &active, &healthy, &next.weight, &priority, next.zone) == 6) {
        part *to = &read.at[priority];
        if (priority >= PRIORITIES || (!to->hosts && !(to->hosts = calloc(MAX_HOSTS, sizeof(host)))))
            exit(2);
        next.active = active;
        next.healthy = healthy;
        snprintf(next.address, sizeof next.address, "10.%u.%zu.%zu:80", priority, to->count / 256, to->count % 256);
        to->hosts[to->count++] = next;
        read.priorities = priority >= read.priorities ? priority + 1 : read.priorities;
    }
    fclose(file);
    return read;
}

static void free_hosts(fleet *gone) {
    for (size_t each = 0; each < PRIORITIES; each++)
        free(gone->at[each].hosts);
}

static bool read_request(stream *to) {
    *to = (stream){0};
    for (size_t each = 0; each < HEADERS; each++) {
        uint32_t size = 0;
        if (fread(&size, 4, 1, stdin) != 1)
            return false;
        if (size == UINT32_MAX)
            continue;
        char *bytes = malloc(size ? size : 1);
        if (!bytes || fread(bytes, 1, size, stdin) != size)
            exit(2);
        to->headers[each] = (buffer){bytes, size};
    }
    return true;
}

static void free_request(stream *gone) {
    for (size_t each = 0; each < HEADERS; each++)
        free((char *)(uintptr_t)gone->headers[each].ptr);
}

typedef struct {
    void *filters, *config, *balancer;
    fleet *hosts;
} picker;

static picker open_picker(char *path, fleet *hosts) {
    picker made = {.hosts = hosts};
    made.filters = envoy_dynamic_module_on_http_filter_config_new(NULL, LITERAL(""), (buffer){path, strlen(path)});
    const char *policy = getenv("POLICY") ? getenv("POLICY") : "", *name = getenv("OF_CLUSTER");
    route = name ? (buffer){name, strlen(name)} : route;
    made.config = envoy_dynamic_module_on_lb_config_new(NULL, LITERAL(""), (buffer){policy, strlen(policy)});
    if (!made.config)
        exit(3);
    made.balancer = envoy_dynamic_module_on_lb_new(made.config, hosts);
    return made;
}

static void close_picker(picker gone) {
    envoy_dynamic_module_on_lb_destroy(gone.balancer);
    envoy_dynamic_module_on_lb_config_destroy(gone.config);
    envoy_dynamic_module_on_http_filter_config_destroy(gone.filters);
}

static void note_host(const picker *with, stream *of, bool chosen, uint32_t priority, uint32_t index) {
    const host *found = chosen ? healthy_host(with->hosts, priority, index) : NULL;
    if (chosen && !found)
        abort();
    snprintf(of->host, sizeof of->host, "%s", found ? found->name : "");
}

static void decide(picker with, stream *of) {
    uint32_t priority = 0, index = 0;
    void *filter = envoy_dynamic_module_on_http_filter_new(with.filters, of);
    envoy_dynamic_module_on_http_filter_request_headers(of, filter, !getenv("BODY"));
    bool chosen = envoy_dynamic_module_on_lb_choose_host(with.hosts, with.balancer, of, &priority, &index);
    note_host(&with, of, chosen, priority, index);
    envoy_dynamic_module_on_http_filter_stream_complete(of, filter);
    envoy_dynamic_module_on_http_filter_destroy(filter);
}

static int run(picker with) {
    stream of;
    while (read_request(&of)) {
        decide(with, &of);
        printf("%s\t%s\n", of.host, of.logged);
        fflush(stdout); /* a test may wait for it before it sends the next */
        free_request(&of);
    }
    close_picker(with);
    return 0;
}

static int parse(int count, char **paths) {
    for (int each = 0; each < count; each++) {
        FILE *file = fopen(paths[each], "rb");
        char *bytes = malloc(1 << 20);
        size_t size = file && bytes ? fread(bytes, 1, 1 << 20, file) : 0;
        if (file)
            fclose(file);
        /* Exactly as many bytes as there are, so that reading past them is seen. */
        char *exact = malloc(size ? size : 1);
        if (!exact || !bytes)
            return 2;
        memcpy(exact, bytes, size);
        free(bytes);
        table *made = table_parse(exact, size);
        request what = {.method = {"GET", 3}, .path = {"/a/b?c", 6}, .user_agent = {"curl/8", 6}};
        printf("%d %u\n", made != NULL, made ? category_of(made, &what) : 0);
        if (made)
            table_release(made);
        else
            free(exact);
    }
    return 0;
}

/* Puts a copy of a file in the table's place. */
static void put_table(const char *path, const char *other) {
    char made[4200];
    snprintf(made, sizeof made, "%s.new", path);
    unlink(made);
    if (link(other, made) || rename(made, path))
        abort();
}

typedef struct {
    picker shared;
    char *path, *other;
    long rounds;
    const char *hosts;
} storm_thread;

static void *storm_on(void *argument) {
    enum { UNDER_WAY = 400 };
    storm_thread *of = argument;
    fleet hosts = read_hosts(of->hosts);
    void *balancer = envoy_dynamic_module_on_lb_new(of->shared.config, &hosts);
    stream *streams = calloc(UNDER_WAY, sizeof *streams);
    void **filters = calloc(UNDER_WAY, sizeof *filters);
    for (long round = 0; round < of->rounds && streams && filters; round++) {
        size_t at = dice() % UNDER_WAY;
        uint32_t priority = 0, index = 0;
        if (filters[at] && dice() % 2) {
            /* A retry. */
            streams[at].refuse_first = true;
            strcpy(streams[at].told_name, ORCA_HEADER);
            snprintf(streams[at].told, LINE, dice() % 8 ? "TEXT inflight=%u" : "%u", (unsigned)(dice() % 2000));
            envoy_dynamic_module_on_http_filter_response_headers(&streams[at], filters[at], false);
            bool chosen = envoy_dynamic_module_on_lb_choose_host(&hosts, balancer, &streams[at], &priority, &index);
            if (chosen && !healthy_host(&hosts, priority, index))
                abort();
        } else if (filters[at]) {
            envoy_dynamic_module_on_http_filter_stream_complete(&streams[at], filters[at]);
            envoy_dynamic_module_on_http_filter_destroy(filters[at]);
            filters[at] = NULL;
        } else {
            streams[at] = (stream){.headers = {LITERAL("GET"), LITERAL("/a/12345678/x"), {NULL, 0}, LITERAL("curl/8")}};
            if (dice() % 8 == 0) /* the key of another, as copies of requests have it, or of none */
                memcpy(streams[at].key, streams[dice() % UNDER_WAY].key, KEY_SIZE - dice() % 2);
            filters[at] = envoy_dynamic_module_on_http_filter_new(of->shared.filters, &streams[at]);
            if (dice() % 8)
                envoy_dynamic_module_on_http_filter_request_headers(&streams[at], filters[at], false);
            if (dice() % 8)
                envoy_dynamic_module_on_lb_choose_host(&hosts, balancer, &streams[at], &priority, &index);
        }
        if (round % 97 == 0) {
            part *of_these = &hosts.at[dice() % hosts.priorities];
            of_these->hosts[dice() % of_these->count].healthy = dice() % 3 > 0;
            of_these->hosts[dice() % of_these->count].active = dice() % 9;
            if (dice() % 2)
                envoy_dynamic_module_on_lb_on_host_membership_update(&hosts, balancer, 0, 0);
        }
        if (round % 5000 == 0 && of->other)
            put_table(of->path, round % 10000 ? of->other : of->hosts);
        envoy_dynamic_module_on_lb_choose_host(&hosts, balancer, NULL, &priority, &index);
    }
    for (size_t at = 0; at < UNDER_WAY; at++)
        if (filters[at])
            envoy_dynamic_module_on_http_filter_destroy(filters[at]);
    envoy_dynamic_module_on_lb_destroy(balancer);
    free(streams);
    free(filters);
    free_hosts(&hosts);
    slots_close();
    return NULL;
}

static int storm(picker with, char *path, char *other, const char *hosts, long rounds) {
    pthread_t threads[2];
    storm_thread each[2] = {{with, path, other, rounds, hosts}, {with, path, NULL, rounds, hosts}};
    for (int at = 0; at < 2; at++)
        pthread_create(&threads[at], NULL, storm_on, &each[at]);
    for (int at = 0; at < 2; at++)
        pthread_join(threads[at], NULL);
    close_picker(with);
    printf("done\n");
    return 0;
}

static int hold(picker with, char *path, char *other, long count) {
    enum { LOADED = 0 }; /* the first counter that is defined */
    char first[4200];
    snprintf(first, sizeof first, "%s.first", path);
    stream *streams = calloc((size_t)count, sizeof *streams);
    void **filters = calloc((size_t)count, sizeof *filters);
    if (link(path, first) || !streams || !filters)
        abort();
    for (long each = 0; each < count; each++) {
        uint32_t priority = 0, index = 0;
        size_t loaded = counted[LOADED];
        put_table(path, each % 2 ? first : other);
        streams[each] = (stream){.headers = {LITERAL("GET"), LITERAL("/")}};
        filters[each] = envoy_dynamic_module_on_http_filter_new(with.filters, &streams[each]);
        /* The file is looked at again a quarter of a second after the last time. */
        while (counted[LOADED] == loaded) {
            envoy_dynamic_module_on_http_filter_request_headers(&streams[each], filters[each], true);
            usleep(5000);
        }
        bool chosen = envoy_dynamic_module_on_lb_choose_host(with.hosts, with.balancer, &streams[each], &priority, &index);
        note_host(&with, &streams[each], chosen, priority, index);
    }
    struct mallinfo2 used = mallinfo2();
    for (long each = 0; each < count; each++) {
        envoy_dynamic_module_on_http_filter_stream_complete(&streams[each], filters[each]);
        envoy_dynamic_module_on_http_filter_destroy(filters[each]);
        printf("%s\t%s\n", streams[each].host, streams[each].logged);
    }
    printf("%zu\n", used.uordblks + used.hblkhd);
    free(streams);
    free(filters);
    close_picker(with);
    return 0;
}

static atomic_bool racing;

static void *send_elsewhere(void *argument) {
    const part *of = &((fleet *)argument)->at[0];
    while (racing) {
        of->hosts[dice() % of->count].active ^= 1;
        sched_yield();
    }
    slots_close();
    return NULL;
}

static int race(picker with, long count) {
    pthread_t other;
    raced = racing = true;
    pthread_create(&other, NULL, send_elsewhere, with.hosts);
    for (long round = 0; round < count; round++) {
        stream of = {.headers = {LITERAL("GET"), LITERAL("/")}};
        decide(with, &of);
        printf("%s\t%s\n", of.host, of.logged);
    }
    racing = false;
    pthread_join(other, NULL);
    close_picker(with);
    return 0;
}

static void choose_again(const picker *with, stream *of) {
    uint32_t priority = 0, index = 0;
    bool chosen = envoy_dynamic_module_on_lb_choose_host(with->hosts, with->balancer, of, &priority, &index);
    note_host(with, of, chosen, priority, index);
    printf("%s\n", of->host);
}

static int play(picker with) {
    enum { MOST = 4096 };
    stream *streams = calloc(MOST, sizeof *streams);
    void *filters[MOST];
    char line[LINE];
    size_t sent = 0, number = 0, count = 0;
    while (streams && fgets(line, sizeof line, stdin)) {
        stream *of = sent < MOST ? &streams[sent] : NULL;
        line[strcspn(line, "\n")] = 0;
        if (of && sscanf(line, "send %63s", of->path) == 1) {
            of->headers[0] = LITERAL("GET");
            of->headers[1] = (buffer){of->path, strlen(of->path)};
            filters[sent] = envoy_dynamic_module_on_http_filter_new(with.filters, of);
            envoy_dynamic_module_on_http_filter_request_headers(of, filters[sent++], true);
            choose_again(&with, of);
        } else if (sscanf(line, "active %zu %zu", &number, &count) == 2)
            with.hosts->at[0].hosts[number].active = count;
        else if (sscanf(line, "health %zu %zu", &number, &count) == 2) {
            with.hosts->at[0].hosts[number].healthy = count;
            envoy_dynamic_module_on_lb_on_host_membership_update(with.hosts, with.balancer, 0, 0);
        } else if (sscanf(line, "wait %zu", &count) == 1)
            later_ms += (int64_t)count;
        else if (sscanf(line, "retry %zu", &number) == 1) {
            streams[number].refuse_first = true;
            choose_again(&with, &streams[number]);
        } else if (sscanf(line, "answer %zu", &number) == 1 && number < sent) {
            stream *answered = &streams[number];
            sscanf(line, "answer %*u %63s %2047[^\n]", answered->told_name, answered->told);
            envoy_dynamic_module_on_http_filter_response_headers(answered, filters[number], true);
        } else if (sscanf(line, "end %zu", &number) == 1) {
            envoy_dynamic_module_on_http_filter_stream_complete(&streams[number], filters[number]);
            envoy_dynamic_module_on_http_filter_destroy(filters[number]);
            printf("%s\n", streams[number].logged);
        } else
            return 2;
    }
    free(streams);
    close_picker(with);
    return 0;
}

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static int measure(picker with, long count) {
    stream requests[64];
    size_t known = 0;
    double in_filter = 0, in_choice = 0;
    while (known < 64 && read_request(&requests[known])) {
        strcpy(requests[known].told_name, ORCA_HEADER);
        strcpy(requests[known++].told, "TEXT cpu_utilization=0.500000,rps_fractional=100.000000,named_metrics.inflight=3");
    }
    for (long round = 0; round < count && known; round++) {
        uint32_t priority = 0, index = 0;
        stream *of = &requests[(size_t)round % known];
        double begun = seconds();
        void *filter = envoy_dynamic_module_on_http_filter_new(with.filters, of);
        envoy_dynamic_module_on_http_filter_request_headers(of, filter, true);
        double between = seconds();
        envoy_dynamic_module_on_lb_choose_host(with.hosts, with.balancer, of, &priority, &index);
        double chosen = seconds();
        envoy_dynamic_module_on_http_filter_response_headers(of, filter, true);
        envoy_dynamic_module_on_http_filter_stream_complete(of, filter);
        envoy_dynamic_module_on_http_filter_destroy(filter);
        in_choice += chosen - between;
        in_filter += between - begun + seconds() - chosen;
    }
    printf("%.1f %.1f\n", in_filter / (double)count * 1e9, in_choice / (double)count * 1e9);
    close_picker(with);
    return 0;
}

int main(int count, char **arguments) {
    if (count > 2 && !strcmp(arguments[1], "parse"))
        return parse(count - 2, arguments + 2);
    bool storms = count == 6 && !strcmp(arguments[1], "storm"), holds = count == 6 && !strcmp(arguments[1], "hold");
    if (count < 4)
        return 2;
    fleet hosts = read_hosts(arguments[storms || holds ? 4 : 3]);
    picker with = open_picker(arguments[2], &hosts);
    int status = storms ? storm(with, arguments[2], arguments[3], arguments[4], atol(arguments[5]))
                 : holds ? hold(with, arguments[2], arguments[3], atol(arguments[5]))
                 : !strcmp(arguments[1], "play") ? play(with)
                 : !strcmp(arguments[1], "race") && count == 5 ? race(with, atol(arguments[4]))
                 : !strcmp(arguments[1], "time") && count == 5 ? measure(with, atol(arguments[4]))
                                                               : run(with);
    free_hosts(&hosts);
    return status;
}
