/* fork.c - a child is one more worker of the same app and holds what its parent holds.
 *
 * Before the fork (pthread_atfork, so that daemon(3), forkpty and the like come by) the parent sends the daemon one end of a
 * socketpair: "my next child". No answer is waited for; the child is known before it exists. The child keeps the other end
 * as its control socket, whatever it does later with its user or root directory, and says hello on it at its first use of
 * berth: it then gets a worker id, a page and a kick of its own. A child that execs or ends without ever using berth
 * costs a closed socket. When there is no daemon any more, the child goes on with what it inherited, unknown to anybody.
 *
 * Sessions held at the fork are shared (SF_SHARED): records and slots lie in memory that both can write. Their rings may come to
 * lie in segments that only one of the two can write; the other swaps to a ring of its own (stream.c). Sessions made later
 * belong to whoever made them.
 *
 * How a shared session's holders hear of news: the peer knows one worker, in whose outbox the slot lies. It puts events into the
 * queue for that worker, which alone takes them out; it looks at the word of WAITER_ANY in that worker's page and writes that
 * worker's bell, which all holders have and none reads. So
 *   - the slot names WAITER_ANY, and whoever falls asleep moves that word on in his own page and in those of the workers that
 *     he was forked from (`ancestor`): the next event then kicks, and everybody who sleeps wakes;
 *   - after each kick and before each sleep a holder looks at his shared sessions themselves, not for events;
 *   - nobody sleeps on a futex for a shared session, for `want` is one word for all. It only goes up, and who moves it past
 *     bytes that the others may not have seen kicks them (slot_arm_up).
 *
 * When a holder dies, the others hear MEMBER_DEAD. One of them lets go of what the dead one held, closes what nobody else
 * holds, and all tell their peers again what the dead one may have died before telling.
 */
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "base/sys.h"
#include "client/internal.h"
#include "shm/ctlsock.h"

#define GENERATION_MASK 0x3fffffu /* fits a lock's word with the index */

static struct plock hello_lock; /* one says hello */
static bool forking; /* this fork is a worker's. It and what follows are under attach_lock: one fork at a time */
static int child_end = -1;
static uint32_t child_member = NONE;
static bool stranded;
static uint32_t peers_asked[8], peers_asks; /* apps, see ask_peers */

static uint32_t member_take(void)
{
    for (uint32_t i = 0; i < MEMBERS_MAX; i++) {
        struct member *m = &C->family->member[i];
        uint64_t life = load_acquire(&m->life);
        uint32_t used = members_used();
        while (used <= i && !compare_exchange_sc(&C->family->members, &used, i + 1)) /* before it is anybody's */
            ;
        if ((int32_t)life == 0 &&
            compare_exchange_sc(&m->life, &life, member_life(PID_COMING, (uint32_t)(life >> 32))))
            return i;
    }
    return NONE;
}

static uint32_t id_of(uint32_t member)
{
    return member_id(member, load_relaxed(&C->family->member[member].generation));
}

static uint32_t owner_of(const struct session *s)
{
    return s->own_outbox < OUTBOXES_MAX ? outbox_worker(C->family->outbox[s->own_outbox].handle) : 0;
}

/* A child that has not said hello yet goes by its parent's id. */
static bool ours(uint32_t owner)
{
    return owner == C->worker && !C->forked;
}

static bool held_by(const struct session *s, uint32_t member)
{
    uint32_t state = load_acquire(&s->state);
    return state != SESSION_FREE && state != SESSION_ZOMBIE && members_has(&s->holders, member);
}

/* ---- before and after the fork -------------------------------------------------------------------------------- */

#define SHARE_NS (500 * NS_PER_MS)

/* What another thread is about to make has no handle yet. */
static bool is_made(const struct session *s)
{
    const struct session_cache *c = &C->cache[session_index(s)];
    return load_acquire(&s->state) != SESSION_QUEUED || (load_acquire(&c->generation) == s->generation && c->own);
}

/* Under its locks: who ends a session looks for other holders, and then is the only one (finish). Should this very thread have
 * been stopped under them by a signal that forks now, there is nobody to wait for. */
