// y[m, n] = sum over k of x[m, k] * w[n, k] for many rows of x: a block of 256 threads makes a tile of TM by TN. Slices of x and of w pass through
// shared memory, w's numbers as H, whole weights by then; the next slice is on its way while one is multiplied.
#define THREADS 256

#if HALVES && __CUDA_ARCH__ >= 800
#define PAD 8  // elements behind each row, so that eight rows in a column lie in different banks
typedef H Stored;
#else
#define PAD 4
#undef KT
#define KT 32
typedef float Stored;
#endif

#define X_VECTOR (16 / (int)sizeof(x_t))
#define X_LOADS (TM * KT / X_VECTOR / THREADS > 0 ? TM * KT / X_VECTOR / THREADS : 1)
#define W_LOADS (TN * KT / EACH / THREADS > 0 ? TN * KT / EACH / THREADS : 1)

// What one thread has loaded of the next slice.
struct Slice {
    pack<x_t, X_VECTOR> x[X_LOADS];
    Chunk words[W_LOADS];
    float scale[W_LOADS][PARTS], less[W_LOADS][PARTS];
};

#define PLACE_OF_X const int e = threadIdx.x + i * THREADS, mm = e / (KT / X_VECTOR), kk = e % (KT / X_VECTOR) * X_VECTOR;
#define PLACE_OF_W const int e = threadIdx.x + i * THREADS, nn = e / (KT / EACH), kk = e % (KT / EACH) * EACH;

DEVICE void load_slice(Slice& s, const x_t* x, const unsigned char* w, const scales_t* scales, const zeros_t* zeros, const offsets_t* offsets,
                       int m0, int n0, int k0, int M, int N, int K, int blocks) {
    for (int i = 0; i < X_LOADS; ++i) {
        PLACE_OF_X
        const int m = m0 + mm, k = k0 + kk;
        for (int j = 0; j < X_VECTOR; ++j) s.x[i].at[j] = down<x_t>(0.f);
        if (mm >= TM || m >= M) continue;
#if EVEN
        if (k < K) s.x[i] = *(const pack<x_t, X_VECTOR>*)(x + (long long)m * K + k);
#else
        for (int j = 0; j < X_VECTOR; ++j) if (k + j < K) s.x[i].at[j] = x[(long long)m * K + k + j];
#endif
    }
    for (int i = 0; i < W_LOADS; ++i) {
        PLACE_OF_W
        const int n = n0 + nn, k = k0 + kk;
        const bool there = nn < TN && n < N && k < blocks * BLOCK;
        for (int j = 0; j < CHUNK / 4; ++j) s.words[i].at[j] = 0;
        if (there) s.words[i] = streamed(w + ((long long)n * blocks * BLOCK + k) / (8 / BITS));
        for (int p = 0; p < PARTS; ++p) {
            const int b = k / BLOCK + p;
            s.scale[i][p] = there ? up(scales[(long long)n * blocks + b]) : 0.f;
            s.less[i][p] = there ? -ZERO_OF(n, b, blocks) * s.scale[i][p] : 0.f;
#if OFFSETS
            if (there) s.less[i][p] += up(offsets[(long long)n * blocks + b]);
#endif
        }
    }
}

// Weight j of what a thread loaded.
DEVICE float weight(const Slice& s, int i, int j) {
    const int p = j * PARTS / EACH, in_word = j % PER_WORD;
    return raised(s.words[i].at[j / PER_WORD], in_word) * lowering(in_word) * s.scale[i][p] + s.less[i][p];
}

#if HALVES && __CUDA_ARCH__ >= 800
#define WARPS_M (TM / (16 * MI))
#define WARPS_N (TN / (8 * NI))
#define WARPS_K (8 / (WARPS_M * WARPS_N))

