/* directory_test.c - lookups as Linux would decide them, the table against a plain list, readers against a
 * writer that never rests (run under TSan too), against one that died, and against garbage. */
#include "check.h"

#include <arpa/inet.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/atomic.h"
#include "session/directory.h"

static struct directory *make(void)
{
    struct directory *dir = aligned_alloc(PAGE_BYTES, DIRECTORY_BYTES);
    assert_non_null(dir);
    memset(dir, 0, DIRECTORY_BYTES);
    directory_init(dir);
    return dir;
}

static endpoint at(const char *addr, uint16_t port)
{
    endpoint ep = {.port = port, .proto = BERTH_PROTO_TCP, .family = 6};
    uint32_t four;
    if (inet_pton(AF_INET, addr, &four) == 1)
        endpoint_from_v4(&ep, ntohl(four), port);
    else
        assert_int_equal(inet_pton(AF_INET6, addr, ep.addr), 1);
    return ep;
}

static struct dir_entry entry(const char *addr, uint16_t port, uint32_t listener, uint8_t flags)
{
    endpoint ep = at(addr, port);
    struct dir_entry e = {.port = port,
                          .proto = PROTO_TCP,
                          .flags = flags,
                          .listener = listener,
                          .app = listener + 1,
                          .uid = 1000,
                          .backlog = 128,
                          .epoch = 1};
    memcpy(e.addr, ep.addr, 16);
    return e;
}

/* the listener that a connect there would meet; 0: the kernel's business */
static uint32_t hit(const struct directory *dir, const char *addr, uint16_t port)
{
    endpoint dst = at(addr, port);
    struct dir_entry e;
    return directory_lookup(dir, &dst, 0, &e) ? e.listener : 0;
}

static void add(struct directory *dir, struct dir_entry e)
{
    assert_int_equal(directory_add(dir, &e), 0);
}

static void set_local(struct directory *dir)
{
    uint8_t addrs[3][16];
    memcpy(addrs[0], at("10.0.0.5", 1).addr, 16);
    memcpy(addrs[1], at("2001:db8::5", 1).addr, 16);
    memcpy(addrs[2], at("192.168.1.1", 1).addr, 16);
    assert_int_equal(directory_set_local(dir, (const uint8_t(*)[16])addrs, 3), 0);
}

static void exact_before_wildcard(void **state)
{
    struct directory *dir = make();
    set_local(dir);
    add(dir, entry("0.0.0.0", 80, 1, 0));
    add(dir, entry("127.0.0.1", 80, 2, 0));
    add(dir, entry("10.0.0.5", 80, 3, 0));
    assert_int_equal(hit(dir, "127.0.0.1", 80), 2);
    assert_int_equal(hit(dir, "10.0.0.5", 80), 3);
    assert_int_equal(hit(dir, "127.0.0.2", 80), 1);
    assert_int_equal(hit(dir, "192.168.1.1", 80), 1);
    assert_int_equal(hit(dir, "127.0.0.1", 81), 0);
    assert_int_equal(hit(dir, "::1", 80), 0); /* a v4 wildcard takes no IPv6 */
    free(dir);
}

static void wildcards_take_only_local_addresses(void **state)
{
    struct directory *dir = make();
    set_local(dir);
    add(dir, entry("0.0.0.0", 80, 1, 0));
    add(dir, entry("::", 81, 2, 0));
    assert_int_equal(hit(dir, "93.184.216.34", 80), 0);
    assert_int_equal(hit(dir, "10.0.0.6", 80), 0);
    assert_int_equal(hit(dir, "93.184.216.34", 81), 0);
    assert_int_equal(hit(dir, "2001:db8::6", 81), 0);
    assert_int_equal(hit(dir, "224.0.0.1", 80), 0);
    assert_int_equal(hit(dir, "255.255.255.255", 80), 0);
    assert_int_equal(hit(dir, "10.0.0.5", 80), 1);
    assert_int_equal(hit(dir, "2001:db8::5", 81), 2);
    assert_int_equal(directory_set_local(dir, NULL, 0), 0);
    assert_int_equal(hit(dir, "10.0.0.5", 80), 0);
    assert_int_equal(hit(dir, "127.0.0.1", 80), 1);
    free(dir);
}

