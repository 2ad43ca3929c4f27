/* options.c - socket options of sockets that have no kernel socket of their own.
 *
 * Each option that is set is recorded twice: as the program gave it, to be replayed on a real socket, and as
 * Linux would report it. What Linux makes of a value (limits, doubling, errors) is asked of Linux: the value
 * is set on a scratch socket and read back. The few options that servers set on each connection are known
 * here instead. What was never set is asked of a socket on which nothing is ever set. Options that decide
 * where packets go (SO_BINDTODEVICE, SO_MARK, IP_TRANSPARENT …) are not in the table below: setting
 * one on an undecided socket makes it the kernel's.
 *
 * Of a session that relatives hold as well, and of a socket of the kernel's that they have, others may set options,
 * too. The former are kept by libberth for all (client_option_put) and go before those kept here; the latter are asked
 * of the kernel when somebody has changed any (options_follow).
 *
 * Records are immutable once shared: an accepted session shares its listener's, a later change makes a copy.
 * Linux has no option of more than 16 bytes among those recorded.
 */
#include <fcntl.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/time.h>

#include "base/clock.h"
#include "base/memory.h"
#include "base/sys.h"
#include "shim/shim.h"

#define RECORDS_MAX 64

struct option_set {
    uint32_t refs;
    uint32_t count;
    struct client_option record[];
};

/* How a value becomes what is reported. ASK: by the scratch socket. */
enum rule { FLAG, NUMBER, ASK };

#define LEVEL_FILE (-1) /* by fcntl: the name is its command */

static const struct {
    int level, name;
    enum rule rule;
} known[] = {
    {IPPROTO_TCP, TCP_NODELAY, FLAG},
    {IPPROTO_TCP, TCP_CORK, FLAG},
    {SOL_SOCKET, SO_KEEPALIVE, FLAG},
    {SOL_SOCKET, SO_REUSEADDR, FLAG},
    {SOL_SOCKET, SO_REUSEPORT, ASK},
    {SOL_SOCKET, SO_OOBINLINE, FLAG},
    {SOL_SOCKET, SO_BROADCAST, FLAG},
    {SOL_SOCKET, SO_LINGER, ASK},
    {SOL_SOCKET, SO_SNDBUF, ASK},
    {SOL_SOCKET, SO_RCVBUF, ASK},
    {SOL_SOCKET, SO_RCVTIMEO, ASK},
    {SOL_SOCKET, SO_SNDTIMEO, ASK},
    {SOL_SOCKET, SO_RCVLOWAT, ASK},
    {SOL_SOCKET, SO_PRIORITY, ASK},
    {SOL_SOCKET, SO_TIMESTAMP, ASK},
    {SOL_SOCKET, SO_INCOMING_CPU, ASK},
    {SOL_SOCKET, SO_BUSY_POLL, ASK},
    {SOL_SOCKET, SO_ZEROCOPY, ASK},
    {SOL_SOCKET, SO_MAX_PACING_RATE, ASK},
    {IPPROTO_TCP, TCP_QUICKACK, FLAG},
    {IPPROTO_TCP, TCP_KEEPIDLE, ASK},
    {IPPROTO_TCP, TCP_KEEPINTVL, ASK},
    {IPPROTO_TCP, TCP_KEEPCNT, ASK},
    {IPPROTO_TCP, TCP_SYNCNT, ASK},
    {IPPROTO_TCP, TCP_LINGER2, ASK},
    {IPPROTO_TCP, TCP_DEFER_ACCEPT, ASK},
    {IPPROTO_TCP, TCP_WINDOW_CLAMP, ASK},
    {IPPROTO_TCP, TCP_USER_TIMEOUT, ASK},
    {IPPROTO_TCP, TCP_CONGESTION, ASK},
    {IPPROTO_TCP, TCP_MAXSEG, ASK},
    {IPPROTO_TCP, TCP_FASTOPEN, ASK},
    {IPPROTO_TCP, TCP_NOTSENT_LOWAT, ASK},
    {IPPROTO_IP, IP_TOS, ASK},
    {IPPROTO_IP, IP_TTL, ASK},
    {IPPROTO_IP, IP_MTU_DISCOVER, ASK},
    {IPPROTO_IP, IP_RECVERR, ASK},
    {IPPROTO_IP, IP_RECVTOS, ASK},
    {IPPROTO_IP, IP_PKTINFO, ASK},
    {IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, ASK},
    {IPPROTO_IPV6, IPV6_V6ONLY, ASK},
    {IPPROTO_IPV6, IPV6_TCLASS, ASK},
    {IPPROTO_IPV6, IPV6_UNICAST_HOPS, ASK},
    {IPPROTO_IPV6, IPV6_MTU_DISCOVER, ASK},
    {IPPROTO_IPV6, IPV6_RECVERR, ASK},
    {IPPROTO_IPV6, IPV6_RECVPKTINFO, ASK},
};

