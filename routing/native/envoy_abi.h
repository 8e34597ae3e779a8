/* The part of Envoy's dynamic-module interface that the picker uses, as Envoy 1.40 has it (its version v0.2.0).
 *
 * Names, order and meaning of the arguments are Envoy's (source/extensions/dynamic_modules/abi/abi.h). What a function
 * hands out belongs to Envoy and lives until the event that asked for it returns.
 */
#ifndef FINGERPOST_ENVOY_ABI_H
#define FINGERPOST_ENVOY_ABI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifndef ENVOY_ABI_VERSION
#define ENVOY_ABI_VERSION "v0.2.0"
#endif
#define HOOK __attribute__((visibility("default")))

typedef struct {
    const char *ptr;
    size_t length;
} buffer;

typedef struct {
    buffer key, value;
} header;

enum { REQUEST_HEADERS = 0, RESPONSE_HEADERS = 2, RESPONSE_TRAILERS = 3 };
enum { STAT_ACTIVE_REQUESTS = 7 };
enum { CONTINUE = 0 };

#define CALL(name) envoy_dynamic_module_callback_##name

/* The HTTP filter's stream. */
bool CALL(http_get_header)(void *filter, int kind, buffer key, buffer *value, size_t index, size_t *values);
size_t CALL(http_get_headers_size)(void *filter, int kind);
bool CALL(http_get_headers)(void *filter, int kind, header *all);
bool CALL(http_set_header)(void *filter, int kind, buffer key, buffer value);
/* The cluster that the request's route leads to. */
bool CALL(http_get_cluster_name)(void *filter, buffer *name);
/* The host to take, an address with a port, if there is such a host; of no effect at retries. `strict`: or none. */
bool CALL(http_set_upstream_override_host)(void *filter, buffer host, bool strict);
int CALL(http_filter_config_define_counter)(void *config, buffer name, buffer *labels, size_t count, size_t *id);
int CALL(http_filter_increment_counter)(void *filter, size_t id, buffer *labels, size_t count, uint64_t by);

/* The load-balancing policy's hosts, by priority and place: among its healthy hosts where the name says so, else among
 * all of them. The host that a policy chooses is told by its place among the healthy ones. */
void CALL(lb_get_cluster_name)(void *lb, buffer *name);
size_t CALL(lb_get_priority_set_size)(void *lb);
size_t CALL(lb_get_hosts_count)(void *lb, uint32_t priority);
size_t CALL(lb_get_healthy_hosts_count)(void *lb, uint32_t priority);
uint32_t CALL(lb_get_healthy_host_weight)(void *lb, uint32_t priority, size_t index);
bool CALL(lb_get_healthy_host_address)(void *lb, uint32_t priority, size_t index, buffer *value);
uint64_t CALL(lb_get_host_stat)(void *lb, uint32_t priority, size_t index, int stat);
bool CALL(lb_get_host_address)(void *lb, uint32_t priority, size_t index, buffer *value);
bool CALL(lb_get_host_locality)(void *lb, uint32_t priority, size_t index, buffer *region, buffer *zone, buffer *subzone);
bool CALL(lb_get_host_metadata_string)(void *lb, uint32_t priority, size_t index, buffer space, buffer key,
                                       buffer *value);
bool CALL(lb_context_get_override_host)(void *context, buffer *host, bool *strict);
bool CALL(lb_context_should_select_another_host)(void *lb, void *context, uint32_t priority, size_t index);
int CALL(lb_config_define_counter)(void *config, buffer name, buffer *labels, size_t count, size_t *id);
int CALL(lb_config_increment_counter)(void *config, size_t id, buffer *labels, size_t count, uint64_t by);

#endif