static bool share_session(struct session *s, uint32_t member, int64_t deadline)
{
    bool locked = session_lock_until(s, deadline);
    bool ours = held_by(s, C->member) && is_made(s);
    if (ours) {
        members_add(&s->holders, member);
        fetch_or_sc(&s->flags, SF_SHARED);
        struct session_cache *c = session_cache_of(s);
        if (c->own)
            store_sc(&c->own->waiter, (uint8_t)WAITER_ANY);
        futex_sleepers_wake(s, c);
    }
    if (locked) {
        half_unlock(&s->tx_lock);
        half_unlock(&s->rx_lock);
    }
    return ours;
}

/* What is shared is marked so, and held by the child from now on. */
static void share_sessions(uint32_t member)
{
    bool any = false;
    int64_t deadline = clock_now() + SHARE_NS;
    for (uint32_t i = 1, n = load_acquire(&C->family->sessions); i < n; i++) {
        struct session *s = session_at(i);
        if (held_by(s, C->member) && is_made(s))
            any |= share_session(s, member, deadline);
    }
    if (any) {
        C->sharing = true;
        store_release(&C->page->forked, (uint16_t)1);
        for (uint32_t i = 0; i < C->ancestors; i++)
            store_release(&C->ancestor[i].page->forked, (uint16_t)1);
    }
    sleeper_again(); /* whoever sleeps already was to be woken by another word */
}

static void share_outboxes(uint32_t member)
{
    for (struct own_box *b = C->outboxes; b; b = b->next)
        members_add(&outbox_rec_of(b)->mapped, member);
    for (struct own_box *b = C->own_graves; b; b = b->next)
        members_add(&outbox_rec_of(b)->mapped, member);
}

/* In the order of state.h (control_fork_lock is before them), so that no thread holds any of them while it is not there any more. */
static void locks_take(void)
{
    plock_take(&C->poll_lock);
    plock_take(&C->zombie_lock);
    plock_take(&C->watch_lock);
    plock_take(&C->lock);
    plock_take(&C->ctl_lock);
    plock_take(&C->cache_lock);
    plock_take(&C->boxes_lock);
}

static void locks_release(void)
{
    plock_release(&C->boxes_lock);
    plock_release(&C->cache_lock);
    plock_release(&C->ctl_lock);
    plock_release(&C->lock);
    plock_release(&C->watch_lock);
    plock_release(&C->zombie_lock);
    plock_release(&C->poll_lock);
    control_fork_unlock();
}

static void announce_child(void)
{
    int pair[2];
    if (C->daemon_lost ||
        sys_call(SYS_socketpair, (long)AF_UNIX, (long)(SOCK_SEQPACKET | SOCK_CLOEXEC), 0L, pair) < 0)
        return;
    struct ctl_child msg = {.h = {.type = CTL_CHILD, .len = sizeof msg}, .member = id_of(child_member)};
    if (control_send(&msg, &pair[0], 1) == 0)
        child_end = pair[1];
    else
        (void)sys_close(pair[1]);
    (void)sys_close(pair[0]);
}

/* A parent that does nothing but fork has not heard of the ends of those it forked, and the daemon listens to nobody who does not. */
static uint32_t member_find(void)
{
    control_poll();
    uint32_t member = member_take();
    if (member != NONE)
        return member;
    members_look_alive(0);
    return member_take();
}

static void family_is_full(void)
{
    static bool said;
    if (!said)
        log_warn("%u processes of this family are alive: those forked now come without their parent's sessions, "
                 "and stay "
                 "on the kernel",
                 MEMBERS_MAX);
    said = true;
}

static void before_fork(void)
{
    plock_take(&attach_lock); /* what another thread began is done, or will be begun anew by the child */
    forking = C->attached;
    if (!forking)
        return;
    int err = fork_child_ready();
    plock_take(&hello_lock);
    if (err)
        return;
    if ((child_member = member_find()) == NONE) {
        family_is_full();
        return;
    }
    announce_child();
    store_release(&berth_family_shared, true); /* for good: a lock is a lock from now on */
    control_fork_lock(); /* nobody hears meanwhile that a relative died, and finds that nothing is shared any more */
    share_sessions(child_member);
    locks_take();
    share_outboxes(child_member);
    listeners_share(child_member);
}

