// y[m, n] = sum over k of x[m, k] * w[n, k] for many rows of halves, w's numbers of 4 or 8 bits in blocks, through Hopper's wgmma: w is its left operand,
// which two warpgroups hold in registers, 64 rows each, made into halves there; x is its right one, TOKENS rows. A third warpgroup fetches slices
// of 64 along k of both into a ring of STAGES, and what a block's numbers are scaled by. SPLIT blocks, a cluster, share a tile's k, and then its sums.
#define TILE 128
#define SLICE 64
#define IN_SLICE (BLOCK < SLICE ? SLICE / BLOCK : 1)
#define X_BYTES (TOKENS * SLICE * 2)
#define PIECES (SLICE * BITS / 128)  // of 16 bytes, in a row of a slice of w
#define W_BYTES (TILE * PIECES * 16)
#define SLICE_BYTES (X_BYTES + W_BYTES + TILE * IN_SLICE * 16)

#if __CUDA_ARCH_FEAT_SM90_ALL
// Of both halves in a register: what is taken away from a number under its exponent, what that is multiplied with, what is added then.
struct alignas(16) Terms { unsigned centre, scale, more, unused; };

template <class Half> struct Pair;
template <> struct Pair<f16> {
    static const unsigned exponent = 0x64006400u;  // 1024, under which a number of up to 10 bits lies in the lowest ones
    static DEVICE unsigned sum(unsigned a, unsigned b) { unsigned y; asm("add.rn.f16x2 %0, %1, %2;" : "=r"(y) : "r"(a), "r"(b)); return y; }
    static DEVICE unsigned times(unsigned a, unsigned b) { unsigned y; asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(y) : "r"(a), "r"(b)); return y; }
    static DEVICE unsigned fused(unsigned a, unsigned b, unsigned c) { unsigned y; asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(y) : "r"(a), "r"(b), "r"(c)); return y; }
};
template <> struct Pair<bf16> {
    static const unsigned exponent = 0x43004300u;  // 128: up to 7 bits
    static DEVICE unsigned sum(unsigned a, unsigned b) { return fused(a, 0x3f803f80u, b); }
    static DEVICE unsigned times(unsigned a, unsigned b) { return fused(a, b, 0x80008000u); }
    static DEVICE unsigned fused(unsigned a, unsigned b, unsigned c) { unsigned y; asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(y) : "r"(a), "r"(b), "r"(c)); return y; }
};
#define MIDDLE (1 << (BITS - 1))
#define CENTRE(zero) ((Pair<H>::exponent | 0x80008000u) + (zero) * 0x10001u)

DEVICE unsigned twice(float a) { return two(a, a, H()); }

// What is read for a block, two or four slices (AHEAD) before it is made into its terms, so that nobody waits for it.
struct Raw {
    scales_t scale;
    zeros_t zero;
    offsets_t offset;
    bool there;
};
#define AHEAD (BLOCK < 32 ? 2 : 4)

DEVICE void read(Raw& r, int n, int b, bool there, const scales_t* scales, const zeros_t* zeros, const offsets_t* offsets, int blocks) {
    r.there = there;
    if (!there) return;
    r.scale = scales[(long long)n * blocks + b];
#if ZERO == 1
    r.zero = zeros[(long long)n * ((blocks * BITS + 7) / 8) + b * BITS / 8];
#elif ZERO == 2
    r.zero = zeros[(long long)n * blocks + b];
#endif
#if OFFSETS
    r.offset = offsets[(long long)n * blocks + b];
#endif
}

DEVICE Terms terms(const Raw& r, int b) {
    Terms t = {CENTRE(MIDDLE), 0, 0, 0};
    if (!r.there) return t;
    t.scale = twice(up(r.scale));
#if ZERO == 1
    t.centre = CENTRE((unsigned)r.zero >> (b * BITS % 8) & ((1 << BITS) - 1));
#endif
    float more = 0.f;
#if ZERO == 2
    more = ((float)MIDDLE - (float)up(r.zero)) * up(r.scale);
#endif
#if OFFSETS
    more += up(r.offset);
#endif
    t.more = twice(more);
    return t;
}

