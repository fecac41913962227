// A product of matrices of halves, both of them plain, through Hopper's wgmma: LEFT points to rows of K, RIGHT to rows of N, or of K where it
// is TURNED, and VALUE is what is stored of the sum a at m, n. Two warpgroups make a tile of 128 by WIDTH, 64 rows each; a third fetches slices
// of 64 along k into a ring of STAGES. A block makes every so many of the `tiles`, and fetches for the next one while one is stored;
// or SPLIT blocks, a cluster, share the k of a single one, and then its sums.
#define TILE 128
#define SLICE 64
#define LEFT_BYTES (TILE * SLICE * 2)
#define SLICE_BYTES (LEFT_BYTES + WIDTH * SLICE * 2)

#if __CUDA_ARCH_FEAT_SM90_ALL
DEVICE unsigned pair(Y a, Y b) { return a.bits | (unsigned)b.bits << 16; }

// Where a tile begins: eight rows of tiles go together, so that what they read stays in the cache.
struct Place {
    index z, m0, n0;
    DEVICE Place(index tile, index rows, index columns) : z(tile / (columns * rows)) {
        const index own = tile % (columns * rows), group = own / (8 * columns), high = rows - group * 8 < 8 ? rows - group * 8 : 8;
        m0 = (group * 8 + own % (8 * columns) % high) * TILE, n0 = own % (8 * columns) / high * WIDTH;
    }
};

// Word i of lane j, for word j of lane i, among four lanes.
DEVICE void exchange(unsigned (&w)[4], int lane) {
    for (int step = 1; step < 4; step *= 2) for (int i = 0; i < 4; ++i) {
        if (i & step) continue;
        const bool upper = lane & step;
        const unsigned other = __shfl_xor_sync(0xffffffff, upper ? w[i] : w[i + step], step);
        if (upper) w[i] = other; else w[i + step] = other;
    }
}

