/* The category of a request: the same rules as fingerpost/category.py, routes.py and client_attributes.py, to the byte. */
#define _GNU_SOURCE
#include "table.h"

#include <string.h>

enum { MAX_PATH = 512, MAX_SEGMENT = 64, MAX_USER_AGENT = 256, MAX_METHOD = 32 };
enum { BIG = 5 };
static const uint64_t SIZE_LIMITS[BIG] = {1, 1u << 10, 1u << 14, 1u << 18, 1u << 22};
static const char *const SIZE_NAMES[] = {"0", "1K", "16K", "256K", "4M", "big"};

static bool is_digit(char c) { return c >= '0' && c <= '9'; }
static char lower(char c) { return c >= 'A' && c <= 'Z' ? (char)(c + 32) : c; }
static bool is_hex(char c) { return is_digit(c) || (lower(c) >= 'a' && lower(c) <= 'f'); }
static bool is_word(char c) { return is_digit(c) || (lower(c) >= 'a' && lower(c) <= 'z') || c == '_'; }

enum { MANY_DIGITS = 6, FEW_DIGITS = 4, LONG_TOKEN = 20, SHORT_TOKEN = 10 };
static bool in_run(char c) { return is_word(c) || c == '-'; }
static bool beside_number(char c) { return c == ':' || c == ',' || c == '+' || c == '='; }

/* 8 or more hexadecimal digits; a UUID or what looks like one. */
static bool is_hex_id(text run) {
    bool hex = true, uuid = run.size >= 18;
    for (uint32_t place = 0; place < run.size; place++) {
        char c = run.at[place];
        hex = hex && is_hex(c);
        uuid = uuid && (place == 8 || place == 13 ? c == '-' : is_hex(c) || (place > 13 && c == '-'));
    }
    return (hex && run.size >= 8) || uuid;
}

/* Many digits, or long and no words between dashes, each perhaps with a number at its end: see fingerpost/routes.py. */
static bool is_token(text run) {
    uint32_t digits = 0, capitals = 0, small = 0;
    bool words = true;
    for (uint32_t place = 0; place < run.size; place++) {
        char c = run.at[place], before = place ? run.at[place - 1] : '-';
        bool dash = c == '-' || c == '_';
        digits += is_digit(c);
        capitals += c >= 'A' && c <= 'Z';
        small += c >= 'a' && c <= 'z';
        words = words && (is_digit(c) || dash || !is_digit(before));
    }
    if (digits >= MANY_DIGITS || is_hex_id(run))
        return true;
    if (run.size < SHORT_TOKEN)
        return false;
    bool mixed = small && 2 * capitals > small;
    if (run.size < LONG_TOKEN)
        return mixed && digits;
    return mixed || (digits && !(digits <= FEW_DIGITS && words));
}

static bool is_number(text run) {
    bool digit = false;
    for (uint32_t place = 0; place < run.size; place++) {
        digit = digit || is_digit(run.at[place]);
        if (!is_digit(run.at[place]) && run.at[place] != '-' && run.at[place] != '_')
            return false;
    }
    return digit;
}

/* Nothing, or an ending such as `.json`. */
static bool is_ending(const char *at, uint32_t size) {
    if (!size)
        return true;
    if (size < 2 || size > 6 || at[0] != '.' || is_digit(at[1]))
        return false;
    for (uint32_t place = 1; place < size; place++)
        if (!is_digit(at[place]) && !(at[place] >= 'a' && at[place] <= 'z'))
            return false;
    return true;
}

/* A number, an id, a token or an address of mail stands in it. */
static bool is_id(text segment) {
    const char *at = segment.at;
    uint32_t size = segment.size;
    if (memchr(at, '@', size) || memmem(at, size, "%40", 3))
        return true;
    for (uint32_t begin = 0; begin < size;) {
        uint32_t end = begin;
        while (end < size && in_run(at[end]))
            end++;
        text run = {at + begin, end - begin};
        bool before = !begin || beside_number(at[begin - 1]);
        bool after = end == size || beside_number(at[end]) || is_ending(at + end, size - end);
        if (run.size && ((before && after && is_number(run)) || is_token(run)))
            return true;
        begin = end + (end == begin || end < size);
    }
    return false;
}

static bool begins_name(char c) { return is_word(c) && !is_digit(c); }

