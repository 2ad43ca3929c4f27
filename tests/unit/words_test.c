/* words_test.c - shm/slot.h and shm/queue.h as two threads use them: nothing is lost, torn or seen too early.
 *
 * Each side sleeps in the way the protocol has it: set the mark, look again, sleep; the other stores the
 * counter, fences, and looks at the mark. A lost wake-up is a sleep that only the time limit ends. Under TSan
 * every plain access to what the words guard is checked as well. */
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "check.h"
#include "shm/queue.h"
#include "shm/slot.h"

#define RING 256u
#define BYTES 200000u
#define EVENTS 200000u

static struct slot writer_slot, reader_slot;
static uint8_t ring[2][RING];
static sem_t data_wake, space_wake;

static bool sleep_on(sem_t *s)
{
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    ts.tv_sec += 20;
    return sem_timedwait(s, &ts) == 0;
}

static uint8_t byte_at(uint64_t offset)
{
    return (uint8_t)(offset * 0x9e3779b97f4a7c15ull >> 40);
}

/* Writes into the ring in hand, and moves to the other one, with the unread bytes, at random. */
static void *writes(void *lost)
{
    uint64_t tail = 0, r = 7, left_tail = 0;
    unsigned hand = 0;
    slot_set_ring(&writer_slot, 1);
    while (tail < BYTES) {
        uint64_t head = count_offset(slot_head(&reader_slot)), n = next_random(&r) % RING + 1;
        if (n > RING - (tail - head))
            n = RING - (tail - head);
        if (n > BYTES - tail)
            n = BYTES - tail;
        if (n == 0) { /* full: wait until half of it is free */
            slot_arm_up(&writer_slot.want_space, tail - RING / 2, 0);
            if (count_offset(load_sc(&reader_slot.head)) <= tail - RING / 2 && !sleep_on(&space_wake)) {
                *(bool *)lost = true;
                return NULL;
            }
            continue;
        }
        if (next_random(&r) % 8 == 0 && head >= left_tail) { /* the one left behind is free again */
            for (uint64_t i = head; i < tail; i++)
                ring[!hand][i % RING] = ring[hand][i % RING];
            hand = !hand;
            left_tail = tail;
            slot_set_ring(&writer_slot, hand + 1);
        }
        for (uint64_t i = 0; i < n; i++)
            ring[hand][(tail + i) % RING] = byte_at(tail + i);
        uint64_t old = tail;
        tail += n;
        slot_set_tail(&writer_slot, count_word(tail, tail == BYTES ? COUNT_FLAG : 0));
        fence_sc();
        if (slot_crossed(slot_want(&reader_slot), old, tail + (tail == BYTES)))
            sem_post(&data_wake);
    }
    return NULL;
}

static void *reads(void *lost)
{
    uint64_t head = 0, r = 99;
    for (;;) {
        uint64_t word = slot_tail(&writer_slot), tail = count_offset(word);
        if (tail == head) {
            if (word & COUNT_FLAG)
                return NULL;
            slot_arm(&reader_slot.want, head, 0);
            if (load_sc(&writer_slot.tail) == word && !sleep_on(&data_wake)) {
                *(bool *)lost = true;
                return NULL;
            }
            continue;
        }
        unsigned hand = (unsigned)slot_ring(&writer_slot) - 1; /* after the tail */
        uint64_t n = next_random(&r) % (tail - head) + 1, old = head;
        for (uint64_t i = 0; i < n; i++)
            if (ring[hand][(head + i) % RING] != byte_at(head + i))
                fail_msg("byte %llu differs", (unsigned long long)(head + i));
        head += n;
        slot_set_head(&reader_slot, count_word(head, 0));
        fence_sc();
        if (slot_crossed(slot_want_space(&writer_slot), old, head))
            sem_post(&space_wake);
    }
}

static void two_threads(void *(*one)(void *), void *(*other)(void *))
{
    pthread_t t[2];
    bool lost[2] = {false, false};
    assert_int_equal(pthread_create(&t[0], NULL, one, &lost[0]), 0);
    assert_int_equal(pthread_create(&t[1], NULL, other, &lost[1]), 0);
    for (int i = 0; i < 2; i++)
        pthread_join(t[i], NULL);
    assert_false(lost[0]);
    assert_false(lost[1]);
}

static void test_fifo(void **state)
{
    memset(&writer_slot, 0, sizeof writer_slot);
    memset(&reader_slot, 0, sizeof reader_slot);
    slot_disarm_space(&writer_slot);
    sem_init(&data_wake, 0, 0);
    sem_init(&space_wake, 0, 0);
    two_threads(writes, reads);
}

/* ---- the queue ---- */

