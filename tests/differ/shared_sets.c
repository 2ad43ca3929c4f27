/* shared_sets.c - one epoll set in several processes: what one does to it holds for all (epoll(7): it is one
 * open file). */
#include "differ.h"

static char text[9];

static int child_end(pid_t pid)
{
    int status = -1;
    waitpid(pid, &status, 0);
    return status;
}

/* A child that does it once the parent sleeps; its status is whether it went wrong. */
static pid_t child_op(int ep, int op, int fd, unsigned events, int data)
{
    pid_t pid = fork();
    if (pid == 0) {
        asleep(getppid());
        _exit(epoll_op(ep, op, fd, events, data) != 0);
    }
    return pid;
}

CASE(added_while_waiting, "a connection that a child adds while the parent waits")
{
    struct pair p = pair_here();
    int ep = epoll_create1(0);
    SAY(send(p.c, "x", 1, 0));
    pid_t pid = child_op(ep, EPOLL_CTL_ADD, p.s, EPOLLIN, 1);
    say("%s", epolled(ep, 8, 3000));
    say("child: %d", child_end(pid));
    SAY(recv(p.s, text, 9, 0));
    say("%s", epolled(ep, 8, 0));
}

CASE(added_beside_others, "the same where the set has had connections before")
{
    struct pair p = pair_here(), q = pair_here();
    int ep = epoll_with(q.s, EPOLLIN, 2);
    say("%s", epolled(ep, 8, 0));
    SAY(send(p.c, "x", 1, 0));
    pid_t pid = child_op(ep, EPOLL_CTL_ADD, p.s, EPOLLIN, 1);
    say("%s", epolled(ep, 8, 3000));
    say("child: %d", child_end(pid));
    SAY(send(q.c, "y", 1, 0));
    say("%s", epolled(ep, 8, 1000));
}

CASE(added_under_a_poll, "a poll and a select on the set while a child adds")
{
    struct pair p = pair_here(), q = pair_here();
    int ep = epoll_create1(0);
    SAY(send(p.c, "x", 1, 0));
    pid_t pid = child_op(ep, EPOLL_CTL_ADD, p.s, EPOLLIN, 1);
    say("%s", polled(ep, POLLIN, 3000));
    say("child: %d", child_end(pid));
    SAY(recv(p.s, text, 9, 0));
    say("%s", polled(ep, POLLIN, 0));
    SAY(send(q.c, "x", 1, 0));
    pid = child_op(ep, EPOLL_CTL_ADD, q.s, EPOLLIN, 2);
    say("%s", selected(ep, "r", 3000));
    say("child: %d", child_end(pid));
}

CASE(added_inside_another, "a set around it is waited for")
{
    struct pair p = pair_here();
    int inner = epoll_create1(0), outer = epoll_with(inner, EPOLLIN, 7);
    SAY(send(p.c, "x", 1, 0));
    pid_t pid = child_op(inner, EPOLL_CTL_ADD, p.s, EPOLLIN, 1);
    say("%s", epolled(outer, 8, 3000));
    say("child: %d", child_end(pid));
    say("%s", epolled(inner, 8, 0));
}

static long waits(void *argument)
{
    struct epoll_event ev = {0};
    int n = epoll_wait(*(int *)argument, &ev, 1, 3000);
    return n == 1 ? ev.data.fd : -1;
}

CASE(added_while_a_thread_waits, "a thread waits, and the main thread does something else")
{
    struct pair p = pair_here();
    int ep = epoll_create1(0), go[2];
    SAY(pipe(go));
    SAY(send(p.c, "x", 1, 0));
    pid_t pid = fork();
    if (pid == 0)
        _exit(read(go[0], text, 1) != 1 || epoll_add(ep, p.s, EPOLLIN, 4) != 0);
    struct side side;
    side_start(&side, waits, &ep);
    side_blocked(&side);
    SAY(write(go[1], "x", 1));
    say("child: %d", child_end(pid));
    say("thread: %s", side_end(&side));
}

CASE(changed_by_child, "a child asks for something else, with other data")
{
    struct pair p = pair_here();
    int ep = epoll_with(p.s, EPOLLIN, 1);
    say("%s", epolled(ep, 8, 0));
    pid_t pid = child_op(ep, EPOLL_CTL_MOD, p.s, EPOLLOUT, 2);
    say("%s", epolled(ep, 8, 3000));
    say("child: %d", child_end(pid));
    SAY(epoll_mod(ep, p.s, EPOLLIN, 3));
    SAY(send(p.c, "x", 1, 0));
    say("%s", epolled(ep, 8, 1000));
}