static void after_fork_parent(void)
{
    if (forking) {
        if (child_member != NONE)
            locks_release();
        if (child_end >= 0)
            (void)sys_close(child_end); /* so that its end of file tells of the child's death */
        child_end = -1;
        child_member = NONE;
        plock_release(&hello_lock);
    }
    plock_release(&attach_lock);
}

bool client_stranded(void)
{
    return stranded;
}

/* Of those that we were forked from: those whose sessions we hold. */
static void ancestors_keep(void)
{
    uint32_t kept = 0;
    for (uint32_t a = 0; a < C->ancestors; a++) {
        bool wanted = false;
        for (uint32_t i = 1, n = C->family->sessions; i < n && !wanted; i++)
            wanted = held_by(session_at(i), C->member) && owner_of(session_at(i)) == C->ancestor[a].worker;
        if (wanted)
            C->ancestor[kept++] = C->ancestor[a];
    }
    C->ancestors = kept;
}

static void sessions_inherit(void)
{
    for (struct peer_box *b = C->boxes; b; b = b->next) {
        b->sessions = 0;
        b->polled = false;                            /* the queues are the parent's */
        memset(b->seg_asked, 0, sizeof b->seg_asked); /* and so are the answers */
    }
    C->polled = C->armed = C->paired = NULL;
    C->polled_count = 0;
    C->sharing = false;
    C->inherited_unconfirmed = 0;
    for (uint32_t i = 1, n = C->family->sessions; i < n; i++) {
        struct session *s = session_at(i);
        if (!held_by(s, C->member))
            continue;
        struct session_cache *c = session_cache_of(s);
        c->pollers = 0;
        if (c->box)
            c->box->sessions++;
        C->sharing = true;
        C->inherited_unconfirmed += !(s->flags & (SF_CONNECTOR | SF_CONFIRMED));
    }
}

static void after_fork_child(void)
{
    bool worker = forking;
    if (worker)
        plock_release(&hello_lock);
    plock_release(&attach_lock);
    if (!worker)
        return;
    if (child_member == NONE) { /* no room in the family: on its own, without what its parent had */
        own_fd_close(C->ctl);
        C->ctl = -1;
        C->attached = false;
        stranded = true;
        return;
    }
    locks_release();
    own_fd_set(C->ctl, false);
    (void)sys_close(C->ctl);
    C->ctl = own_fd(child_end);
    C->member = child_member;
    berth_lock_id = id_of(child_member);
    store_release(&C->family->member[child_member].pid, (int32_t)getpid());
    C->forked = true;
    C->daemon_lost = C->ctl < 0;
    C->zombies_first = C->zombies_last = 0; /* the parent's */
    C->unconfirmed = C->queued = 0;
    C->reoffer_at = 0;
    C->waiters_used = 0;
    memset(peers_asked, 0, sizeof peers_asked);
    for (uint32_t i = 0; i < LISTENERS_MAX; i++) {
        struct listener *l = &C->listeners[i];
        if (l->generation & 1 && l->wait_ep >= 0) { /* an epoll set inherited by fork wakes one of the two */
            own_fd_close(l->wait_ep);
            l->wait_ep = -1;
        }
    }
    control_forget();
    tokens_forked();
    ports_forget();
    routes_forget();
    eps_close();
    sessions_inherit();
    child_end = -1;
    child_member = NONE;
}

/* ---- the child's first use --------------------------------------------------------------------------------------- */

static int child_hello(int page_fd)
{
    struct ctl_child_hello msg = {
        .h = {.type = CTL_CHILD_HELLO, .len = sizeof msg}, .version = CTL_VERSION, .pid = (uint32_t)getpid()};
    return hello_request(&msg, &page_fd, 1);
}

static int go_on_alone(void)
{
    int bell = bell_without_daemon();
    if (bell < 0)
        return bell;
    log_warn("a forked child goes on without the daemon, with the sessions that it has");
    C->kick_fd = bell;
    C->worker = 0;
    return 0;
}

