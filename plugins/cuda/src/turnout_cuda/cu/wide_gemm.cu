// A product of matrices of halves, both of them plain, through Hopper's wgmma: LEFT points to rows of K, RIGHT to rows of N, or of K where it
// is TURNED, and STORE stores the sum a at m, n. Two warpgroups make a tile of 128 by 128, 64 rows each; slices of 64 along k come by
// cp.async into a ring of STAGES, in rows of 128 bytes whose 16-byte pieces are mixed by the row's number (128-byte swizzle).
#define TILE 128
#define SLICE 64
#define HALF_BYTES (TILE * SLICE * 2)

#if __CUDA_ARCH_FEAT_SM90_ALL
DEVICE unsigned at(const void* p) { return (unsigned)__cvta_generic_to_shared(p); }

// 16 bytes on their way to shared memory, or zeros where they would lie outside
DEVICE void fetch(unsigned to, const H* from, bool inside) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(inside ? 16 : 0) : "memory");
}

// PTX ISA, "Matrix descriptor format": where an operand begins, the steps from one 64 to the next along m or n, and from 8 rows to the next
DEVICE unsigned long long descriptor(unsigned address, unsigned leading) {
    return (unsigned long long)((address & 0x3ffff) >> 4) | (unsigned long long)(leading >> 4) << 16 | (unsigned long long)(1024 >> 4) << 32 | 1ull << 62;
}

#define D8(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define MULTIPLY(TYPE) \
    asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32." TYPE "." TYPE " {" \
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, " \
                 "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, " \
                 "%43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, " \
                 "%64, %65, 1, 1, 1, 0, %66;" \
                 : D8(0), D8(8), D8(16), D8(24), D8(32), D8(40), D8(48), D8(56) : "l"(a), "l"(b), "n"(TURNED ? 0 : 1))
DEVICE void multiply(float (&d)[64], unsigned long long a, unsigned long long b, f16) { MULTIPLY("f16"); }
DEVICE void multiply(float (&d)[64], unsigned long long a, unsigned long long b, bf16) { MULTIPLY("bf16"); }

extern "C" __global__ void __launch_bounds__(256) ENTRY(PARAMETERS) {
    extern __shared__ unsigned char memory[];
    const unsigned ring = (at(memory) + 1023) & ~1023u;
    const index rows = (M + TILE - 1) / TILE, columns = (N + TILE - 1) / TILE, z = blockIdx.x / (columns * rows);
    // eight rows of tiles go together, so that what they read stays in the cache
    const index tile = blockIdx.x % (columns * rows), group = tile / (8 * columns), high = rows - group * 8 < 8 ? rows - group * 8 : 8;
    const index m0 = (group * 8 + tile % (8 * columns) % high) * TILE, n0 = tile % (8 * columns) / high * TILE;
    const int t = threadIdx.x, half = t / 128, lane = t % 32, warp = t % 128 / 32;
    BATCH
    const H *left = LEFT, *right = RIGHT;
    const index slices = (K + SLICE - 1) / SLICE;

    auto load = [&](index slice) {
        const unsigned a = ring + (unsigned)(slice % STAGES) * (2 * HALF_BYTES), b = a + HALF_BYTES;
        const index k0 = slice * SLICE;
        for (int e = t; e < TILE * 8; e += 256) {
            const int row = e / 8, piece = e % 8;
            const bool in_a = m0 + row < M && k0 + piece * 8 < K;
            fetch(a + row * 128 + ((piece ^ row % 8) << 4), in_a ? left + (m0 + row) * K + k0 + piece * 8 : left, in_a);
            if (TURNED) {
                const bool in_b = n0 + row < N && k0 + piece * 8 < K;
                fetch(b + row * 128 + ((piece ^ row % 8) << 4), in_b ? right + (n0 + row) * K + k0 + piece * 8 : right, in_b);
            } else {  // two blocks of 64 columns, a row for each k
                const int k = e / 16, block = e % 16 / 8;
                const index n = n0 + block * 64 + piece * 8;
                const bool in_b = k0 + k < K && n < N;
                fetch(b + block * (HALF_BYTES / 2) + k * 128 + ((piece ^ k % 8) << 4), in_b ? right + (k0 + k) * N + n : right, in_b);
            }
        }
    };

    float d[64] = {};
    asm volatile("" : D8(0), D8(8), D8(16), D8(24), D8(32), D8(40), D8(48), D8(56) :: "memory");
    for (int s = 0; s < STAGES - 2; ++s) {
        if (s < slices) load(s);
        asm volatile("cp.async.commit_group;" ::: "memory");
    }
    for (index slice = 0; slice < slices; ++slice) {
        asm volatile("cp.async.wait_group %0;" ::"n"(STAGES - 3) : "memory");
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
        __syncthreads();  // all have what they wait for, and all have done with the slice before the last, whose place is filled next
        if (slice + STAGES - 2 < slices) load(slice + STAGES - 2);
        asm volatile("cp.async.commit_group;" ::: "memory");
        const unsigned a = ring + (unsigned)(slice % STAGES) * (2 * HALF_BYTES), b = a + HALF_BYTES;
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
        #pragma unroll
        for (int k = 0; k < SLICE / 16; ++k)
            multiply(d, descriptor(a + half * (HALF_BYTES / 2) + k * 32, 16), TURNED ? descriptor(b + k * 32, 16) : descriptor(b + k * 2048, HALF_BYTES / 2), H());
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
        asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
    }
    // the sums are named here, so that nothing reads them before they are there
    asm volatile("wgmma.wait_group.sync.aligned 0;" : D8(0), D8(8), D8(16), D8(24), D8(32), D8(40), D8(48), D8(56) :: "memory");
    #pragma unroll
    for (int j = 0; j < 16; ++j) for (int i = 0; i < 4; ++i) {
        const index m = m0 + half * 64 + warp * 16 + lane / 4 + i / 2 * 8, n = n0 + j * 8 + lane % 4 * 2 + i % 2;
        const A a = d[4 * j + i];
        if (m < M && n < N) { STORE }
    }
}
#else  // only a device with these instructions is given this kernel
extern "C" __global__ void ENTRY(PARAMETERS) {}
#endif
