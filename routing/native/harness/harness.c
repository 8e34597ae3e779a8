/* Runs the picker without Envoy: plays Envoy's part with hosts and requests it is given. For tests and measurements.
 *
 *   harness run TABLE HOSTS < REQUESTS     one line for each request: what was logged of it
 *   harness parse FILE...                  1 or 0 for each file: whether it holds a table
 *   harness storm TABLE TABLE HOSTS N      N rounds of everything that can happen, on two threads
 *   harness time TABLE HOSTS N < REQUESTS  nanoseconds of a request in the filter, and of a choice of host
 *
 * HOSTS has a line for each: name, requests in flight, whether healthy (1 or 0), weight. A request is eight texts, each
 * a 32-bit length and its bytes, or the length 0xffffffff if the header is not sent: method, path, authorization,
 * user agent, country, content length, API key, cookie.
 */
#define _GNU_SOURCE
#include "../picker.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { HEADERS = 9, ID = 8, LINE = 2048, PRIORITY = 0 };
static const char *const HEADER_NAMES[HEADERS] = {":method", ":path", "authorization", "user-agent", "cf-ipcountry",
                                                  "content-length", "x-api-key", "cookie", ID_HEADER};

typedef struct {
    char name[64], address[32];
    uint64_t active;
    uint32_t weight;
    bool healthy;
} host;

typedef struct {
    host *hosts;
    size_t count;
} fleet;

typedef struct {
    buffer headers[HEADERS];
    char id[24], host[64], logged[LINE];
    bool refuse_first; /* asks for another host than the first */
} stream;

void *envoy_dynamic_module_on_http_filter_config_new(void *, buffer, buffer);
void envoy_dynamic_module_on_http_filter_config_destroy(void *);
void *envoy_dynamic_module_on_http_filter_new(void *, void *);
int envoy_dynamic_module_on_http_filter_request_headers(void *, void *, bool);
void envoy_dynamic_module_on_http_filter_stream_complete(void *, void *);
void envoy_dynamic_module_on_http_filter_destroy(void *);
void *envoy_dynamic_module_on_lb_config_new(void *, buffer, buffer);
void envoy_dynamic_module_on_lb_config_destroy(void *);
void *envoy_dynamic_module_on_lb_new(void *, void *);
void envoy_dynamic_module_on_lb_destroy(void *);
void envoy_dynamic_module_on_lb_on_host_membership_update(void *, void *, size_t, size_t);
bool envoy_dynamic_module_on_lb_choose_host(void *, void *, void *, uint32_t *, uint32_t *);

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
    (void)kind, (void)index;
    return header_of(of, key, value, values);
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

bool CALL(lb_context_get_downstream_header)(void *of, buffer key, buffer *value, size_t index, size_t *values) {
    (void)index;
    return header_of(of, key, value, values);
}

static void give_id(stream *to) {
    static atomic_uint ids;
    snprintf(to->id, sizeof to->id, "%u", atomic_fetch_add(&ids, 1));
    to->headers[ID] = (buffer){to->id, strlen(to->id)};
}

bool CALL(http_set_header)(void *to, int kind, buffer key, buffer value) {
    if (kind != REQUEST_HEADERS || !named(key, DECISION_HEADER))
        abort();
    snprintf(((stream *)to)->logged, LINE, "%.*s", (int)value.length, value.ptr);
    return true;
}

static int define(size_t *id) {
    *id = 1;
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
    (void)f, (void)id, (void)l, (void)s, (void)by;
    return 0;
}
int CALL(lb_config_increment_counter)(void *f, size_t id, buffer *l, size_t s, uint64_t by) {
    (void)f, (void)id, (void)l, (void)s, (void)by;
    return 0;
}

size_t CALL(lb_get_priority_set_size)(void *lb) { return lb ? 1 : 0; }
size_t CALL(lb_get_hosts_count)(void *lb, uint32_t p) { return p == PRIORITY ? ((fleet *)lb)->count : 0; }
size_t CALL(lb_get_healthy_hosts_count)(void *lb, uint32_t p) {
    size_t healthy = 0;
    for (size_t each = 0; p == PRIORITY && each < ((fleet *)lb)->count; each++)
        healthy += ((fleet *)lb)->hosts[each].healthy;
    return healthy;
}

