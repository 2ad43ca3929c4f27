/* moves.c - GIVE, TAKE, MOVED, REPLAY: sessions on their way from one program to another.
 *
 * Theory of operation
 *
 * A program that passes the descriptor of a session to another one, or becomes another one by exec, puts a
 * connection of the kernel's in the session's place, the *stand-in*, and leaves the session here (GIVE): a
 * record of where its streams are, and the far end of the stand-in. The kernel carries the stand-in wherever
 * the program sends it, so what it is known by is its cookie. A program under berth that finds a stand-in
 * among its descriptors shows it (TAKE), gets the record, makes the session anew in memory of its own, and
 * says where (MOVED), which the session's peer is told.
 *
 * What if it came to somebody who knows nothing of berth? He reads and writes the stand-in as what it is. When
 * something is written into it, or nobody has come for it in time, a relay is started (`berth relay`): a
 * program that takes the session like any other, and moves its bytes to the far end and back.
 *
 * The far end also tells when the last copy of the stand-in was closed: with nobody there to take the session
 * it has ended, and its peer is told that it is nowhere.
 *
 * Both ends of a session may move, at the same time. So places are looked up: who is told of a new one, and
 * who is to tell it of his own, is whoever has the other end now.
 *
 *   WAITING -> TAKEN -> HELD -> (the stand-in is closed, or given again)
 *   WAITING -> RELAYED -> HELD
 *
 * A connection that a listener's programs under berth leave unaccepted, where others may have its kernel
 * socket, is replayed to that (REPLAY): the connector has withdrawn its offer and connected by the kernel. A
 * relay joins the app that was to accept, answers the offer, and moves the bytes. That app may have ended:
 * then it stays for a moment without workers (app_linger), for what is facing it to be asked for.
 */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "daemon/registry.h"

#define MOVES_MAX 8192u /* each has up to two descriptors */
#define RELAY_AFTER (100 * NS_PER_MS)
#define RELAY_COMES (10 * NS_PER_SEC) /* or never */
#define RELAY_LOOK (100 * NS_PER_MS)  /* so often until then: has it ended? */
#define LINGER_NS (2 * NS_PER_SEC)
#define FRESH_NS (5 * NS_PER_SEC) /* so long a forked child may not have been told what its parent was */

enum move_state { MOVE_WAITING, MOVE_RELAYED, MOVE_TAKEN, MOVE_HELD };

struct move {
    struct watch ours; /* the far end of the stand-in */
    struct list link;  /* daemon.moves */
    uint64_t cookie, far_cookie;
    enum move_state state;
    int record; /* -1: it is not needed any more */
    struct app *app;
    struct ctl_place from, to, peer;
    /* TAKEN: where the peer has gone since the taker was told of it; else nowhere */
    struct ctl_place peer_to;
    bool peer_ended; /* it was on its way, too, and nobody has come for it */
    uint32_t taker;  /* worker; TAKEN, HELD */
    pid_t relay;
    gid_t gid; /* of who gave it: the relay's */
    bool recalled;
    int64_t since; /* WAITING: given, RELAYED: started, HELD: moved */
    int64_t look;  /* RELAYED: when its relay is looked for again */
};

#define HOMES 1024u

struct home_move {
    struct ctl_place from, to, peer;
    int64_t at;
};

static bool is_tcp(int fd)
{
    int protocol = 0;
    socklen_t len = sizeof protocol;
    return getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &len) == 0 && protocol == IPPROTO_TCP;
}

static uint64_t cookie_of(int fd)
{
    uint64_t cookie = 0;
    socklen_t len = sizeof cookie;
    return getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &len) < 0 ? 0 : cookie;
}

static struct move *find(const struct daemon *d, int fd)
{
    uint64_t cookie = cookie_of(fd);
    list_for_each(&d->moves, it, after)
    {
        struct move *m = container_of(it, struct move, link);
        if (cookie && (m->cookie == cookie || m->far_cookie == cookie))
            return m;
    }
    return NULL;
}

static struct move *find_from(const struct daemon *d, const struct ctl_place *from)
{
    list_for_each(&d->moves, it, after)
    {
        struct move *m = container_of(it, struct move, link);
        if (ctl_place_same(&m->from, from))
            return m;
    }
    return NULL;
}