static int known_rule(int level, int name)
{
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (known[i].level == level && known[i].name == name)
            return (int)known[i].rule;
    return -1;
}

/* ---- records ---- */

static size_t set_bytes(uint32_t count)
{
    return sizeof(struct option_set) + count * sizeof(struct client_option);
}

void options_release(struct option_set *set)
{
    if (set && fetch_add_sc(&set->refs, (uint32_t)-1) == 1)
        memory_put(set, set_bytes(set->count));
}

struct option_set *options_share(struct option_set *set)
{
    if (set)
        fetch_add_sc(&set->refs, 1);
    return set;
}

static const struct client_option *find(const struct option_set *set, int level, int name)
{
    for (uint32_t i = 0; set && i < set->count; i++)
        if (set->record[i].level == level && set->record[i].name == name)
            return &set->record[i];
    return NULL;
}

/* Puts `record` into s's own set, which is copied when it is shared. Under shim_lock. */
static bool remember(struct sock *s, const struct client_option *record)
{
    struct option_set *old = s->options;
    const struct client_option *there = find(old, record->level, record->name);
    uint32_t at = there ? (uint32_t)(there - old->record) : old ? old->count : 0;
    if (old && there && load_relaxed(&old->refs) == 1) {
        old->record[at] = *record;
        return true;
    }
    uint32_t count = (old ? old->count : 0) + !there;
    if (count > RECORDS_MAX)
        return false;
    struct option_set *set = memory_get(set_bytes(count));
    if (!set)
        return false;
    set->refs = 1;
    set->count = count;
    if (old)
        memcpy(set->record, old->record, old->count * sizeof *record);
    set->record[at] = *record;
    s->options = set;
    options_release(old);
    return true;
}

static void replay(const struct client_option *o, int fd)
{
    long value;
    memcpy(&value, o->given, sizeof value);
    if (o->level == LEVEL_FILE && o->name == F_SETOWN_EX)
        (void)sys_call(SYS_fcntl, (long)fd, (long)o->name, o->given, 0L);
    else if (o->level == LEVEL_FILE)
        (void)sys_fcntl(fd, o->name, o->name == F_SETFL ? sys_fcntl(fd, F_GETFL, 0L) | value : value);
    else
        (void)sys_call6(SYS_setsockopt, fd, o->level, o->name, sys_arg(o->given), o->given_len, 0);
}

void options_replay(struct sock *s, int fd)
{
    for (uint32_t i = 0; s->options && i < s->options->count; i++)
        replay(&s->options->record[i], fd);
    struct client_option o;
    for (uint32_t i = 0; s->kind == SOCK_SESSION && client_option_at(s->handle, i, &o); i++)
        replay(&o, fd);
}

/* Whoever has set it. */
static bool value_of(const struct sock *s, int level, int name, struct client_option *o)
{
    if (s->kind == SOCK_SESSION && client_option_find(s->handle, level, name, o))
        return true;
    const struct client_option *kept = find(s->options, level, name);
    if (kept)
        *o = *kept;
    return kept != NULL;
}

bool options_value(const struct sock *s, int level, int name, void *value, socklen_t *len)
{
    struct client_option o;
    if (!value_of(s, level, name, &o))
        return false;
    socklen_t n = o.seen_len < *len ? o.seen_len : *len;
    memcpy(value, o.seen, n);
    *len = n;
    return true;
}

/* ---- set ---- */

/* Fills what Linux reports for it. 0 or -errno. */
static int normalise(struct sock *s, struct client_option *r, enum rule rule)
{
    int value = 0;
    memcpy(&value, r->given, sizeof value);
    if (rule != ASK) {
        if (r->given_len < sizeof value)
            return -EINVAL;
        value = rule == FLAG ? !!value : value;
        r->seen_len = sizeof value;
        memcpy(r->seen, &value, sizeof value);
        return 0;
    }
    int fd = scratch_socket(s->family);
    if (fd < 0)
        return fd;
    long ret = sys_call6(SYS_setsockopt, fd, r->level, r->name, sys_arg(r->given), r->given_len, 0);
    if (ret < 0)
        return (int)ret;
    socklen_t len = OPTION_VALUE_MAX;
    ret = sys_call6(SYS_getsockopt, fd, r->level, r->name, sys_arg(r->seen), sys_arg(&len), 0);
    r->seen_len = ret < 0 ? 0 : (uint8_t)len;
    return 0;
}

