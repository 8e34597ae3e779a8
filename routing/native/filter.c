/* The HTTP filter: keeps the table fresh, finds a request's category and arm, and logs what the policy chose. */
#include "picker.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <fcntl.h>
#include <time.h>
#include <unistd.h>

enum { LOOK_EVERY_MS = 250, LOOK_LEAST_MS = 30000, MAX_FILE = 256 << 20 };

typedef struct {
    char *path;
    pthread_mutex_t lock; /* of `current` */
    table *current;
    pthread_mutex_t loading; /* of what follows */
    struct stat known;
    int64_t wait_ms; /* until a file that cannot be read is looked at again */
    atomic_int_fast64_t look_at_ms;
    size_t loaded, refused; /* counters */
} filter_config;

static int64_t now_ms(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* NULL: there is no table in it. `*unread`: nor is known whether there is, for it could not be read to its end. */
static table *read_file(const char *path, struct stat *about, bool *unread) {
    int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    *unread = file < 0;
    if (file < 0)
        return NULL;
    table *made = NULL;
    char *bytes = NULL;
    if (!fstat(file, about) && S_ISREG(about->st_mode) && about->st_size > 0 && about->st_size <= MAX_FILE) {
        size_t size = (size_t)about->st_size, got = 0;
        ssize_t now = 0;
        bytes = malloc(size);
        while (bytes && got < size && ((now = read(file, bytes + got, size - got)) > 0 || (now < 0 && errno == EINTR)))
            got += now > 0 ? (size_t)now : 0;
        *unread = got < size;
        made = *unread ? NULL : table_parse(bytes, size);
        if (!made)
            free(bytes);
    }
    close(file);
    return made;
}

static bool changed(const struct stat *one, const struct stat *other) {
    return one->st_ino != other->st_ino || one->st_size != other->st_size ||
           one->st_mtim.tv_sec != other->st_mtim.tv_sec || one->st_mtim.tv_nsec != other->st_mtim.tv_nsec;
}

/* Looks at the file at most every 250 ms, one thread at a time; the others go on with the table there is. A file that
 * could not be read is looked at again though it stays the same, after 0.25 s, 0.5 s, and so on up to half a minute:
 * its permissions change, and nothing else tells. */
static void refresh(filter_config *config, void *filter) {
    int64_t now = now_ms(CLOCK_MONOTONIC);
    if (now < atomic_load(&config->look_at_ms) || pthread_mutex_trylock(&config->loading))
        return;
    struct stat found;
    int64_t wait_ms = LOOK_EVERY_MS;
    if (!stat(config->path, &found) && changed(&found, &config->known)) {
        bool unread = false;
        table *made = read_file(config->path, &found, &unread);
        if (unread)
            wait_ms = config->wait_ms < LOOK_LEAST_MS / 2 ? 2 * config->wait_ms : LOOK_LEAST_MS;
        else
            config->known = found;
        config->wait_ms = unread ? wait_ms : LOOK_EVERY_MS / 2;
        if (made) {
            pthread_mutex_lock(&config->lock);
            table *old = config->current;
            config->current = made;
            pthread_mutex_unlock(&config->lock);
            table_release(old);
        }
        if (filter)
            CALL(http_filter_increment_counter)(filter, made ? config->loaded : config->refused, NULL, 0, 1);
    }
    atomic_store(&config->look_at_ms, now + wait_ms);
    pthread_mutex_unlock(&config->loading);
}

static table *current_table(filter_config *config) {
    pthread_mutex_lock(&config->lock);
    table *held = config->current;
    if (held)
        table_hold(held);
    pthread_mutex_unlock(&config->lock);
    return held;
}

typedef struct {
    filter_config *config;
    slot *slot;
} filter;

/* What the picker reads of a request; the first of each name counts. */
enum { METHOD, PATH, AUTHORIZATION, USER_AGENT, COUNTRY, LENGTH, API_KEY, COOKIE, NAMES };
static const text NAME_OF[NAMES] = {
    {":method", 7},         {":path", 5},      {"authorization", 13}, {"user-agent", 10}, {"cf-ipcountry", 12},
    {"content-length", 14}, {"x-api-key", 9}, {"cookie", 6}};

static text text_of(buffer value) {
    if (!value.ptr)
        return (text){"", 0};
    return (text){value.ptr, value.length < UINT32_MAX ? (uint32_t)value.length : UINT32_MAX};
}

/* All headers in one call: asking for each by its name takes several times as long. What is not sent stays NULL. */
static void read_headers(void *envoy, text found[NAMES]) {
    enum { FEW = 128 };
    header few[FEW];
    size_t count = CALL(http_get_headers_size)(envoy, REQUEST_HEADERS);
    header *all = count <= FEW ? few : malloc(count * sizeof *all);
    memset(found, 0, NAMES * sizeof *found);
    if (all && CALL(http_get_headers)(envoy, REQUEST_HEADERS, all))
        for (size_t each = 0; each < count; each++)
            for (int name = 0; name < NAMES; name++)
                if (all[each].key.length == NAME_OF[name].size && !found[name].at &&
                    !memcmp(all[each].key.ptr, NAME_OF[name].at, NAME_OF[name].size))
                    found[name] = text_of(all[each].value);
    if (all != few)
        free(all);
}

static text header_named(void *envoy, text name) {
    buffer value = {NULL, 0};
    bool sent = CALL(http_get_header)(envoy, REQUEST_HEADERS, (buffer){name.at, name.size}, &value, 0, NULL);
    return text_of(sent ? value : (buffer){NULL, 0});
}

/* A length that is not declared, as in chunked requests, counts as none. */
static uint64_t declared_length(text value) {
    uint64_t length = 0;
    for (uint32_t place = 0; place < value.size && place < 18; place++) {
        if (value.at[place] < '0' || value.at[place] > '9')
            return 0;
        length = length * 10 + (uint64_t)(value.at[place] - '0');
    }
    return length;
}

static text told(text value) { return value.at ? value : (text){"", 0}; }

static request request_of(const text found[NAMES]) {
    return (request){
        .method = told(found[METHOD]),
        .path = told(found[PATH]),
        .authorization = told(found[AUTHORIZATION]),
        .user_agent = told(found[USER_AGENT]),
        .country = told(found[COUNTRY]),
        .length = declared_length(told(found[LENGTH])),
        .api_key = found[API_KEY].at != NULL,
        .cookie = found[COOKIE].at != NULL,
    };
}

/* The arm of a key, the same in every proxy: routing/arms.py is the definition. A request has a key of the picker's own
 * making, so that clients do not choose their arm by an id. */
static uint32_t arm_of(const table *with, void *envoy, text own) {
    if (with->arm_count == 1)
        return 0;
    text key = {"", 0};
    uint64_t span = 0, hash = hash_bytes(0, with->salt.at, with->salt.size);
    if (with->arm_mode == ARM_BY_TIME) {
        span = (uint64_t)now_ms(CLOCK_REALTIME) / 1000 / with->arm_seconds;
        key = (text){(const char *)&span, sizeof span};
    } else if (with->arm_mode == ARM_BY_HEADER)
        key = header_named(envoy, with->arm_header);
    if (!key.size)
        key = own;
    hash = hash_bytes(hash, key.at, key.size);
    hash = (hash ^ (hash >> 33)) * 0xff51afd7ed558ccdu; /* MurmurHash3's finaliser */
    hash = (hash ^ (hash >> 33)) * 0xc4ceb9fe1a85ec53u;
    double share = dice_share(key.size ? hash ^ (hash >> 33) : dice());
    for (uint32_t place = 0; place < with->arm_count; place++)
        if (share < (double)with->arms[place].until)
            return place;
    return with->arm_count - 1;
}

static bool expired(const table *with) { return (uint64_t)now_ms(CLOCK_REALTIME) * 1000 >= with->expires_us; }

/* Writes down by what table the slot's places are, and what the log says of it. */
static bool tell(slot *at, const table *with) {
    const arm *by = &with->arms[at->arm];
    bool known = at->category != NONE;
    text what[TOLD] = {by->name, by->model_version, with->version, known ? with->category[at->category] : (text){"", 0}};
    at->serial = with->serial;
    return slot_tell(at, what);
}

/* Finds the slot's category and arm, which it knows by name, in a newer table than that by which they were found. */
static void find_again(slot *at, const table *with) {
    text category = at->said[TOLD_CATEGORY];
    uint32_t place = 0;
    while (place < with->arm_count && !same_text(with->arms[place].name, at->said[TOLD_ARM]))
        place++;
    bool gone = place == with->arm_count;
    at->category = find_name(&with->category_index, hash_bytes(0, category.at, category.size), category);
    at->arm = gone ? 0 : place;
    at->serial = with->serial;
    at->fell = expired(with) ? FELL_EXPIRED : gone || at->category == NONE ? FELL_NO_CATEGORY : FELL_NOT;
    if (!at->fell) {
        at->policy = with->arms[place].policy;
        at->explore = at->explore && at->policy == POLICY_FINGERPOST;
        tell(at, with);
    }
}

table *table_for(slot *at) {
    table *with = at->source && at->serial ? current_table(at->source) : NULL;
    if (with && with->serial != at->serial)
        find_again(at, with);
    return with;
}

static void decide(slot *at, void *envoy, const table *with, const text found[NAMES]) {
    at->policy = POLICY_LEAST_REQUEST;
    at->category = NONE;
    at->serial = 0;
    at->fell = FELL_NO_TABLE;
    if (!with)
        return;
    request what = request_of(found);
    at->category = category_of(with, &what);
    at->arm = arm_of(with, envoy, (text){at->key, at->named ? KEY_SIZE : 0});
    if (!tell(at, with)) {
        at->serial = 0;
        return;
    }
    at->policy = with->arms[at->arm].policy;
    at->explore = at->policy == POLICY_FINGERPOST && dice_share(dice()) < (double)with->exploration;
    at->fell = expired(with) ? FELL_EXPIRED : at->category == NONE ? FELL_NO_CATEGORY : FELL_NOT;
}

HOOK const char *envoy_dynamic_module_on_program_init(void) { return ENVOY_ABI_VERSION; }

/* `settings`: the path of the table's file. It need not be there yet. */
HOOK void *envoy_dynamic_module_on_http_filter_config_new(void *envoy, buffer name, buffer settings) {
    (void)name;
    filter_config *made = calloc(1, sizeof *made);
    if (!made || !settings.length || !(made->path = strndup(settings.ptr, settings.length))) {
        free(made);
        return NULL;
    }
    made->wait_ms = LOOK_EVERY_MS / 2;
    pthread_mutex_init(&made->lock, NULL);
    pthread_mutex_init(&made->loading, NULL);
    CALL(http_filter_config_define_counter)(envoy, LITERAL("tables_loaded"), NULL, 0, &made->loaded);
    CALL(http_filter_config_define_counter)(envoy, LITERAL("tables_refused"), NULL, 0, &made->refused);
    return made;
}

HOOK void envoy_dynamic_module_on_http_filter_config_destroy(filter_config *gone) {
    table_release(gone->current);
    pthread_mutex_destroy(&gone->lock);
    pthread_mutex_destroy(&gone->loading);
    free(gone->path);
    free(gone);
}

HOOK void *envoy_dynamic_module_on_http_filter_new(filter_config *config, void *envoy) {
    (void)envoy;
    filter *made = malloc(sizeof *made);
    if (!made)
        return NULL;
    *made = (filter){config, slot_new()};
    if (!made->slot) {
        free(made);
        return NULL;
    }
    return made;
}

HOOK int envoy_dynamic_module_on_http_filter_request_headers(void *envoy, filter *of, bool end) {
    (void)end;
    slot *at = of->slot;
    refresh(of->config, envoy);
    table *with = current_table(of->config);
    at->source = of->config;
    text found[NAMES];
    read_headers(envoy, found);
    decide(at, envoy, with, found);
    table_release(with);
    if (at->named)
        CALL(http_set_upstream_override_host)(envoy, (buffer){at->key, KEY_SIZE}, false);
    return CONTINUE;
}

HOOK void envoy_dynamic_module_on_http_filter_stream_complete(void *envoy, filter *of) { log_decision(of->slot, envoy); }

HOOK void envoy_dynamic_module_on_http_filter_destroy(filter *gone) {
    slot_free(gone->slot);
    free(gone);
}