static void tell_worker(struct daemon *d, struct worker *w, uint16_t type, const struct ctl_place *from,
                        const struct ctl_place *to, const struct ctl_place *peer)
{
    struct ctl_move note = {.h = {.type = type, .len = sizeof note}, .from = *from, .to = *to, .peer = *peer};
    if (w->conn)
        conn_send(d, w->conn, &note, sizeof note, NULL, 0);
}

/* Whoever holds the session at `peer`: what has become of its other end. */
static void tell(struct daemon *d, uint16_t type, const struct ctl_place *from, const struct ctl_place *to,
                 const struct ctl_place *peer)
{
    const struct outbox *o = outbox_known(d, peer->outbox), *was = outbox_known(d, from->outbox);
    for (uint32_t i = 0; o && i < o->holders.count; i++)
        tell_worker(d, o->holders.item[i], type, from, to, peer);
    if (was && type == CTL_MOVED)
        slot_wake(was, from->slot); /* a light sleep is on the words where it was, and hears nothing else */
}

static void record_close(struct move *m)
{
    if (m->record >= 0)
        close(m->record);
    m->record = -1;
}

static void move_free(struct daemon *d, struct move *m)
{
    struct app *app = m->app;
    watch_remove(d, &m->ours);
    close(m->ours.fd);
    record_close(m);
    list_unlink(&m->link);
    d->move_count--;
    free(m);
    app->moves--;
    app_leave_nothing(d, app);
    app->shadows--; /* not before: workers of the app's own may go with what they left */
    app_release(d, app);
}

/* Where the other end is now. */
static struct ctl_place peer_now(const struct daemon *d, const struct move *m)
{
    const struct move *other = find_from(d, &m->peer);
    return other && other->state == MOVE_HELD ? other->to : m->peer_to.outbox ? m->peer_to : m->peer;
}

/* By who gives it, who may not have heard yet where its other end is. */
static void peer_given(const struct daemon *d, struct move *m, const struct ctl_place *peer)
{
    m->peer = *peer;
    m->peer_to = (struct ctl_place){0};
    m->peer = peer_now(d, m);
}

/* Its other end is there now. Who has taken it goes by what he was told until he says where he has it. */
static void peer_goes_to(struct move *m, const struct ctl_place *to)
{
    if (m->state == MOVE_TAKEN)
        m->peer_to = *to;
    else
        m->peer = *to;
}

/* The move of its other end, where that is on its way at the same time. */
static struct move *peer_under_way(const struct daemon *d, const struct move *m)
{
    struct move *other = find_from(d, &m->peer);
    return other && other->state != MOVE_HELD ? other : NULL;
}

/* Nobody will take it any more. */
static void move_end(struct daemon *d, struct move *m)
{
    struct ctl_place nowhere = {0}, peer = peer_now(d, m);
    struct move *other = peer_under_way(d, m);
    if (m->state != MOVE_HELD) {
        tell(d, CTL_MOVED, &m->from, &nowhere, &peer);
        if (other)
            other->peer_ended = true; /* told to who takes that, when he has */
    }
    move_free(d, m);
}

/* ---- relays -------------------------------------------------------------------------------------------- */

static void relay_exec(const struct daemon *d, const struct move *m)
{
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGCHLD, SIG_DFL);
    signal(SIGHUP, SIG_DFL);
    if (d->uid == 0 && m->app->uid != 0 &&
        (setgroups(0, NULL) < 0 || setgid(m->gid) < 0 || setuid(m->app->uid) < 0))
        _exit(1);
    if (setsid() < 0 || fcntl(m->ours.fd, F_SETFD, 0) < 0)
        _exit(1);
    char fd[16];
    (void)snprintf(fd, sizeof fd, "%d", m->ours.fd);
    (void)setenv("BERTH_NAMESPACE", m->app->space->ns->id, 1);
    (void)unsetenv("LD_PRELOAD");
    execl("/proc/self/exe", "berth", "relay", "--runtime-dir", d->dir, fd, (char *)NULL);
    _exit(1);
}

static int64_t due_at(const struct move *m)
{
    return m->state == MOVE_WAITING ? m->since + RELAY_AFTER : m->state == MOVE_RELAYED ? m->look : 0;
}

static void wake_at(struct daemon *d, int64_t due)
{
    if (due && (!d->moves_at || due < d->moves_at))
        d->moves_at = due;
}

