// What many queries see, through Hopper's wgmma (Shah et al., "FlashAttention-3", 2024). Two warpgroups take 128 of the queries that share a head
// of keys, 64 rows each; keys and values come 128 tokens at a time, by cp.async into two places each, in rows of 128 bytes whose 16-byte pieces
// are mixed by the row's number (128-byte swizzle). The values of one step are summed while the weights of the next are made: its scores are asked
// for first. Weights go from the scores' registers into the next product as they are.
#define THREADS 256
#define ROWS 128
#define KEYS 128
#define PIECES (HEAD / 8)
#define AT_ONCE (THREADS / PIECES)
#define BLOCK (KEYS * 128)
#define TILE (BLOCK * ((HEAD + 63) / 64))

#if __CUDA_ARCH_FEAT_SM90_ALL
DEVICE unsigned at(const void* p) { return (unsigned)__cvta_generic_to_shared(p); }

// 16 bytes on their way to shared memory, or zeros
DEVICE void fetch(unsigned to, const q_t* from, bool inside) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(inside ? 16 : 0) : "memory");
}
DEVICE unsigned placed(unsigned tile, int row, int piece) { return tile + piece / 8 * BLOCK + row * 128 + ((piece % 8 ^ row % 8) << 4); }
#define CLOSE() asm volatile("cp.async.commit_group;" ::: "memory")
#define ARRIVED() asm volatile("cp.async.wait_group 0; fence.proxy.async.shared::cta;" ::: "memory")

// PTX ISA, "Matrix descriptor format": where an operand begins, the steps from one 64 to the next along n, and from 8 rows to the next
DEVICE unsigned long long descriptor(unsigned address, unsigned leading) {
    return (unsigned long long)((address & 0x3ffff) >> 4) | (unsigned long long)(leading >> 4) << 16 | (unsigned long long)(1024 >> 4) << 32 | 1ull << 62;
}

#define F8(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define F32(d, i) F8(d, i), F8(d, i + 8), F8(d, i + 16), F8(d, i + 24)
#define R32 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define R48 R32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define R64 R48 ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#if HEAD == 64
#define SUMS(d) F32(d, 0)
#define NAMES "n64k16", R32, "{%32, %33, %34, %35}, %36"
#elif HEAD == 96
#define SUMS(d) F32(d, 0), F8(d, 32), F8(d, 40)
#define NAMES "n96k16", R48, "{%48, %49, %50, %51}, %52"
#else
#define SUMS(d) F32(d, 0), F32(d, 32)
#define NAMES "n128k16", R64, "{%64, %65, %66, %67}, %68"
#endif
#define WGMMA(SHAPE, TYPE, D, REST) "wgmma.mma_async.sync.aligned.m64" SHAPE ".f32." TYPE "." TYPE " {" D "}, " REST ";"
#define SCORES(TYPE) asm volatile(WGMMA("n128k16", TYPE, R64, "%64, %65, %66, 1, 1, 0, 0") : F32(d, 0), F32(d, 32) : "l"(a), "l"(b), "n"(MORE))
#define SUM_OF(SHAPE, D, AB, TYPE) \
    asm volatile(WGMMA(SHAPE, TYPE, D, AB ", 1, 1, 1, 1") : SUMS(d) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))
#define SUM(NAMES, TYPE) SUM_OF(NAMES, TYPE)
template <int MORE> DEVICE void score(float (&d)[64], unsigned long long a, unsigned long long b, f16) { SCORES("f16"); }
template <int MORE> DEVICE void score(float (&d)[64], unsigned long long a, unsigned long long b, bf16) { SCORES("bf16"); }
DEVICE void add(float (&d)[HEAD / 2], const unsigned* a, unsigned long long b, f16) { SUM(NAMES, "f16"); }
DEVICE void add(float (&d)[HEAD / 2], const unsigned* a, unsigned long long b, bf16) { SUM(NAMES, "bf16"); }
#define BEGIN() asm volatile("wgmma.fence.sync.aligned;" ::: "memory")
#define ASK() asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory")
// sums are named where they are waited for, so that nothing reads them before
#define SCORES_THERE(COUNT) asm volatile("wgmma.wait_group.sync.aligned " #COUNT ";" : F32(scores, 0), F32(scores, 32) :: "memory")
#define SUMS_THERE() asm volatile("wgmma.wait_group.sync.aligned 0;" : SUMS(seen) :: "memory")