extern "C" __global__ void __launch_bounds__(384, 1) __cluster_dims__(SPLIT, 1, 1) ENTRY(PARAMETERS) {
    let_next_kernel_start();
    extern __shared__ unsigned char memory[];
    __shared__ unsigned long long barriers[2 * STAGES];
    const unsigned ring = (at(memory) + 1023) & ~1023u, there = at(barriers), free = there + STAGES * 8;
    const int t = threadIdx.x % 128, half = threadIdx.x / 128, lane = t % 32, warp = t / 32;
    const index all = (K + SLICE - 1) / SLICE, share = SPLIT > 1 ? rank() : 0, begin = all * share / SPLIT, end = all * (share + 1) / SPLIT;
    if (threadIdx.x < STAGES) expect(there + threadIdx.x * 8, 128), expect(free + threadIdx.x * 8, 8);
    __syncthreads();
    await_earlier_kernels();
    Turn turn;
#define EACH_TILE \
    for (index tile = blockIdx.x / SPLIT; tile < tiles; tile += gridDim.x / SPLIT) { \
        const Place own(tile, (M + TILE - 1) / TILE, (N + WIDTH - 1) / WIDTH); \
        const index z = own.z, m0 = own.m0, n0 = own.n0; \
        BATCH

    if (half == 2) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 56;");
        const int row = t / 8, piece = t % 8;
        const unsigned to = ring + row * 128 + ((piece ^ row % 8) << 4);
        EACH_TILE
            index k0 = begin * SLICE;
            const H* left = LEFT + (m0 + row) * (long long)K + k0 + piece * 8;
            const H* right = TURNED ? RIGHT + (n0 + row) * (long long)K + k0 + piece * 8 : RIGHT + (k0 + row) * (long long)N + n0 + piece * 8;
            for (index slice = begin; slice < end; ++slice, k0 += SLICE) {
                await(free + turn.place * 8, turn.round ^ 1);
                const unsigned a = to + turn.place * SLICE_BYTES, b = a + LEFT_BYTES;
                const bool in_k = k0 + piece * 8 < K;
                #pragma unroll
                for (int i = 0; i < TILE / 16; ++i) {
                    const bool inside = in_k && m0 + row + i * 16 < M;
                    fetch(a + i * 2048, inside ? left + i * 16 * (long long)K : LEFT, inside);
                }
                if (TURNED) {
                    #pragma unroll
                    for (int i = 0; i < WIDTH / 16; ++i) {
                        const bool inside = in_k && n0 + row + i * 16 < N;
                        fetch(b + i * 2048, inside ? right + i * 16 * (long long)K : RIGHT, inside);
                    }
                } else {  // blocks of 64 columns, a row for each k
                    #pragma unroll
                    for (int i = 0; i < WIDTH / 16; ++i) {
                        const bool inside = k0 + row + i % 4 * 16 < K && n0 + i / 4 * 64 + piece * 8 < N;
                        fetch(b + i * 2048, inside ? right + i % 4 * 16 * (long long)N + i / 4 * 64 : RIGHT, inside);
                    }
                }
                arrive_with_copies(there + turn.place * 8);
                left += SLICE, right += TURNED ? SLICE : SLICE * (long long)N;
                turn.next();
            }
        }
        if (SPLIT > 1) meet(), meet();
        return;
    }

    asm volatile("setmaxnreg.inc.sync.aligned.u32 224;");
    EACH_TILE
        float d[WIDTH / 2] = {};
        SETTLED(d);
        unsigned before = 0;
        for (index slice = begin; slice < end; ++slice) {
            await(there + turn.place * 8, turn.round);
            copies_are_seen();
            const unsigned a = ring + turn.place * SLICE_BYTES + half * (LEFT_BYTES / 2), b = ring + turn.place * SLICE_BYTES + LEFT_BYTES;
            before_products();
            #pragma unroll
            for (int k = 0; k < SLICE / 16; ++k)
                WGMMA(d, descriptor(a + k * 32, 16), TURNED ? descriptor(b + k * 32, 16) : descriptor(b + k * 2048, 8192));
            products_end();
            await_products<1>();
            if (slice > begin && !lane) arrive(free + before * 8);
            before = turn.place;
            turn.next();
        }
        await_products<0>();
        if (!lane) arrive(free + before * 8);
        SETTLED(d);  // nothing reads them before they are there

        // 32 columns, of which a thread has two out of eight in two rows
        auto store = [&](int j, const float* sums) {
            #pragma unroll
            for (int h = 0; h < 2; ++h) {
                const index m = m0 + half * 64 + warp * 16 + lane / 4 + h * 8;
                unsigned words[4];
                #pragma unroll
                for (int i = 0; i < 4; ++i) {
                    Y made[2] = {};
                    for (int e = 0; e < 2; ++e) {
                        const index n = n0 + j * 32 + i * 8 + lane % 4 * 2 + e;
                        const A a = sums[4 * i + 2 * h + e];
                        if (m < M && n < N) made[e] = down<Y>(VALUE);
                        if (m < M && n < N && N % 8) y[(z * M + m) * N + n] = made[e];
                    }
                    words[i] = pair(made[0], made[1]);
                }
                if (N % 8) continue;
                exchange(words, lane);
                const index n = n0 + j * 32 + lane % 4 * 8;
                if (m < M && n < N) *(pack<unsigned, 4>*)(y + (z * M + m) * N + n) = pack<unsigned, 4>{words[0], words[1], words[2], words[3]};
            }
        };
#if SPLIT == 1
        #pragma unroll
        for (int j = 0; j < WIDTH / 32; ++j) store(j, d + 16 * j);
#else
        asm volatile("bar.sync 1, 256;" ::: "memory");  // the two warpgroups have done with what lay there
        share_sums<WIDTH / 2, 16>(memory + (ring - at(memory)), d, share, store);
#endif
    }
}
#else  // only a device with these instructions is given this kernel
extern "C" __global__ void ENTRY(PARAMETERS) {}
#endif
