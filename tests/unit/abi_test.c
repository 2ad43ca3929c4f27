/* abi_test.c - what abi.h promises beyond its own asserts: words that pack and unpack, offsets of every
 * field. */
#include "check.h"

#include "shm/abi.h"
#include "shm/control.h"

static void ring_words_pack_and_unpack(void **state)
{
    static const uint32_t segments[] = {0, 1, 17, SEGMENT_INDEX_MAX, (1u << 20) - 1};
    static const uint64_t offsets[] = {0, PAGE_BYTES, OUTBOX_POOL, SEGMENT_MIN, SEGMENT_MAX - PAGE_BYTES};
    for (size_t s = 0; s < 5; s++) {
        for (size_t o = 0; o < 5; o++) {
            for (uint32_t log2 = RING_MIN_LOG2; log2 <= RING_MAX_LOG2; log2++) {
                uint64_t w = ring_word(segments[s], offsets[o], log2);
                assert_int_equal(ring_segment(w), segments[s]);
                assert_int_equal(ring_offset(w), offsets[o]);
                assert_int_equal(ring_log2(w), log2);
                assert_true(w != 0);           /* 0 means: no ring */
                assert_int_equal(w & 1023, 0); /* reserved */
            }
        }
    }
}

static void hostile_ring_words_decode_within_bounds(void **state)
{
    uint64_t seed = 1;
    for (int i = 0; i < 100000; i++) {
        uint64_t w = next_random(&seed);
        assert_true(ring_segment(w) < 1u << 20);
        assert_true(ring_offset(w) < 1ull << 40);
        assert_int_equal(ring_offset(w) % PAGE_BYTES, 0);
        assert_true(ring_log2(w) < 64);
    }
}

static void counter_words_keep_offset_and_flag(void **state)
{
    static const uint64_t offsets[] = {0, 1, 4095, 1ull << 32, (1ull << 62) + 3, WANT_NOTHING};
    for (size_t i = 0; i < 6; i++) {
        for (uint64_t flag = 0; flag < 2; flag++) {
            uint64_t w = count_word(offsets[i], flag);
            assert_int_equal(count_offset(w), offsets[i]);
            assert_int_equal(w & COUNT_FLAG, flag);
        }
    }
    /* a futex sleeps on the low half: one byte more, or the flag, must change it */
    assert_int_not_equal((uint32_t)count_word(1ull << 40, 0), (uint32_t)count_word((1ull << 40) + 1, 0));
    assert_int_not_equal((uint32_t)count_word(1ull << 40, 0), (uint32_t)count_word(1ull << 40, 1));
}

static void outbox_handles_name_their_worker(void **state)
{
    assert_int_equal(outbox_worker(outbox_handle_make(0xfffffffe, 0xffffffff)), 0xfffffffe);
    assert_int_equal(outbox_worker(outbox_handle_make(1, 0)), 1);
    assert_int_not_equal(outbox_handle_make(1, 2), outbox_handle_make(2, 1));
}

struct field {
    const char *name;
    size_t offset, want;
};
#define FIELD(type, member, want)                                                                            \
    {                                                                                                        \
#type "." #member, offsetof(struct type, member), want                                               \
    }

static void every_field_is_where_the_abi_has_it(void **state)
{
    static const struct field fields[] = {
        FIELD(slot, flags, 41),
        FIELD(slot, waiter, 42),
        FIELD(slot, cpu, 43),
        FIELD(slot_info, local_addr, 0),
        FIELD(slot_info, remote_addr, 16),
        FIELD(slot_info, remote_port, 34),
        FIELD(slot_info, proto, 36),
        FIELD(slot_info, addr_kind, 37),
        FIELD(slot_info, peer_channel, 38),
        FIELD(slot_info, offer_seq, 44),
        FIELD(slot_info, rx_limit, 56),
        FIELD(slot_info, taken, 60),
        FIELD(segment_header, magic, 0),
        FIELD(segment_header, version, 4),
        FIELD(segment_header, lines_per_slot, 6),
        FIELD(segment_header, index, 16),
        FIELD(segment_header, facing_app, 20),
        FIELD(segment_header, owner_worker, 32),
        FIELD(channel, queue, 0),
        FIELD(channel, peer_worker, 8),
        FIELD(channel, resync, 12),
        FIELD(channel, arm, 68),
        FIELD(waiter_line, arm, 0),
        FIELD(waiter_line, cpu, 4),
        FIELD(worker_page, worker, 8),
        FIELD(dir_entry, addr, 0),
        FIELD(dir_entry, port, 16),
        FIELD(dir_entry, proto, 18),
        FIELD(dir_entry, flags, 19),
        FIELD(dir_entry, listener, 20),
        FIELD(dir_entry, app, 24),
        FIELD(dir_entry, uid, 28),
        FIELD(dir_entry, backlog, 32),
        FIELD(dir_entry, epoch, 36),
        FIELD(directory, seq, 8),
        FIELD(directory, local_count, 12),
        FIELD(directory, listeners, 16),
        FIELD(directory, epoch, 20),
        FIELD(directory, entry, 64 + 16 * DIR_LOCAL_ADDRS),
        FIELD(token, magic, 0),
        FIELD(token, listener, 4),
        FIELD(token, outbox, 8),
        FIELD(token, slot, 16),
        FIELD(token, generation, 20),
        FIELD(token, offer_seq, 24),
        FIELD(token, epoch, 28),
    };
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++)
        check(fields[i].offset == fields[i].want, "%s is at %zu, the ABI has it at %zu", fields[i].name,
              fields[i].offset, fields[i].want);
}

static void tables_do_not_overlap(void **state)
{
    assert_true(sizeof(struct segment_header) <= OUTBOX_CHUNK_TABLE);
    assert_true(OUTBOX_CHUNK_TABLE + CHUNKS_MAX * 8 <= OUTBOX_CHANNELS);
    assert_true(OUTBOX_CHANNELS + CHANNELS_MAX * sizeof(struct channel) <= OUTBOX_CHUNK0);
    assert_true(OUTBOX_CHUNK0 + CHUNK_BYTES <= OUTBOX_POOL);
    assert_int_equal(CHUNK_BYTES, CHUNK_SLOTS * (sizeof(struct slot) + sizeof(struct slot_info)));
    assert_int_equal(DIRECTORY_BYTES % PAGE_BYTES, 0);
    assert_true(DIRECTORY_BYTES >= sizeof(struct directory));
}

static void control_messages_fit_a_packet(void **state)
{
    assert_true(sizeof(struct ctl_hello) <= CTL_MAX);
    assert_true(sizeof(struct ctl_welcome) <= CTL_MAX);
    assert_true(sizeof(struct ctl_ns) <= CTL_MAX);
    assert_true(CTL_TYPES < UINT16_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ring_words_pack_and_unpack),
        cmocka_unit_test(hostile_ring_words_decode_within_bounds),
        cmocka_unit_test(counter_words_keep_offset_and_flag),
        cmocka_unit_test(outbox_handles_name_their_worker),
        cmocka_unit_test(every_field_is_where_the_abi_has_it),
        cmocka_unit_test(tables_do_not_overlap),
        cmocka_unit_test(control_messages_fit_a_packet),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