CASE(taken_out_by_child, "a child takes out, the parent puts in again")
{
    struct pair p = pair_here();
    int ep = epoll_with(p.s, EPOLLIN, 1);
    SAY(send(p.c, "x", 1, 0));
    pid_t pid = fork();
    if (pid == 0)
        _exit(epoll_del(ep, p.s) != 0);
    say("child: %d", child_end(pid));
    say("%s", epolled(ep, 8, 20));
    SAY(epoll_mod(ep, p.s, EPOLLIN, 2));
    SAY(epoll_add(ep, p.s, EPOLLIN, 3));
    SAY(epoll_add(ep, p.s, EPOLLIN, 4));
    say("%s", epolled(ep, 8, 1000));
}

CASE(parent_adds, "what the parent adds the child is told")
{
    struct pair p = pair_here();
    int ep = epoll_create1(0);
    SAY(send(p.c, "x", 1, 0));
    pid_t pid = fork();
    if (pid == 0)
        _exit(strcmp(epolled(ep, 8, 3000), "1:IN") != 0 || recv(p.s, text, 9, 0) != 1);
    asleep(pid);
    SAY(epoll_add(ep, p.s, EPOLLIN, 1));
    say("child: %d", child_end(pid));
    say("%s", epolled(ep, 8, 0));
}

CASE(sibling_adds, "one child adds, the other is told")
{
    struct pair p = pair_here();
    int ep = epoll_create1(0);
    SAY(send(p.c, "x", 1, 0));
    pid_t waiter = fork();
    if (waiter == 0)
        _exit(strcmp(epolled(ep, 8, 3000), "1:IN") != 0);
    asleep(waiter);
    pid_t pid = fork();
    if (pid == 0)
        _exit(epoll_add(ep, p.s, EPOLLIN, 1) != 0);
    say("adds: %d", child_end(pid));
    say("waits: %d", child_end(waiter));
    say("parent: %s", epolled(ep, 8, 0));
}

CASE(grandchild_adds, "a child's child adds")
{
    struct pair p = pair_here();
    int ep = epoll_create1(0);
    SAY(send(p.c, "x", 1, 0));
    pid_t pid = fork();
    if (pid == 0) {
        int self = getppid();
        pid = fork();
        if (pid == 0) {
            asleep(self);
            _exit(epoll_add(ep, p.s, EPOLLIN, 1) != 0);
        }
        _exit(child_end(pid) != 0);
    }
    say("%s", epolled(ep, 8, 3000));
    say("child: %d", child_end(pid));
}

CASE(listener_added, "a child adds the parent's listener")
{
    int l = listener(4), ep = epoll_create1(0);
    pid_t pid = child_op(ep, EPOLL_CTL_ADD, l, EPOLLIN, 1);
    say("%s", epolled(ep, 8, 100));
    say("child: %d", child_end(pid));
    int c = begin_dial();
    say("%s", epolled(ep, 8, 1000));
    SAY(accept(l, NULL, NULL) >= 0);
    say("%s", epolled(ep, 8, 20));
    SAY(epoll_del(ep, l));
    SAY(close(c));
}

CASE(other_number, "the child's number is another in the parent, and names another file there")
{
    struct pair p = pair_here(), q = pair_here();
    int ep = epoll_create1(0), high = dup(p.s);
    SAY(send(p.c, "x", 1, 0));
    pid_t pid = fork();
    if (pid == 0)
        _exit(epoll_add(ep, p.s, EPOLLIN, 1) != 0);
    SAY(dup2(q.s, p.s) == p.s);
    say("child: %d", child_end(pid));
    say("%s", epolled(ep, 8, 1000));
    SAY(recv(high, text, 9, 0));
    say("%s", epolled(ep, 8, 20));
}

CASE(many_changes, "the set is as the last of many changes left it")
{
    struct pair p = pair_here();
    int ep = epoll_create1(0), wrong = 0;
    SAY(send(p.c, "x", 1, 0));
    pid_t pid = fork();
    if (pid == 0) {
        for (int i = 0; i < 1000; i++)
            wrong |= epoll_add(ep, p.s, EPOLLIN, i) | epoll_del(ep, p.s);
        wrong |= epoll_add(ep, p.s, EPOLLIN, 5);
        _exit(wrong);
    }
    say("child: %d", child_end(pid));
    say("%s", epolled(ep, 8, 1000));
}