int fork_child_ready(void)
{
    if (__builtin_expect(!load_acquire(&C->forked), 1))
        return 0;
    plock_take(&hello_lock);
    int err = 0;
    if (C->forked) {
        struct ancestor parent = {.worker = C->worker, .page = C->page, .kick_fd = C->kick_fd};
        int page_fd = -1;
        err = worker_page_create(&page_fd);
        if (!err && (err = C->daemon_lost ? BERTH_E_DAEMON_GONE : child_hello(page_fd)) == BERTH_E_DAEMON_GONE)
            err = go_on_alone();
        if (page_fd >= 0)
            (void)sys_close(page_fd);
        if (!err) {
            if (C->ancestors == ANCESTORS_MAX)
                log_warn("forked too often in a row: the oldest sessions may be slow to wake");
            else
                C->ancestor[C->ancestors++] = parent;
            ancestors_keep();
            store_release(&C->forked, false);
        } else {
            C->page = parent.page;
            log_warn("a forked child could not say hello to the daemon: %s", berth_strerror(err));
        }
    }
    plock_release(&hello_lock);
    return err;
}

/* ---- what a holder must look after himself ------------------------------------------------------------------------ */

void kicks_watch(int epfd, uint64_t data)
{
    for (uint32_t i = 0; i < C->ancestors; i++) {
        struct epoll_event ev = {.events = EPOLLIN | EPOLLET, .data.u64 = data};
        (void)sys_epoll_ctl(epfd, EPOLL_CTL_ADD, C->ancestor[i].kick_fd, &ev);
    }
}

void shared_kick(const struct session *s)
{
    uint32_t owner = owner_of(s);
    int fd = C->kick_fd;
    for (uint32_t i = 0; i < C->ancestors; i++) {
        if (C->ancestor[i].worker == owner)
            fd = C->ancestor[i].kick_fd;
    }
    bell_ring(fd);
}

static void ask_outbox(outbox_handle handle)
{
    static outbox_handle asked;
    if (exchange_sc(&asked, handle) == handle)
        return;
    struct ctl_outbox msg = {.h = {.type = CTL_GET_OUTBOX, .len = sizeof msg, .seq = NONE}, .outbox = handle};
    (void)control_send(&msg, NULL, 0);
}

/* Once is enough: the daemon tells of those that come later by itself. */
static void ask_peers(uint32_t app)
{
    for (uint32_t i = 0; i < 8; i++) {
        if (peers_asked[i] == app)
            return;
    }
    peers_asked[peers_asks++ % 8] = app;
    struct ctl_outbox msg = {.h = {.type = CTL_GET_PEERS, .len = sizeof msg}, .facing_app = app};
    (void)control_send(&msg, NULL, 0);
}

/* Another member has met the acceptor. */
static void link_as_known(struct session *s, outbox_handle handle, uint32_t slot, uint32_t owner)
{
    struct peer_box *box = peer_box_of(handle, owner);
    const struct slot *p = box ? peer_slot(box, slot) : NULL;
    if (!p) {
        ask_outbox(handle);
        control_poll();
        return;
    }
    channel_pair(box);
    struct session_cache *c = session_cache_of(s);
    half_lock(&s->rx_lock);
    half_lock(&s->tx_lock);
    bool mine = !c->peer && s->peer_outbox == handle && s->peer_slot == slot;
    if (mine) {
        box->sessions++;
        c->box = box;
        store_release(&c->peer, p);
        fence_sc();
        if (load_acquire(&box->worker->dead)) /* as link_to */
            fetch_or_sc(&s->flags, SF_DEAD);
        if (ours(owner))
            route_waiting(s, -1);
        session_linked(s);
    }
    half_unlock(&s->tx_lock);
    half_unlock(&s->rx_lock);
}

void shared_link(struct session *s)
{
    if (session_cache_of(s)->peer)
        return;
    uint32_t owner = owner_of(s);
    half_lock(&s->rx_lock);
    half_lock(&s->tx_lock);
    outbox_handle handle = s->peer_outbox;
    uint32_t slot = s->peer_slot;
    half_unlock(&s->tx_lock);
    half_unlock(&s->rx_lock);
    if (handle) {
        link_as_known(s, handle, slot, owner);
        return;
    }
    events_poll(true);
    if (ours(owner))
        return;
    ask_peers(s->app);
    control_poll();
    for (struct peer_box *b = load_acquire(&C->boxes); b; b = load_acquire(&b->next)) {
        struct peer_box *as = b->worker->app == s->app ? peer_box_of(b->handle, owner) : NULL;
        if (as) {
            channel_pair(as);
            channel_scan(as);
        }
    }
}