/* 0: no timeout. A negative one means not to wait at all, though Linux then reports 0, too. */
static int64_t timeval_ns(const struct client_option *r)
{
    struct timeval tv = {0, 0};
    memcpy(&tv, r->given, r->given_len < sizeof tv ? r->given_len : sizeof tv);
    if (tv.tv_sec < 0)
        return 1;
    memcpy(&tv, r->seen, r->seen_len < sizeof tv ? r->seen_len : sizeof tv);
    return tv.tv_sec * NS_PER_SEC + tv.tv_usec * NS_PER_US;
}

static bool lingers_not(const struct client_option *o)
{
    struct linger l;
    memcpy(&l, o->given, sizeof l);
    return l.l_onoff && !l.l_linger;
}

int64_t session_rcv_timeout(const struct sock *s, uint64_t h)
{
    struct client_option o;
    return unlikely(client_option_find(h, SOL_SOCKET, SO_RCVTIMEO, &o)) ? timeval_ns(&o) : s->rcv_timeout;
}

int64_t session_snd_timeout(const struct sock *s, uint64_t h)
{
    struct client_option o;
    return unlikely(client_option_find(h, SOL_SOCKET, SO_SNDTIMEO, &o)) ? timeval_ns(&o) : s->snd_timeout;
}

bool session_aborts(const struct sock *s)
{
    struct client_option o;
    return client_option_find(s->handle, SOL_SOCKET, SO_LINGER, &o) ? lingers_not(&o) : s->abort;
}

/* What the shim itself acts upon. */
static void take_effect(struct sock *s, const struct client_option *r)
{
    int value = 0;
    memcpy(&value, r->seen, sizeof value);
    if (r->level != SOL_SOCKET)
        return;
    if (r->name == SO_RCVTIMEO) {
        s->rcv_timeout = timeval_ns(r);
    } else if (r->name == SO_SNDTIMEO) {
        s->snd_timeout = timeval_ns(r);
    } else if (r->name == SO_RCVLOWAT) {
        s->rcv_lowat = value > 1 ? (uint32_t)value : 0;
        if (s->kind == SOCK_SESSION)
            (void)client_set_lowat(s->handle, s->rcv_lowat); /* closed meanwhile: nobody reads it any more */
    } else if (r->name == SO_LINGER) {
        s->abort = lingers_not(r);
    } else if (s->kind == SOCK_SESSION && r->name == SO_RCVBUF) {
        (void)client_set_fifo_limit(s->handle, (uint64_t)value, 0); /* out of range: it stays as it is */
    } else if (s->kind == SOCK_SESSION && r->name == SO_SNDBUF) {
        (void)client_set_fifo_limit(s->handle, 0, (uint64_t)value); /* likewise */
    }
}

void options_apply_session(struct sock *s, uint64_t handle)
{
    int rx = 0, tx = 0;
    if (s->rcv_lowat)
        (void)client_set_lowat(handle, s->rcv_lowat); /* it was made a moment ago */
    socklen_t len = sizeof rx;
    (void)options_value(s, SOL_SOCKET, SO_RCVBUF, &rx, &len);
    len = sizeof tx;
    (void)options_value(s, SOL_SOCKET, SO_SNDBUF, &tx, &len);
    if (rx || tx)
        (void)client_set_fifo_limit(handle, (uint64_t)rx,
                                    (uint64_t)tx); /* out of range: it has the default */
}

/* Where all find it who hold the session; else here. */
static bool keep(struct sock *s, const struct client_option *o)
{
    return (s->kind == SOCK_SESSION && client_option_put(s->handle, o)) || remember(s, o);
}

/* 0, -errno, or 1: not one of ours to record. */
static int record_option(struct sock *s, int level, int name, const void *value, socklen_t len)
{
    int rule = known_rule(level, name);
    if (rule < 0 || len > OPTION_VALUE_MAX)
        return 1;
    if (pointer_wild(value))
        return -EFAULT;
    struct client_option r = {.level = level, .name = name, .given_len = (uint8_t)len};
    memcpy(r.given, value, len);
    shim_lock();
    int ret = normalise(s, &r, (enum rule)rule);
    if (!ret && !keep(s, &r))
        ret = -ENOBUFS;
    if (!ret)
        take_effect(s, &r);
    shim_unlock();
    return ret;
}