static void dual_stack_and_v6only(void **state)
{
    struct directory *dir = make();
    add(dir, entry("::", 80, 1, 0));
    add(dir, entry("::", 81, 2, DIR_V6ONLY));
    assert_int_equal(hit(dir, "127.0.0.1", 80), 1);
    assert_int_equal(hit(dir, "::ffff:127.0.0.1", 80), 1);
    assert_int_equal(hit(dir, "::1", 80), 1);
    assert_int_equal(hit(dir, "127.0.0.1", 81), 0);
    assert_int_equal(hit(dir, "::ffff:127.0.0.1", 81), 0);
    assert_int_equal(hit(dir, "::1", 81), 2);
    add(dir, entry("0.0.0.0", 81, 3, 0)); /* as a server with a socket for each version */
    assert_int_equal(hit(dir, "127.0.0.1", 81), 3);
    assert_int_equal(hit(dir, "::1", 81), 2);
    free(dir);
}

static void any_as_destination_means_loopback(void **state)
{
    struct directory *dir = make();
    add(dir, entry("127.0.0.1", 80, 1, 0));
    add(dir, entry("::1", 80, 2, 0));
    add(dir, entry("0.0.0.0", 81, 3, 0));
    add(dir, entry("10.0.0.5", 82, 4, 0));
    assert_int_equal(hit(dir, "0.0.0.0", 80), 1);
    assert_int_equal(hit(dir, "::", 80), 2);
    assert_int_equal(hit(dir, "0.0.0.0", 81), 3);
    assert_int_equal(hit(dir, "0.0.0.0", 82), 0);
    free(dir);
}

static void port_zero_and_other_protocols_miss(void **state)
{
    struct directory *dir = make();
    add(dir, entry("127.0.0.1", 80, 1, 0));
    assert_int_equal(hit(dir, "127.0.0.1", 0), 0);
    endpoint dst = at("127.0.0.1", 80);
    dst.proto = 17;
    struct dir_entry e;
    assert_false(directory_lookup(dir, &dst, 0, &e));
    free(dir);
}

static void shared_endpoints_are_spread(void **state)
{
    struct directory *dir = make();
    for (uint32_t l = 1; l <= 5; l++)
        add(dir, entry("0.0.0.0", 80, l, 0));
    endpoint dst = at("127.0.0.1", 80);
    int seen[6] = {0};
    for (uint32_t spread = 0; spread < 50; spread++) {
        struct dir_entry e;
        assert_true(directory_lookup(dir, &dst, spread, &e));
        assert_in_range(e.listener, 1, 5);
        seen[e.listener]++;
    }
    for (int l = 1; l <= 5; l++)
        assert_int_equal(seen[l], 10);
    struct dir_entry gone = entry("0.0.0.0", 80, 3, 0), e;
    assert_int_equal(directory_remove(dir, &gone), 0);
    for (uint32_t spread = 0; spread < 50; spread++) {
        assert_true(directory_lookup(dir, &dst, spread, &e));
        assert_int_not_equal(e.listener, 3);
    }
    free(dir);
}

static void find_and_update(void **state)
{
    struct directory *dir = make();
    struct dir_entry a = entry("0.0.0.0", 80, 7, 0), b = entry("0.0.0.0", 80, 8, 0), e;
    add(dir, a);
    add(dir, b);
    assert_true(directory_find(dir, a.addr, 80, 8, &e));
    assert_int_equal(e.app, 9);
    assert_true(e.flags & DIR_WILDCARD);
    assert_false(directory_find(dir, a.addr, 80, 9, &e));
    assert_false(directory_find(dir, a.addr, 81, 8, &e));
    assert_false(directory_find(dir, a.addr, 80, 0, &e));
    b.epoch = 5;
    b.backlog = 1;
    assert_int_equal(directory_update(dir, &b), 0);
    assert_true(directory_find(dir, b.addr, 80, 8, &e));
    assert_int_equal(e.epoch, 5);
    assert_int_equal(e.backlog, 1);
    assert_true(directory_find(dir, a.addr, 80, 7, &e));
    assert_int_equal(e.epoch, 1);
    free(dir);
}

