/* What was decided of a request, as one line of text for the access log; fingerpost/accesslog/envoy.py reads it.
 *
 * It goes there as a request header, set when the request is done: no host sees it, and what a client sent is replaced.
 * Where a cluster's service has a name, the header's name ends with it, so that each service has a log of its own. A header is fewer allocations than an object in the request's filter state; a field of its own in Envoy's metadata for
 * each part is dearer by far. Parts are set apart by ';', which JSON need not escape. */
#include "picker.h"

#include <stdio.h>
#include <string.h>

enum { MAX_LINE = 2048, MAX_NUMBER = 32 };

typedef struct {
    char bytes[MAX_LINE];
    size_t size; /* more than MAX_LINE where not all of it had room */
} line;

static void put(line *to, text what) {
    if (what.size && to->size + what.size <= MAX_LINE)
        memcpy(to->bytes + to->size, what.at, what.size);
    to->size += what.size;
}

/* A part of our own making, and the mark after it. */
static void put_own(line *to, text what) {
    put(to, what);
    put(to, (text){";", 1});
}

/* A part that may hold anything; marks within it would be taken for its end. */
static void put_part(line *to, text what) {
    size_t begin = to->size;
    put(to, what);
    char *mark = to->size <= MAX_LINE ? to->bytes + begin : NULL;
    while (mark && (mark = memchr(mark, ';', (size_t)(to->bytes + to->size - mark))))
        *mark = '_';
    put(to, (text){";", 1});
}

static void put_name(line *to, const char *name) { put_own(to, (text){name, (uint32_t)strlen(name)}); }

/* As "%.6g" has it, but many times as fast where it is neither tiny nor large. */
static uint32_t write_number(char to[MAX_NUMBER], double value) {
    static const double LEAST[] = {1, 1e-1, 1e-2, 1e-3, 1e-4}, SCALE[] = {1e5, 1e6, 1e7, 1e8, 1e9};
    enum { DIGITS = 6, MAGNITUDES = 5 };
    uint32_t below = 0, size = 0;
    while (below < MAGNITUDES && !(value >= LEAST[below]))
        below++;
    uint32_t digits = below < MAGNITUDES && value < 10 ? (uint32_t)(value * SCALE[below] + 0.5) : 0;
    if (digits < 100000 || digits > 999999)
        return (uint32_t)snprintf(to, MAX_NUMBER, "%.6g", value);
    char shown[DIGITS];
    for (uint32_t place = DIGITS; place-- > 0; digits /= 10)
        shown[place] = (char)('0' + digits % 10);
    uint32_t last = DIGITS;
    while (last > 1 && shown[last - 1] == '0')
        last--;
    to[size++] = below ? '0' : shown[0];
    if (below || last > 1)
        to[size++] = '.';
    for (uint32_t zero = 1; zero < below; zero++)
        to[size++] = '0';
    for (uint32_t place = below ? 0 : 1; place < last; place++)
        to[size++] = shown[place];
    return size;
}

static void put_number(line *to, bool known, double value) {
    char shown[MAX_NUMBER];
    put_own(to, (text){shown, known && value > 0 ? write_number(shown, value) : 0});
}

void log_decision(const slot *of, void *envoy) {
    static const char *const POLICY_NAMES[] = {"fingerpost", "least_request", "random"};
    static const char *const REASONS[] = {"", "no_table", "expired", "no_category", "no_row"};
    line made;
    made.size = 0;
    put_name(&made, of->chosen ? POLICY_NAMES[of->policy] : "");
    put_name(&made, of->chosen ? REASONS[of->fell] : "");
    put_name(&made, of->chosen && of->explore ? "1" : "");
    for (int each = TOLD_ARM; each <= TOLD_VERSION; each++)
        put_part(&made, of->said[each]);
    put_number(&made, of->chosen, of->propensity);
    put_number(&made, of->chosen, of->cost);
    /* The last part may hold what it likes. */
    put(&made, of->said[TOLD_CATEGORY]);
    /* What does not fit is no decision that this program's router wrote. */
    buffer value = made.size <= MAX_LINE ? (buffer){made.bytes, made.size} : (buffer){NULL, 0};
    char name[sizeof DECISION_HEADER + MAX_NAME] = DECISION_HEADER;
    text service = of->said[TOLD_SERVICE];
    size_t size = sizeof DECISION_HEADER - 1;
    if (service.size) {
        name[size++] = '-';
        memcpy(name + size, service.at, service.size);
    }
    CALL(http_set_header)(envoy, REQUEST_HEADERS, (buffer){name, size + service.size}, value);
}
