// What tests/benchmarks/cudasim.py runs: a tiled GEMM with cp.async, ldmatrix and mma.sync, and a product of int4 weights with a vector.
#include <cuda_fp16.h>

__device__ unsigned at(const void* p) { return (unsigned)__cvta_generic_to_shared(p); }
__device__ void fetch(void* to, const void* from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(at(to)), "l"(from) : "memory");
}

// C = A[M,K] B[K,N], tiles of 64 x 64 x 32, 4 warps, two stages
extern "C" __global__ void __launch_bounds__(128) gemm(const __half* A, const __half* B, __half* C, int M, int N, int K) {
    constexpr int AS = 40, BS = 72, TA = 64 * AS, TB = 32 * BS;
    __shared__ alignas(128) __half tiles[2 * (TA + TB)];
    const int t = threadIdx.x, lane = t & 31, wm = t >> 5 & 1, wn = t >> 6, m0 = blockIdx.y * 64, n0 = blockIdx.x * 64;
    auto load = [&](int stage, int k0) {
        __half *a = tiles + stage * (TA + TB), *b = a + TA;
        for (int i = t; i < 256; i += 128) fetch(a + (i >> 2) * AS + (i & 3) * 8, A + (size_t)(m0 + (i >> 2)) * K + k0 + (i & 3) * 8);
        for (int i = t; i < 256; i += 128) fetch(b + (i >> 3) * BS + (i & 7) * 8, B + (size_t)(k0 + (i >> 3)) * N + n0 + (i & 7) * 8);
        asm volatile("cp.async.commit_group;" ::: "memory");
    };
    float acc[2][4][4] = {};
    load(0, 0);
    for (int k = 0; k < K / 32; ++k) {
        if (k + 1 < K / 32) { load(k + 1 & 1, (k + 1) * 32); asm volatile("cp.async.wait_group 1;" ::: "memory"); }
        else asm volatile("cp.async.wait_group 0;" ::: "memory");
        __syncthreads();
        const __half *a = tiles + (k & 1) * (TA + TB), *b = a + TA;
#pragma unroll
        for (int s = 0; s < 2; ++s) {
            unsigned ra[2][4], rb[4][2];
            for (int i = 0; i < 2; ++i)
                asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(ra[i][0]), "=r"(ra[i][1]), "=r"(ra[i][2]),
                             "=r"(ra[i][3]) : "r"(at(a + (wm * 32 + i * 16 + (lane & 15)) * AS + s * 16 + (lane >> 4) * 8)) : "memory");
            for (int j = 0; j < 4; ++j)
                asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];" : "=r"(rb[j][0]), "=r"(rb[j][1])
                             : "r"(at(b + (s * 16 + (lane & 15)) * BS + wn * 32 + j * 8)) : "memory");
            for (int i = 0; i < 2; ++i) for (int j = 0; j < 4; ++j)
                asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                             : "+f"(acc[i][j][0]), "+f"(acc[i][j][1]), "+f"(acc[i][j][2]), "+f"(acc[i][j][3])
                             : "r"(ra[i][0]), "r"(ra[i][1]), "r"(ra[i][2]), "r"(ra[i][3]), "r"(rb[j][0]), "r"(rb[j][1]));
        }
        __syncthreads();
    }
    for (int i = 0; i < 2; ++i) for (int j = 0; j < 4; ++j) for (int e = 0; e < 4; ++e)
        C[(size_t)(m0 + wm * 32 + i * 16 + (lane >> 2) + 8 * (e >> 1)) * N + n0 + wn * 32 + j * 8 + (lane & 3) * 2 + (e & 1)] = __float2half(acc[i][j][e]);
}

// y[n] = sum of x[k] (q[n,k] - zero[n,k/32]) scale[n,k/32], four bits to a weight, a warp to a row
extern "C" __global__ void gemv_int4(const __half* x, const uint4* q, const __half* scale, const unsigned char* zero, __half* y, int N, int K) {
    const int lane = threadIdx.x & 31, n = blockIdx.x * 4 + (threadIdx.x >> 5), blocks = K / 32;
    if (n >= N) return;
    float sum = 0;
    for (int b = lane; b < blocks; b += 32) {
        uint4 w = q[(size_t)n * blocks + b];
        float z = zero[(size_t)n * ((blocks + 1) / 2) + b / 2] >> (b & 1) * 4 & 15, dot = 0, all = 0;
        unsigned words[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
        for (int i = 0; i < 32; ++i) {
            float v = __half2float(x[b * 32 + i]);
            dot += v * (words[i / 8] >> 4 * (i % 8) & 15);
            all += v;
        }
        sum += __half2float(scale[(size_t)n * blocks + b]) * (dot - z * all);
    }
    for (int o = 16; o; o >>= 1) sum += __shfl_xor_sync(~0u, sum, o);
    if (lane == 0) y[n] = __float2half(sum);
}