/* `/package.Service/Method` of gRPC: names, however long. */
static bool is_call(const char *path, uint32_t size) {
    uint32_t at = 1, word = 1, words = 0;
    if (!size || path[0] != '/')
        return false;
    for (; at < size && path[at] != '/'; at++) {
        if (path[at] == '.')
            word = at + 1;
        else if (!is_word(path[at]) || (at == word && !begins_name(path[at])))
            return false;
        words += path[at] == '.';
        if (path[at] == '.' && (at + 1 == size || path[at + 1] == '.' || path[at - 1] == '/'))
            return false;
    }
    if (!words || word >= at || path[word] < 'A' || path[word] > 'Z' || at + 1 >= size || !begins_name(path[at + 1]))
        return false;
    for (at++; at < size && is_word(path[at]); at++)
        ;
    return at == size;
}

/* At most two ways a segment, and two looks a step, however many templates there are. */
static bool walk(const table *with, uint32_t node, const text *segments, uint32_t count, uint32_t depth, bool *star) {
    if (depth == count)
        return with->nodes[node].ends;
    uint32_t word = find_node(with, node, segments[depth]), wild = with->nodes[node].wild;
    star[depth] = false;
    if (word != NONE && walk(with, word, segments, count, depth + 1, star))
        return true;
    star[depth] = true;
    return wild != NONE && walk(with, wild, segments, count, depth + 1, star);
}

/* At most as many bytes as have room; returns where they end. */
static uint32_t append(char *to, uint32_t size, text what, uint32_t most) {
    uint32_t count = what.size < most ? what.size : most;
    if (count)
        memcpy(to + size, what.at, count);
    return size + count;
}

/* The same, of what clients send: `|` would be taken for the end of a part. */
static uint32_t append_sent(char *to, uint32_t size, text what, uint32_t most) {
    uint32_t end = append(to, size, what, most);
    for (char *mark = to + size; (mark = memchr(mark, '|', (size_t)(to + end - mark)));)
        *mark = '_';
    return end;
}

/* The route's template, at most 7 * 65 bytes. */
static uint32_t append_route(const table *with, text path, char *to, uint32_t size) {
    char kept[MAX_SEGMENTS * MAX_SEGMENT];
    text segments[MAX_SEGMENTS];
    bool star[MAX_SEGMENTS] = {false};
    uint32_t count = 0, end = 0, used = 0;
    while (end < path.size && path.at[end] != '?' && path.at[end] != '#' && end < MAX_PATH)
        end++;
    bool call = is_call(path.at, end);
    for (uint32_t at = 0; at < end && count < MAX_SEGMENTS;) {
        uint32_t stop = at;
        while (stop < end && path.at[stop] != '/')
            stop++;
        text segment = {path.at + at, stop - at};
        /* Parameters, such as the id of a session, are no part of a route. */
        const char *parameters = memchr(segment.at, ';', segment.size);
        if (parameters)
            segment.size = (uint32_t)(parameters - segment.at);
        if (segment.size && (count == MAX_SEGMENTS - 1 || (!call && is_id(segment))))
            segments[count++] = (text){"*", 1};
        else if (segment.size) {
            uint32_t begin = used;
            used = append_sent(kept, used, segment, MAX_SEGMENT);
            segments[count++] = (text){kept + begin, used - begin};
        }
        at = stop + 1;
    }
    bool known = with->templates && walk(with, 0, segments, count, 0, star);
    if (!count)
        to[size++] = '/';
    for (uint32_t place = 0; place < count; place++) {
        to[size++] = '/';
        size = append(to, size, known && star[place] ? (text){"*", 1} : segments[place], MAX_SEGMENT);
    }
    return size;
}

static bool starts(text what, const char *with) {
    size_t size = strlen(with);
    return what.size >= size && !memcmp(what.at, with, size);
}

static const char *auth_of(const request *what) {
    char scheme[6];
    text sent = what->authorization;
    uint32_t size = 0;
    if (sent.size) {
        uint32_t end = sent.size < sizeof scheme ? sent.size : (uint32_t)sizeof scheme, at = 0;
        while (at < end && (sent.at[at] == ' ' || sent.at[at] == '\t'))
            at++;
        while (at < end)
            scheme[size++] = lower(sent.at[at++]);
        text found = {scheme, size};
        return starts(found, "basic") ? "basic" : starts(found, "bearer") ? "bearer" : "other";
    }
    return what->api_key ? "api-key" : what->cookie ? "cookie" : "none";
}

