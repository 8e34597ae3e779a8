/* The HTTP filter: finds a request's category and arm, notes what its host tells, and logs what the policy chose. */
#include "picker.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct {
    source *tables;
    size_t loaded, refused; /* counters */
} filter_config;

typedef struct {
    filter_config *config;
    slot *slot;
} filter;

/* What the picker reads of a request; the first of each name counts. */
enum { METHOD, PATH, AUTHORIZATION, USER_AGENT, COUNTRY, LENGTH, API_KEY, COOKIE, NAMES };
static const text NAME_OF[NAMES] = {
    {":method", 7},         {":path", 5},      {"authorization", 13}, {"user-agent", 10}, {"cf-ipcountry", 12},
    {"content-length", 14}, {"x-api-key", 9}, {"cookie", 6}};
/* Each is of another length: the one that a header may be, and one more; 0 is none. */
static const uint8_t NAME_BY_SIZE[] = {[7] = METHOD + 1,   [5] = PATH + 1,    [13] = AUTHORIZATION + 1, [10] = USER_AGENT + 1,
                                       [12] = COUNTRY + 1, [14] = LENGTH + 1, [9] = API_KEY + 1,        [6] = COOKIE + 1};

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
            if (all[each].key.length < sizeof NAME_BY_SIZE && NAME_BY_SIZE[all[each].key.length]) {
                int name = NAME_BY_SIZE[all[each].key.length] - 1;
                if (!found[name].at && !memcmp(all[each].key.ptr, NAME_OF[name].at, NAME_OF[name].size))
                    found[name] = text_of(all[each].value);
            }
    if (all != few)
        free(all);
}

static text header_named(void *envoy, int kind, text name) {
    buffer value = {NULL, 0};
    bool sent = CALL(http_get_header)(envoy, kind, (buffer){name.at, name.size}, &value, 0, NULL);
    return text_of(sent ? value : (buffer){NULL, 0});
}

/* A length that is no number counts as none. */
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

static request request_of(const text found[NAMES], bool ends) {
    return (request){
        .method = told(found[METHOD]),
        .path = told(found[PATH]),
        .authorization = told(found[AUTHORIZATION]),
        .user_agent = told(found[USER_AGENT]),
        .country = told(found[COUNTRY]),
        .length = declared_length(told(found[LENGTH])),
        .api_key = found[API_KEY].at != NULL,
        .cookie = found[COOKIE].at != NULL,
        .unsized = !ends && !found[LENGTH].at,
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
        span = now_ms(CLOCK_REALTIME) / 1000 / with->arm_seconds;
        key = (text){(const char *)&span, sizeof span};
    } else if (with->arm_mode == ARM_BY_HEADER)
        key = header_named(envoy, REQUEST_HEADERS, with->arm_header);
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

static bool expired(const table *with) { return now_ms(CLOCK_REALTIME_COARSE) * 1000 >= with->expires_us; }

/* Writes down by what table the slot's places are, and what the log says of it. */
static bool tell(slot *at, const table *with, text service) {
    const arm *by = &with->arms[at->arm];
    bool known = at->category != NONE;
    text category = known ? with->category[at->category] : (text){"", 0};
    at->serial = with->serial;
    return slot_tell(at, (text[TOLD]){by->name, by->model_version, with->version, category, service});
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
        char service[MAX_NAME]; /* what is told anew is written over what was told */
        uint32_t size = at->said[TOLD_SERVICE].size;
        if (size)
            memcpy(service, at->said[TOLD_SERVICE].at, size);
        tell(at, with, (text){service, size});
    }
}

table *table_for(slot *at, const cluster *of) {
    source *tables = of->tables ? of->tables : at->source;
    table *with = tables && at->serial ? source_table(tables) : NULL;
    if (with && with->serial != at->serial)
        find_again(at, with);
    return with;
}

