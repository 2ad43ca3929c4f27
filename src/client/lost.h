/* lost.h - messages that came without their descriptors. */
#ifndef BERTH_CLIENT_LOST_H
#define BERTH_CLIENT_LOST_H

#include "client/control.h"

void lost_add(const struct push *p);
void lost_found(const struct push *p); /* it has come, or the daemon has not got it any more */
/* asks again, and says whom we cannot meet for want of descriptors */
void lost_retry(void (*unreachable)(uint32_t app));
void lost_forget(void);
void lost_forked(void);         /* in a forked child */
int64_t control_retry_at(void); /* when to ask again for what found no descriptor; 0: nothing has */
/* it was, and found none again; where there is room now it is asked once more */
bool control_in_vain(void);

#endif