// A slice's fragments, four of 16 along k, as wgmma has its left operand in registers: rows r and r + 8, k at 2q, 2q + 1 and 8 further.
DEVICE void make(unsigned (&a)[4][4], const unsigned char* w, const Terms* t, int row, int q) {
    #pragma unroll
    for (int half = 0; half < 2; ++half) {
        const int r = row + half * 8;
        pack<unsigned, 4> words[PIECES];
        for (int i = 0; i < PIECES; ++i) words[i] = *(const pack<unsigned, 4>*)(w + (i * TILE + r) * 16);
        #pragma unroll
        for (int step = 0; step < 4; ++step) {
            const Terms block = t[step * 16 / BLOCK * TILE + r];
            #pragma unroll
            for (int c = 0; c < 2; ++c) {
#if BITS == 4  // byte q of a word, and the same of its upper numbers
                const unsigned word = words[step / 2].at[step % 2 * 2 + c], both = __byte_perm(word, word >> 4, q | (4 + q) << 8) & 0x000f000fu;
#else  // bytes 2q and 2q + 1 of two words
                const unsigned both = __byte_perm(words[step].at[2 * c], words[step].at[2 * c + 1], 2 * q | (2 * q + 1) << 8) & 0x00ff00ffu;
#endif
                const unsigned whole = Pair<H>::sum(both | Pair<H>::exponent, ZERO == 1 ? block.centre : CENTRE(MIDDLE));
                a[step][half + 2 * c] = OFFSETS || ZERO == 2 ? Pair<H>::fused(whole, block.scale, block.more) : Pair<H>::times(whole, block.scale);
            }
        }
    }
}

// Rows and columns of an 8 by 8 among the lanes change places.
DEVICE unsigned turned(unsigned a) { unsigned y; asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(a)); return y; }

extern "C" __global__ void __launch_bounds__(384, 1) __cluster_dims__(SPLIT, 1, 1) ENTRY(PARAMETERS) {
    let_next_kernel_start();
    extern __shared__ unsigned char memory[];
    __shared__ unsigned long long barriers[2 * STAGES];
    const unsigned ring = (at(memory) + 1023) & ~1023u, there = at(barriers), free = there + STAGES * 8;
    const unsigned char* own = memory + (ring - at(memory));
    const int tile = blockIdx.x / SPLIT, rows = (M + TOKENS - 1) / TOKENS, m0 = tile % rows * TOKENS, n0 = tile / rows * TILE;
    const int t = threadIdx.x % 128, half = threadIdx.x / 128, lane = t % 32, warp = t / 32;
    const int own_share = SPLIT > 1 ? rank() : 0, all = (K + SLICE - 1) / SLICE;
    const int begin = all * own_share / SPLIT, end = all * (own_share + 1) / SPLIT;
    // each thread that fetches arrives twice: with its copies, and with what it has written
    if (threadIdx.x < STAGES) expect(there + threadIdx.x * 8, 256), expect(free + threadIdx.x * 8, 8);
    __syncthreads();
    await_earlier_kernels();
    Turn turn;

    if (half == 2) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 72;");
        const int row = t / 8, piece = t % 8, n = n0 + t;
        const x_t* from = x + (long long)(m0 + row) * K + begin * SLICE + piece * 8;
        const unsigned char* values = w + (long long)n * blocks * (BLOCK * BITS / 8) + begin * (SLICE * BITS / 8);
        Raw raw[AHEAD][IN_SLICE];
        auto read_slice = [&](Raw (&to)[IN_SLICE], int slice) {
            for (int i = 0; i < IN_SLICE; ++i) {
                const int b = slice * SLICE / BLOCK + i;
                read(to[i], n, b, n < N && slice < end && b < blocks, scales, zeros, offsets, blocks);
            }
        };
        #pragma unroll
        for (int i = 0; i < AHEAD; ++i) read_slice(raw[i], begin + i);
        for (int first = begin; first < end; first += AHEAD) {
            #pragma unroll
            for (int ahead = 0; ahead < AHEAD; ++ahead) {
                const int slice = first + ahead;
                if (slice >= end) break;
                await(free + turn.place * 8, turn.round ^ 1);
                const unsigned base = turn.place * SLICE_BYTES, to = ring + base + row * 128 + ((piece ^ row % 8) << 4);
                const int due = slice * SLICE + piece * 8 < K ? M - m0 - row : 0;
                const x_t* each = from;
                #pragma unroll 4
                for (int i = 0; i < TOKENS / 16; ++i, each += 16 * K) fetch(to + i * 2048, i * 16 < due ? each : x, i * 16 < due);
                for (int i = 0; i < PIECES; ++i) {
                    const bool inside = n < N && slice * SLICE + i * (128 / BITS) < blocks * BLOCK;
                    fetch(ring + base + X_BYTES + (i * TILE + t) * 16, inside ? values + i * 16 : w, inside);
                }
                arrive_with_copies(there + turn.place * 8);
                Terms* made = (Terms*)(own + base + X_BYTES + W_BYTES) + t;
                for (int i = 0; i < IN_SLICE; ++i) made[i * TILE] = terms(raw[ahead][i], slice * SLICE / BLOCK + i);
                arrive(there + turn.place * 8);
                read_slice(raw[ahead], slice + AHEAD);
                from += SLICE, values += SLICE * BITS / 8;
                turn.next();
            }
        }
        if (SPLIT > 1) meet(), meet();
        return;
    }

    asm volatile("setmaxnreg.inc.sync.aligned.u32 216;");
    float d[TOKENS / 2] = {};
    SETTLED(d);
    const int row = half * 64 + warp * 16 + lane / 4;
    unsigned a[2][4][4], before = 0;
    auto prepare = [&](unsigned (&to)[4][4]) {
        await(there + turn.place * 8, turn.round);
        copies_are_seen();
        const unsigned char* w4 = own + turn.place * SLICE_BYTES + X_BYTES;
        make(to, w4, (const Terms*)(w4 + W_BYTES), row, lane % 4);
    };
    prepare(a[0]);
    for (int slice = begin; slice < end; slice += 2) {
        #pragma unroll
        for (int odd = 0; odd < 2; ++odd) {
            if (slice + odd == end) break;
            const unsigned b = ring + turn.place * SLICE_BYTES;
            before_products();
            #pragma unroll
            for (int k = 0; k < SLICE / 16; ++k) WGMMA(d, a[odd][k], descriptor(b + k * 32, 16));
            products_end();
            await_products<1>();  // those of the slice before, whose registers are free again
            if (slice + odd > begin && !lane) arrive(free + before * 8);
            before = turn.place;
            turn.next();
            if (slice + odd + 1 < end) prepare(a[1 - odd]);
        }
    }
    await_products<0>();
    SETTLED(d);  // nothing reads them before they are there

    const int first = n0 + half * 64 + warp * 16, q = lane % 4;
    float added[2] = {};