static void due_from_now_on(struct daemon *d, const struct move *m)
{
    wake_at(d, due_at(m));
}

/* It may end before it has come: it could not be executed, or was killed. Where its pid is another's by now it is waited
 * for to the end. */
static bool relay_may_come(const struct move *m, int64_t now)
{
    return now < m->since + RELAY_COMES && (kill(m->relay, 0) == 0 || errno != ESRCH);
}

static void relay_start(struct daemon *d, struct move *m)
{
    m->state = MOVE_RELAYED;
    m->since = clock_now();
    m->look = m->since + RELAY_LOOK;
    due_from_now_on(d, m);
    struct epoll_event ev = {.events = EPOLLRDHUP, .data.ptr = &m->ours};
    (void)epoll_ctl(d->epfd, EPOLL_CTL_MOD, m->ours.fd, &ev);
    m->relay = d->relays ? fork() : -1;
    if (m->relay == 0)
        relay_exec(d, m);
    if (m->relay < 0) {
        log_warn("app %u '%s': no relay for a session that was passed on: it ends", m->app->id, m->app->name);
        move_end(d, m);
    }
}

/* From now on what is written into the stand-in is looked at, also what was before. */
static void watch_again(struct daemon *d, struct move *m)
{
    struct epoll_event ev = {.events = EPOLLIN | EPOLLRDHUP, .data.ptr = &m->ours};
    if (epoll_ctl(d->epfd, EPOLL_CTL_MOD, m->ours.fd, &ev) < 0)
        (void)epoll_ctl(d->epfd, EPOLL_CTL_ADD, m->ours.fd, &ev);
}

/* Others than its taker use the stand-in: he gives the session back, and a relay goes between. */
static void recall(struct daemon *d, struct move *m)
{
    struct ctl_place none = {0};
    if (m->recalled || m->relay > 0)
        return;
    m->recalled = true;
    const struct outbox *o = outbox_known(d, m->to.outbox);
    for (uint32_t i = 0; o && i < o->holders.count; i++)
        tell_worker(d, o->holders.item[i], CTL_RECALL, &m->to, &none, &m->peer);
}

/* Somebody has written into the stand-in, or its last copy was closed. */
static void ours_ready(struct daemon *d, struct watch *w, uint32_t events)
{
    struct move *m = container_of(w, struct move, ours);
    char c;
    if (events & (EPOLLHUP | EPOLLERR) || recv(w->fd, &c, 1, MSG_PEEK | MSG_DONTWAIT) == 0) {
        if (m->state == MOVE_WAITING) {
            move_end(d, m);
            return;
        }
        /* whoever takes it goes on to the end; and who has taken it has ended it before, or somebody else has
         * shut the stand-in down */
        (void)epoll_ctl(d->epfd, EPOLL_CTL_DEL, w->fd, NULL);
        if (m->state == MOVE_HELD)
            recall(d, m);
    } else if (m->state == MOVE_WAITING) {
        relay_start(d, m);
    } else { /* a relay reads it, or will */
        if (m->state == MOVE_HELD)
            recall(d, m);
        struct epoll_event ev = {.events = EPOLLRDHUP, .data.ptr = w};
        (void)epoll_ctl(d->epfd, events & EPOLLRDHUP ? EPOLL_CTL_DEL : EPOLL_CTL_MOD, w->fd, &ev);
    }
}

static void linger_end(struct daemon *d, struct app *app)
{
    app->lingers = 0;
    app->shadows--;
    app_release(d, app);
}

void app_linger(struct daemon *d, struct app *app)
{
    app->shadows += !app->lingers;
    app->lingers = clock_now() + LINGER_NS;
    wake_at(d, app->lingers);
}

static void lingering_due(struct daemon *d, int64_t now)
{
    list_for_each(&d->apps, it, after)
    {
        struct app *app = container_of(it, struct app, link);
        if (app->lingers && app->lingers <= now)
            linger_end(d, app);
        else
            wake_at(d, app->lingers);
    }
}

void moves_due(struct daemon *d)
{
    int64_t now = clock_now();
    d->moves_at = 0;
    lingering_due(d, now);
    list_for_each(&d->moves, it, after)
    {
        struct move *m = container_of(it, struct move, link);
        int64_t due = due_at(m);
        if (m->state == MOVE_RELAYED && due <= now && relay_may_come(m, now))
            due = m->look = now + RELAY_LOOK;
        if (!due || due > now)
            due_from_now_on(d, m);
        else if (m->state == MOVE_WAITING)
            relay_start(d, m);
        else
            move_end(d, m);
    }
}

