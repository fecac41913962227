// y[m, n] = sum over k of x[m, k] * w[n, k], for a few rows of x, by tensor cores (sm_80 and later): bound by the bytes of w, which come by
// cp.async, each warp's into a ring of its own. A block makes OWN rows of w at a time; its warps share k. Weights enter as the small whole
// numbers that they are, less the middle of their range, exact in halves; a block's scale meets the float sum of its part. x waits in shared
// memory as halves: bfloat16 for float32, in PIECES that together have all of its bits. Along k both sides lie in the order in which weights
// come out of a word two at a time.
#define PIECE (128 / BITS)                              // numbers in 16 bytes
#define STEP (UNITS * PIECE)                            // numbers of a row in a stage
#define COLUMNS (TOKENS * PIECES)
#define GROUPS ((COLUMNS + 7) / 8)
#define PAIRS (PER_WORD / 2)
#define LOADS ((TOKENS > 2 ? 16 : 4) / (int)sizeof(x_t)) // parts of x that a lane has under way
#define VECTOR (PER_WORD * (int)sizeof(x_t) < 16 ? PER_WORD : 16 / (int)sizeof(x_t))
#define IN_STEP (STEP > BLOCK ? STEP / BLOCK : 1)       // blocks of a row in a stage
#define IN_QUAD (4 * PIECE > BLOCK ? 4 * PIECE / BLOCK : 1)    // and in four pieces
#define MIDDLE (1 << (BITS - 1))
#define LESS (ZERO != 0 || OFFSETS)

// Bytes of a stage: weights, then what their blocks bring.
#define SCALES_BYTES (IN_STEP * (int)sizeof(scales_t))
#define ZEROS_BYTES (ZERO == 0 ? 0 : ZERO == 2 ? IN_STEP * (int)sizeof(zeros_t) : IN_STEP * BITS > 8 ? IN_STEP * BITS / 8 : 1)
#define OFFSETS_BYTES (OFFSETS ? IN_STEP * (int)sizeof(offsets_t) : 0)
#define SCALES_AT (OWN * UNITS * 16)
#define ZEROS_AT (SCALES_AT + OWN * SCALES_BYTES)
#define OFFSETS_AT (ZEROS_AT + (OWN * ZEROS_BYTES + 15) / 16 * 16)
#define STAGE ((OFFSETS_AT + OWN * OFFSETS_BYTES + 15) / 16 * 16)

#if __CUDA_ARCH__ >= 800
DEVICE unsigned near(const void* p) { return (unsigned)__cvta_generic_to_shared(p); }

template <int BYTES> DEVICE void fetch(unsigned char* to, const unsigned char* from) {
    if (BYTES == 16) asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(near(to)), "l"(from) : "memory");
    else if (BYTES >= 4) asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(near(to)), "l"(from), "n"(BYTES < 4 ? 4 : BYTES) : "memory");
    else if (BYTES == 2) *(unsigned short*)to = *(const unsigned short*)from;
    else *to = *from;
}

// How the lanes of a warp bring BYTES of each of OWN rows to shared memory, in parts of AT bytes, to which rows are aligned.
template <int BYTES, int AT> struct Rows {
    static constexpr int EACH_ROW = BYTES / AT, AT_ONCE = 32 / EACH_ROW;
    const unsigned char* row;  // this lane's first row
    long long row_bytes;
    DEVICE void at(const void* from, long long bytes, int n0) {
        row_bytes = bytes;
        row = (const unsigned char*)from + (n0 + (int)threadIdx.x % 32 / EACH_ROW) * bytes;
    }
    DEVICE void bring(unsigned char* to, int offset) const {
        const int lane = threadIdx.x % 32;
        int part = offset + lane % EACH_ROW * AT;
#if !FULL
        part = part < (int)row_bytes ? part : (int)row_bytes - AT;  // behind a row's end its last part again: x has zeros there
#endif
        const unsigned char* const from = row + part;
#pragma unroll
        for (int j = 0; j < (OWN + AT_ONCE - 1) / AT_ONCE; ++j) {
            const int r = j * AT_ONCE + lane / EACH_ROW;
            int place = r * BYTES + lane % EACH_ROW * AT;
            if (BYTES == UNITS * 16 && AT == 16) place = (r * UNITS + (lane % UNITS ^ r / (8 / UNITS) % UNITS)) * 16;  // mixed, so that eight rows lie in different banks
            if (OWN % AT_ONCE == 0 || r < OWN) fetch<AT>(to + place, from + j * AT_ONCE * row_bytes);
        }
    }
};

