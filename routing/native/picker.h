/* What the HTTP filter and the load-balancing policy, which run on the same worker thread, know of a request. */
#ifndef FINGERPOST_PICKER_H
#define FINGERPOST_PICKER_H

#include "envoy_abi.h"
#include "table.h"

#define SLOT_HEADER "x-fingerpost-slot"
#define SPACE "fingerpost"

enum { FELL_NOT, FELL_NO_TABLE, FELL_EXPIRED, FELL_NO_CATEGORY, FELL_NO_ROW, FELL_REASONS };

/* One for every request under way; the filter makes it, the policy finds it and writes down what it chose. */
typedef struct slot {
    uint32_t place, generation; /* where it is in its thread's book, and how often that place was used */
    struct slot *next_free;
    bool in_use;
    const void *context; /* Envoy's name for the request, by which the policy knows it again at a retry */
    table *table;        /* as it was when the request came; held until the request is done */
    uint32_t category, fell; /* `fell`: why the request is not sent by prediction */
    const arm *arm;
    bool explore, chosen;
    uint32_t policy;
    double propensity, cost; /* not above 0: not known */
} slot;

slot *slot_new(void);
void slot_free(slot *gone);
/* The slot that a header's value names, or the one that was used with this context; NULL if there is none. */
slot *slot_find(buffer header, const void *context);
void slot_remember(slot *with, const void *context);
/* Gives back this thread's memory. Envoy's workers live as long as the process and never need it. */
void slots_close(void);
enum { SLOT_TEXT = 16 };
void slot_text(const slot *of, char written[SLOT_TEXT]);

uint64_t dice(void);
/* 0 <= share < 1 */
static inline double dice_share(uint64_t thrown) { return (double)(thrown >> 11) * 0x1p-53; }

#define LITERAL(text) ((buffer){text, sizeof(text) - 1})

#endif
