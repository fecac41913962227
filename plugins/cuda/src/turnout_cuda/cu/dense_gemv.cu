// y[m, n] = sum over k of x[m, k] * w[k, n] for TOKENS rows of x: bound by the bytes of w, whose rows lie along n. A thread makes VECTOR
// neighbouring columns, ACROSS threads stand side by side, and TEAMS of them share k; their sums meet in shared memory.
#define THREADS 256
#define TEAMS (THREADS / ACROSS)
typedef pack<w_t, VECTOR> Vector;

extern "C" __global__ void __launch_bounds__(THREADS) ENTRY(PARAMETERS) {
    __shared__ float parts[TEAMS][ACROSS * VECTOR];
    const int across = threadIdx.x % ACROSS, team = threadIdx.x / ACROSS, n = (blockIdx.x * ACROSS + across) * VECTOR;
    float sums[TOKENS][VECTOR] = {};
    if (n < N) {
#pragma unroll 4
        for (int k = team; k < K; k += TEAMS) {
            const Vector loaded = *(const Vector*)(w + (long long)k * N + n);
            for (int m = 0; m < TOKENS; ++m) {
                const float value = up(x[(long long)m * K + k]);
                for (int j = 0; j < VECTOR; ++j) sums[m][j] += value * up(loaded.at[j]);
            }
        }
    }
    for (int m = 0; m < TOKENS; ++m) {
        if (m) __syncthreads();
        for (int j = 0; j < VECTOR; ++j) parts[team][across * VECTOR + j] = sums[m][j];
        __syncthreads();
        for (int i = threadIdx.x; i < ACROSS * VECTOR; i += THREADS) {
            const int column = blockIdx.x * ACROSS * VECTOR + i;
            float whole = 0;
            for (int p = 0; p < TEAMS; ++p) whole += parts[p][i];
            if (column < N) y[(long long)m * N + column] = down<y_t>(whole);
        }
    }
}