DEVICE unsigned fused(unsigned a, unsigned b, unsigned c, f16) { unsigned y; asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(y) : "r"(a), "r"(b), "r"(c)); return y; }
DEVICE unsigned fused(unsigned a, unsigned b, unsigned c, bf16) { unsigned y; asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(y) : "r"(a), "r"(b), "r"(c)); return y; }

// A whole number of few bits twice as halves, and such a power of two.
DEVICE constexpr unsigned twice(int n, f16) { int e = 0; while (n >> e > 1) ++e; return ((e + 15) << 10 | (n << 10 >> e & 1023)) * 0x10001u; }
DEVICE constexpr unsigned twice(int n, bf16) { int e = 0; while (n >> e > 1) ++e; return ((e + 127) << 7 | (n << 7 >> e & 127)) * 0x10001u; }
#define NEGATIVE 0x80008000u

// Numbers j and j + PAIRS of a word, less MIDDLE. They are put where they lie below the exponent of 2^10, or 2^7 in bfloat16, and brought down.
DEVICE unsigned pair_of(unsigned word, int j, unsigned low, f16) {
    const int down = j * BITS / 8 * 8, place = j * BITS % 8, mask = ((1 << BITS) - 1) << place;
    const unsigned there = (word >> down & (BITS == 4 ? low << place : mask * 0x10001u)) | 0x64006400, less = twice((1024 >> place) + MIDDLE, f16()) | NEGATIVE;
    return fused(there, (15u - place) * 0x04000400u, less, f16());
}
DEVICE unsigned pair_of(unsigned word, int j, unsigned low, bf16) {
    const unsigned one = twice(1, bf16());
#if BITS == 8
    const unsigned down = (word >> j * 8 & low) | 0x43004300, high = (word >> (j * 8 + 4) & low) | 0x43004300;
    return fused(fused(high, one, twice(136, bf16()) | NEGATIVE, bf16()), twice(16, bf16()), fused(down, one, twice(128, bf16()) | NEGATIVE, bf16()), bf16());
#else
    const unsigned there = (word >> j * BITS & (BITS == 4 ? low : ((1 << BITS) - 1) * 0x10001u)) | 0x43004300;
    return fused(there, one, twice(128 + MIDDLE, bf16()) | NEGATIVE, bf16());
#endif
}
DEVICE float back(unsigned halves, bf16) { return __uint_as_float(halves << 16); }