/* ---- requests ------------------------------------------------------------------------------------------ */

/* One of `app`'s, which has the far end `*ours` from now on. */
static int move_begin(struct daemon *d, struct app *app, int *ours, uint32_t events, struct move **out)
{
    if (d->move_count >= MOVES_MAX)
        return BERTH_E_LIMIT;
    struct move *m = calloc(1, sizeof *m);
    if (!m)
        return BERTH_E_NO_MEMORY;
    *m = (struct move){
        .ours = {.fd = *ours, .ready = ours_ready}, .far_cookie = cookie_of(*ours), .record = -1, .app = app};
    int err = !m->far_cookie ? BERTH_E_PROTOCOL : watch_add(d, &m->ours, events) ? BERTH_E_NO_MEMORY : 0;
    if (err) {
        free(m);
        return err;
    }
    *ours = -1;
    list_append(&d->moves, &m->link);
    d->move_count++;
    m->app->moves++;
    m->app->shadows++;
    *out = m;
    return 0;
}

/* The stand-in is a new one. */
static int move_create(struct daemon *d, struct request *r, struct move **out)
{
    if (r->nfds < 3 || !is_tcp(r->fds[1]) || !is_tcp(r->fds[2]))
        return BERTH_E_PROTOCOL;
    uint64_t cookie = cookie_of(r->fds[1]);
    int err = cookie ? move_begin(d, r->conn->worker->app, &r->fds[2], EPOLLIN | EPOLLRDHUP, out)
                     : BERTH_E_PROTOCOL;
    if (!err)
        (*out)->cookie = cookie;
    return err;
}

static struct move *find_to(const struct daemon *d, const struct ctl_place *to)
{
    list_for_each(&d->moves, it, after)
    {
        struct move *m = container_of(it, struct move, link);
        if (m->state == MOVE_HELD && ctl_place_same(&m->to, to))
            return m;
    }
    return NULL;
}

/* After RECALL. */
static int give_back(struct daemon *d, struct request *r)
{
    struct move *m = find_to(d, &r->msg->move.from);
    if (!m) /* all that used the stand-in have gone meanwhile */
        return BERTH_E_NO_ROUTE;
    m->record = r->fds[0];
    r->fds[0] = -1;
    m->from = r->msg->move.from;
    peer_given(d, m, &r->msg->move.peer);
    tell(d, CTL_MOVING, &m->from, &m->to, &m->peer);
    relay_start(d, m);
    send_done(d, r);
    return 0;
}

int handle_give(struct daemon *d, struct request *r)
{
    const struct ctl_move *msg = &r->msg->move;
    const struct worker *w = r->conn->worker;
    const struct outbox *own = outbox_known(d, msg->from.outbox), *peer = outbox_known(d, msg->peer.outbox);
    if (!own || !ptrset_has(&own->holders, w))
        return BERTH_E_NOT_OWNER;
    if (r->nfds == 1)
        return give_back(d, r);
    if (r->conn->uid == UID_NONE)
        return BERTH_E_PERMISSION; /* as whom should a relay run? */
    if (!peer || peer->facing != w->app || peer->dead || !d->relays)
        return BERTH_E_BUSY;
    if (!find_from(d, &msg->peer) && slot_moved(peer, msg->peer.slot))
        return BERTH_E_BUSY; /* its other end has gone elsewhere, and word of that is on its way */
    struct move *m = find(d, r->fds[1]);
    if (m && (m->state != MOVE_HELD || m->taker != w->id || m->app != w->app))
        return BERTH_E_BUSY;
    int err = m ? 0 : move_create(d, r, &m);
    if (err)
        return err;
    m->record = r->fds[0];
    r->fds[0] = -1;
    m->state = MOVE_WAITING;
    m->taker = 0;
    m->gid = r->conn->gid;
    m->relay = 0;
    m->recalled = false;
    m->peer_ended = false;
    m->from = msg->from;
    peer_given(d, m, &msg->peer);
    m->since = clock_now();
    due_from_now_on(d, m);
    watch_again(d, m);
    tell(d, CTL_MOVING, &m->from, &m->to, &m->peer);
    send_done(d, r);
    return 0;
}

