// y[m, n] = sum over k of x[m, k] * w[k, n] for TOKENS rows of x: bound by the bytes of w, whose rows lie along n. A thread makes VECTOR
// neighbouring columns, ACROSS threads stand side by side, and TEAMS of them share k, EACH rows of w at once, all under way together; their
// sums meet in shared memory. With SPLIT several blocks share k, and whichever is through last adds their sums up, always in the same order.
#define TEAMS (THREADS / ACROSS)
#define WIDE (ACROSS * VECTOR)
typedef pack<w_t, VECTOR> Vector;

// Weights are read once: they need not push the activations out of the first cache.
DEVICE Vector streamed(const w_t* at) {
    Vector v;
    if constexpr (sizeof(Vector) == 16) {
        unsigned* const r = (unsigned*)&v;
        asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "l"(at));
    } else v = *(const Vector*)at;
    return v;
}

extern "C" __global__ void __launch_bounds__(THREADS, 2) ENTRY(PARAMETERS) {
    __shared__ float sums_of[TEAMS][WIDE];
    const int across = threadIdx.x % ACROSS, team = threadIdx.x / ACROSS, n = (blockIdx.x * ACROSS + across) * VECTOR;
    const int from = blockIdx.y * share, to = from + share < K ? from + share : K, first = from + team * EACH;
    float sums[TOKENS][VECTOR] = {};
    Vector loaded[EACH];
    auto load = [&](int k) {
        for (int i = 0; i < EACH; ++i) loaded[i] = streamed(w + (long long)(k + i < to ? k + i : to - 1) * N + n);
    };
    let_next_kernel_start();
#if CONSTANT
    if (n < N && first < to) load(first);
#endif
    await_earlier_kernels();
    if (n < N)
        for (int k = first; k < to; k += TEAMS * EACH) {
            if (!CONSTANT || k > first) load(k);
            for (int m = 0; m < TOKENS; ++m) {
                float value[EACH];
#if EVEN
                const pack<x_t, EACH> some = *(const pack<x_t, EACH>*)(x + (long long)m * K + k);
                for (int i = 0; i < EACH; ++i) value[i] = up(some.at[i]);
#else
                for (int i = 0; i < EACH; ++i) value[i] = k + i < to ? up(x[(long long)m * K + k + i]) : 0.f;
#endif
                for (int i = 0; i < EACH; ++i)
                    for (int j = 0; j < VECTOR; ++j) sums[m][j] += value[i] * up(loaded[i].at[j]);
            }
        }
    for (int m = 0; m < TOKENS; ++m) {
        if (m) __syncthreads();
        for (int j = 0; j < VECTOR; ++j) sums_of[team][across * VECTOR + j] = sums[m][j];
        __syncthreads();
        for (int i = threadIdx.x; i < WIDE; i += THREADS) {
            const int column = blockIdx.x * WIDE + i;
            float whole = 0;
            for (int p = 0; p < TEAMS; ++p) whole += sums_of[p][i];
            if (column >= N) continue;
#if SPLIT
            parts[((long long)blockIdx.y * TOKENS + m) * N + column] = whole;
#else
            y[(long long)m * N + column] = down<y_t>(whole);
#endif
        }
    }
#if SPLIT
    __shared__ bool last;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        last = atomicAdd(counts + blockIdx.x, 1) == (int)gridDim.y - 1;
        if (last) counts[blockIdx.x] = 0;  // ready for the next run
    }
    __syncthreads();
    if (!last) return;
    __threadfence();
    for (int i = threadIdx.x; i < TOKENS * WIDE; i += THREADS) {
        const int m = i / WIDE, column = blockIdx.x * WIDE + i % WIDE;
        if (column >= N) continue;
        float whole = 0;
        for (int s = 0; s < (int)gridDim.y; ++s) whole += __ldcg(parts + ((long long)s * TOKENS + m) * N + column);
        y[(long long)m * N + column] = down<y_t>(whole);
    }
#endif
}