static void decide(slot *at, void *envoy, const table *with, const request *what, text service) {
    at->policy = POLICY_LEAST_REQUEST;
    at->category = NONE;
    at->serial = 0;
    at->fell = FELL_NO_TABLE;
    if (!with) {
        if (service.size)
            slot_tell(at, (text[TOLD]){[TOLD_SERVICE] = service});
        return;
    }
    at->category = category_of(with, what);
    at->arm = arm_of(with, envoy, (text){at->key, at->named ? KEY_SIZE : 0});
    if (!tell(at, with, service)) {
        at->serial = 0;
        return;
    }
    at->policy = with->arms[at->arm].policy;
    at->explore = at->policy == POLICY_FINGERPOST && dice_share(dice()) < (double)with->exploration;
    at->fell = expired(with) ? FELL_EXPIRED : at->category == NONE ? FELL_NO_CATEGORY : FELL_NOT;
}

/* `settings`: the path of a table's file, which need not be there yet, for clusters that name none of their own. */
HOOK void *envoy_dynamic_module_on_http_filter_config_new(void *envoy, buffer name, buffer settings) {
    (void)name;
    filter_config *made = calloc(1, sizeof *made);
    text path = text_of(settings);
    if (!made || (path.size && !(made->tables = source_new(path)))) {
        free(made);
        return NULL;
    }
    CALL(http_filter_config_define_counter)(envoy, LITERAL("tables_loaded"), NULL, 0, &made->loaded);
    CALL(http_filter_config_define_counter)(envoy, LITERAL("tables_refused"), NULL, 0, &made->refused);
    return made;
}

HOOK void envoy_dynamic_module_on_http_filter_config_destroy(filter_config *gone) {
    source_free(gone->tables);
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

static void count_one(void *envoy, size_t counter) { CALL(http_filter_increment_counter)(envoy, counter, NULL, 0, 1); }

HOOK int envoy_dynamic_module_on_http_filter_request_headers(void *envoy, filter *of, bool ends) {
    slot *at = of->slot;
    filter_config *config = of->config;
    buffer name = {NULL, 0};
    const cluster *to = CALL(http_get_cluster_name)(envoy, &name) ? cluster_named(name) : NULL;
    source *tables = to && to->tables ? to->tables : config->tables;
    if (tables && tables == config->tables) {
        look seen = source_look(tables);
        if (seen != LOOK_SAME)
            count_one(envoy, seen == LOOK_LOADED ? config->loaded : config->refused);
    }
    table *with = tables ? source_table(tables) : NULL;
    at->source = config->tables;
    text found[NAMES];
    read_headers(envoy, found);
    request what = request_of(found, ends);
    decide(at, envoy, with, &what, to ? to->service : (text){"", 0});
    table_release(with);
    if (at->named)
        CALL(http_set_upstream_override_host)(envoy, (buffer){at->key, KEY_SIZE}, false);
    return CONTINUE;
}

/* Takes note of what the host tells with its answer. */
static int note_told(void *envoy, filter *of, int kind) {
    slot *at = of->slot;
    uint32_t count = 0;
    if (at->peer && read_orca(header_named(envoy, kind, (text){ORCA_HEADER, sizeof ORCA_HEADER - 1}), &count))
        peer_told(at, count);
    return CONTINUE;
}

HOOK int envoy_dynamic_module_on_http_filter_response_headers(void *envoy, filter *of, bool ends) {
    (void)ends;
    return note_told(envoy, of, RESPONSE_HEADERS);
}

/* Of gRPC, whose hosts tell their load at the end. */
HOOK int envoy_dynamic_module_on_http_filter_response_trailers(void *envoy, filter *of) {
    return note_told(envoy, of, RESPONSE_TRAILERS);
}

HOOK void envoy_dynamic_module_on_http_filter_stream_complete(void *envoy, filter *of) { log_decision(of->slot, envoy); }

HOOK void envoy_dynamic_module_on_http_filter_destroy(filter *gone) {
    slot_free(gone->slot);
    free(gone);
}
