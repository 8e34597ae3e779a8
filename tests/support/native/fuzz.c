/* Feeds the native picker's parsers inputs that nobody thought of, under sanitizers: keeps those that reach code which none
 * before has reached, and changes them further.
 *
 *   fuzz PARSER TABLE SECONDS RUNS SEED CORPUS   ends after so many runs, or seconds; 0: no bound by that; -1 runs: only
 *                                                writes those of the corpus that reach what none before them does
 *
 * PARSER: `table` (a table's file), `request` (the category of a request), `told` (a host's load report) or `settings`
 * (the policy's configuration). TABLE is a good table's file. CORPUS has an input a line, in hexadecimal digits; those that
 * were found are written to the standard output in the same form. A fault, or an input that takes 20 s, ends the program
 * with the input on the standard error stream.
 *
 * Compile with -fsanitize-coverage=trace-pc. Inputs are copied to where a byte past their ends is a fault.
 */
#define main harness_main
#include "harness.c"
#undef main

#include <signal.h>

#ifdef __clang__
#define UNWATCHED __attribute__((no_sanitize("coverage")))
#else
#define UNWATCHED __attribute__((no_sanitize_coverage))
#endif
enum { MOST_BYTES = 4096, MOST_KEPT = 4096, PLACES = 1 << 16, PATIENCE_S = 20, CHECKED_EVERY = 256 };

typedef struct {
    uint8_t *at;
    size_t size;
} input;

static uint8_t reached[PLACES], reached_now[PLACES];
static bool watching;
static uintptr_t before;
static uint64_t dice_state;
static input kept[MOST_KEPT], running;
static size_t kept_count;
static table *good;

void __sanitizer_set_death_callback(void (*)(void));
void __sanitizer_cov_trace_pc(void);
UNWATCHED void __sanitizer_cov_trace_pc(void) {
    if (!watching)
        return;
    uintptr_t here = ((uintptr_t)__builtin_return_address(0) - (uintptr_t)&harness_main) * 0x9e3779b97f4a7c15u >> 40;
    reached_now[(before ^ here) % PLACES] = 1;
    before = here >> 1;
}

static uint32_t roll(uint32_t sides) {
    dice_state = dice_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(((dice_state >> 32) * sides) >> 32);
}

static void print_input(FILE *to, input of) {
    for (size_t at = 0; at < of.size; at++)
        fprintf(to, "%02x", of.at[at]);
    fprintf(to, "\n");
}

static void say_input(void) {
    watching = false;
    fprintf(stderr, "the input was: ");
    print_input(stderr, running);
}

static void gave_up(int by) {
    fprintf(stderr, by == SIGALRM ? "an input takes too long\n" : "an answer is out of bounds\n");
    say_input();
    _exit(3);
}

/* A copy of its own, so that a look past its end is seen. */
static text copied(const uint8_t *at, size_t size) {
    char *made = malloc(size ? size : 1);
    if (size)
        memcpy(made, at, size);
    return (text){made, (uint32_t)size};
}

/* With the right size and checksum, so that what stands behind them is reached. */
static void run_table(input of) {
    char *bytes = malloc(of.size ? of.size : 1);
    if (of.size)
        memcpy(bytes, of.at, of.size);
    if (of.size >= 24) {
        uint64_t first = 0, second = 0;
        uint32_t size = (uint32_t)of.size;
        memcpy(bytes, "FPTABLE\2", 8);
        memcpy(bytes + 16, &size, sizeof size);
        for (size_t place = 16; place + 4 <= of.size; place += 4) {
            uint32_t word;
            memcpy(&word, bytes + place, 4);
            first += word;
            second += first;
        }
        first ^= second << 1;
        memcpy(bytes + 8, &first, sizeof first);
    }
    table *made = table_parse(bytes, of.size);
    if (!made) {
        free(bytes);
        return;
    }
    request asked = {.method = {"GET", 3}, .path = {"/a/1/x", 6}, .user_agent = {"curl/8", 6}};
    category_of(made, &asked);
    table_release(made);
}

/* The first byte says what was sent, lines are the texts. */
static void run_request(input of) {
    text texts[6];
    size_t at = 1;
    for (int each = 0; each < 6; each++) {
        size_t end = at;
        while (end < of.size && of.at[end] != '\n')
            end++;
        texts[each] = copied(of.at + (at < of.size ? at : 0), at < of.size ? end - at : 0);
        at = end + 1;
    }
    uint8_t flags = of.size ? of.at[0] : 0;
    request asked = {texts[0], texts[1], texts[2], texts[3], texts[4], 0, flags & 1, flags & 2, flags & 4};
    for (uint32_t place = 0; place < texts[5].size && place < 8; place++)
        asked.length = asked.length << 8 | (uint8_t)texts[5].at[place];
    uint32_t found = category_of(good, &asked);
    if (found != NONE && found >= good->categories)
        abort();
    for (int each = 0; each < 6; each++)
        free((char *)texts[each].at);
}

static void run_told(input of) {
    text value = copied(of.at, of.size);
    uint32_t count = 0;
    if (read_orca(value, &count) && count > PEER_COUNT)
        abort();
    free((char *)value.at);
}

static void run_settings(input of) {
    text value = copied(of.at, of.size);
    cluster *made = cluster_new(NULL, (buffer){value.at, value.size});
    if (made)
        cluster_free(made);
    free((char *)value.at);
}