extern "C" __global__ void __launch_bounds__(THREADS, 1) ENTRY(PARAMETERS) {
    let_next_kernel_start();
    await_earlier_kernels();
    extern __shared__ unsigned char memory[];
    const unsigned qs = (at(memory) + 1023) & ~1023u, ks = qs + TILE, vs = ks + 2 * TILE;
    const int t = threadIdx.x, half = t / 128, lane = t % 32, warp = t % 128 / 32, quarter = lane % 4;
    const int b = blockIdx.y / key_heads, kh = blockIdx.y % key_heads, group = heads / key_heads, rows = group * S;
    const int row0 = (gridDim.x - 1 - blockIdx.x) * ROWS;  // those that see most come first
    const int past = PAST, end = END;
    const int first = past + row0 / group, last = past + (row0 + ROWS < rows ? row0 + ROWS - 1 : rows - 1) / group;  // places of these queries
    int low = WINDOWED ? first - window + 1 : 0, high = CAUSAL ? last + 1 : end;
    low = low < 0 ? 0 : low;
    high = high < end ? high : end;
    const int steps = high > low ? (high - low + KEYS - 1) / KEYS : 0;

    const int piece = t % PIECES, begin = t / PIECES;
    const bool loads = t < AT_ONCE * PIECES;
    const q_t *own_keys = keys + (long long)b * k_text + (long long)kh * k_head + piece * 8;
    const q_t *own_values = values + (long long)b * v_text + (long long)kh * v_head + piece * 8;
    auto load = [&](unsigned tile, const q_t* from, int token, int step) {
        const int k0 = low + step * KEYS;
        if (loads) for (int row = begin; row < KEYS; row += AT_ONCE) {
            const int place = k0 + row < high ? k0 + row : high - 1;
            fetch(placed(tile, row, piece), from + (long long)place * token, k0 + row < high);
        }
    };
    if (loads) for (int r = begin; r < ROWS; r += AT_ONCE) {
        const int row = row0 + r < rows ? row0 + r : rows - 1;
        fetch(placed(qs, r, piece), q + (long long)b * q_text + (long long)(row / group) * q_token + (long long)(kh * group + row % group) * q_head + piece * 8, true);
    }
    if (steps) load(ks, own_keys, k_token, 0);
    CLOSE();

    int row[2], own[2];  // this thread's two rows, and their places in the text
    for (int i = 0; i < 2; ++i) {
        row[i] = row0 + half * 64 + warp * 16 + lane / 4 + i * 8;
        own[i] = past + (row[i] < rows ? row[i] : rows - 1) / group;
    }
    // weights are powers of two; scores stay as they are where the largest can be found so
    const float steep = FOLDED ? scale * 1.44269504f : 1.f;
    float scores[64] = {}, seen[HEAD / 2] = {}, top[2] = {-INFINITY, -INFINITY}, sum[2] = {}, factor[2];
    unsigned weights[32] = {};
    auto ask_scores = [&](int step) {
        const unsigned keys_at = ks + step % 2 * TILE;
        score<0>(scores, descriptor(qs + half * 64 * 128, 16), descriptor(keys_at, 16), q_t());
#pragma unroll
        for (int k = 1; k < HEAD / 16; ++k)
            score<1>(scores, descriptor(qs + half * 64 * 128 + k / 4 * BLOCK + k % 4 * 32, 16), descriptor(keys_at + k / 4 * BLOCK + k % 4 * 32, 16), q_t());
        ASK();
    };
    auto ask_sums = [&](int step) {
#pragma unroll
        for (int k = 0; k < KEYS / 16; ++k) add(seen, weights + 4 * k, descriptor(vs + step % 2 * TILE + k * 2048, BLOCK), q_t());
        ASK();
    };
    auto weigh = [&](int step) {
        const int k0 = low + step * KEYS;
#if !FOLDED
#pragma unroll
        for (int e = 0; e < 64; ++e) scores[e] = 1.44269504f * (CAPPED ? cap * tanhf(scores[e] * scale / cap) : scores[e] * scale);
#endif
        if (k0 + KEYS > high || (CAUSAL && k0 + KEYS - 1 > first) || (WINDOWED && k0 <= last - window)) {
#pragma unroll
            for (int e = 0; e < 64; ++e) {
                const int place = k0 + e / 4 * 8 + quarter * 2 + e % 2, its = own[e % 4 / 2];
                if (place >= high || (CAUSAL && place > its) || (WINDOWED && place <= its - window)) scores[e] = -INFINITY;
            }
        }
        float largest[2] = {top[0], top[1]}, lifted[2];
#pragma unroll
        for (int e = 0; e < 64; ++e) largest[e % 4 / 2] = fmaxf(largest[e % 4 / 2], scores[e]);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            for (int distance = 1; distance < 4; distance *= 2) largest[i] = fmaxf(largest[i], __shfl_xor_sync(0xffffffff, largest[i], distance));
            lifted[i] = largest[i] == -INFINITY ? 0.f : largest[i] * steep;  // nothing is seen yet: weights of zero
            factor[i] = power_of_two(top[i] * steep - lifted[i]);
            top[i] = largest[i];
            sum[i] *= factor[i];
        }
#pragma unroll
        for (int e = 0; e < 64; ++e) sum[e % 4 / 2] += scores[e] = power_of_two(scores[e] * steep - lifted[e % 4 / 2]);
    };
    auto pack = [&] {
#pragma unroll
        for (int k = 0; k < 32; ++k) weights[k] = two(scores[2 * k], scores[2 * k + 1], q_t());
    };

    if (steps) {
        ARRIVED();
        __syncthreads();
        if (steps > 1) load(ks + TILE, own_keys, k_token, 1);
        load(vs, own_values, v_token, 0);
        CLOSE();
        BEGIN();
        ask_scores(0);
        SCORES_THERE(0);
        weigh(0);
        pack();
        for (int step = 1; step < steps; ++step) {
            ARRIVED();
            __syncthreads();  // all have what they wait for, and all have done with what was read in the step before
            if (step + 1 < steps) load(ks + (step + 1) % 2 * TILE, own_keys, k_token, step + 1);
            load(vs + step % 2 * TILE, own_values, v_token, step);
            CLOSE();
            BEGIN();
            ask_scores(step);
            ask_sums(step - 1);
            SCORES_THERE(1);
            weigh(step);
            SUMS_THERE();
#pragma unroll
            for (int e = 0; e < HEAD / 2; ++e) seen[e] *= factor[e % 4 / 2];
            pack();
        }
        ARRIVED();
        __syncthreads();
        BEGIN();
        ask_sums(steps - 1);
        SUMS_THERE();
    }
    for (int i = 0; i < 2; ++i) {
        for (int distance = 1; distance < 4; distance *= 2) sum[i] += __shfl_xor_sync(0xffffffff, sum[i], distance);
        if (row[i] >= rows) continue;
        const float share = sum[i] > 0 ? 1.f / sum[i] : 0.f;
        y_t* to = y + (long long)b * y_text + (long long)(row[i] / group) * y_token + (long long)(kh * group + row[i] % group) * y_head;
#pragma unroll
        for (int j = 0; j < HEAD / 8; ++j)
            put_two(to + j * 8 + quarter * 2, seen[4 * j + 2 * i] * share, seen[4 * j + 2 * i + 1] * share);
    }
}
#else  // only a device with these instructions is given this kernel
extern "C" __global__ void ENTRY(PARAMETERS) {}
#endif
