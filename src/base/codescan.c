/* codescan.c - finds the system calls that a program makes without libc.
 *
 * Theory of operation
 *
 * Whoever makes a system call by himself (inline assembly, a runtime such as Go's, liburing that is linked
 * statically) is not seen by a preload library. In his code there is the instruction for it.
 *
 * On arm64 instructions are words at multiples of four, and there is nothing to guess. On x86-64 the two
 * bytes of `syscall` may also be within a longer instruction, about once in 300 kB of code, and in data. So
 * where they are found the code before them is taken apart, starting at each byte of a stretch: wherever one
 * starts, one is in step with the true instructions after a few of them, so most ways either end at the two
 * bytes or step over them. And beside them there must be what compilers write: in data there are soon
 * instructions that nobody uses.
 *
 * Most such code asks for a futex, the time or random bytes. The number is often put into its register by a
 * constant shortly before. If it is there, and is that of a call that is not about what descriptors hold, the
 * call does not count. A number that cannot be told counts.
 *
 * A constant of 425 as the first argument of a function with any number of them is io_uring_setup by
 * syscall().
 */
#include "base/codescan.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#if defined(__x86_64__)
#include <emmintrin.h>
#endif

/* Calls that read, write, wait for, close or copy descriptors, or make a socket or a ring. */
static bool about_descriptors(long number)
{
    static const uint16_t calls[] = {
        SYS_read,
        SYS_write,
        SYS_close,
        SYS_readv,
        SYS_writev,
        SYS_preadv,
        SYS_pwritev,
        SYS_preadv2,
        SYS_pwritev2,
        SYS_ioctl,
        SYS_fcntl,
        SYS_dup,
        SYS_dup3,
        SYS_sendfile,
        SYS_splice,
        SYS_tee,
        SYS_vmsplice,
        SYS_pselect6,
        SYS_ppoll,
        SYS_epoll_create1,
        SYS_epoll_ctl,
        SYS_epoll_pwait,
        SYS_epoll_pwait2,
        SYS_close_range,
        SYS_socket,
        SYS_bind,
        SYS_listen,
        SYS_accept,
        SYS_accept4,
        SYS_connect,
        SYS_getsockname,
        SYS_getpeername,
        SYS_setsockopt,
        SYS_getsockopt,
        SYS_shutdown,
        SYS_sendto,
        SYS_recvfrom,
        SYS_sendmsg,
        SYS_recvmsg,
        SYS_sendmmsg,
        SYS_recvmmsg,
        SYS_io_submit,
        SYS_io_uring_setup,
        SYS_io_uring_enter,
        SYS_io_uring_register,
#if defined(SYS_poll)
        SYS_poll,
        SYS_select,
        SYS_dup2,
        SYS_epoll_create,
        SYS_epoll_wait,
#endif
    };
    for (size_t i = 0; i < sizeof calls / sizeof calls[0]; i++)
        if (calls[i] == number)
            return true;
    return false;
}

#if defined(__x86_64__)

#define BACK 96 /* so far before a candidate is decoding begun */
#define NEAR 16 /* and no later than that: it must have got into step */
#define AROUND 24
#define BESIDE 32
#define AFTER 6 /* so many instructions must follow */
#define NUMBER_UNKNOWN (-1)

/* Of each one-byte opcode: m a ModRM byte follows; 1, 2, 4 so many bytes of constant, 8 the eight of an
 * address, w four (two after a 66 prefix), v the same or eight after REX.W; b ModRM and 1, d ModRM and w,
 * f ModRM, and a constant if its middle field is 0 or 1; 3 three bytes; . nothing; x no such instruction. */
