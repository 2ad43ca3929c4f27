/* expect.h - what a call to the daemon gives: now, or a moment later. */
#ifndef BERTH_TESTS_EXPECT_H
#define BERTH_TESTS_EXPECT_H

#include <unistd.h>

#include "berth/error.h"
#include "check.h"

#define expect(code, call)                                                                                   \
    do {                                                                                                     \
        int got_ = (call);                                                                                   \
        check(got_ == (code), "%s gave %s, not %s", #call, berth_error_name(got_), berth_error_name(code));  \
    } while (0)

/* What follows from another connection's end holds a moment later: the daemon acts on ends after each round
 * of messages. */
#define expect_soon(code, call)                                                                              \
    do {                                                                                                     \
        int soon_ = (call);                                                                                  \
        for (int i_ = 0; i_ < 500 && soon_ != (code); i_++) {                                                \
            usleep(2000);                                                                                    \
            soon_ = (call);                                                                                  \
        }                                                                                                    \
        check(soon_ == (code), "%s gave %s, not %s", #call, berth_error_name(soon_),                         \
              berth_error_name(code));                                                                       \
    } while (0)

#endif
