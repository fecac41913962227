// Hopper's instructions: wgmma, TMA, mbarriers, clusters. Right kernels; test_hopper.py runs them.
#include <cuda_fp16.h>
#define KERNEL extern "C" __global__ void
typedef unsigned long long u64;

__device__ unsigned at(const void* p) { return (unsigned)__cvta_generic_to_shared(p); }
__device__ void for_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }  // what was written is there for wgmma and bulk copies
__device__ void init(u64& b, unsigned n) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;\nfence.mbarrier_init.release.cluster;" ::"r"(at(&b)), "r"(n) : "memory");
    for_async();
}
__device__ void expect(u64& b, unsigned n) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(at(&b)), "r"(n) : "memory");
}
__device__ void wait(u64& b, unsigned parity) {
    asm volatile(
        "{ .reg .pred p;\nLAB_WAIT: mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n@p bra DONE;\nbra LAB_WAIT;\nDONE: }" ::"r"(at(&b)),
        "r"(parity)
        : "memory");
}
__device__ u64 descriptor(const void* p, unsigned leading, unsigned stride, u64 swizzle) {
    return (u64)((at(p) & 0x3FFFF) >> 4) | (u64)(leading >> 4) << 16 | (u64)(stride >> 4) << 32 | swizzle << 62;
}
#define D8(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
template <int TA, int TB>
__device__ void multiply(float (&d)[32], u64 a, u64 b) {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
    asm volatile(
        "{.reg .pred p; setp.ne.b32 p, %34, 0;\nwgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 "
        "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}, "
        "%32, %33, p, 1, 1, %35, %36;}\n"
        : D8(d, 0), D8(d, 8), D8(d, 16), D8(d, 24)
        : "l"(a), "l"(b), "r"(1), "n"(TA), "n"(TB));
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
}
__device__ void write(float (&d)[32], float* c) {
    int w = threadIdx.x / 32, l = threadIdx.x % 32;
    for (int j = 0; j < 8; ++j) for (int i = 0; i < 2; ++i) for (int e = 0; e < 2; ++e)
        c[(w * 16 + l / 4 + 8 * i) * 64 + 8 * j + l % 4 * 2 + e] = d[4 * j + 2 * i + e];
}

// C[64,64] = A[64,64] B[64,64]^T, both K-major, rows of `width` bytes swizzled by hand (width 128, 64, 32)
template <int WIDTH, int CODE>
__device__ void k_major(const __half* a, const __half* b, float* c) {
    __shared__ alignas(1024) unsigned char sa[64 * 128], sb[64 * 128];
    constexpr int BLOCKS = 128 / WIDTH;  // tiles of 64 rows of WIDTH bytes
    for (int i = threadIdx.x; i < 64 * 8; i += 128) {
        int r = i / 8, q = i % 8, tile = q / (WIDTH / 16), in = q % (WIDTH / 16);
        unsigned to = r * WIDTH + in * 16;
        to ^= (to >> 7 & (WIDTH / 16 - 1)) << 4;
        *(uint4*)(sa + tile * 64 * WIDTH + to) = *(const uint4*)(a + r * 64 + q * 8);
        *(uint4*)(sb + tile * 64 * WIDTH + to) = *(const uint4*)(b + r * 64 + q * 8);
    }
    for_async();
    __syncthreads();
    float d[32] = {};
    for (int k = 0; k < 4; ++k) {
        unsigned tile = k * 32 / WIDTH, in = k * 32 % WIDTH;
        multiply<0, 0>(d, descriptor(sa + tile * 64 * WIDTH + in, 16, 8 * WIDTH, CODE), descriptor(sb + tile * 64 * WIDTH + in, 16, 8 * WIDTH, CODE));
    }
    write(d, c);
    (void)BLOCKS;
}
KERNEL wgmma_128(const __half* a, const __half* b, float* c) { k_major<128, 1>(a, b, c); }
KERNEL wgmma_64(const __half* a, const __half* b, float* c) { k_major<64, 2>(a, b, c); }
KERNEL wgmma_32(const __half* a, const __half* b, float* c) { k_major<32, 3>(a, b, c); }

KERNEL wgmma_plain(const __half* a, const __half* b, float* c) {  // no swizzle: core matrices of 8 rows of 16 bytes
    __shared__ alignas(128) unsigned char sa[64 * 128], sb[64 * 128];
    for (int i = threadIdx.x; i < 64 * 8; i += 128) {
        int r = i / 8, q = i % 8;
        unsigned to = q * 1024 + r / 8 * 128 + r % 8 * 16;
        *(uint4*)(sa + to) = *(const uint4*)(a + r * 64 + q * 8);
        *(uint4*)(sb + to) = *(const uint4*)(b + r * 64 + q * 8);
    }
    for_async();
    __syncthreads();
    float d[32] = {};
    for (int k = 0; k < 4; ++k) multiply<0, 0>(d, descriptor(sa + k * 2048, 1024, 128, 0), descriptor(sb + k * 2048, 1024, 128, 0));
    write(d, c);
}

// C = A B with B stored K x N, rows of N: MN-major, 128-byte swizzle
KERNEL wgmma_transposed(const __half* a, const __half* b, float* c) {
    __shared__ alignas(1024) unsigned char sa[64 * 128], sb[64 * 128];
    for (int i = threadIdx.x; i < 64 * 8; i += 128) {
        int r = i / 8, q = i % 8;
        unsigned to = r * 128 + ((q ^ r % 8) * 16);
        *(uint4*)(sa + to) = *(const uint4*)(a + r * 64 + q * 8);
        *(uint4*)(sb + to) = *(const uint4*)(b + r * 64 + q * 8);
    }
    for_async();
    __syncthreads();
    float d[32] = {};
    for (int k = 0; k < 4; ++k) multiply<0, 1>(d, descriptor(sa + k * 32, 16, 1024, 1), descriptor(sb + k * 2048, 8192, 1024, 1));
    write(d, c);
}