int handle_replay(struct daemon *d, struct request *r)
{
    const struct ctl_replay *msg = &r->msg->replay;
    const struct worker *w = r->conn->worker;
    const struct outbox *o = outbox_known(d, msg->at.outbox);
    struct listener *l = idmap_get(&d->listener_by_id, msg->listener);
    if (!o || !ptrset_has(&o->holders, w) || !is_tcp(r->fds[0]))
        return BERTH_E_NOT_OWNER;
    if (r->conn->uid != o->facing->uid)
        return BERTH_E_PERMISSION; /* the relay runs as the user of that app, and in the group of who asks */
    if (!d->relays)
        return BERTH_E_UNSUPPORTED;
    struct move *m;
    int err = move_begin(d, o->facing, &r->fds[0], EPOLLRDHUP, &m);
    if (err)
        return err;
    if (l && l->app == o->facing && l->entry.flags & DIR_COMMON)
        listener_hide(d, l, NULL); /* what comes after it does not wait in vain */
    struct ctl_replay is = *msg;
    is.h = (struct ctl_header){.type = CTL_REPLAYED, .len = sizeof is, .seq = r->seq};
    conn_send(d, r->conn, &is, sizeof is, NULL, 0);
    m->peer = msg->at;
    m->gid = r->conn->gid;
    relay_start(d, m);
    return 0;
}

int handle_take(struct daemon *d, struct request *r)
{
    struct worker *w = r->conn->worker;
    struct move *m = find(d, r->fds[0]);
    if (!m || m->app->uid != w->uid)
        return BERTH_E_NO_ROUTE;
    bool relay = m->state == MOVE_RELAYED && m->relay == w->pid;
    if (m->state == MOVE_WAITING && m->app != w->app) {
        relay_start(d, m); /* whose app is another one cannot see what its peer writes */
        return BERTH_E_BUSY;
    }
    if (m->state == MOVE_HELD)
        recall(d, m);
    if ((m->state != MOVE_WAITING && !relay) || m->app != w->app)
        return BERTH_E_BUSY;
    m->state = MOVE_TAKEN;
    m->taker = w->id;
    m->peer = peer_now(d, m);
    m->peer_to = (struct ctl_place){0};
    struct ctl_move is = {
        .h = {.type = CTL_TAKEN, .len = sizeof is, .seq = r->seq}, .from = m->from, .peer = m->peer};
    if (peer_under_way(d, m) || m->peer_ended)
        is.to = m->peer;
    conn_send(d, r->conn, &is, sizeof is, &m->record, m->record >= 0);
    if (!m->from.outbox)
        move_free(d, m); /* a replay: the relay is a worker like any other now */
    return 0;
}

/* Nobody has given it: who had it from his parent has it in an outbox of his own now. */
static int moved_home(struct daemon *d, const struct worker *w, const struct ctl_move *msg)
{
    const struct outbox *from = outbox_known(d, msg->from.outbox), *to = outbox_known(d, msg->to.outbox);
    if (!from || !to || !ptrset_has(&from->holders, w) || to->owner != w || from->facing != to->facing)
        return 0;
    struct ctl_place peer = msg->peer;
    list_for_each(&d->moves, it, after)
    {
        struct move *m = container_of(it, struct move, link);
        if (m->state == MOVE_HELD && ctl_place_same(&m->to, &msg->from)) {
            m->to = msg->to;
            m->taker = w->id;
        }
        if (m->state == MOVE_HELD && ctl_place_same(&m->from, &msg->peer))
            peer = m->to;
        if (ctl_place_same(&m->peer, &msg->from))
            peer_goes_to(m, &msg->to);
    }
    tell(d, CTL_MOVED, &msg->from, &msg->to, &peer);
    if (!d->homes && !(d->homes = calloc(HOMES, sizeof *d->homes)))
        return BERTH_E_NO_MEMORY;
    d->homes[d->homes_count++ % HOMES] = (struct home_move){msg->from, msg->to, peer, clock_now()};
    return 0;
}