static void writer_refuses_what_it_must(void **state)
{
    struct directory *dir = make();
    struct dir_entry e = entry("127.0.0.1", 80, 1, 0), zero = entry("127.0.0.1", 80, 0, 0),
                     reserved = entry("127.0.0.1", 80, ~0u, 0), portless = entry("127.0.0.1", 0, 1, 0);
    uint8_t many[DIR_LOCAL_ADDRS + 1][16] = {{0}};
    assert_int_equal(directory_add(dir, &zero), BERTH_E_INVALID);
    assert_int_equal(directory_add(dir, &reserved), BERTH_E_INVALID);
    assert_int_equal(directory_add(dir, &portless), BERTH_E_INVALID);
    assert_int_equal(directory_remove(dir, &e), BERTH_E_BAD_HANDLE);
    assert_int_equal(directory_update(dir, &e), BERTH_E_BAD_HANDLE);
    add(dir, e);
    assert_int_equal(directory_add(dir, &e), BERTH_E_BUSY);
    assert_int_equal(directory_set_local(dir, (const uint8_t(*)[16])many, DIR_LOCAL_ADDRS + 1),
                     BERTH_E_LIMIT);
    assert_int_equal(directory_set_local(dir, (const uint8_t(*)[16])many, DIR_LOCAL_ADDRS), 0);
    free(dir);
}

static void full_at_three_quarters(void **state)
{
    struct directory *dir = make();
    uint32_t n = 0;
    struct dir_entry e;
    for (;; n++) {
        e = entry("127.0.0.1", (uint16_t)(n + 1), n + 1, 0);
        int rc = directory_add(dir, &e);
        if (rc == BERTH_E_LIMIT)
            break;
        assert_int_equal(rc, 0);
    }
    assert_int_equal(n, DIR_ENTRIES / 4 * 3);
    for (uint32_t i = 0; i < n; i++)
        assert_int_equal(hit(dir, "127.0.0.1", (uint16_t)(i + 1)), i + 1);
    e = entry("127.0.0.1", 5, 5, 0);
    assert_int_equal(directory_remove(dir, &e), 0);
    add(dir, entry("127.0.0.2", 5, 77777, 0));
    assert_int_equal(hit(dir, "127.0.0.1", 5), 0);
    assert_int_equal(hit(dir, "127.0.0.2", 5), 77777);
    free(dir);
}

/* The table against a plain array, with few ports and few addresses so that runs and duplicates are common.
 */
static void random_changes_agree_with_a_list(void **state)
{
    enum { MODEL = 600 };
    struct directory *dir = make();
    struct dir_entry model[MODEL];
    uint32_t used = 0, next = 1;
    uint64_t seed = 42;
    for (int step = 0; step < 60000; step++) {
        uint64_t r = next_random(&seed);
        if (used < MODEL && (r & 1 || used == 0)) {
            char addr[32];
            snprintf(addr, sizeof addr, "127.0.0.%d", (int)(r >> 8 & 3) + 1);
            struct dir_entry e = entry(addr, (uint16_t)(1 + (r >> 16) % 60), next++, 0);
            add(dir, e);
            model[used++] = e;
        } else if (used) {
            uint32_t i = (uint32_t)((r >> 8) % used);
            assert_int_equal(directory_remove(dir, &model[i]), 0);
            model[i] = model[--used];
        }
        assert_int_equal(dir->listeners, used);
        if (step % 500)
            continue;
        for (uint32_t i = 0; i < used; i++) {
            struct dir_entry e;
            check(directory_find(dir, model[i].addr, model[i].port, model[i].listener, &e),
                  "step %d: listener %u is lost", step, model[i].listener);
            assert_memory_equal(&e, &model[i], sizeof e);
        }
        uint32_t lines = 0;
        for (uint32_t i = 0; i < DIR_ENTRIES; i++)
            lines += dir->entry[i].listener != 0;
        assert_int_equal(lines, used); /* no tombstones */
    }
    while (used)
        assert_int_equal(directory_remove(dir, &model[--used]), 0);
    for (uint32_t i = 0; i < DIR_ENTRIES; i++)
        assert_int_equal(dir->entry[i].listener, 0);
    free(dir);
}

/* ---- readers and a writer at once ---- */

struct race {
    struct directory *dir;
    uint32_t stop;
    uint64_t hits, misses, torn;
};

/* Every entry's words agree with its listener id. */
static void *race_reader(void *arg)
{
    struct race *r = arg;
    endpoint stays = at("127.0.0.1", 80), moves = at("127.0.0.1", 90);
    uint64_t hits = 0, misses = 0, torn = 0;
    for (uint32_t i = 0; !load_relaxed(&r->stop); i++) {
        struct dir_entry e;
        if (directory_lookup(r->dir, i & 1 ? &stays : &moves, i, &e)) {
            hits++;
            torn += e.app != e.listener + 1 || e.backlog != e.listener * 3 || e.epoch != e.listener * 7;
        } else if (i & 1) {
            misses++;
        }
    }
    __atomic_fetch_add(&r->hits, hits, __ATOMIC_RELAXED);
    __atomic_fetch_add(&r->misses, misses, __ATOMIC_RELAXED);
    __atomic_fetch_add(&r->torn, torn, __ATOMIC_RELAXED);
    return NULL;
}