static host *healthy_host(fleet *of, size_t index) {
    for (size_t each = 0; each < of->count; each++)
        if (of->hosts[each].healthy && index-- == 0)
            return &of->hosts[each];
    return NULL;
}

static bool tell(const host *of, bool address, buffer *value) {
    const char *told = !of ? NULL : address ? of->address : of->name;
    *value = told ? (buffer){told, strlen(told)} : (buffer){NULL, 0};
    return told;
}

bool CALL(lb_get_healthy_host_address)(void *lb, uint32_t p, size_t index, buffer *value) {
    fleet *of = lb;
    /* With all hosts healthy, as in measurements, nothing is searched. */
    bool all = index < of->count && of->hosts[index].healthy && CALL(lb_get_healthy_hosts_count)(lb, p) == of->count;
    return tell(all ? &of->hosts[index] : healthy_host(of, index), true, value);
}
uint32_t CALL(lb_get_healthy_host_weight)(void *lb, uint32_t p, size_t index) {
    (void)p;
    const host *found = healthy_host(lb, index);
    return found ? found->weight : 0;
}
uint64_t CALL(lb_get_host_stat)(void *lb, uint32_t p, size_t index, int stat) {
    (void)p;
    fleet *of = lb;
    return stat == STAT_ACTIVE_REQUESTS && index < of->count ? of->hosts[index].active : 0;
}
bool CALL(lb_get_host_address)(void *lb, uint32_t p, size_t index, buffer *value) {
    (void)p;
    fleet *of = lb;
    return tell(index < of->count ? &of->hosts[index] : NULL, true, value);
}
bool CALL(lb_get_host_metadata_string)(void *lb, uint32_t p, size_t index, buffer space, buffer key, buffer *value) {
    (void)p;
    fleet *of = lb;
    bool asked = named(space, SPACE) && named(key, "host") && index < of->count;
    return tell(asked ? &of->hosts[index] : NULL, false, value);
}
bool CALL(lb_context_should_select_another_host)(void *lb, void *context, uint32_t p, size_t index) {
    (void)lb, (void)p;
    return ((stream *)context)->refuse_first && index == 0;
}

static fleet read_hosts(const char *path) {
    fleet read = {calloc(MAX_HOSTS, sizeof(host)), 0};
    FILE *file = fopen(path, "r");
    int healthy = 0;
    if (!file || !read.hosts)
        exit(2);
    for (host *at = read.hosts; read.count < MAX_HOSTS; at++, read.count++) {
        if (fscanf(file, "%63s %lu %d %u", at->name, &at->active, &healthy, &at->weight) != 4)
            break;
        at->healthy = healthy;
        snprintf(at->address, sizeof at->address, "10.0.%zu.%zu:80", read.count / 256, read.count % 256);
    }
    fclose(file);
    return read;
}

