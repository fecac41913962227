// y[m, n] = sum over k of x[m, k] * w[n, k], for TOKENS rows of x: bound by the bytes of w. A warp makes ROWS columns of y; the 32 lanes, and
// SPLIT warps, share k between them. Sums are float throughout: q * s - z * s is s times (x . q - z * sum x), with the sums of a block of x
// shared by all rows; OFFSETS adds a number for each block to its weights the same way.
#define WARPS 8

DEVICE void load_x(float (&v)[EACH], const x_t* x, int k, int K) {
#if EVEN
    for (int i = 0; i < EACH * (int)sizeof(x_t) / 16; ++i) {
        const pack<x_t, 16 / sizeof(x_t)> part = ((const pack<x_t, 16 / sizeof(x_t)>*)(x + k))[i];
        for (int j = 0; j < 16 / (int)sizeof(x_t); ++j) v[i * (16 / sizeof(x_t)) + j] = up(part.at[j]);
    }
#else
    for (int j = 0; j < EACH; ++j) v[j] = k + j < K ? up(x[k + j]) : 0.f;
#endif
}

extern "C" __global__ void __launch_bounds__(32 * WARPS, TOKENS > 2 ? 2 : 3) ENTRY(PARAMETERS) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, share = warp % SPLIT;
    const int n0 = (blockIdx.x * (WARPS / SPLIT) + warp / SPLIT) * ROWS;
    const int chunks = blocks * BLOCK / EACH, used = (K + EACH - 1) / EACH;  // a row's last block may be longer than k
    float sums[TOKENS][ROWS] = {};
    for (int c = share * 32 + lane; c < used && n0 < N; c += SPLIT * 32) {
        Chunk words[ROWS];
        float scale[ROWS][PARTS], less[ROWS][PARTS];
        for (int r = 0; r < ROWS; ++r) {
            const int n = n0 + r < N ? n0 + r : N - 1;
            words[r] = streamed(w + ((long long)n * chunks + c) * CHUNK);
            for (int p = 0; p < PARTS; ++p) {
                const int b = PARTS > 1 ? c * PARTS + p : c * EACH / BLOCK;
                scale[r][p] = up(scales[(long long)n * blocks + b]);
                less[r][p] = -ZERO_OF(n, b, blocks) * scale[r][p];
#if OFFSETS
                less[r][p] += up(offsets[(long long)n * blocks + b]);
#endif
            }
        }
        for (int m = 0; m < TOKENS; ++m) {
            float v[EACH], total[PARTS] = {};
            load_x(v, x + (long long)m * K, c * EACH, K);
            for (int j = 0; j < EACH; ++j) {
                total[j * PARTS / EACH] += v[j];
                v[j] *= lowering(j % PER_WORD);
            }
            for (int r = 0; r < ROWS; ++r)
                for (int p = 0; p < PARTS; ++p) {
                    float dot = 0;
                    for (int j = p * (EACH / PARTS); j < (p + 1) * (EACH / PARTS); ++j)
                        dot += v[j] * raised(words[r].at[j / PER_WORD], j % PER_WORD);
                    sums[m][r] += scale[r][p] * dot + less[r][p] * total[p];
                }
        }
    }
    for (int m = 0; m < TOKENS; ++m)
        for (int r = 0; r < ROWS; ++r)
            for (int distance = 16; distance; distance /= 2) sums[m][r] += __shfl_xor_sync(0xffffffff, sums[m][r], distance);
#if SPLIT > 1
    __shared__ float parts[WARPS][TOKENS * ROWS];
    if (lane == 0)
        for (int i = 0; i < TOKENS * ROWS; ++i) parts[warp][i] = sums[i / ROWS][i % ROWS];
    __syncthreads();
    if (share) return;
    for (int s = 1; s < SPLIT; ++s)
        for (int i = 0; i < TOKENS * ROWS; ++i) sums[i / ROWS][i % ROWS] += parts[warp + s][i];
#endif
    for (int i = 0; i < TOKENS * ROWS; ++i) {
        const int n = n0 + i % ROWS;
        if (lane != i || n >= N) continue;
        float a = sums[i / ROWS][i % ROWS];
#if BIAS
        a += up(bias[n]);
#endif
        y[(long long)(i / ROWS) * N + n] = down<y_t>(a);
    }
}