static const char one_byte[257] = "mmmm1wxx"
                                  "mmmm1wxx"
                                  "mmmm1wxx"
                                  "mmmm1wxx"
                                  "mmmm1wxx"
                                  "mmmm1wxx"
                                  "mmmm1wxx"
                                  "mmmm1wxx"         /* 00-3f; prefixes are taken off before */
                                  "................" /* 40-4f: REX, likewise */
                                  "................" /* 50-5f */
                                  "xxxmxxxxwd1b...." /* 60-6f */
                                  "1111111111111111" /* 70-7f */
                                  "bdxbmmmmmmmmmmmm" /* 80-8f */
                                  "..........x....." /* 90-9f */
                                  "8888....1w......" /* a0-af */
                                  "11111111vvvvvvvv" /* b0-bf */
                                  "bb2.xxbd3.2..1x." /* c0-cf */
                                  "mmmmxxx.mmmmmmmm" /* d0-df */
                                  "1111111144x1...." /* e0-ef */
                                  "x.xx..ff......mm" /* f0-ff */;

static const char two_byte[257] = "mmmmx....x.xxm.b" /* 0f 00-0f */
                                  "mmmmmmmmmmmmmmmm" /* 10-1f */
                                  "mmmmxxxxmmmmmmmm" /* 20-2f */
                                  "........xxxxxxxx" /* 30-3f; 38 and 3a are taken off before */
                                  "mmmmmmmmmmmmmmmm" /* 40-4f */
                                  "mmmmmmmmmmmmmmmm" /* 50-5f */
                                  "mmmmmmmmmmmmmmmm" /* 60-6f */
                                  "bbbbmmm.mmxxmmmm" /* 70-7f */
                                  "4444444444444444" /* 80-8f */
                                  "mmmmmmmmmmmmmmmm" /* 90-9f */
                                  "...mbmxx...mbmmm" /* a0-af */
                                  "mmmmmmmmmmbmmmmm" /* b0-bf */
                                  "mmbmbbbm........" /* c0-cf */
                                  "mmmmmmmmmmmmmmmm" /* d0-df */
                                  "mmmmmmmmmmmmmmmm" /* e0-ef */
                                  "mmmmmmmmmmmmmmmm" /* f0-ff */;

/* One instruction, as far as it matters. */
struct insn {
    unsigned length;
    int opcode; /* of one byte; 0x100 and more: after 0f; -1: another */
    uint8_t modrm, rex;
    int32_t constant;
};

static unsigned modrm_length(const uint8_t *p, const uint8_t *end)
{
    unsigned mod = *p >> 6, n = 1;
    if (mod == 3)
        return 1;
    unsigned base = *p & 7;
    if (base == 4) { /* a SIB byte */
        if (p + 1 >= end)
            return 16;
        base = p[1] & 7;
        n++;
    }
    if (mod == 1)
        return n + 1;
    return mod == 2 || base == 5 ? n + 4 : n;
}

/* VEX and EVEX: all have a ModRM byte but vzeroupper. */
static unsigned vector_length(const uint8_t *p, const uint8_t *end, struct insn *in)
{
    unsigned payload = *p == 0xc5 ? 1 : *p == 0xc4 ? 2 : 3;
    if (p + payload + 2 >= end)
        return 0;
    unsigned map = payload == 1 ? 1 : p[1] & (payload == 2 ? 31 : 7);
    uint8_t opcode = p[payload + 1];
    const uint8_t *modrm = p + payload + 2;
    in->opcode = -1;
    if (map < 1 || map > 6)
        return 0;
    if (map == 1 && opcode == 0x77 && payload < 3)
        return payload + 2;
    bool constant = map == 3 || (map == 1 && two_byte[opcode] == 'b');
    return payload + 2 + modrm_length(modrm, end) + constant;
}

