/* What the HTTP filter and the load-balancing policy, which run on the same worker thread, know of a request. */
#ifndef FINGERPOST_PICKER_H
#define FINGERPOST_PICKER_H

#include "envoy_abi.h"
#include "table.h"

#include <time.h>

#define SPACE "fingerpost"
#define DECISION_HEADER "x-fingerpost-decision"
#define ORCA_HEADER "endpoint-load-metrics"

enum { FELL_NOT, FELL_NO_TABLE, FELL_EXPIRED, FELL_NO_CATEGORY, FELL_NO_ROW, FELL_REASONS };
/* The filter hands the policy a request's key as the host that Envoy is asked to take if it can: an address that no host
 * has (of the block for documentation), with the slot's place and 64 random bits. Envoy goes on to the policy, which asks
 * for it. Unlike a header, it can neither be sent by clients nor be seen by hosts. */
#define KEY_SHAPE "[2001:db8:0:pppp:ssss:ssss:ssss:ssss]:1"
enum { KEY_SIZE = sizeof KEY_SHAPE - 1 };
/* What the log says of the table by which a request was decided, and in whose log. */
enum { TOLD_ARM, TOLD_MODEL, TOLD_VERSION, TOLD_CATEGORY, TOLD_SERVICE, TOLD };
enum { MAX_NAME = 64 };

/* Where tables come from: a file, and the newest table that was in it. */
typedef struct source source;
typedef enum { LOOK_SAME, LOOK_LOADED, LOOK_REFUSED } look;

/* NULL if there is no memory. The file need not be there yet. */
source *source_new(text path);
void source_free(source *gone);
/* Reads the file if it is time to look and it is another one. */
look source_look(source *of);
/* The newest table, to be released; NULL if there is none. */
table *source_table(source *of);

