// Numbers of BITS bits in blocks of BLOCK along k, as MatMulNBits has them: number j of a byte begins at its bit j * BITS.
// A thread loads CHUNK bytes at a time, EACH numbers, which lie in PARTS blocks or within one.
#define EACH (CHUNK * 8 / BITS)
#define PARTS (EACH > BLOCK ? EACH / BLOCK : 1)
#define PER_WORD (32 / BITS)
#define GROUP (23 / BITS)
typedef pack<unsigned, CHUNK / 4> Chunk;

// Weights are read once: they need not push the activations out of the first cache.
#if CHUNK == 16
DEVICE Chunk streamed(const unsigned char* at) {
    Chunk c;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(c.at[0]), "=r"(c.at[1]), "=r"(c.at[2]), "=r"(c.at[3]) : "l"(at));
    return c;
}
#else
DEVICE Chunk streamed(const unsigned char* at) { return *(const Chunk*)at; }
#endif

// Number j of a word, times 2^(BITS * (j % GROUP)): GROUP of them fit into a float's fraction where they lie, under the exponent of 2^23,
// which is then taken away. Two instructions, where a conversion would run at a quarter of the speed.
DEVICE float raised(unsigned word, int j) {
    const unsigned there = word >> (j / GROUP * GROUP * BITS), mask = ((1u << BITS) - 1) << (j % GROUP * BITS);
    return __uint_as_float((there & mask) | 0x4b000000) - 8388608.f;
}
// What undoes that: a power of two, and so exact.
DEVICE float lowering(int j) { return 1.f / (float)(1 << (j % GROUP * BITS)); }

// The zero point of block b of a row: the middle, or one of BITS bits, or a number of its own.
#if ZERO == 0
#define ZERO_OF(row, b, blocks) ((float)(1 << (BITS - 1)))
#elif ZERO == 1
DEVICE float packed_zero(const unsigned char* row, int b) { return (float)((row[b * BITS / 8] >> (b * BITS % 8)) & ((1 << BITS) - 1)); }
#define ZERO_OF(row, b, blocks) packed_zero(zeros + (long long)(row) * (((blocks) * BITS + 7) / 8), b)
#else
#define ZERO_OF(row, b, blocks) ((float)up(zeros[(long long)(row) * (blocks) + (b)]))
#endif