/* As sessions_confirm, for what was accepted before the fork. */
void shared_confirm(void)
{
    uint32_t left = 0;
    for (uint32_t i = 1, n = load_acquire(&C->family->sessions); C->inherited_unconfirmed && i < n; i++) {
        struct session *s = session_at(i);
        if (!held_by(s, C->member) || load_relaxed(&s->flags) & (SF_CONNECTOR | SF_CONFIRMED) || ours(owner_of(s)))
            continue;
        struct session_cache *c = session_cache_of(s);
        if (c->peer && !session_judge(s, c))
            left++;
        watches_ready(c);
    }
    C->inherited_unconfirmed = left;
}

/* ---- a member ended ------------------------------------------------------------------------------------------------- */

/* What it closed and could not yet give back. */
static void zombie_adopt(struct session *s)
{
    struct own_box *own = outbox_by_index(s->own_outbox);
    struct slot *slot = own ? outbox_slot(own, s->own_slot) : NULL;
    if (!slot) { /* of an outbox of its own, that goes with it */
        session_free(s);
        return;
    }
    struct session_cache *c = session_cache_of(s);
    if (c->box)
        c->box->sessions++;
    slot_set_state(slot, SLOT_CLOSED);
    zombie_put(s);
}

/* A session of the dead one's that nobody else holds: ours now, to close it. Its locks are held. */
static void last_holder(struct session *s)
{
    struct session_cache *c = &C->cache[session_index(s)];
    bool counted = c->generation == s->generation;
    c = session_cache_of(s);
    if (c->box && !counted)
        fetch_add_sc(&c->box->sessions, 1);
    fetch_or_sc(&s->flags, SF_SHARED);
    members_add(&s->holders, C->member);
}

/* Both locks are held. */
static void spans_release(struct session *s, uint32_t member)
{
    if (s->flags & SF_READ_SPAN && s->read_spanner == member + 1)
        fetch_and_sc(&s->flags, ~SF_READ_SPAN);
    if (s->write_span && s->write_spanner == member + 1)
        s->write_span = 0;
}

/* What it made, where nobody else has it. */
static void outboxes_release(uint32_t member, const struct member_set *alive)
{
    struct family *f = C->family;
    for (uint32_t i = 0; i < OUTBOXES_MAX; i++) {
        struct outbox_rec *r = &f->outbox[i];
        if (!load_acquire(&r->used) || r->owner_member != member || members_any(&r->mapped, alive))
            continue;
        for (uint32_t rec = 0, n = load_acquire(&f->rings); rec < n; rec++) {
            if (f->ring[rec].outbox == i && f->ring[rec].word) {
                f->ring[rec].word = 0;
                ring_rec_free(rec);
            }
        }
        store_release(&r->used, 0);
    }
}

/* What becomes of it is decided under its locks, as in finish: another thread of ours may be closing it. */
static void session_let_go(struct session *s, uint32_t member, const struct member_set *alive)
{
    half_lock(&s->rx_lock);
    half_lock(&s->tx_lock);
    spans_release(s, member);
    bool dropped = members_drop(&s->holders, member); /* else a relative was faster */
    uint32_t state = load_acquire(&s->state);
    session_handle h = session_handle_of(s);
    struct own_box *own = outbox_by_index(s->own_outbox);
    bool reached = own && outbox_slot(own, s->own_slot);
    bool adopt = dropped && state == SESSION_ZOMBIE;
    bool last = dropped && !adopt && state != SESSION_FREE && !members_any(&s->holders, alive);
    if (last && reached)
        last_holder(s);
    half_unlock(&s->tx_lock);
    half_unlock(&s->rx_lock);
    if (adopt)
        zombie_adopt(s);
    else if (last && reached)
        (void)client_close(h);
    else if (last)
        session_free(s); /* made by it alone; the daemon tells the peer */
}

/* Each of those who are left lets go of what it can: the slot of a session may be mapped in some of them only. What is
 * mapped in none is a record and nothing more. True: that was all. */
static bool let_go(uint32_t member, const struct member_set *alive)
{
    bool all = true;
    for (uint32_t i = 1, n = load_acquire(&C->family->sessions); i < n; i++) {
        struct session *s = session_at(i);
        if (load_acquire(&s->state) == SESSION_FREE || !members_has(&s->holders, member))
            continue;
        uint32_t own = load_relaxed(&s->own_outbox);
        if (own < OUTBOXES_MAX && !outbox_by_index(own) && members_any(&C->family->outbox[own].mapped, alive))
            all = false;
        else
            session_let_go(s, member, alive);
    }
    return all;
}