/* Milliseconds on one of the system's clocks. */
static inline uint64_t now_ms(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

enum { PREDICTED, EXPLORED, RANDOM, LEAST_REQUEST, FALLBACK, TABLES_LOADED, TABLES_REFUSED, COUNTERS };

/* A cluster of Envoy's whose hosts the policy chooses, as its configuration says. */
typedef struct {
    void *envoy;
    uint64_t number; /* differs from that of every other configuration of this process */
    size_t counters[COUNTERS];
    source *tables;    /* its own; NULL: they are where the filter says */
    text service;      /* empty: its decisions are logged without a service's name */
    text zone;         /* of this proxy; empty: not known */
    float far;         /* what the cost of a host in another zone is multiplied by */
    char *bytes;       /* where the texts are */
} cluster;

/* `settings`: lines of `key=value`: `table` (path), `service`, `zone`, `zone_factor` (1..1000). Returns NULL, and says
 * why on the standard error stream, where they do not fit. */
cluster *cluster_new(void *envoy, buffer settings);
void cluster_free(cluster *gone);
void cluster_count(const cluster *of, int counter);
/* This thread chooses for the cluster of that name from now on; false if there is no memory. `balancer` tells apart what
 * was there for the same name before. */
bool cluster_join(const cluster *of, buffer name, const void *balancer);
void cluster_leave(const void *balancer);
/* The cluster of a name, its table file looked at; NULL: this thread does not choose for it. */
const cluster *cluster_named(buffer name);

enum { PEER_ADDRESS = 64, PEER_COUNT_BITS = 24, PEER_COUNT = (1 << PEER_COUNT_BITS) - 1 };

/* A host as all worker threads know it: how many requests of others it has, by what it told with its answers. */
typedef struct peer {
    atomic_uint_fast64_t told; /* after how many answers to this policy, above the bits of how many others */
    atomic_uint_fast64_t told_ms;
    atomic_uint own; /* requests of this proxy there; counted from the host's first report on */
    atomic_uint generation;
    atomic_bool tells;
    /* What follows changes under the book's lock alone. */
    uint32_t users, next, size;
    uint64_t owner, left_ms;
    char address[PEER_ADDRESS];
} peer;
/* One for every request under way; the filter makes it, the policy finds it and writes down what it chose. It holds no
 * table: a stream that lives for hours keeps its own few texts, not megabytes. */
typedef struct slot {
    struct slot *next_free, *next_same;
    bool lone; /* outside of the book */
    bool named; /* `key` is valid */
    uint32_t place;
    uint64_t secret;
    char key[KEY_SIZE];
    const void *context; /* the policy's name for the request since its first choice */
    source *source;      /* where its tables come from if its cluster has none of its own */
    peer *peer;          /* the host it was sent to last, NULL: not known */
    uint32_t generation; /* of the peer: another one if the place is another host's by now */
    bool counted;        /* among this proxy's requests at the peer */
    uint64_t serial;     /* of the table that category and arm are places in */
    uint32_t category, arm, fell; /* `fell`: why the request is not sent by prediction */
    char *told;
    size_t room;
    text said[TOLD]; /* in `told` */
    bool explore, chosen;
    uint32_t policy;
    double propensity, cost; /* not above 0: not known */
} slot;

slot *slot_new(void);
void slot_free(slot *gone);
/* The request under way with this key, or the one that was found for this context before; NULL if there is none. The
 * context is Envoy's name for a request, the same at all its tries; a key of another one finds nothing. */
slot *slot_find(text key, const void *context);
/* Keeps texts for as long as the slot lives; false, and nothing changes, if there is no memory for them. */
bool slot_tell(slot *of, const text what[TOLD]);
/* Gives back this thread's memory. Envoy's workers live as long as the process and never need it. */
void slots_close(void);

/* The newest table for this request at a cluster, with the slot's places in it, to be released; NULL: there is none. */
table *table_for(slot *of, const cluster *at);

/* Hands the decision to the access log. */
void log_decision(const slot *of, void *envoy);

uint64_t dice(void);
/* 0 <= share < 1 */
static inline double dice_share(uint64_t thrown) { return (double)(thrown >> 11) * 0x1p-53; }

/* The healthy hosts of one priority, as one worker thread knows them. */
typedef struct {
    const cluster *by;
    uint64_t serial; /* of the table that `column` belongs to; 0: all is to be found anew */
    size_t all, healthy;
    uint32_t *place, *column; /* of a healthy host: its place among all hosts, its column in the table */
    peer **peer;              /* of a healthy host; NULL where there is no room for it */
    float *far;               /* of a healthy host: what its cost is multiplied by when hosts are compared */
} survey;

/* Gives the peers back; the survey is to be taken anew. */
void survey_forget(survey *of);
/* Makes sure that the survey is of the hosts that there are; false if they cannot be told. `with` may be NULL. */
bool survey_take(survey *of, void *envoy, uint32_t priority, const table *with);
/* Whether the place that the survey found for a host is still that of this host. */
bool survey_holds(const survey *of, void *envoy, uint32_t priority, size_t host);
/* The peer of a host's address, held until it is given back; NULL if there is no room. `owner`: the policy's number. */
peer *peer_take(uint64_t owner, buffer address);
void peer_give_back(peer *gone);
/* When a choice is made: by the answers that told a count, and by the clock. */
typedef struct {
    uint64_t answers, ms;
    float answer_part; /* what a count fades by with each answer */
} moment;

moment peers_now(uint64_t owner, size_t hosts);
/* Requests of others on a host, as it told, less with the age of that; 0 where it told nothing. */
float peer_told_others(const peer *of, uint64_t told, const moment *at);
static inline float peer_others(const peer *of, const moment *at) {
    uint64_t told = of ? atomic_load_explicit(&of->told, memory_order_relaxed) : 0;
    return told & PEER_COUNT ? peer_told_others(of, told, at) : 0;
}
/* Notes that the request is sent to this host, NULL: to one that is not known. */
void peer_sent(slot *what, peer *to);
/* Notes that the request's host told, as its answer began, of so many requests, this one among them. */
void peer_told(slot *what, uint32_t count);
/* Notes that the request is over. */
void peer_left(slot *what);

/* The named metric `inflight` of an ORCA load report, as text or JSON; false if it is not in it, or no such number. */
bool read_orca(text value, uint32_t *count);

/* Draws a priority as Envoy does: each has as much of the traffic as its healthy hosts bear, the first ones first.
 * `share` becomes the probability of the one drawn. Returns NONE where no host is healthy. */
uint32_t priority_draw(void *envoy, uint64_t thrown, double *share);

#define LITERAL(text) ((buffer){text, sizeof(text) - 1})

#endif
