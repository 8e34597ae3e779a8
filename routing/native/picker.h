/* What the HTTP filter and the load-balancing policy, which run on the same worker thread, know of a request. */
#ifndef FINGERPOST_PICKER_H
#define FINGERPOST_PICKER_H

#include "envoy_abi.h"
#include "table.h"

#define SPACE "fingerpost"
/* Envoy gives every request an id, tells it to hosts anyway, and keeps it over retries: the policy knows requests by it. */
#define ID_HEADER "x-request-id"
#define DECISION_HEADER "x-fingerpost-decision"

enum { FELL_NOT, FELL_NO_TABLE, FELL_EXPIRED, FELL_NO_CATEGORY, FELL_NO_ROW, FELL_REASONS };
enum { MAX_ID = 64 };

/* One for every request under way; the filter makes it, the policy finds it and writes down what it chose. */
typedef struct slot {
    struct slot *next_free, *next_same;
    bool lone; /* outside of the book */
    char id[MAX_ID];
    uint32_t id_size;
    uint64_t id_hash;
    table *table;        /* as it was when the request came; held until the request is done */
    uint32_t category, fell; /* `fell`: why the request is not sent by prediction */
    const arm *arm;
    bool explore, chosen;
    uint32_t policy;
    double propensity, cost; /* not above 0: not known */
} slot;

slot *slot_new(void);
void slot_free(slot *gone);
/* Gives the request its id; ids of more than 64 bytes are none. */
void slot_name(slot *of, text id);
/* The request under way with this id, the latest if clients send one twice; NULL if there is none. */
slot *slot_find(text id);
/* Gives back this thread's memory. Envoy's workers live as long as the process and never need it. */
void slots_close(void);

/* Hands the decision to the access log. */
void log_decision(const slot *of, void *envoy);

uint64_t dice(void);
/* 0 <= share < 1 */
static inline double dice_share(uint64_t thrown) { return (double)(thrown >> 11) * 0x1p-53; }

#define LITERAL(text) ((buffer){text, sizeof(text) - 1})

#endif