static const struct {
    const char *name, *words[16];
    void (*run)(input of);
} PARSERS[] = {
    {"table", {"\xff\xff\xff\xff", "\x01\x00\x00\x00", "*", "/*", "other", "|", "GET /"}, run_table},
    {"request", {"/", "*", ";", "?", "%40", "@", "|", "(", ")", "bot", "-service", "Android", "Bearer ", "/a.B/C"}, run_request},
    {"told", {"TEXT ", "JSON ", "named_metrics.inflight", "\"inflight\"", "inflight", "=", ":", ",", ".0", "1e9", " "}, run_told},
    {"settings", {"table=/", "service=", "zone=", "zone_factor=", "\n", "nan", "inf", "1e3", "="}, run_settings},
};
enum { PARSER_COUNT = sizeof PARSERS / sizeof *PARSERS };

static size_t insert(uint8_t *to, size_t size, size_t at, const void *what, size_t count) {
    if (size + count > MOST_BYTES)
        return size;
    memmove(to + at + count, to + at, size - at);
    memcpy(to + at, what, count);
    return size + count;
}

static size_t change(uint8_t *to, size_t size, const char *const *words) {
    static const uint8_t SIGNS[] = {0, 1, 127, 128, 255, '0', '9', '/', '|', '*', '\n', ' '};
    size_t at = size ? roll((uint32_t)size) : 0, count = size ? 1 + roll((uint32_t)(size - at < 64 ? size - at : 64)) : 0;
    uint8_t moved[64], one = (uint8_t)roll(256);
    size_t known = 0;
    while (words[known])
        known++;
    switch (roll(7)) {
    case 0:
        if (size)
            to[at] ^= (uint8_t)(1 << roll(8));
        return size;
    case 1:
        if (size)
            to[at] = SIGNS[roll(sizeof SIGNS)];
        return size;
    case 2:
        return insert(to, size, at, &one, 1);
    case 3: {
        const char *word = words[roll((uint32_t)known)];
        return insert(to, size, at, word, strlen(word));
    }
    case 4:
        memmove(to + at, to + at + count, size - at - count);
        return size - count;
    case 5:
        memcpy(moved, to + at, count);
        return insert(to, size, roll((uint32_t)size + 1), moved, count);
    default: {
        input other = kept[roll((uint32_t)kept_count)];
        size_t from = other.size ? roll((uint32_t)other.size) : 0;
        size_t rest = other.size - from, room = MOST_BYTES - at;
        memcpy(to + at, other.at + from, rest < room ? rest : room);
        return at + (rest < room ? rest : room);
    }
    }
}

/* Whether it reached what none before has. */
static bool try_input(input of, void (*parser)(input)) {
    bool is_new = false;
    memset(reached_now, 0, sizeof reached_now);
    before = 0;
    running = of;
    watching = true;
    parser(of);
    watching = false;
    for (size_t place = 0; place < PLACES; place++)
        if (reached_now[place] && !reached[place])
            reached[place] = is_new = true;
    return is_new;
}

static void keep(const uint8_t *at, size_t size) {
    if (kept_count < MOST_KEPT) {
        kept[kept_count] = (input){malloc(size ? size : 1), size};
        memcpy(kept[kept_count++].at, at, size);
    }
}

static void read_corpus(const char *path) {
    static char line[2 * MOST_BYTES + 2];
    FILE *file = fopen(path, "r");
    while (file && fgets(line, sizeof line, file)) {
        uint8_t bytes[MOST_BYTES];
        size_t size = 0;
        unsigned value;
        while (size < MOST_BYTES && sscanf(line + 2 * size, "%2x", &value) == 1)
            bytes[size++] = (uint8_t)value;
        keep(bytes, size);
    }
    if (file)
        fclose(file);
}

int main(int count, char **arguments) {
    int parser = 0;
    while (count == 7 && parser < PARSER_COUNT && strcmp(arguments[1], PARSERS[parser].name))
        parser++;
    if (count != 7 || parser == PARSER_COUNT)
        return 2;
    double until = seconds() + atof(arguments[3]);
    long runs = atol(arguments[4]), done = 0;
    dice_state = strtoull(arguments[5], NULL, 10);
    FILE *file = fopen(arguments[2], "rb");
    char *bytes = malloc(1 << 20);
    size_t size = file ? fread(bytes, 1, 1 << 20, file) : 0;
    if (!file || !(good = table_parse(bytes, size)))
        return 2;
    fclose(file);
    __sanitizer_set_death_callback(say_input);
    signal(SIGALRM, gave_up);
    signal(SIGABRT, gave_up);
    read_corpus(arguments[6]);
    keep((const uint8_t *)"", 0);
    size_t given = kept_count;
    for (size_t each = 0; each < given; each++)
        if (try_input(kept[each], PARSERS[parser].run) && runs < 0)
            print_input(stdout, kept[each]);
    for (; !runs || done < runs; done++) {
        static uint8_t made[MOST_BYTES];
        if (done % CHECKED_EVERY == 0) {
            alarm(PATIENCE_S);
            if (atof(arguments[3]) > 0 && seconds() > until)
                break;
        }
        input from = kept[roll((uint32_t)kept_count)];
        memcpy(made, from.at, from.size);
        size_t length = from.size;
        for (uint32_t changes = 1 + roll(4); changes; changes--)
            length = change(made, length, PARSERS[parser].words);
        if (try_input((input){made, length}, PARSERS[parser].run)) {
            keep(made, length);
            print_input(stdout, (input){made, length});
        }
    }
    size_t places = 0;
    for (size_t place = 0; place < PLACES; place++)
        places += reached[place];
    fprintf(stderr, "%s: %ld runs, %zu places, %zu inputs kept\n", arguments[1], done, places, kept_count);
    for (size_t each = 0; each < kept_count; each++)
        free(kept[each].at);
    table_release(good);
    return 0;
}