extern "C" __global__ void __launch_bounds__(32 * WARPS, 1) ENTRY(PARAMETERS) {
    extern __shared__ __align__(16) unsigned char memory[];
    typedef pack<H, PER_WORD> Part;
    typedef pack<x_t, VECTOR> Vector;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
    const int used = (K + STEP - 1) / STEP, each = (used + WARPS - 1) / WARPS, tiles = (N + OWN - 1) / OWN;
    const int mine = (tiles - (int)blockIdx.x + (int)gridDim.x - 1) / (int)gridDim.x, steps = mine * each;
    unsigned char* const ring = memory + warp * (DEPTH * STAGE);
    float* const parts = (float*)(memory + WARPS * DEPTH * STAGE);  // [2][WARPS][COLUMNS][OWN]
    Part* const xs = (Part*)(parts + 2 * WARPS * COLUMNS * OWN);    // [used * UNITS][COLUMNS][4]

    // stages of this warp: tiles in turn, of each the steps warp, warp + WARPS ...; the last tile begins early enough to be whole
    int to_load = steps, slot = 0, step_to_load = warp, tile_to_load = blockIdx.x;
    Rows<UNITS * 16, 16> weights;
    Rows<SCALES_BYTES, SCALES_PART> own_scales;
#if ZERO
    Rows<ZEROS_BYTES, ZEROS_PART> own_zeros;
#endif
#if OFFSETS
    Rows<OFFSETS_BYTES, OFFSETS_PART> own_offsets;
#endif
    auto go_to = [&](int tile) {
        const int n0 = tile * OWN < N - OWN ? tile * OWN : N - OWN;
        weights.at(w, (long long)blocks * BLOCK * BITS / 8, n0);
        own_scales.at(scales, (long long)blocks * sizeof(scales_t), n0);
#if ZERO
        own_zeros.at(zeros, ZERO == 1 ? (blocks * BITS + 7) / 8 : (long long)blocks * sizeof(zeros_t), n0);
#endif
#if OFFSETS
        own_offsets.at(offsets, (long long)blocks * sizeof(offsets_t), n0);
#endif
    };
    auto load = [&]() {
        if (to_load > 0) {
            if (step_to_load < used) {
                unsigned char* const to = ring + slot * STAGE;
                const int b0 = step_to_load * STEP / BLOCK;
                weights.bring(to, step_to_load * UNITS * 16);
                own_scales.bring(to + SCALES_AT, b0 * (int)sizeof(scales_t));
#if ZERO
                own_zeros.bring(to + ZEROS_AT, ZERO == 1 ? b0 * BITS / 8 : b0 * (int)sizeof(zeros_t));
#endif
#if OFFSETS
                own_offsets.bring(to + OFFSETS_AT, b0 * (int)sizeof(offsets_t));
#endif
            }
            --to_load;
            slot = slot + 1 < DEPTH ? slot + 1 : 0;
            step_to_load += WARPS;
            if (step_to_load >= each * WARPS) step_to_load = warp, go_to(tile_to_load += gridDim.x);
        }
        asm volatile("cp.async.commit_group;" ::: "memory");
    };
    let_next_kernel_start();
#if !CONSTANT
    await_earlier_kernels();
#endif
    go_to(tile_to_load);
    for (int s = 0; s < DEPTH - 1; ++s) load();
#if CONSTANT
    await_earlier_kernels();
#endif

    // x of this warp's own steps, some loads of each lane under way at once
    const int count = warp < used ? ((used - warp + WARPS - 1) / WARPS) * (TOKENS * UNITS * 4) : 0;
    for (int e0 = lane; e0 < count; e0 += 32 * LOADS) {
        x_t some[LOADS][PER_WORD];
        for (int i = 0; i < LOADS; ++i) {
            const int e = e0 + i * 32, m = e / (UNITS * 4) % TOKENS, k = (e / (UNITS * 4 * TOKENS) * WARPS + warp) * STEP + e % (UNITS * 4) * PER_WORD;
#if EVEN
            for (int j = 0; j < PER_WORD; j += VECTOR) {
                Vector loaded = {};
                if (e < count && k < K) loaded = *(const Vector*)(x + (long long)m * K + k + j);
                for (int v = 0; v < VECTOR; ++v) some[i][j + v] = loaded.at[v];
            }
#else
            for (int j = 0; j < PER_WORD; ++j) some[i][j] = e < count && k + j < K ? x[(long long)m * K + k + j] : down<x_t>(0.f);
#endif
        }
        for (int i = 0; i < LOADS; ++i) {
            const int e = e0 + i * 32, m = e / (UNITS * 4) % TOKENS, step = e / (UNITS * 4 * TOKENS) * WARPS + warp, part = e % (UNITS * 4);
            if (e >= count) break;
            pack<unsigned, PAIRS>* const to = (pack<unsigned, PAIRS>*)&xs[((step * UNITS + part / 4) * COLUMNS + m * PIECES) * 4 + part % 4];
            pack<unsigned, PAIRS> made;
#if PIECES == 1
            for (int j = 0; j < PAIRS; ++j) made.at[j] = some[i][j].bits | (unsigned)some[i][j + PAIRS].bits << 16;
            *to = made;
#else
            float v[PER_WORD];
            for (int j = 0; j < PER_WORD; ++j) v[j] = up(some[i][j]);
            for (int p = 0; p < PIECES; ++p) {
                for (int j = 0; j < PAIRS; ++j) {
                    made.at[j] = two(v[j], v[j + PAIRS], H());
                    const float a = back(made.at[j] & 0xffff, H()), b = back(made.at[j] >> 16, H());
                    v[j] = fabsf(a) < INFINITY ? v[j] - a : 0.f, v[j + PAIRS] = fabsf(b) < INFINITY ? v[j + PAIRS] - b : 0.f;
                }
                to[p * 4] = made;
            }
#endif
        }
    }
    __syncwarp();

    // opaque to the compiler, which would else bring them to a register before every use
    const unsigned low = 0x000f000fu | (unsigned)N >> 31;
    float sums[OWN / 16][GROUPS][4] = {};
    for (int s = 0, tile = blockIdx.x, in_tile = 0, turn = 0, ready = 0; s < steps; ++s) {
        asm volatile("cp.async.wait_group %0;" ::"n"(DEPTH - 2) : "memory");
        __syncwarp();
        load();
        const unsigned char* const from = ring + ready * STAGE;
        ready = ready + 1 < DEPTH ? ready + 1 : 0;
        const int step = in_tile * WARPS + warp;
        if (step < used)
            for (int quad = 0; quad < UNITS; quad += 4) {
                pack<unsigned, PAIRS> b[4][GROUPS];
                float totals[4][GROUPS][4];
                for (int u = 0; u < 4; ++u)
                    for (int c = 0; c < GROUPS; ++c) {
                        const int column = c * 8 + g < COLUMNS ? c * 8 + g : COLUMNS - 1;  // what comes of those behind the last is left
                        b[u][c] = *(const pack<unsigned, PAIRS>*)&xs[((step * UNITS + quad + u) * COLUMNS + column) * 4 + t];
#if LESS
                        const unsigned one = twice(1, H()), ones[4] = {one, one, one, one};
                        for (int i = 0; i < 4; ++i) totals[u][c][i] = 0;
                        for (int j = 0; j < PAIRS; j += 2) multiply(totals[u][c], ones, b[u][c].at[j], b[u][c].at[j + 1], H());
#endif
                    }
                for (int r = 0; r < OWN / 16; ++r) {
                    unsigned words[2][4];
                    for (int i = 0; i < 2; ++i) {
                        const int row = r * 16 + lane % 16, unit = quad + i * 2 + lane / 16;
                        load_matrices(words[i], from + (row * UNITS + (unit ^ row / (8 / UNITS) % UNITS)) * 16);
                    }
                    const int first = quad * PIECE / BLOCK;
                    pack<scales_t, IN_QUAD> some[2];
                    for (int i = 0; i < 2; ++i) some[i] = *(const pack<scales_t, IN_QUAD>*)&((const scales_t*)(from + SCALES_AT))[(r * 16 + g + i * 8) * IN_STEP + first];
                    for (int u = 0; u < 4; ++u) {
                        const int of = (quad + u) * PIECE / BLOCK;
                        float scale[2], less[2] = {};
                        for (int i = 0; i < 2; ++i) {
                            scale[i] = up(some[i].at[of - first]);
#if LESS
                            const int own = r * 16 + g + i * 8;
#if ZERO == 1
                            const int bit = step * STEP / BLOCK * BITS % 8 + of * BITS;
                            less[i] = (float)(MIDDLE - (int)(from[ZEROS_AT + own * ZEROS_BYTES + bit / 8] >> bit % 8 & ((1 << BITS) - 1))) * scale[i];
#elif ZERO == 2
                            less[i] = (MIDDLE - (float)up(((const zeros_t*)(from + ZEROS_AT))[own * IN_STEP + of])) * scale[i];
#endif
#if OFFSETS
                            less[i] += up(((const offsets_t*)(from + OFFSETS_AT))[own * IN_STEP + of]);
#endif
#endif
                        }
                        unsigned a[PAIRS / 2][4];  // rows g and g + 8
                        for (int j = 0; j < PAIRS; ++j)
                            for (int i = 0; i < 2; ++i) a[j / 2][j % 2 * 2 + i] = pair_of(words[u / 2][u % 2 * 2 + i], j, low, H());
                        for (int c = 0; c < GROUPS; ++c) {
                            float d[4] = {};
                            for (int j = 0; j < PAIRS; j += 2) multiply(d, a[j / 2], b[u][c].at[j], b[u][c].at[j + 1], H());
                            for (int i = 0; i < 4; ++i) sums[r][c][i] += scale[i / 2] * d[i];
#if LESS
                            for (int i = 0; i < 4; ++i) sums[r][c][i] += less[i / 2] * totals[u][c][i % 2];
#endif
                        }
                    }
                }
            }
        if (++in_tile < each) continue;
        in_tile = 0;
        float* const own = parts + turn * (WARPS * COLUMNS * OWN);
        for (int r = 0; r < OWN / 16; ++r)
            for (int c = 0; c < GROUPS; ++c)
                for (int i = 0; i < 4; ++i) {
                    const int column = c * 8 + t * 2 + i % 2;
                    if (column < COLUMNS) own[(warp * COLUMNS + column) * OWN + r * 16 + g + i / 2 * 8] = sums[r][c][i];
                    sums[r][c][i] = 0;
                }
        __syncthreads();
        for (int i = threadIdx.x; i < OWN * TOKENS; i += 32 * WARPS) {
            const int m = i / OWN, first = tile * OWN < N - OWN ? tile * OWN : N - OWN, n = first + i % OWN;
            if (n < tile * OWN) continue;  // the tile before makes it
            float whole = 0;
            for (int part = 0; part < WARPS; ++part)
                for (int p = 0; p < PIECES; ++p) whole += own[(part * COLUMNS + m * PIECES + p) * OWN + i % OWN];
#if BIAS
            whole += up(bias[n]);
#endif
            y[(long long)m * N + n] = down<y_t>(whole);
        }
        turn ^= 1;  // the other half of `parts`: nobody is two tiles ahead
        tile += gridDim.x;
    }
    asm volatile("cp.async.wait_all;" ::: "memory");
}
#endif