CASE(in_turns, "parent and child change it by turns")
{
    struct pair p = pair_here();
    int ep = epoll_create1(0), to[2], back[2], wrong = 0;
    SAY(pipe(to));
    SAY(pipe(back));
    SAY(send(p.c, "x", 1, 0));
    pid_t pid = fork();
    if (pid == 0) {
        for (int i = 0; i < 300 && read(to[0], text, 1) == 1; i++) {
            wrong |= strcmp(epolled(ep, 8, 0), "1:IN") != 0;
            wrong |= epoll_mod(ep, p.s, EPOLLIN, 2);
            wrong |= write(back[1], "x", 1) != 1;
        }
        _exit(wrong);
    }
    wrong |= epoll_add(ep, p.s, EPOLLIN, 1);
    for (int i = 0; i < 300; i++) {
        wrong |= write(to[1], "x", 1) != 1 || read(back[0], text, 1) != 1;
        wrong |= strcmp(epolled(ep, 8, 0), "2:IN") != 0;
        wrong |= epoll_mod(ep, p.s, EPOLLIN, 1);
    }
    say("wrong: %d, child: %d", wrong, child_end(pid));
}

#define HAMMERS 3
#define TARGETS 4

static void hammer(int ep, const struct pair *p, unsigned seed)
{
    for (int i = 0; i < 400; i++) {
        int fd = p[rand_r(&seed) % TARGETS].s;
        switch (rand_r(&seed) % 4) {
        case 0:
            (void)epoll_add(ep, fd, EPOLLIN, 1);
            break;
        case 1:
            (void)epoll_mod(ep, fd, EPOLLIN | EPOLLOUT, 2);
            break;
        case 2:
            (void)epoll_del(ep, fd);
            break;
        default:
            (void)epolled(ep, 8, 0);
        }
    }
}

CASE(all_at_once, "several processes change it at once; then one says how it is to be")
{
    struct pair p[TARGETS];
    int ep = epoll_create1(0), done[2], go[2];
    pid_t pid[HAMMERS];
    SAY(pipe(done));
    SAY(pipe(go));
    for (int i = 0; i < TARGETS; i++)
        p[i] = pair_here();
    for (int i = 0; i < HAMMERS; i++) {
        if ((pid[i] = fork()) == 0) {
            hammer(ep, p, (unsigned)i + 1);
            if (write(done[1], "x", 1) != 1 || read(go[0], text, 1) != 1)
                _exit(1);
            _exit(strcmp(epolled(ep, 8, 3000), "3:OUT 4:OUT") != 0);
        }
    }
    hammer(ep, p, 99);
    for (int i = 0; i < HAMMERS; i++)
        SAY(read(done[0], text, 1));
    for (int i = 0; i < TARGETS; i++)
        (void)epoll_del(ep, p[i].s);
    SAY(epoll_add(ep, p[1].s, EPOLLOUT, 3));
    SAY(epoll_add(ep, p[2].s, EPOLLOUT, 4));
    SAY(write(go[1], "xxx", HAMMERS));
    for (int i = 0; i < HAMMERS; i++)
        say("child: %d", child_end(pid[i]));
    say("%s", epolled(ep, 8, 0));
}

CASE(polled_by_child, "poll and select of a child on the set, of bytes that come later")
{
    struct pair p = pair_here();
    int ep = epoll_with(p.s, EPOLLIN, 1), go[2];
    SAY(pipe(go));
    say("%s", epolled(ep, 8, 0));
    pid_t pid = fork();
    if (pid == 0) {
        if (read(go[0], text, 1) != 1 || strcmp(polled(ep, POLLIN, 0), "IN") != 0)
            _exit(1);
        _exit(strcmp(selected(ep, "r", 0), "r") != 0 || strcmp(polled(ep, POLLIN, 300), "IN") != 0);
    }
    SAY(send(p.c, "x", 1, 0));
    SAY(write(go[1], "x", 1));
    say("child: %d", child_end(pid));
}