EXPORT int setsockopt(int fd, int level, int name, const void *value, socklen_t len)
{
    struct sock *s;
    enum sock_kind kind = fd_kind(fd, &s);
    if (kind == SOCK_FRESH || kind == SOCK_SESSION) {
        int ret = record_option(s, level, name, value, len);
        if (ret == 0)
            return 0;
        if (ret < 0) {
            errno = -ret;
            return -1;
        }
        if (kind == SOCK_FRESH) {
            (void)sock_to_kernel(fd, s, false);
            return real.setsockopt(fd, level, name, value, len);
        }
        /* of a session: the kernel's verdict on such a socket, without consequence */
        int scratch = scratch_socket(s->family);
        return real.setsockopt(scratch >= 0 ? scratch : fd, level, name, value, len);
    }
    int ret = real.setsockopt(fd, level, name, value, len);
    if (ret == 0 && (kind == SOCK_BOUND || kind == SOCK_LISTENER)) {
        (void)record_option(s, level, name, value, len); /* for what is accepted or connected here */
        client_files_changed();
    }
    return ret;
}

/* ---- what others have set ---- */

static long ask(int fd, int level, int name, uint8_t value[OPTION_VALUE_MAX], socklen_t *len)
{
    *len = OPTION_VALUE_MAX;
    return sys_call6(SYS_getsockopt, fd, level, name, sys_arg(value), sys_arg(len), 0);
}

/* As it must have been given for that to be said of it. */
static void was_given(struct client_option *o)
{
    int value;
    memcpy(o->given, o->seen, sizeof o->given);
    o->given_len = o->seen_len;
    if (o->level == SOL_SOCKET && (o->name == SO_RCVBUF || o->name == SO_SNDBUF)) {
        memcpy(&value, o->seen, sizeof value);
        value /= 2;
        memcpy(o->given, &value, sizeof value);
    }
}

static void follow(struct sock *s, int fd, int defaults, int level, int name)
{
    struct client_option o = {.level = level, .name = name};
    uint8_t unset[OPTION_VALUE_MAX];
    socklen_t len, unset_len;
    if (ask(fd, level, name, o.seen, &len) < 0 || ask(defaults, level, name, unset, &unset_len) < 0)
        return;
    o.seen_len = (uint8_t)len;
    const struct client_option *kept = find(s->options, level, name);
    const uint8_t *before = kept ? kept->seen : unset;
    if (len == (kept ? kept->seen_len : unset_len) && memcmp(before, o.seen, len) == 0)
        return;
    was_given(&o);
    if (remember(s, &o))
        take_effect(s, &o);
}

void options_follow(struct sock *s, int fd)
{
    uint32_t now = client_files_change();
    int defaults = -1;
    if (likely(now == s->options_seen) || (defaults = defaults_socket(s->family)) < 0)
        return;
    s->options_seen = now;
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        follow(s, fd, defaults, known[i].level, known[i].name);
}

/* ---- owners ---- */

/* Whether they may be is the kernel's to say. */
int session_set_owner(struct sock *s, int cmd, void *arg)
{
    bool owner = cmd == F_SETOWN || cmd == F_SETOWN_EX;
    struct client_option o = {
        .level = LEVEL_FILE, .name = owner ? F_SETOWN_EX : cmd, .seen_len = 8, .given_len = 8};
    shim_lock();
    int fd = scratch_socket(s->family);
    long ret = fd < 0 ? fd : cmd == F_SETFL ? 0 : sys_call(SYS_fcntl, (long)fd, (long)cmd, arg, 0L);
    if (ret == 0 && owner)
        ret = sys_call(SYS_fcntl, (long)fd, (long)F_GETOWN_EX, o.seen, 0L);
    else
        memcpy(o.seen, &arg, sizeof arg);
    memcpy(o.given, o.seen, sizeof o.given);
    if (ret == 0 && !keep(s, &o))
        ret = -ENOBUFS;
    shim_unlock();
    if (ret < 0)
        errno = (int)-ret;
    return ret < 0 ? -1 : 0;
}

