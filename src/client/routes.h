/* routes.h - the listeners that we were introduced to. C->lock is held, but for the second and third. */
#ifndef BERTH_CLIENT_ROUTES_H
#define BERTH_CLIENT_ROUTES_H

#include "client/state.h"

struct route *route_find(uint32_t listener);
void route_waiting(struct session *s, int by); /* our offers that its listener has not accepted */
/* do as many tokens lie there as offers of ours are unanswered? Then none of those was taken, most likely */
bool route_full_of_ours(uint32_t listener);
void route_gone(uint32_t listener);
void route_drop(struct route *r);
void routes_forget(void);
bool route_has_box(const struct own_box *box);
void routes_drop_box(const struct own_box *box);

#endif