static struct dir_entry race_entry(const char *addr, uint16_t port, uint32_t listener)
{
    struct dir_entry e = entry(addr, port, listener, 0);
    e.backlog = listener * 3;
    e.epoch = listener * 7;
    return e;
}

static void readers_never_see_half_a_change(void **state)
{
    struct race r = {.dir = make()};
    add(r.dir, race_entry("127.0.0.1", 80, 1));
    pthread_t readers[2];
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&readers[i], NULL, race_reader, &r), 0);
    uint32_t next = 2;
    for (int round = 0; round < 20000; round++) {
        struct dir_entry a = race_entry("127.0.0.1", 90, next++), b = race_entry("0.0.0.0", 90, next++);
        add(r.dir, a);
        add(r.dir, b);
        assert_int_equal(directory_remove(r.dir, &a), 0);
        assert_int_equal(directory_remove(r.dir, &b), 0);
        if (round % 8 == 0)
            for (int i = 0; i < 500; i++)
                cpu_relax(); /* as a daemon that also rests */
    }
    store_relaxed(&r.stop, 1);
    for (int i = 0; i < 2; i++)
        pthread_join(readers[i], NULL);
    assert_int_equal(r.torn, 0);
    assert_true(r.hits > 0);
    /* a reader gives up on a writer that the scheduler keeps from its processor for long: rare, and no more
     * than that */
    check(r.misses * 100 <= r.hits, "a listener that was always there was missed %llu times of %llu",
          (unsigned long long)r.misses, (unsigned long long)r.hits);
    free(r.dir);
}

static void writer_dead_in_a_change_is_a_miss(void **state)
{
    struct directory *dir = make();
    add(dir, entry("127.0.0.1", 80, 1, 0));
    dir->seq++;
    struct dir_entry e;
    endpoint dst = at("127.0.0.1", 80);
    assert_false(directory_lookup(dir, &dst, 0, &e));
    assert_false(directory_find(dir, dst.addr, 80, 1, &e));
    assert_true(directory_is_local(dir, dst.addr)); /* loopback needs no table */
    assert_false(directory_is_local(dir, at("10.0.0.5", 0).addr));
    free(dir);
}

/* Any content at all: readers end, and read nothing outside (ASan watches). */
static void garbage_is_survived(void **state)
{
    struct directory *dir = make();
    uint64_t seed = 7;
    for (int round = 0; round < 40; round++) {
        for (size_t i = 0; i < DIRECTORY_BYTES / 8; i++)
            ((uint64_t *)dir)[i] = round % 2 ? next_random(&seed) : ~0ull;
        dir->seq &= ~1u;
        if (round % 4 == 0) /* the fullest: every line matches the key */
            for (uint32_t i = 0; i < DIR_ENTRIES; i++)
                dir->entry[i] = entry("127.0.0.1", 80, i + 1, 0xff);
        struct dir_entry e;
        for (uint32_t i = 0; i < 20; i++) {
            endpoint dst = at(i & 1 ? "127.0.0.1" : "10.0.0.5", i & 2 ? 80 : 0xffff);
            (void)directory_lookup(dir, &dst, (uint32_t)next_random(&seed), &e);
            (void)directory_find(dir, dst.addr, dst.port, 0xfffffff0, &e);
            (void)directory_is_local(dir, dst.addr);
        }
    }
    free(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exact_before_wildcard),
        cmocka_unit_test(wildcards_take_only_local_addresses),
        cmocka_unit_test(dual_stack_and_v6only),
        cmocka_unit_test(any_as_destination_means_loopback),
        cmocka_unit_test(port_zero_and_other_protocols_miss),
        cmocka_unit_test(shared_endpoints_are_spread),
        cmocka_unit_test(find_and_update),
        cmocka_unit_test(writer_refuses_what_it_must),
        cmocka_unit_test(full_at_three_quarters),
        cmocka_unit_test(random_changes_agree_with_a_list),
        cmocka_unit_test(readers_never_see_half_a_change),
        cmocka_unit_test(writer_dead_in_a_change_is_a_miss),
        cmocka_unit_test(garbage_is_survived),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