/* False where there is none. */
static bool decode(const uint8_t *p, const uint8_t *end, struct insn *in)
{
    const uint8_t *start = p;
    bool half = false, narrow = false;
    *in = (struct insn){.length = 0};
    while (p < end && p - start < 8 &&
           (*p == 0x66 || *p == 0x67 || *p == 0xf2 || *p == 0xf3 || *p == 0xf0 || *p == 0x2e || *p == 0x36 ||
            *p == 0x3e || *p == 0x26 || *p == 0x64 || *p == 0x65)) {
        half = half || *p == 0x66;
        narrow = narrow || *p == 0x67;
        p++;
    }
    if (p < end && (*p & 0xf0) == 0x40)
        in->rex = *p++;
    if (p >= end)
        return false;
    char kind;
    if (*p == 0xc4 || *p == 0xc5 || *p == 0x62) {
        unsigned n = vector_length(p, end, in);
        in->length = n ? (unsigned)(p - start) + n : 0;
        return n != 0;
    }
    if (*p == 0x0f) {
        if (++p >= end)
            return false;
        in->opcode = 0x100 | *p;
        kind = two_byte[*p];
        if (*p == 0x38 || *p == 0x3a) {
            kind = *p == 0x38 ? 'm' : 'b';
            in->opcode = -1;
            p++;
        }
    } else {
        in->opcode = *p;
        kind = one_byte[*p];
    }
    p++;
    unsigned wide = half ? 2 : 4, constant = 0;
    if (kind == 'x' || p > end)
        return false;
    if (kind == 'm' || kind == 'b' || kind == 'd' || kind == 'f') {
        if (p >= end)
            return false;
        in->modrm = *p;
        if (kind == 'f' && (*p >> 3 & 7) > 1)
            kind = 'm';
        else if (kind == 'f')
            kind = in->opcode == 0xf6 ? 'b' : 'd';
        p += modrm_length(p, end);
    }
    switch (kind) {
    case '1':
    case 'b':
        constant = 1;
        break;
    case '2':
        constant = 2;
        break;
    case '3':
        constant = 3;
        break;
    case '4':
        constant = 4;
        break;
    case '8':
        constant = narrow ? 4 : 8;
        break;
    case 'w':
    case 'd':
        constant = wide;
        break;
    case 'v':
        constant = in->rex & 8 ? 8 : wide;
        break;
    default:
        break;
    }
    if (constant == 4 && p + 4 <= end)
        memcpy(&in->constant, p, 4);
    in->length = (unsigned)(p - start) + constant;
    return true;
}

/* What the instruction leaves in eax: a number, unknown, or as it was. */
static long number_after(const struct insn *in, long number)
{
    unsigned mod = in->modrm >> 6, reg = (in->modrm >> 3 & 7) | (in->rex & 4) << 1,
             rm = (in->modrm & 7) | (in->rex & 1) << 3;
    switch (in->opcode) {
    case 0xb8: /* mov eax, constant */
        return in->rex & 9 ? (in->rex & 1 ? number : NUMBER_UNKNOWN) : in->constant;
    case 0xc7:
        return mod == 3 && rm == 0 ? in->constant : number;
    case 0x31: /* xor eax, eax */
    case 0x33:
        if (mod == 3 && reg == 0 && rm == 0)
            return 0;
        break;
    case 0x58: /* pop rax */
    case 0xe8: /* call */
    case 0x98:
        return NUMBER_UNKNOWN;
    case 0xff:
        return (in->modrm >> 3 & 7) == 2 || (mod == 3 && rm == 0) ? NUMBER_UNKNOWN : number;
    case 0x105: /* another system call */
        return NUMBER_UNKNOWN;
    case 0x38: /* compare, test, push and store: it stays */
    case 0x39:
    case 0x3a:
    case 0x3b:
    case 0x3c:
    case 0x3d:
    case 0x84:
    case 0x85:
        return number;
    default:
        break;
    }
    if (in->opcode < 0)
        return number; /* vectors */
    if (in->opcode >= 0x100) {
        int two = in->opcode & 0xff;
        bool into_reg = (two >= 0x40 && two < 0x50) || (two >= 0xb6 && two < 0xc0) || two == 0xaf;
        bool into_rm =
            (two >= 0x90 && two < 0xa0) || two == 0xb0 || two == 0xb1 || two == 0xc0 || two == 0xc1;
        return (into_reg && reg == 0) || (into_rm && mod == 3 && rm == 0) || two == 0xa2 || two == 0xb1
                   ? NUMBER_UNKNOWN
                   : number;
    }
    if (in->opcode < 0x40) { /* arithmetic: bit 1 says which of the two is written, 4 and 5 are for eax */
        int form = in->opcode & 7;
        return form >= 4 || (form & 2 ? reg == 0 : mod == 3 && rm == 0) ? NUMBER_UNKNOWN : number;
    }
    bool into_reg = in->opcode == 0x63 || in->opcode == 0x69 || in->opcode == 0x6b || in->opcode == 0x8a ||
                    in->opcode == 0x8b || in->opcode == 0x8d || in->opcode == 0x86 || in->opcode == 0x87;
    bool into_rm = (in->opcode >= 0x80 && in->opcode <= 0x8f) || in->opcode == 0xc0 || in->opcode == 0xc1 ||
                   (in->opcode >= 0xd0 && in->opcode <= 0xd3) || in->opcode == 0xf6 || in->opcode == 0xf7 ||
                   in->opcode == 0xfe || in->opcode == 0xb0 || in->opcode == 0xc6;
    bool into_eax = (in->opcode >= 0x91 && in->opcode <= 0x97) || in->opcode == 0xb0 ||
                    (in->opcode >= 0xa0 && in->opcode <= 0xa1) || in->opcode == 0xa8;
    return (into_reg && reg == 0) || (into_rm && mod == 3 && rm == 0) || into_eax ? NUMBER_UNKNOWN : number;
}