/* Alone again: what others may have moved is looked up once more, then it is an ordinary session. */
static void session_unshare(struct session *s)
{
    struct session_cache *c = session_cache_of(s);
    half_lock(&s->rx_lock);
    half_lock(&s->tx_lock);
    c->rx_ring = NULL;
    c->tx_ring = NULL;
    bool met = c->peer || !s->peer_outbox; /* else it was another who met the peer */
    if (ours(owner_of(s)) && met)          /* else its peer still knows us by another worker */
        fetch_and_sc(&s->flags, ~SF_SHARED);
    half_unlock(&s->tx_lock);
    half_unlock(&s->rx_lock);
}

/* When nothing of it is left its place is free, and the next child's. */
static void member_bury(uint32_t member, uint32_t generation)
{
    struct member *m = &C->family->member[member];
    struct member_set alive = members_alive();
    if (!let_go(member, &alive))
        return;
    store_release(&m->life, member_life(PID_GONE, generation));
    outboxes_release(member, &alive);
    for (uint32_t i = 0; i < OUTBOXES_MAX; i++) {
        if (load_relaxed(&C->family->outbox[i].used))
            (void)members_drop(&C->family->outbox[i].mapped, member);
    }
    store_release(&m->life, member_life(0, (generation + 1) & GENERATION_MASK));
}

/* One relative at a time: a set of holders does not tell a dead member from the next one in its place. */
static void members_bury(uint32_t id)
{
    uint32_t member = member_index(id), generation = member_generation(id);
    if (member == C->member)
        return;
    family_lock_acquire(&C->family->bury_lock, C->member);
    struct member *m = &C->family->member[member];
    uint64_t life = load_acquire(&m->life);
    int32_t pid = (int32_t)life;
    if ((pid > 0 || pid == PID_COMING) && life >> 32 == generation)
        (void)compare_exchange_sc(&m->life, &life, member_life(PID_GOING, generation));
    for (uint32_t i = 0, n = members_used(); i < n;
         i++) { /* others too: who was to see to them may have died instead, even in the midst of it */
        life = load_acquire(&C->family->member[i].life);
        if ((int32_t)life == PID_GOING || (int32_t)life == PID_GONE)
            member_bury(i, (uint32_t)(life >> 32));
    }
    family_lock_release(&C->family->bury_lock);
}

void member_gone(uint32_t id)
{
    members_bury(id);
    struct member_set alive = members_alive();
    bool alone = !members_other(&alive, C->member, &alive);
    for (uint32_t i = 1, n = load_acquire(&C->family->sessions); i < n; i++) {
        struct session *s = session_at(i);
        if (!(load_relaxed(&s->flags) & SF_SHARED) || !held_by(s, C->member))
            continue;
        struct session_cache *c = session_cache_of(s);
        if (!c->peer && s->state != SESSION_QUEUED)
            shared_link(s);
        if (alone)
            session_unshare(s);
        if (c->peer)
            session_linked(s); /* it may have died between a store and the word of it */
    }
    if (alone && !C->ancestors && !C->forked)
        C->sharing = false;
}

/* Where no daemon tells of deaths, or not yet. Not sooner after the last time than `pause`. */
void members_look_alive(int64_t pause)
{
    static int64_t looked;
    int64_t now = clock_now(), last = load_relaxed(&looked);
    if (now - last < pause || !compare_exchange_sc(&looked, &last, now))
        return;
    for (uint32_t i = 0, n = members_used(); i < n; i++) {
        uint64_t life = load_acquire(&C->family->member[i].life);
        if ((int32_t)life > 0 && i != C->member && !member_lives(i))
            member_gone(member_id(i, (uint32_t)(life >> 32)));
    }
}

static void install(void)
{
    if (pthread_atfork(before_fork, after_fork_parent, after_fork_child) != 0)
        log_warn("no memory to stand by at forks: children will not do");
}

/* Once, however many threads attach at once, and before any of them has a lock. */
void fork_install(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    hold_begin();
    (void)pthread_once(&once, install);
    hold_end();
}
