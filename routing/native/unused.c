/* Events of the HTTP filter that Envoy wants to find and the picker has no use for. Their arguments do not matter: the
 * caller clears them away, and the answer, where there is one, is "go on". */
#include "envoy_abi.h"

#define UNUSED(event)                                                                                                  \
    HOOK int envoy_dynamic_module_on_http_filter_##event(void) { return CONTINUE; }

UNUSED(request_body)
UNUSED(request_trailers)
UNUSED(response_body)
UNUSED(http_callout_done)
UNUSED(http_stream_headers)
UNUSED(http_stream_data)
UNUSED(http_stream_trailers)
UNUSED(http_stream_complete)
UNUSED(http_stream_reset)
UNUSED(scheduled)
UNUSED(downstream_above_write_buffer_high_watermark)
UNUSED(downstream_below_write_buffer_low_watermark)
UNUSED(local_reply)