CASE(copies_of_the_target, "each of a connection's numbers is a registration of its own")
{
    struct pair p = pair_here();
    int ep = epoll_with(p.s, EPOLLIN, 1), other = dup(p.s);
    SAY(send(p.c, "x", 1, 0));
    pid_t pid = fork();
    if (pid == 0) {
        int third = dup(p.s);
        _exit(epoll_add(ep, other, EPOLLIN, 2) | epoll_add(ep, third, EPOLLIN, 3) | epoll_del(ep, third));
    }
    say("child: %d", child_end(pid));
    say("%s", epolled(ep, 8, 1000));
    SAY(epoll_mod(ep, p.s, EPOLLIN, 4));
    SAY(epoll_del(ep, other));
    say("%s", epolled(ep, 8, 1000));
}

CASE(outer_set_made_later, "a set that is made after the fork around one from before it")
{
    struct pair p = pair_here();
    int inner = epoll_create1(0), go[2];
    SAY(send(p.c, "x", 1, 0));
    SAY(pipe(go));
    pid_t pid = fork();
    if (pid == 0)
        _exit(read(go[0], text, 1) != 1 || epoll_add(inner, p.s, EPOLLIN, 1) != 0);
    int outer = epoll_with(inner, EPOLLIN, 7);
    say("%s", epolled(outer, 8, 0));
    SAY(write(go[1], "x", 1));
    say("child: %d", child_end(pid));
    say("%s", polled(outer, POLLIN, 0));
    say("%s", epolled(outer, 8, 0));
    pid = fork();
    if (pid == 0)
        _exit(epoll_del(inner, p.s));
    say("child: %d", child_end(pid));
    say("%s", epolled(outer, 8, 0));
}

CASE(outer_set_waits, "the same, waited for")
{
    struct pair p = pair_here();
    int inner = epoll_create1(0);
    SAY(send(p.c, "x", 1, 0));
    pid_t pid = child_op(inner, EPOLL_CTL_ADD, p.s, EPOLLIN, 1);
    int outer = epoll_with(inner, EPOLLIN, 7);
    say("%s", epolled(outer, 8, 3000));
    say("child: %d", child_end(pid));
}

CASE(inner_set_added, "a child puts one set into the other, and takes it out")
{
    struct pair p = pair_here();
    int inner = epoll_with(p.s, EPOLLIN, 1), outer = epoll_create1(0);
    SAY(send(p.c, "x", 1, 0));
    pid_t pid = fork();
    if (pid == 0)
        _exit(epoll_add(outer, inner, EPOLLIN, 7));
    say("child: %d", child_end(pid));
    say("%s", epolled(outer, 8, 1000));
    SAY(epoll_mod(outer, inner, EPOLLIN, 8));
    pid = fork();
    if (pid == 0)
        _exit(epoll_del(outer, inner));
    say("child: %d", child_end(pid));
    say("%s", epolled(outer, 8, 20));
    SAY(epoll_del(outer, inner));
}

CASE(fresh_socket_added,
     "a child adds a socket that is not connected; the parent changes it and takes it out")
{
    int c = fresh_socket(), ep = epoll_create1(0);
    pid_t pid = fork();
    if (pid == 0)
        _exit(epoll_add(ep, c, EPOLLIN, 1));
    say("child: %d", child_end(pid));
    say("%s", epolled(ep, 8, 0));
    SAY(epoll_mod(ep, c, EPOLLOUT, 2));
    say("%s", epolled(ep, 8, 0));
    SAY(epoll_del(ep, c));
    SAY(epoll_del(ep, c));
}

#define CROWD 300

CASE(many_registrations, "a child adds hundreds while the parent waits")
{
    int ep = epoll_create1(0), l = listener(16), seen = 0, s[CROWD];
    for (int i = 0; i < CROWD; i++) {
        int c = dial();
        s[i] = accept(l, NULL, NULL);
        if (c < 0 || send(c, "x", 1, 0) != 1)
            say("no connection");
    }
    pid_t pid = fork();
    if (pid == 0) {
        int wrong = 0;
        asleep(getppid());
        for (int i = 0; i < CROWD; i++)
            wrong |= epoll_add(ep, s[i], EPOLLIN, i);
        _exit(wrong);
    }
    struct epoll_event ev[CROWD];
    for (int i = 0; i < 1000 && seen < CROWD; i++) {
        seen = epoll_wait(ep, ev, CROWD, 1000);
        if (seen < CROWD) /* the child may wait for a CPU */
            nap(1);
    }
    say("%d, child: %d", seen, child_end(pid));
}
