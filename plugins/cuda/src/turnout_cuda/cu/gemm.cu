// A product of matrices, whatever its operands are made of: `left(m, k)` and `right(k, n)` read an element, or 0 outside; `store(m, n, a)`
// writes one. A block makes a tile of 64 by 64, each of its 256 threads 4 by 4 of it, from slices of 16 that pass through shared memory.
#define TILE 64
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