static bool has(text what, const char *token) { return memmem(what.at, what.size, token, strlen(token)); }

static bool any_in(text what, const char *const *tokens) {
    for (; *tokens; tokens++)
        if (has(what, *tokens))
            return true;
    return false;
}

static bool any_starts(text what, const char *const *tokens, bool whole_word) {
    for (; *tokens; tokens++)
        if (starts(what, *tokens)) {
            size_t size = strlen(*tokens);
            if (!whole_word || size == what.size || !is_word(what.at[size]))
                return true;
        }
    return false;
}

/* `token` where no word goes on after it, at `from` or later. */
static bool has_ending(text what, const char *token, uint32_t from) {
    size_t size = strlen(token);
    for (uint32_t at = from; at + size <= what.size; at++)
        if (!memcmp(what.at + at, token, size) && (at + size == what.size || !is_word(what.at[at + size])))
            return true;
    return false;
}

static bool names_service(text agent) {
    static const char *const KNOWN[] = {"envoy", "grpc", "istio", "kube", "prometheus", "fingerpost", NULL};
    uint32_t run = 0; /* letters, digits and '-', of which a name such as `cart-service` is made */
    while (run < agent.size && ((is_word(agent.at[run]) && agent.at[run] != '_') || agent.at[run] == '-'))
        run++;
    /* What follows the run may still go on as a word, with '_'. */
    text name = {agent.at, run < agent.size ? run + 1 : run};
    return any_starts(agent, KNOWN, true) || has_ending(name, "-service", 1);
}

static const char *class_of(text low) {
    static const char *const BOTS[] = {"crawl", "spider", "slurp", "monitor", "uptime", "scan", NULL};
    static const char *const LIBRARIES[] = {"python", "curl", "wget", "go-http", "java", "okhttp", "axios",
                                            "node", "ruby", "php", "perl", "libwww", "httpx", "aiohttp",
                                            "apache-httpclient", "guzzle", "dart", NULL};
    static const char *const MOBILE[] = {"android", "iphone", "ipad", "ipod", "windows phone", "kaios",
                                         "harmonyos", "mobilesafari", "silk/", NULL};
    static const char *const NOT_MODELS[] = {"compatible", "http", "bot/", NULL};
    static const char *const BROWSERS[] = {"applewebkit", "gecko", "msie", "trident", "presto", "webkit",
                                           "opera", "netfront", "up.browser", NULL};
    static const char *const TEXT_BROWSERS[] = {"lynx/", "links", "elinks", "w3m/", NULL};
    if (!low.size)
        return "other";
    /* A phone's model may be called anything, CUBOT or ScanPal: it stands in the first brackets. */
    const char *opens = memchr(low.at, '(', low.size);
    const char *closes = opens ? memchr(opens, ')', (size_t)(low.at + low.size - opens)) : NULL;
    text before = low, after = {low.at, 0};
    if (closes) {
        text device = {opens, (uint32_t)(closes - opens)};
        if (any_in(device, MOBILE) && !any_in(device, NOT_MODELS)) {
            before.size = (uint32_t)(opens - low.at);
            after = (text){closes, (uint32_t)(low.at + low.size - closes)};
        }
    }
    if (has_ending(before, "bot", 0) || any_in(before, BOTS) || has_ending(after, "bot", 0) || any_in(after, BOTS))
        return "bot";
    if (names_service(low))
        return "service";
    if (any_starts(low, LIBRARIES, false))
        return "library";
    if (any_in(low, MOBILE))
        return "mobile";
    return any_in(low, BROWSERS) || any_starts(low, TEXT_BROWSERS, false) ? "browser" : "other";
}

/* Eight bytes at a time; of no use beyond a place in a cache. */
static uint64_t quick_hash(text of) {
    uint64_t hash = of.size, word = 0;
    for (uint32_t at = 0; at < of.size; at += 8) {
        memcpy(&word, of.at + at, of.size - at < 8 ? of.size - at : 8);
        hash = (hash ^ word) * 0x9e3779b97f4a7c15u;
        hash ^= hash >> 32;
    }
    return hash;
}

