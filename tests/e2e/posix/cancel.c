/* cancel.c - pthread_cancel: of a thread that is blocked, and of one whose call would not block. The socket
 * serves on. */
#include "calls.h"

static struct scene sc;
static enum call call;
static int tid, cleaned, returned;

static void clean(void *arg)
{
    (void)arg;
    cleaned++;
}

static void *blocked(void *arg)
{
    int type = -1;
    (void)arg;
    pthread_cleanup_push(clean, NULL);
    say_tid(&tid);
    for (int i = 0; i < 2; i++) {
        (void)call_now(call, &sc);
        returned++;
    }
    (void)pthread_setcanceltype(PTHREAD_CANCEL_DEFERRED, &type);
    pthread_cleanup_pop(0);
    return type == PTHREAD_CANCEL_DEFERRED ? NULL : (void *)1;
}

static void cancel_blocked(void)
{
    pthread_t t;
    void *end = NULL;
    struct timespec limit;
    sc = scene_for(call);
    tid = cleaned = returned = 0;
    if (pthread_create(&t, NULL, blocked, NULL))
        abort();
    wait_asleep(&tid);
    (void)pthread_cancel(t);
    (void)clock_gettime(CLOCK_REALTIME, &limit);
    limit.tv_sec += call == SENDFILE ? 0 : 5;
    limit.tv_nsec = call == SENDFILE ? limit.tv_nsec / 2 : limit.tv_nsec;
    bool joined = pthread_timedjoin_np(t, &end, &limit) == 0;
    printf("%s: %s, cleaned %d, returned %d", call_names[call],
           joined && end == PTHREAD_CANCELED ? "cancelled" : "goes on", cleaned, returned);
    if (!joined) { /* on the kernel sendfile is no such point */
        end_wait(call, &sc);
        (void)pthread_join(t, &end);
        printf(", and %s when it returns", end == PTHREAD_CANCELED ? "is cancelled" : "ends");
    }
    /* it serves on */
    if (call == ACCEPT || call == ACCEPT_TIMED) {
        end_wait(call, &sc);
        printf("; then %ld\n", call_now(call, &sc));
    } else {
        if (call_sends(call))
            drain(sc.s[0]);
        ssize_t sent = send(sc.s[1], "answer", 6, 0), got = recv(sc.s[0], buf, 6, MSG_WAITALL);
        printf("; then %zd %zd", sent, got);
        sent = send(sc.s[0], "question", 8, 0);
        struct pollfd p = {.fd = sc.s[1], .events = POLLIN};
        int ready = poll(&p, 1, 5000);
        printf(" %zd %d %zd\n", sent, ready, recv(sc.s[1], buf, 8, MSG_WAITALL));
    }
    scene_close(&sc);
}

/* With the request pending, a call that need not wait ends the thread before it does anything. */
static void *at_once(void *arg)
{
    (void)arg;
    (void)pthread_cancel(pthread_self());
    (void)call_now(call, &sc);
    return NULL;
}

static void cancel_at_once(void)
{
    pthread_t t;
    void *end = NULL;
    sc = scene_for(call);
    end_wait(call, &sc);
    if (pthread_create(&t, NULL, at_once, NULL))
        abort();
    (void)pthread_join(t, &end);
    printf("%s without a wait: %s", call_names[call], end == PTHREAD_CANCELED ? "cancelled" : "done");
    if (call_sends(call))
        printf(", %zd there\n", recv(sc.s[0], buf, 100, MSG_DONTWAIT));
    else if (call == ACCEPT || call == ACCEPT_TIMED)
        printf(", %ld there\n", call_now(call, &sc));
    else
        printf(", %zd there\n", recv(sc.s[1], buf, 100, MSG_DONTWAIT));
    scene_close(&sc);
}

int main(void)
{
    for (call = 0; call < CALLS; call++)
        cancel_blocked();
    for (call = 0; call < CALLS; call++)
        cancel_at_once();
    return 0;
}