extern "C" __global__ void __launch_bounds__(THREADS, 1) ENTRY(PARAMETERS) {
    __shared__ alignas(16) H xs[TM][KT + PAD], ws[TN][KT + PAD];
    const int columns = (N + TN - 1) / TN, m0 = blockIdx.x / columns * TM, n0 = blockIdx.x % columns * TN;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int tm = warp % WARPS_M * 16 * MI, tn = warp / WARPS_M % WARPS_N * 8 * NI, share = warp / (WARPS_M * WARPS_N);
    float sums[MI][NI][4] = {};
    Slice s;
    load_slice(s, x, w, scales, zeros, offsets, m0, n0, 0, M, N, K, blocks);
    for (int k0 = 0; k0 < K; k0 += KT) {
        for (int i = 0; i < X_LOADS; ++i) {
            PLACE_OF_X
            if (mm >= TM) continue;
            for (int j = 0; j < X_VECTOR; j += 2) *(unsigned*)&xs[mm][kk + j] = two(up(s.x[i].at[j]), up(s.x[i].at[j + 1]), H());
        }
        for (int i = 0; i < W_LOADS; ++i) {
            PLACE_OF_W
            if (nn >= TN) continue;
            for (int j = 0; j < EACH; j += 8) {
                pack<unsigned, 4> eight;
                for (int h = 0; h < 4; ++h) eight.at[h] = two(weight(s, i, j + 2 * h), weight(s, i, j + 2 * h + 1), H());
                *(pack<unsigned, 4>*)&ws[nn][kk + j] = eight;
            }
        }
        __syncthreads();
        if (k0 + KT < K) load_slice(s, x, w, scales, zeros, offsets, m0, n0, k0 + KT, M, N, K, blocks);
        for (int k = share * 16; k < KT; k += WARPS_K * 16) {
            unsigned a[MI][4];
            for (int i = 0; i < MI; ++i) load_matrices(a[i], &xs[tm + i * 16 + lane % 16][k + lane / 16 * 8]);
            for (int j = 0; j < NI; j += 2) {
                unsigned b[4];
                load_matrices(b, &ws[tn + j * 8 + lane % 8 + lane / 16 * 8][k + lane / 8 % 2 * 8]);
                for (int i = 0; i < MI; ++i) {
                    multiply(sums[i][j], a[i], b[0], b[1], H());
                    multiply(sums[i][j + 1], a[i], b[2], b[3], H());
                }
            }
        }
        __syncthreads();
    }
#if WARPS_K > 1
    __shared__ float parts[WARPS_K - 1][TM * TN];
    for (int i = 0; i < MI * NI * 4; ++i) {
        const int at = (tm + i / 4 / NI * 16 + lane / 4 + i / 2 % 2 * 8) * TN + tn + i / 4 % NI * 8 + lane % 4 * 2 + i % 2;
        if (share) parts[share - 1][at] = sums[i / 4 / NI][i / 4 % NI][i % 4];
    }
    __syncthreads();
    if (share) return;
#endif
    for (int i = 0; i < MI * NI * 4; ++i) {
        const int mm = tm + i / 4 / NI * 16 + lane / 4 + i / 2 % 2 * 8, nn = tn + i / 4 % NI * 8 + lane % 4 * 2 + i % 2, m = m0 + mm, n = n0 + nn;
        float a = sums[i / 4 / NI][i / 4 % NI][i % 4];
#if WARPS_K > 1
        for (int p = 0; p < WARPS_K - 1; ++p) a += parts[p][mm * TN + nn];
#endif
        if (m >= M || n >= N) continue;
#if POWERS
        a *= powers[m];
#endif
#if BIAS
        a += up(bias[n]);
#endif
        y[(long long)m * N + n] = down<y_t>(a);
    }
}
#else
extern "C" __global__ void __launch_bounds__(THREADS, 1) ENTRY(PARAMETERS) {
    __shared__ alignas(16) float xs[KT][TM + PAD], ws[KT][TN + PAD];
    const int columns = (N + TN - 1) / TN, m0 = blockIdx.x / columns * TM, n0 = blockIdx.x % columns * TN;
    const int tm = threadIdx.x / 16 * (TM / 16), tn = threadIdx.x % 16 * (TN / 16);
    float sums[TM / 16][TN / 16] = {};
    Slice s;
    load_slice(s, x, w, scales, zeros, offsets, m0, n0, 0, M, N, K, blocks);
    for (int k0 = 0; k0 < K; k0 += KT) {
        for (int i = 0; i < X_LOADS; ++i) {
            PLACE_OF_X
            if (mm < TM) for (int j = 0; j < X_VECTOR; ++j) xs[kk + j][mm] = up(s.x[i].at[j]);
        }
        for (int i = 0; i < W_LOADS; ++i) {
            PLACE_OF_W
            if (nn < TN) for (int j = 0; j < EACH; ++j) ws[kk + j][nn] = weight(s, i, j);
        }
        __syncthreads();
        if (k0 + KT < K) load_slice(s, x, w, scales, zeros, offsets, m0, n0, k0 + KT, M, N, K, blocks);
        for (int k = 0; k < KT; ++k) {
            float a[TM / 16], b[TN / 16];
            for (int i = 0; i < TM / 16; ++i) a[i] = xs[k][tm + i];
            for (int j = 0; j < TN / 16; ++j) b[j] = ws[k][tn + j];
            for (int i = 0; i < TM / 16; ++i) for (int j = 0; j < TN / 16; ++j) sums[i][j] += a[i] * b[j];
        }
        __syncthreads();
    }
    for (int i = 0; i < TM / 16; ++i) for (int j = 0; j < TN / 16; ++j) {
        const int m = m0 + tm + i, n = n0 + tn + j;
        if (m >= M || n >= N) continue;
        float a = sums[i][j];
#if BIAS
        a += up(bias[n]);
#endif
        y[(long long)m * N + n] = down<y_t>(a);
    }
}
#endif