/* Clients are few kinds, and looking for thirty words in a user agent takes microseconds: what was found is kept. */
static const char *agent_of(text agent) {
    typedef struct {
        uint32_t size;
        char agent[MAX_USER_AGENT];
        const char *found;
    } entry;
    static _Thread_local entry known[64];
    agent.size = agent.size < MAX_USER_AGENT ? agent.size : MAX_USER_AGENT;
    entry *at = &known[quick_hash(agent) % 64];
    if (!at->found || at->size != agent.size || memcmp(at->agent, agent.at, agent.size)) {
        char low[MAX_USER_AGENT];
        for (uint32_t place = 0; place < agent.size; place++)
            low[place] = lower(agent.at[place]);
        memcpy(at->agent, agent.at, agent.size);
        at->size = agent.size;
        at->found = class_of((text){low, agent.size});
    }
    return at->found;
}

static uint32_t size_of(uint64_t length) {
    uint32_t size = 0;
    while (size < BIG && length >= SIZE_LIMITS[size])
        size++;
    return size;
}

/* The longest beginning of a name with one of the sizes that an index has, NONE if it has none; `*level`: its parts. */
static uint32_t find_sized(const name_index *with, uint32_t least, char *name, uint32_t begin, uint64_t begun,
                           const char *const parts[4], uint32_t *level) {
    uint32_t ends[5] = {begin}, at = begin;
    uint64_t hashes[5] = {begun};
    for (uint32_t place = 0; place < 4; place++) {
        name[at++] = '|';
        at = append(name, at, (text){parts[place], (uint32_t)strlen(parts[place])}, 16);
        ends[place + 1] = at;
        hashes[place + 1] = hash_bytes(hashes[place], name + ends[place], at - ends[place]);
    }
    for (*level = 5; *level >= least; --*level) {
        text sought = {name, ends[*level - 1]};
        uint32_t found = find_name(with, hashes[*level - 1], sought);
        if (found != NONE)
            return found;
    }
    *level = 0;
    return NONE;
}

/* What no category holds goes by one of the same route: of its own size first, then of those next to it. */
static uint32_t find_near(const table *with, bool unsized, uint32_t size, char *name, uint32_t begin, uint64_t begun,
                          const char *parts[4]) {
    enum { ALIKE = 2 };
    uint32_t best = NONE, finest = 0;
    for (uint32_t tries = 0; tries <= 2 * BIG; tries++) {
        uint32_t level = 0, place = (tries + 1) % (BIG + 1);
        if (unsized && tries > BIG)
            break;
        if (!unsized) {
            uint32_t away = (tries + 1) / 2;
            if (tries % 2 ? size + away > BIG : away > size)
                continue;
            place = tries % 2 ? size + away : size - away;
        }
        parts[0] = SIZE_NAMES[place];
        uint32_t found = find_sized(&with->prefix_index, ALIKE, name, begin, begun, parts, &level);
        if (level > finest) {
            finest = level;
            best = with->prefix_of[found];
        }
        if (finest && !unsized)
            break;
    }
    return best;
}

uint32_t category_of(const table *with, const request *what) {
    char name[MAX_ROUTE], region[3] = "";
    text sent = what->country;
    if (sent.size >= 2)
        for (uint32_t place = 0; place < 2; place++)
            region[place] = (char)(lower(sent.at[place]) - 32);
    bool known = region[0] >= 'A' && region[0] <= 'Z' && region[1] >= 'A' && region[1] <= 'Z' && strcmp(region, "XX");
    uint32_t begin = append_sent(name, 0, what->method, MAX_METHOD), best = NONE, finest = 0;
    name[begin++] = ' ';
    begin = append_route(with, what->path, name, begin);
    uint64_t begun = hash_bytes(0, name, begin);
    const char *parts[] = {NULL, auth_of(what), agent_of(what->user_agent), known ? region : "none"};
    /* Without a length any size may be it, that of an empty body last. */
    for (uint32_t tries = 1; tries <= (what->unsized ? BIG + 1u : 1u) && finest < 5; tries++) {
        uint32_t level = 0;
        parts[0] = SIZE_NAMES[what->unsized ? tries % (BIG + 1) : size_of(what->length)];
        uint32_t found = find_sized(&with->category_index, 1, name, begin, begun, parts, &level);
        if (level > finest) {
            finest = level;
            best = found;
        }
    }
    if (!finest)
        best = find_near(with, what->unsized, size_of(what->length), name, begin, begun, parts);
    return best == NONE ? with->other : best;
}