int handle_moved(struct daemon *d, struct request *r)
{
    const struct ctl_move *msg = &r->msg->move;
    const struct worker *w = r->conn->worker;
    struct move *m = msg->to.outbox ? NULL : find_to(d, &msg->from);
    const struct outbox *was = m ? outbox_known(d, m->to.outbox) : NULL;
    if (was && ptrset_has(&was->holders, w)) {
        move_free(d, m); /* its taker has ended it */
        return 0;
    }
    m = find_from(d, &msg->from);
    if (!m && msg->to.outbox)
        return moved_home(d, w, msg);
    if (!m || m->state != MOVE_TAKEN || m->taker != w->id)
        return 0; /* it has ended meanwhile */
    if (!msg->to.outbox && m->relay <= 0) {
        relay_start(d, m); /* he could not take it, and has the stand-in */
        return 0;
    }
    const struct outbox *own = outbox_known(d, msg->to.outbox);
    if (!own || !ptrset_has(&own->holders, w)) {
        move_end(d, m);
        return 0;
    }
    record_close(m);
    m->to = msg->to;
    m->state = MOVE_HELD;
    m->since = clock_now();
    if (m->relay <= 0)
        watch_again(d, m);
    struct move *other = peer_under_way(d, m);
    if (other) {
        peer_goes_to(other, &m->to);
        tell(d, CTL_MOVING, &other->from, &other->to, &m->to);
    }
    struct ctl_place peer = peer_now(d, m);
    tell(d, CTL_MOVED, &m->from, &m->to, &peer);
    if (!ctl_place_same(&peer, &m->peer))
        tell(d, CTL_MOVED, &m->peer, &peer, &m->to);
    if (m->peer_ended)
        tell(d, CTL_MOVED, &peer, &(struct ctl_place){0}, &m->to);
    if (m->peer_to.outbox)
        m->peer = m->peer_to;
    m->peer_to = (struct ctl_place){0};
    return 0;
}

bool move_stands_in(int fd)
{
    return is_tcp(fd);
}

struct app *move_app(const struct daemon *d, int fd, const struct space *space, uid_t uid)
{
    const struct move *m = find(d, fd);
    return m && m->app->space == space && m->app->uid == uid ? m->app : NULL;
}

bool move_relay(const struct daemon *d, pid_t pid)
{
    list_for_each(&d->moves, it, after)
    {
        const struct move *m = container_of(it, struct move, link);
        if (pid > 0 && m->state == MOVE_RELAYED && m->relay == pid)
            return true;
    }
    return false;
}

bool moves_want(const struct daemon *d, const struct outbox *o)
{
    list_for_each(&d->moves, it, after)
    {
        const struct move *m = container_of(it, struct move, link);
        if (m->state != MOVE_HELD &&
            (m->peer.outbox == o->handle || m->peer_to.outbox == o->handle || m->from.outbox == o->handle))
            return true;
    }
    return false;
}

void moves_inherited(struct daemon *d, struct worker *child)
{
    int64_t now = clock_now();
    list_for_each(&d->moves, it, after)
    {
        const struct move *m = container_of(it, struct move, link);
        const struct outbox *o = outbox_known(d, m->peer.outbox);
        if (!o || !ptrset_has(&o->holders, child) || (m->state == MOVE_HELD && now - m->since > FRESH_NS))
            continue;
        tell_worker(d, child, CTL_MOVING, &m->from, &m->to, &m->peer);
        if (m->state == MOVE_HELD)
            tell_worker(d, child, CTL_MOVED, &m->from, &m->to, &m->peer);
    }
    for (uint32_t i = d->homes_count; i-- > 0 && d->homes_count - i <= HOMES;) {
        const struct home_move *h = &d->homes[i % HOMES];
        const struct outbox *o = outbox_known(d, h->peer.outbox);
        if (now - h->at > FRESH_NS)
            break;
        if (o && ptrset_has(&o->holders, child))
            tell_worker(d, child, CTL_MOVED, &h->from, &h->to, &h->peer);
    }
}

void moves_drop(struct daemon *d, const struct worker *w)
{
    if (!w) {
        free(d->homes);
        d->homes = NULL;
        d->homes_count = 0;
    }
    list_for_each(&d->moves, it, after)
    {
        struct move *m = container_of(it, struct move, link);
        if (!w || ((m->state == MOVE_TAKEN || m->state == MOVE_HELD) && m->taker == w->id))
            move_end(d, m);
    }
    list_for_each(&d->apps, at, then)
    {
        struct app *app = container_of(at, struct app, link);
        if (!w && app->lingers)
            linger_end(d, app);
    }
}
