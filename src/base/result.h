/* result.h - must_use: a function whose result tells of a failure that the caller has to act on.
 *
 * Who ignores it on purpose says (void), and why. gcc's warn_unused_result does not let him, so there it is
 * the standard's. */
#ifndef BERTH_BASE_RESULT_H
#define BERTH_BASE_RESULT_H

#if defined(__clang__) || __GNUC__ < 10
#define must_use __attribute__((warn_unused_result))
#else
#define must_use [[nodiscard]]
#endif

#endif
