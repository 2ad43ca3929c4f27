/* options.c - socket options of sockets that have no kernel socket of their own.
 *
 * Each option that is set is recorded twice: as the program gave it, to be replayed on a real socket, and as Linux
 * would report it. What Linux makes of a value (limits, doubling, errors) is asked of Linux: the value is set on a
 * scratch socket and read back. The few options that servers set on each connection are known here instead.
 * What was never set is answered by the placeholder, which has the defaults. Options that decide where packets go
 * (SO_BINDTODEVICE, SO_MARK, IP_TRANSPARENT …) are not in the table below: setting one on an undecided socket
 * makes it the kernel's.
 *
 * Records are immutable once shared: an accepted session shares its listener's, a later change makes a copy.
 * Linux has no option of more than 16 bytes among those recorded.
 */
#include <linux/tcp.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/time.h>

#include "base/clock.h"
#include "base/memory.h"
#include "base/sys.h"
#include "shim/shim.h"

#define VALUE_MAX 16
#define RECORDS_MAX 64

struct record {
    int level, name;
    uint8_t given_len, seen_len;
    uint8_t given[VALUE_MAX];
    uint8_t seen[VALUE_MAX];
};

struct option_set {
    uint32_t refs;
    uint32_t count;
    struct record record[];
};

/* How a value becomes what is reported. ASK: by the scratch socket. */
enum rule { FLAG, NUMBER, ASK };

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
    return sizeof(struct option_set) + count * sizeof(struct record);
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

static const struct record *find(const struct option_set *set, int level, int name)
{
    for (uint32_t i = 0; set && i < set->count; i++)
        if (set->record[i].level == level && set->record[i].name == name)
            return &set->record[i];
    return NULL;
}

/* Puts `record` into s's own set, which is copied when it is shared. Under shim_lock. */
static bool remember(struct sock *s, const struct record *record)
{
    struct option_set *old = s->options;
    const struct record *there = find(old, record->level, record->name);
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

void options_replay(const struct option_set *set, int fd)
{
    for (uint32_t i = 0; set && i < set->count; i++) {
        const struct record *r = &set->record[i];
        (void)sys_call6(SYS_setsockopt, fd, r->level, r->name, sys_arg(r->given), r->given_len, 0);
    }
}

bool options_value(const struct option_set *set, int level, int name, void *value, socklen_t *len)
{
    const struct record *r = find(set, level, name);
    if (!r)
        return false;
    socklen_t n = r->seen_len < *len ? r->seen_len : *len;
    memcpy(value, r->seen, n);
    *len = n;
    return true;
}

/* ---- set ---- */

/* Fills what Linux reports for it. 0 or -errno. */
static int normalise(struct sock *s, struct record *r, enum rule rule)
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
    socklen_t len = VALUE_MAX;
    ret = sys_call6(SYS_getsockopt, fd, r->level, r->name, sys_arg(r->seen), sys_arg(&len), 0);
    r->seen_len = ret < 0 ? 0 : (uint8_t)len;
    return 0;
}

/* 0: no timeout. A negative one means not to wait at all, though Linux then reports 0, too. */
static int64_t timeval_ns(const struct record *r)
{
    struct timeval tv = {0, 0};
    memcpy(&tv, r->given, r->given_len < sizeof tv ? r->given_len : sizeof tv);
    if (tv.tv_sec < 0)
        return 1;
    memcpy(&tv, r->seen, r->seen_len < sizeof tv ? r->seen_len : sizeof tv);
    return tv.tv_sec * NS_PER_SEC + tv.tv_usec * NS_PER_US;
}

/* What the shim itself acts upon. */
static void take_effect(struct sock *s, const struct record *r)
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
        struct linger l;
        memcpy(&l, r->given, sizeof l);
        s->abort = l.l_onoff && !l.l_linger;
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
    (void)options_value(s->options, SOL_SOCKET, SO_RCVBUF, &rx, &len);
    len = sizeof tx;
    (void)options_value(s->options, SOL_SOCKET, SO_SNDBUF, &tx, &len);
    if (rx || tx)
        (void)client_set_fifo_limit(handle, (uint64_t)rx, (uint64_t)tx); /* out of range: it has the default */
}

/* 0, -errno, or 1: not one of ours to record. */
static int record_option(struct sock *s, int level, int name, const void *value, socklen_t len)
{
    int rule = known_rule(level, name);
    if (rule < 0 || len > VALUE_MAX)
        return 1;
    if (pointer_wild(value))
        return -EFAULT;
    struct record r = {.level = level, .name = name, .given_len = (uint8_t)len};
    memcpy(r.given, value, len);
    shim_lock();
    int ret = normalise(s, &r, (enum rule)rule);
    if (!ret && !remember(s, &r))
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
    if (ret == 0 && (kind == SOCK_BOUND || kind == SOCK_LISTENER))
        (void)record_option(s, level, name, value, len); /* for what is accepted or connected here */
    return ret;
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
    if (s->connecting && !client_connected(h))
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
        return real.getsockopt(fd, level, name, value, len);
    if (kind == SOCK_SESSION && session_option(s, h, level, name, value, len) == 0)
        return 0;
    shim_lock();
    bool found = options_value(s->options, level, name, value, len);
    shim_unlock();
    return found ? 0 : real.getsockopt(fd, level, name, value, len);
}
