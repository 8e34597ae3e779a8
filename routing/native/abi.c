/* Refuses an Envoy that the module was not tested with, before any of its functions is called.
 *
 * Envoy itself only warns of a module that was built for another version of its interface. It does not say which version
 * it has; but the functions that it offers to modules change with every release, and their names tell releases apart. */
#define _GNU_SOURCE
#include "table.h"
#include "envoy_abi.h"

#include <elf.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>

#ifndef TESTED_NAMES
#define TESTED_NAMES 0xab958e0e1268f656u
#endif
#define OVERRIDE "FINGERPOST_UNTESTED_ENVOY"

static const struct {
    uint64_t names; /* the sum of the hashes of their names */
    const char *envoy;
} TESTED[] = {{TESTED_NAMES, "1.40"}};

typedef struct {
    const ElfW(Sym) * symbols;
    const char *strings;
    const uint32_t *gnu, *plain;
} names_table;

/* Addresses in the dynamic section are the program's own where the loader has not made them absolute. */
static const void *place_of(uintptr_t base, uintptr_t at) { return (const void *)(at < base ? base + at : at); }

static names_table table_of(const struct dl_phdr_info *program) {
    names_table found = {NULL, NULL, NULL, NULL};
    const ElfW(Dyn) *entry = NULL;
    for (int each = 0; each < program->dlpi_phnum; each++)
        if (program->dlpi_phdr[each].p_type == PT_DYNAMIC)
            entry = place_of(program->dlpi_addr, program->dlpi_phdr[each].p_vaddr);
    for (; entry && entry->d_tag != DT_NULL; entry++) {
        const void *at = place_of(program->dlpi_addr, entry->d_un.d_ptr);
        if (entry->d_tag == DT_SYMTAB)
            found.symbols = at;
        else if (entry->d_tag == DT_STRTAB)
            found.strings = at;
        else if (entry->d_tag == DT_GNU_HASH)
            found.gnu = at;
        else if (entry->d_tag == DT_HASH)
            found.plain = at;
    }
    return found;
}

/* How many symbols there are; the index by hashes is all that says it. */
static uint32_t count_of(const names_table *of) {
    if (of->plain)
        return of->plain[1];
    if (!of->gnu)
        return 0;
    uint32_t buckets = of->gnu[0], first = of->gnu[1], last = 0;
    const uint32_t *bucket = of->gnu + 4 + of->gnu[2] * (sizeof(uintptr_t) / 4), *chain = bucket + buckets;
    for (uint32_t each = 0; each < buckets; each++)
        last = bucket[each] > last ? bucket[each] : last;
    if (last < first)
        return first;
    while (!(chain[last - first] & 1))
        last++;
    return last + 1;
}

/* Of the program itself, which comes first. */
static int sum_names(struct dl_phdr_info *program, size_t size, void *to) {
    static const char PREFIX[] = "envoy_dynamic_module_callback_";
    (void)size;
    names_table of = table_of(program);
    uint32_t count = of.symbols && of.strings ? count_of(&of) : 0;
    for (uint32_t each = 0; each < count; each++) {
        const char *name = of.strings + of.symbols[each].st_name;
        if (!strncmp(name, PREFIX, sizeof PREFIX - 1) && of.symbols[each].st_shndx != SHN_UNDEF)
            *(uint64_t *)to += hash_bytes(0, name, strlen(name));
    }
    return 1;
}

HOOK const char *envoy_dynamic_module_on_program_init(void) {
    uint64_t names = 0;
    dl_iterate_phdr(sum_names, &names);
    const char *wanted = getenv(OVERRIDE);
    for (size_t each = 0; each < sizeof TESTED / sizeof *TESTED; each++)
        if (TESTED[each].names == names)
            return ENVOY_ABI_VERSION;
    bool forced = wanted && !strcmp(wanted, "1");
    fprintf(stderr,
            "fingerpost: the native picker was built and tested for Envoy %s (interface %s); this Envoy offers other functions "
            "(%016llx)%s\n",
            TESTED[0].envoy, ENVOY_ABI_VERSION, (unsigned long long)names,
            forced ? ", and " OVERRIDE "=1 loads the picker all the same"
                   : ": run that version, or set " OVERRIDE "=1 to load the picker at your own risk");
    return forced ? ENVOY_ABI_VERSION : NULL;
}