#if BIAS
    for (int h = 0; h < 2; ++h) if (first + lane / 4 + h * 8 < N) added[h] = up(bias[first + lane / 4 + h * 8]);
#endif
    // the sums of 16 rows of w and 8 of x: two neighbours of a row of w and as many eight rows further
    auto store = [&](int j, const float* sums) {
#if POWERS
        for (int e = 0; e < 4; ++e) {
            const int m = m0 + j * 8 + q * 2 + e % 2, n = first + lane / 4 + e / 2 * 8;
            if (m < M && n < N) y[(long long)m * N + n] = down<y_t>(sums[e] * powers[m] + added[e / 2]);
        }
#else
        // they change places among the lanes, so that each has four neighbours of a row of y
        const unsigned low = turned(two(sums[0] + added[0], sums[1] + added[0], H()));
        const unsigned high = turned(two(sums[2] + added[1], sums[3] + added[1], H()));
        const unsigned other = __shfl_xor_sync(0xffffffff, q & 1 ? low : high, 1);
        const int m = m0 + j * 8 + lane / 4, n = first + (q & 1 ? 8 + 2 * (q - 1) : 2 * q);
        if (m < M && n < N) *(pack<unsigned, 2>*)(y + (long long)m * N + n) = q & 1 ? pack<unsigned, 2>{other, high} : pack<unsigned, 2>{low, other};
#endif
    };
#if SPLIT == 1
    #pragma unroll
    for (int j = 0; j < TOKENS / 8; ++j) store(j, d + 4 * j);
#else
    asm volatile("bar.sync 1, 256;" ::: "memory");  // the two warpgroups have done with what lay there
    share_sums<TOKENS / 2, 4>(memory + (ring - at(memory)), d, own_share, store);
#endif
}
#else  // only a device with these instructions is given this kernel
extern "C" __global__ void ENTRY(PARAMETERS) {}
#endif
