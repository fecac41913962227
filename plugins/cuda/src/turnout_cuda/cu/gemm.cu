// A product of matrices, whatever its operands are made of: expressions read an element of the left at m, k and of the right at k, n, and
// statements store the sum a at m, n. A block of 256 threads makes a tile of 64 by 64 from slices that pass through shared memory. Halves go
// through the tensor cores where those take them (sm_80 and later), a warp making 16 by 32; all else is multiplied and added, 4 by 4 a thread.
#define TILE 64

#if HALVES && __CUDA_ARCH__ >= 800
#define SLICE 32

extern "C" __global__ void __launch_bounds__(256) ENTRY(PARAMETERS) {
    __shared__ alignas(16) H lefts[TILE][SLICE + 8], rights[SLICE][TILE + 8];  // eight more, so that no two rows share banks
    const index columns = (N + TILE - 1) / TILE, rows = (M + TILE - 1) / TILE;
    const index z = blockIdx.x / (columns * rows), m0 = blockIdx.x / columns % rows * TILE, n0 = blockIdx.x % columns * TILE;
    const int t = threadIdx.x, lane = t % 32, tm = t / 64 * 16, tn = t / 32 % 2 * 32;
    BATCH
    float sums[4][4] = {};
    for (index k0 = 0; k0 < K; k0 += SLICE) {
        for (int e = t; e < TILE * SLICE; e += 256) {
            const int km = LEFT_ALONG_K ? e % SLICE : e / TILE, mm = LEFT_ALONG_K ? e / SLICE : e % TILE;
            const int kn = RIGHT_ALONG_K ? e % SLICE : e / TILE, nn = RIGHT_ALONG_K ? e / SLICE : e % TILE;
            { const index m = m0 + mm, k = k0 + km; lefts[mm][km] = down<H>(m < M && k < K ? (float)(LEFT) : 0.f); }
            { const index k = k0 + kn, n = n0 + nn; rights[kn][nn] = down<H>(n < N && k < K ? (float)(RIGHT) : 0.f); }
        }
        __syncthreads();
        for (int k = 0; k < SLICE; k += 16) {
            unsigned a[4], b[2][4];
            load_matrices(a, &lefts[tm + lane % 16][k + lane / 16 * 8]);
            for (int j = 0; j < 2; ++j) load_turned(b[j], &rights[k + lane % 16][tn + j * 16 + lane / 16 * 8]);
            for (int j = 0; j < 4; ++j) multiply(sums[j], a, b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1], H());
        }
        __syncthreads();
    }
    for (int j = 0; j < 4; ++j) for (int i = 0; i < 4; ++i) {
        const index m = m0 + tm + lane / 4 + i / 2 * 8, n = n0 + tn + j * 8 + lane % 4 * 2 + i % 2;
        const A a = sums[j][i];
        if (m < M && n < N) { STORE }
    }
}
#else
#define SLICE 16
extern "C" __global__ void __launch_bounds__(256) ENTRY(PARAMETERS) {
    __shared__ A lefts[SLICE][TILE + 4], rights[SLICE][TILE + 4];
    const index columns = (N + TILE - 1) / TILE, rows = (M + TILE - 1) / TILE;
    const index z = blockIdx.x / (columns * rows), m0 = blockIdx.x / columns % rows * TILE, n0 = blockIdx.x % columns * TILE;
    const int t = threadIdx.x, tm = t / 16 * 4, tn = t % 16 * 4;
    BATCH
    A sums[4][4] = {};
    for (index k0 = 0; k0 < K; k0 += SLICE) {
        for (int e = t; e < TILE * SLICE; e += 256) {
            const int km = LEFT_ALONG_K ? e % SLICE : e / TILE, mm = LEFT_ALONG_K ? e / SLICE : e % TILE;
            const int kn = RIGHT_ALONG_K ? e % SLICE : e / TILE, nn = RIGHT_ALONG_K ? e / SLICE : e % TILE;
            { const index m = m0 + mm, k = k0 + km; lefts[km][mm] = m < M && k < K ? (A)(LEFT) : A(0); }
            { const index k = k0 + kn, n = n0 + nn; rights[kn][nn] = n < N && k < K ? (A)(RIGHT) : A(0); }
        }
        __syncthreads();
        for (int k = 0; k < SLICE; ++k) {
            A a[4], b[4];
            for (int i = 0; i < 4; ++i) { a[i] = lefts[k][tm + i]; b[i] = rights[k][tn + i]; }
            for (int i = 0; i < 4; ++i) for (int j = 0; j < 4; ++j) sums[i][j] += a[i] * b[j];
        }
        __syncthreads();
    }
    for (int i = 0; i < 4; ++i) for (int j = 0; j < 4; ++j) {
        const index m = m0 + tm + i, n = n0 + tn + j;
        const A a = sums[i][j];
        if (m < M && n < N) { STORE }
    }
}
#endif