KERNEL bulk_copies(const float* x, float* y, int rounds) {
    __shared__ alignas(128) float tile[2][256];
    __shared__ alignas(8) u64 full[2];
    if (threadIdx.x == 0) { init(full[0], 1); init(full[1], 1); }
    __syncthreads();
    float sum = 0;
    for (int r = 0; r < rounds; ++r) {
        int s = r & 1;
        if (threadIdx.x == 0) {
            expect(full[s], 1024);
            asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], 1024, [%2];" ::"r"(at(tile[s])),
                         "l"(x + r * 256), "r"(at(&full[s])) : "memory");
        }
        wait(full[s], r >> 1 & 1);
        sum += tile[s][255 - threadIdx.x];
        __syncthreads();
    }
    tile[0][threadIdx.x] = sum;
    for_async();
    __syncthreads();
    if (threadIdx.x == 0) {
        asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], 1024;" ::"l"(y), "r"(at(tile[0])) : "memory");
        asm volatile("cp.async.bulk.commit_group;" ::: "memory");
        asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
    }
}

// one warp produces, the others consume, through a ring of two tiles
KERNEL producer_and_consumers(const float* x, float* y, int rounds) {
    __shared__ float tile[2][96];
    __shared__ alignas(8) u64 full[2], empty[2];
    if (threadIdx.x == 0) for (int s = 0; s < 2; ++s) { init(full[s], 32); init(empty[s], 96); }
    __syncthreads();
    if (threadIdx.x < 32) {
        for (int r = 0; r < rounds; ++r) {
            int s = r & 1;
            if (r > 1) wait(empty[s], (r >> 1 & 1) ^ 1);
            for (int i = threadIdx.x; i < 96; i += 32) tile[s][i] = x[r * 96 + i];
            asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(at(&full[s])) : "memory");
        }
    } else {
        int t = threadIdx.x - 32;
        float sum = 0;
        for (int r = 0; r < rounds; ++r) {
            int s = r & 1;
            wait(full[s], r >> 1 & 1);
            sum += tile[s][95 - t] * (r + 1);
            asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(at(&empty[s])) : "memory");
        }
        y[t] = sum;
    }
}

struct alignas(64) Map { char opaque[128]; };
KERNEL tensor_copy(const __grid_constant__ Map in, const __grid_constant__ Map out, int c0, int c1) {
    __shared__ alignas(1024) __half tile[16 * 64];
    __shared__ alignas(8) u64 full;
    if (threadIdx.x == 0) {
        init(full, 1);
        expect(full, 16 * 64 * 2);
        asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(at(tile)),
                     "l"(&in), "r"(at(&full)), "r"(c0), "r"(c1) : "memory");
    }
    __syncthreads();
    wait(full, 0);
    for (int i = threadIdx.x; i < 16 * 64; i += blockDim.x) tile[i] = __hadd(tile[i], __float2half(1.f));
    for_async();
    __syncthreads();
    if (threadIdx.x == 0)
        asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];\ncp.async.bulk.commit_group;\n"
                     "cp.async.bulk.wait_group 0;" ::"l"(&out), "r"(at(tile)), "r"(c0), "r"(c1) : "memory");
}

KERNEL __cluster_dims__(4, 1, 1) cluster_sum(const float* x, float* y) {
    __shared__ float mine[64];
    unsigned rank, total;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    asm volatile("mov.u32 %0, %%cluster_nctarank;" : "=r"(total));
    mine[threadIdx.x] = x[blockIdx.x * 64 + threadIdx.x];
    asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
    float sum = 0;
    for (unsigned r = 0; r < total; ++r) {
        unsigned there;
        float v;
        asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(at(&mine[threadIdx.x])), "r"((rank + r) % total));
        asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(v) : "r"(there) : "memory");
        sum += v;
    }
    asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
    y[blockIdx.x * 64 + threadIdx.x] = sum + rank;
}

KERNEL __cluster_dims__(2, 1, 1) multicast(const float* x, float* y) {
    __shared__ alignas(128) float tile[64];
    __shared__ alignas(8) u64 full;
    unsigned rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    if (threadIdx.x == 0) { init(full, 1); expect(full, 256); }
    asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
    if (rank == 0 && threadIdx.x == 0)
        asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1], 256, [%2], %3;" ::"r"(at(tile)),
                     "l"(x), "r"(at(&full)), "h"((unsigned short)3) : "memory");
    wait(full, 0);
    y[blockIdx.x * 64 + threadIdx.x] = tile[threadIdx.x] * (rank + 1);
    asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
}

KERNEL elected(unsigned* y) {
    unsigned chosen;
    asm volatile("{ .reg .pred p; .reg .b32 l; elect.sync l|p, 0xffffffff; selp.u32 %0, 1, 0, p; }" : "=r"(chosen));
    y[threadIdx.x] = chosen;
    asm volatile("griddepcontrol.wait;" ::: "memory");
    asm volatile("griddepcontrol.launch_dependents;");
}

__device__ unsigned arrived;
KERNEL grid_barrier(const float* x, float* y) {  // every block must run: a cooperative launch
    y[blockIdx.x * 32 + threadIdx.x] = x[blockIdx.x * 32 + threadIdx.x];
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        atomicAdd(&arrived, 1);
        while (*(volatile unsigned*)&arrived < gridDim.x) {}
    }
    __syncthreads();
    float sum = 0;
    for (int b = 0; b < gridDim.x; ++b) sum += __ldcg(y + b * 32 + threadIdx.x);
    __syncthreads();
    y[(gridDim.x + blockIdx.x) * 32 + threadIdx.x] = sum;
}
