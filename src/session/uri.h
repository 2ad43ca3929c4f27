/* uri.h - proto://addr/port, proto://addr:port, proto://[host]addr/port; see docs/uri.md for the grammar. */
#ifndef BERTH_SESSION_URI_H
#define BERTH_SESSION_URI_H

#include <stddef.h>

#include "base/result.h"
#include "session/endpoint.h"

struct uri_error {
    size_t at;      /* offset of the first offending character */
    char text[160]; /* what is wrong there, for a person; starts in lower case, no full stop */
};

/* Parses `text`. `for_listen` admits port 0. `host`, of `host_size` bytes, receives the name in [host] or "".
 * Strict: nothing may follow, no default port, no name resolution, no state kept between calls. 0,
 * BERTH_E_INVALID for NULL, or BERTH_E_URI, BERTH_E_UNSUPPORTED with *err filled; outputs untouched on
 * failure. */
must_use int uri_parse(const char *text, bool for_listen, endpoint *out, char *host, size_t host_size,
                       struct uri_error *err);

/* Writes the message a user sees: the reason, the URI and a caret under the place. Always terminated. */
void uri_error_format(const char *text, const struct uri_error *err, char *out, size_t size);

#endif