int session_owner_is(struct sock *s, int cmd, void *arg)
{
    struct f_owner_ex owner = {0};
    struct client_option o = {0};
    long value = 0;
    shim_lock();
    int name = cmd == F_GETSIG ? F_SETSIG : cmd == F_GETFL ? F_SETFL : F_SETOWN_EX;
    (void)value_of(s, LEVEL_FILE, name, &o);
    shim_unlock();
    memcpy(&owner, o.seen, sizeof owner);
    memcpy(&value, o.seen, sizeof value);
    if (cmd == F_GETOWN)
        return owner.type == F_OWNER_PGRP ? -owner.pid : owner.pid;
    if (cmd != F_GETOWN_EX)
        return (int)value;
    if (pointer_wild(arg)) {
        errno = EFAULT;
        return -1;
    }
    memcpy(arg, &owner, sizeof owner);
    return 0;
}

/* ---- get ---- */

static int give(const void *what, socklen_t size, void *value, socklen_t *len)
{
    if (size < *len)
        *len = size;
    memcpy(value, what, *len);
    return 0;
}

static int give_int(int what, void *value, socklen_t *len)
{
    return give(&what, sizeof what, value, len);
}

#define LOOPBACK_MSS 65483 /* of the kernel's lo: 65,536 less headers and timestamps */

/* As tcp_info of a fresh loopback connection, with the state of this one. */
static int give_tcp_info(struct sock *s, uint64_t h, void *value, socklen_t *len)
{
    uint32_t ready = client_readiness(h);
    struct tcp_info info = {
        .tcpi_state = ready & EPOLLHUP     ? 7 /* CLOSE */
                      : ready & EPOLLRDHUP ? 8 /* CLOSE_WAIT */
                                           : 1,
        .tcpi_options = TCPI_OPT_TIMESTAMPS | TCPI_OPT_SACK | TCPI_OPT_WSCALE,
        .tcpi_rto = 201000,
        .tcpi_ato = 40000,
        .tcpi_snd_mss = 32768,
        .tcpi_rcv_mss = 536,
        .tcpi_pmtu = 65535,
        .tcpi_advmss = LOOPBACK_MSS,
        .tcpi_rcv_ssthresh = 65483,
        .tcpi_rtt = 20,
        .tcpi_rttvar = 10,
        .tcpi_snd_ssthresh = 0x7fffffff,
        .tcpi_snd_cwnd = 10,
        .tcpi_reordering = 3,
        .tcpi_rcv_space = 65483,
        .tcpi_snd_wnd = 65536,
    };
    if (client_connecting(h) && !client_connected(h))
        info.tcpi_state = 2; /* SYN_SENT */
    info.tcpi_notsent_bytes = 0;
    info.tcpi_unacked = (uint32_t)((client_unread(h) + info.tcpi_snd_mss - 1) / info.tcpi_snd_mss);
    return give(&info, sizeof info, value, len);
}

/* What a session knows itself. 1: something else. */
static int session_option(struct sock *s, uint64_t h, int level, int name, void *value, socklen_t *len)
{
    if (level == SOL_SOCKET && name == SO_ERROR) {
        int error = client_take_error(h);
        return give_int(error ? error_number(error) : 0, value, len);
    }
    if (level == IPPROTO_TCP && name == TCP_INFO)
        return give_tcp_info(s, h, value, len);
    if (level == IPPROTO_TCP && name == TCP_MAXSEG)
        return give_int(LOOPBACK_MSS, value, len);
    return 1;
}

int fd_answering(int fd, struct sock *s, enum sock_kind kind)
{
    if (kind == SOCK_SESSION && socket_option(fd, SOL_SOCKET, SO_DOMAIN) == s->family)
        return fd; /* it was bound before: what is under the number is its own */
    int other = defaults_socket(s->family);
    return other < 0 ? fd : other;
}

EXPORT int getsockopt(int fd, int level, int name, void *value, socklen_t *len)
{
    struct sock *s;
    uint64_t h;
    enum sock_kind kind = fd_view(fd, &s, &h);
    if (kind != SOCK_FRESH && kind != SOCK_SESSION)
        return real.getsockopt(fd, level, name, value, len);
    if (pointer_wild(value) || pointer_wild(len)) {
        errno = EFAULT;
        return -1;
    }
    if (*len > INT32_MAX) /* EINVAL, but only where there is such a level */
        return real.getsockopt(fd_answering(fd, s, kind), level, name, value, len);
    if (kind == SOCK_SESSION && session_option(s, h, level, name, value, len) == 0)
        return 0;
    shim_lock();
    bool found = options_value(s, level, name, value, len);
    shim_unlock();
    return found ? 0 : real.getsockopt(fd_answering(fd, s, kind), level, name, value, len);
}