static bool read_request(stream *to) {
    *to = (stream){0};
    for (size_t each = 0; each < ID; each++) {
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
    give_id(to);
    return true;
}

static void free_request(stream *gone) {
    for (size_t each = 0; each < ID; each++)
        free((char *)(uintptr_t)gone->headers[each].ptr);
}

typedef struct {
    void *filters, *config, *balancer;
    fleet *hosts;
} picker;

static picker open_picker(char *path, fleet *hosts) {
    picker made = {.hosts = hosts};
    made.filters = envoy_dynamic_module_on_http_filter_config_new(NULL, LITERAL(""), (buffer){path, strlen(path)});
    made.config = envoy_dynamic_module_on_lb_config_new(NULL, LITERAL(""), LITERAL(""));
    made.balancer = envoy_dynamic_module_on_lb_new(made.config, hosts);
    return made;
}

static void close_picker(picker gone) {
    envoy_dynamic_module_on_lb_destroy(gone.balancer);
    envoy_dynamic_module_on_lb_config_destroy(gone.config);
    envoy_dynamic_module_on_http_filter_config_destroy(gone.filters);
}

static void note_host(const picker *with, stream *of, bool chosen, uint32_t index) {
    const host *found = chosen ? healthy_host(with->hosts, index) : NULL;
    if (chosen && !found)
        abort();
    snprintf(of->host, sizeof of->host, "%s", found ? found->name : "");
}

static int run(picker with) {
    stream of;
    while (read_request(&of)) {
        uint32_t priority = 0, index = 0;
        void *filter = envoy_dynamic_module_on_http_filter_new(with.filters, &of);
        envoy_dynamic_module_on_http_filter_request_headers(&of, filter, true);
        bool chosen = envoy_dynamic_module_on_lb_choose_host(with.hosts, with.balancer, &of, &priority, &index);
        note_host(&with, &of, chosen, index);
        envoy_dynamic_module_on_http_filter_stream_complete(&of, filter);
        envoy_dynamic_module_on_http_filter_destroy(filter);
        printf("%s\t%s\n", of.host, of.logged);
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
            bool chosen = envoy_dynamic_module_on_lb_choose_host(&hosts, balancer, &streams[at], &priority, &index);
            if (chosen && !healthy_host(&hosts, index))
                abort();
        } else if (filters[at]) {
            envoy_dynamic_module_on_http_filter_stream_complete(&streams[at], filters[at]);
            envoy_dynamic_module_on_http_filter_destroy(filters[at]);
            filters[at] = NULL;
        } else {
            streams[at] = (stream){.headers = {LITERAL("GET"), LITERAL("/a/12345678/x"), {NULL, 0}, LITERAL("curl/8")}};
            give_id(&streams[at]);
            if (dice() % 8 == 0) /* one that another may have, or none */
                streams[at].headers[ID] = (buffer){"7", dice() % 2};
            filters[at] = envoy_dynamic_module_on_http_filter_new(of->shared.filters, &streams[at]);
            if (dice() % 8)
                envoy_dynamic_module_on_http_filter_request_headers(&streams[at], filters[at], false);
            if (dice() % 8)
                envoy_dynamic_module_on_lb_choose_host(&hosts, balancer, &streams[at], &priority, &index);
        }
        if (round % 97 == 0) {
            hosts.hosts[dice() % hosts.count].healthy = dice() % 3 > 0;
            hosts.hosts[dice() % hosts.count].active = dice() % 9;
            if (dice() % 2)
                envoy_dynamic_module_on_lb_on_host_membership_update(&hosts, balancer, 0, 0);
        }
        if (round % 5000 == 0 && of->other) {
            char made[4200];
            snprintf(made, sizeof made, "%s.new", of->path);
            unlink(made);
            if (link(round % 10000 ? of->other : of->hosts, made) || rename(made, of->path))
                abort();
        }
        envoy_dynamic_module_on_lb_choose_host(&hosts, balancer, NULL, &priority, &index);
    }
    for (size_t at = 0; at < UNDER_WAY; at++)
        if (filters[at])
            envoy_dynamic_module_on_http_filter_destroy(filters[at]);
    envoy_dynamic_module_on_lb_destroy(balancer);
    free(streams);
    free(filters);
    free(hosts.hosts);
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

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static int measure(picker with, long count) {
    stream requests[64];
    size_t known = 0;
    double in_filter = 0, in_choice = 0;
    while (known < 64 && read_request(&requests[known]))
        known++;
    for (long round = 0; round < count && known; round++) {
        uint32_t priority = 0, index = 0;
        stream *of = &requests[(size_t)round % known];
        double begun = seconds();
        void *filter = envoy_dynamic_module_on_http_filter_new(with.filters, of);
        envoy_dynamic_module_on_http_filter_request_headers(of, filter, true);
        double between = seconds();
        envoy_dynamic_module_on_lb_choose_host(with.hosts, with.balancer, of, &priority, &index);
        in_choice += seconds() - between;
        envoy_dynamic_module_on_http_filter_destroy(filter);
        in_filter += between - begun;
    }
    printf("%.1f %.1f\n", in_filter / (double)count * 1e9, in_choice / (double)count * 1e9);
    close_picker(with);
    return 0;
}

int main(int count, char **arguments) {
    if (count > 2 && !strcmp(arguments[1], "parse"))
        return parse(count - 2, arguments + 2);
    bool storms = count == 6 && !strcmp(arguments[1], "storm");
    if (count < 4)
        return 2;
    fleet hosts = read_hosts(arguments[storms ? 4 : 3]);
    picker with = open_picker(arguments[2], &hosts);
    int status = storms ? storm(with, arguments[2], arguments[3], arguments[4], atol(arguments[5]))
                 : !strcmp(arguments[1], "time") && count == 5 ? measure(with, atol(arguments[4]))
                                                               : run(with);
    free(hosts.hosts);
    return status;
}
