/* hold.c - the words of hold.h. */
#include "base/hold.h"

#include <stddef.h>

__thread struct hold berth_hold;
void (*berth_hold_deliver)(void);