/* What compilers do not write, or so seldom that beside a system call it means data: what is for the kernel,
 * segments, ports, flags, arithmetic with al and a constant. And two bytes of 0, the most frequent thing in
 * data. */
static bool unlikely_code(const struct insn *in)
{
    static const uint8_t seldom[] = {0x04, 0x0c, 0x14, 0x15, 0x1c, 0x1d, 0x2c, 0x34, 0x6c, 0x6d, 0x6e, 0x6f,
                                     0x8c, 0x8e, 0x8f, 0x91, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97, 0x9b, 0x9c,
                                     0x9d, 0x9e, 0x9f, 0xa0, 0xa1, 0xa2, 0xa3, 0xac, 0xad, 0xc2, 0xc8, 0xca,
                                     0xcb, 0xcd, 0xcf, 0xd7, 0xe0, 0xe1, 0xe2, 0xe3, 0xe4, 0xe5, 0xe6, 0xe7,
                                     0xec, 0xed, 0xee, 0xef, 0xf1, 0xf4, 0xf5, 0xf8, 0xf9, 0xfa, 0xfb, 0xfd};
    return (in->opcode == 0 && !in->modrm) ||
           (in->opcode > 0 && in->opcode < 0x100 && memchr(seldom, in->opcode, sizeof seldom));
}

/* Decodes from there. True when it comes to `at`; `number` is then what eax holds, as far as that can be
 * told. */
static bool comes_to(const uint8_t *from, const uint8_t *at, const uint8_t *end, long *number)
{
    *number = NUMBER_UNKNOWN;
    while (from < at) {
        struct insn in;
        if (!decode(from, end, &in) || (at - from <= BESIDE && unlikely_code(&in)))
            return false;
        *number = number_after(&in, *number);
        from += in.length;
    }
    return from == at;
}

/* Code goes on after it; data seldom is a row of instructions. */
static bool goes_on(const uint8_t *p, const uint8_t *end)
{
    struct insn in;
    for (int i = 0; i < AFTER && p + 16 < end; i++) {
        if (!decode(p, end, &in) || unlikely_code(&in))
            return false;
        if (in.opcode == 0xc3) /* what follows a return may be anything */
            return true;
        p += in.length;
    }
    return true;
}

