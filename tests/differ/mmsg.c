/* mmsg.c - sendmmsg and recvmmsg on connections. */
#include "differ.h"

static char room[4][10];
static struct iovec parts[4];
static struct mmsghdr messages[4];

static void prepare(const char *const *texts)
{
    for (int i = 0; i < 4; i++) {
        if (texts)
            snprintf(room[i], sizeof room[i], "%s", texts[i]);
        parts[i] = (struct iovec){room[i], texts ? strlen(texts[i]) : sizeof room[i]};
        messages[i] = (struct mmsghdr){.msg_hdr = {.msg_iov = &parts[i], .msg_iovlen = 1}};
    }
}

static void lengths(void)
{
    say("%u %u %u %u", messages[0].msg_len, messages[1].msg_len, messages[2].msg_len, messages[3].msg_len);
}

CASE(send_then_receive, "four go, one read takes what is there")
{
    struct pair p = pair_here();
    static const char *const texts[] = {"a", "bc", "", "def"};
    prepare(texts);
    SAY(sendmmsg(p.c, messages, 4, 0));
    lengths();
    say("six: %d", SOON(unread(p.s) == 6));
    prepare(NULL);
    SAY(recvmmsg(p.s, messages, 4, MSG_DONTWAIT, NULL));
    lengths();
    say("%.6s", room[0]);
    SAY(recvmmsg(p.s, messages, 4, MSG_DONTWAIT, NULL));
}

CASE(wait_for_one, "MSG_WAITFORONE")
{
    struct pair p = pair_here();
    prepare(NULL);
    SAY(send(p.c, "abcdefghijklm", 13, 0));
    say("all: %d", SOON(unread(p.s) == 13));
    SAY(recvmmsg(p.s, messages, 4, MSG_WAITFORONE, NULL));
    lengths();
}

CASE(counts, "none, at the end, after a reset, a bad time")
{
    struct pair p = pair_here(), q = pair_here();
    struct timespec wrong = {0, -1};
    prepare(NULL);
    SAY(sendmmsg(p.c, messages, 0, 0));
    SAY(recvmmsg(p.s, messages, 0, 0, NULL));
    SAY(recvmmsg(p.s, messages, 4, 0, &wrong));
    SAY(close(p.c));
    SAY(recvmmsg(p.s, messages, 2, 0, NULL));
    lengths();
    reset(q.c);
    polled_soon(q.s, POLLERR);
    SAY(recvmmsg(q.s, messages, 2, 0, NULL));
    SAY(sendmmsg(q.s, messages, 2, MSG_NOSIGNAL));
    SAY(sendmmsg(999, messages, 2, 0));
    SAY(recvmmsg(999, messages, 2, 0, NULL));
}

CASE(full, "sendmmsg to a full peer")
{
    struct pair p = pair_here();
    prepare(NULL);
    fill(p.c);
    SAY(sendmmsg(p.c, messages, 4, MSG_DONTWAIT));
}
