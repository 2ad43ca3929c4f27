/* echo.h - a far side that gives back what it is sent, to all at once, through one event set. */
#ifndef BERTH_TESTS_ECHO_H
#define BERTH_TESTS_ECHO_H

#include <signal.h>

#include "party.h"

struct echo_rules {
    int edge;     /* sessions wait by edge */
    int hostile;  /* peers may be: whatever a session's end is called, it is an end */
    int64_t wait; /* at once; one of a second or more that brings nothing is a failure */
};

extern volatile sig_atomic_t stopping; /* set by a signal handler: echo_serve returns */

void echo_serve(berth_listener l, const struct echo_rules *rules);

#endif