/* Is that an instruction, and one that counts? */
static bool counts(const uint8_t *code, const uint8_t *at, const uint8_t *end)
{
    const uint8_t *first = at - code < BACK ? code : at - BACK;
    int hits = 0, misses = 0;
    long number, told = NUMBER_UNKNOWN;
    for (const uint8_t *from = first; from == first || from + NEAR <= at; from++) {
        if (comes_to(from, at, end, &number)) {
            told = number;
            hits++;
        } else {
            misses++;
        }
    }
    return hits > 2 * misses && goes_on(at + 2, end) && (told == NUMBER_UNKNOWN || about_descriptors(told));
}

/* mov edi, 425, and a call with a variable number of arguments near it: al is put to 0 for that. */
static bool sets_up_ring(const uint8_t *code, const uint8_t *at, const uint8_t *end)
{
    static const uint8_t move[] = {0xbf, SYS_io_uring_setup & 0xff, SYS_io_uring_setup >> 8, 0, 0};
    if (end - at < (ptrdiff_t)sizeof move || memcmp(at, move, sizeof move) != 0)
        return false;
    const uint8_t *from = at - code < NEAR ? code : at - NEAR, *to = end - at < AROUND ? end : at + AROUND;
    return memmem(from, (size_t)(to - from), "\x31\xc0", 2) ||
           memmem(from, (size_t)(to - from), "\xb0\x00", 2);
}

int codescan(const void *code, size_t size)
{
    const uint8_t *p = code, *end = p + size;
    const __m128i of = _mm_set1_epi8(0x0f), five = _mm_set1_epi8(0x05), bf = _mm_set1_epi8((char)0xbf),
                  low = _mm_set1_epi8((char)(SYS_io_uring_setup & 0xff));
    int found = 0;
    for (; end - p > 16; p += 16) {
        __m128i here = _mm_loadu_si128((const __m128i *)(const void *)p);
        __m128i next = _mm_loadu_si128((const __m128i *)(const void *)(p + 1));
        unsigned calls =
            (unsigned)_mm_movemask_epi8(_mm_and_si128(_mm_cmpeq_epi8(here, of), _mm_cmpeq_epi8(next, five)));
        unsigned rings =
            (unsigned)_mm_movemask_epi8(_mm_and_si128(_mm_cmpeq_epi8(here, bf), _mm_cmpeq_epi8(next, low)));
        for (; __builtin_expect(calls, 0); calls &= calls - 1)
            if (counts(code, p + __builtin_ctz(calls), end))
                return found | CODESCAN_OWN_CALLS;
        for (; __builtin_expect(rings, 0); rings &= rings - 1)
            if (sets_up_ring(code, p + __builtin_ctz(rings), end))
                found |= CODESCAN_IO_URING;
    }
    for (; end - p >= 2; p++) {
        if (p[0] == 0x0f && p[1] == 0x05 && counts(code, p, end))
            return found | CODESCAN_OWN_CALLS;
        if (sets_up_ring(code, p, end))
            found |= CODESCAN_IO_URING;
    }
    return found;
}

#elif defined(__aarch64__)

#define BACK 16
#define SVC 0xd4000001u

/* movz into that register, either width: the constant, or -1. */
static long moved_into(uint32_t word, uint32_t reg)
{
    return (word & 0x7fe0001fu) == (0x52800000u | reg) ? (long)(word >> 5 & 0xffff) : -1;
}

static bool counts(const uint32_t *code, size_t at)
{
    for (size_t back = 1; back <= BACK && back <= at; back++) {
        long number = moved_into(code[at - back], 8);
        if (number >= 0)
            return about_descriptors(number);
        if (code[at - back] == SVC)
            break;
    }
    return true;
}

int codescan(const void *code, size_t size)
{
    const uint32_t *words = code;
    int found = 0;
    for (size_t i = 0; i < size / sizeof *words; i++) {
        if (__builtin_expect(words[i] == SVC, 0) && counts(words, i))
            return found | CODESCAN_OWN_CALLS;
        if (__builtin_expect(moved_into(words[i], 0) == SYS_io_uring_setup, 0))
            found |= CODESCAN_IO_URING;
    }
    return found;
}

#endif