static uint64_t entries[QUEUE_ENTRIES];
static uint32_t qhead, resync;
static uint32_t payload[EVENTS]; /* what an event announces */

static void *posts(void *unused)
{
    uint32_t pos = 0;
    for (uint32_t i = 0; i < EVENTS; i++) {
        payload[i] = i * 3 + 1;
        if (queue_full(pos, load_sc(&qhead)))
            store_sc(&resync, i + 1); /* everything up to here, wherever it is */
        else
            queue_put(entries, pos++, i);
    }
    store_sc(&resync, EVENTS);
    return NULL;
}

static void *pops(void *lost)
{
    uint32_t pos = 0, slot, last = 0, synced = 0;
    while (synced < EVENTS) {
        while (queue_peek(entries, pos, &slot)) {
            store_sc(&qhead, ++pos);
            if (slot < last || slot >= EVENTS)
                fail_msg("event %u after %u", slot, last);
            last = slot;
            if (payload[slot] != slot * 3 + 1)
                fail_msg("event %u came before what it announces", slot);
        }
        uint32_t now = load_sc(&resync);
        if (now < synced)
            fail_msg("resync went back");
        for (; synced < now; synced++)
            if (payload[synced] != synced * 3 + 1)
                fail_msg("resync %u came before what it announces", synced);
    }
    (void)lost;
    return NULL;
}

static void test_queue(void **state)
{
    memset(entries, 0, sizeof entries);
    qhead = resync = 0;
    two_threads(posts, pops);
}

static void test_a_head_from_nowhere_counts_as_full(void **state)
{
    assert_false(queue_full(100, 100));
    assert_false(queue_full(100, 100 - (QUEUE_ENTRIES - 1)));
    assert_true(queue_full(100, 100 - QUEUE_ENTRIES));
    assert_true(queue_full(100, 101));
    assert_true(queue_full(100, 0x80000000u));
    uint32_t slot = 77;
    uint64_t e[QUEUE_ENTRIES] = {0};
    assert_false(queue_peek(e, 5, &slot)); /* an old lap's entry, or nobody's */
    e[5] = (uint64_t)(5 + 1 + QUEUE_ENTRIES) << 32 | 3;
    assert_false(queue_peek(e, 5, &slot));
    assert_true(queue_peek(e, 5 + QUEUE_ENTRIES, &slot));
    assert_int_equal(slot, 3);
    queue_put(e, UINT32_MAX, 9); /* positions wrap */
    assert_true(queue_peek(e, UINT32_MAX, &slot));
    assert_int_equal(slot, 9);
}

static void test_marks_go_up(void **state)
{
    uint64_t want = count_word(WANT_NOTHING, 0);
    assert_false(slot_arm_up(&want, 10, 0)); /* nothing was asked for: nobody else waits */
    assert_int_equal(count_offset(want), 10);
    assert_true(slot_arm_up(&want, 20, COUNT_FLAG));
    assert_int_equal(want, count_word(20, COUNT_FLAG));
    assert_false(slot_arm_up(&want, 15, 0)); /* a mark that comes too late */
    assert_int_equal(want, count_word(20, 0));
    assert_true(slot_crossed(want, 20, 21));
    assert_true(slot_crossed(want, 5, 100));
    assert_false(slot_crossed(want, 21, 30));
    assert_false(slot_crossed(want, 10, 20));
    assert_false(slot_crossed(count_word(WANT_NOTHING, 0), 0, 1ull << 61));
}

static void test_a_lonely_mark_comes_down(void **state)
{
    struct slot peer = {.tail = count_word(12, 0)};
    uint64_t want = count_word(4000, COUNT_FLAG); /* who waited for many bytes has given up */
    assert_int_equal(slot_arm_among(&want, 10, 0, &peer), -1);
    assert_int_equal(want, count_word(10, 0));
    assert_int_equal(slot_arm_among(&want, 12, 0, &peer), 1);
    /* that of one who has seen as much as there is */
    assert_int_equal(slot_arm_among(&want, 10, 0, &peer), 0);
    assert_int_equal(count_offset(want), 12);
    assert_int_equal(slot_arm_among(&want, 12, 0, &peer), 0);
    peer.tail = count_word(12, COUNT_FLAG);
    want = count_word(13, 0); /* beyond the end */
    assert_int_equal(slot_arm_among(&want, 12, 0, &peer), 0);
    assert_int_equal(count_offset(want), 13);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fifo),
        cmocka_unit_test(test_queue),
        cmocka_unit_test(test_a_head_from_nowhere_counts_as_full),
        cmocka_unit_test(test_marks_go_up),
        cmocka_unit_test(test_a_lonely_mark_comes_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
