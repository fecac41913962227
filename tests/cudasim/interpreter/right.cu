// Kernels that are right. test_right.py runs each against NumPy in float64 and wants no report.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <mma.h>
#define KERNEL extern "C" __global__ void
#define INDEX (blockIdx.x * blockDim.x + threadIdx.x)

__device__ unsigned shared_address(const void* p) { return (unsigned)__cvta_generic_to_shared(p); }
__device__ float warp_sum(float v) {
    for (int o = 16; o; o >>= 1) v += __shfl_xor_sync(~0u, v, o);
    return v;
}

// ---- elementwise, by value structs, functions

KERNEL gelu(const float* x, float* y, int n) {
    int i = INDEX;
    if (i < n) y[i] = 0.5f * x[i] * (1 + erff(x[i] * 0.70710678f));
}
KERNEL silu_half(const __half* x, __half* y, int n) {
    int i = INDEX;
    if (i < n) { float v = __half2float(x[i]); y[i] = __float2half(v / (1 + expf(-v))); }
}
KERNEL mish_bfloat(const __nv_bfloat16* x, __nv_bfloat16* y, int n) {
    int i = INDEX;
    if (i < n) { float v = __bfloat162float(x[i]); y[i] = __float2bfloat16(v * tanhf(log1pf(expf(v)))); }
}
KERNEL functions(const float* x, float* y, int n) {
    int i = INDEX;
    if (i >= n) return;
    float v = x[i];
    y[i] = sinf(v) + cosf(2 * v) + expf(-v * v) + logf(1 + fabsf(v)) + sqrtf(fabsf(v)) + rsqrtf(1 + v * v) + cbrtf(v) + atanf(v) + powf(fabsf(v), 1.3f);
}
KERNEL functions_double(const double* x, double* y, int n) {
    int i = INDEX;
    if (i < n) y[i] = sin(x[i]) * exp(-x[i]) + log(1 + fabs(x[i])) + sqrt(fabs(x[i])) / (1 + x[i] * x[i]) + fma(x[i], 3.0, 1.0) + erf(x[i]);
}
KERNEL sine_of_large(const float* x, float* y, int n) {
    int i = INDEX;
    if (i < n) y[i] = sinf(x[i]);  // the slow path: a table in memory, and a stack frame
}
struct Strides { long long rows, columns; int offset; float scale; };
KERNEL by_value_struct(const float* x, float* y, Strides s, int n) {
    int i = INDEX;
    if (i < n) y[i] = s.scale * x[s.offset + (i / 16) * s.rows + (i % 16) * s.columns];
}
struct Table { int shape[8]; int rank; };
KERNEL struct_with_array(int* y, const Table t) {
    int product = 1;
    for (int a = 0; a < t.rank; ++a) product *= t.shape[(a + threadIdx.x) % t.rank];
    y[threadIdx.x] = product + t.shape[threadIdx.x % t.rank];
}
__device__ __noinline__ float horner(float v, int degree) {
    float r = 0;
    for (int i = 0; i < degree; ++i) r = r * v + i;
    return r;
}
KERNEL device_function(const float* x, float* y, int n) {
    int i = INDEX;
    if (i < n) y[i] = horner(x[i], 3 + i % 3) + horner(-x[i], 4);
}
__constant__ float weights[8] = {1, -2, 3, -4, 5, -6, 7, -8};
__device__ int counter = 40;
KERNEL constant_and_global(float* y) {
    int turn = atomicAdd(&counter, 2);
    y[threadIdx.x] = weights[threadIdx.x % 8] + (turn - turn);
}
KERNEL local_array(const int* x, int* y) {
    int box[16];
    for (int i = 0; i < 16; ++i) box[i] = x[i] * 2;
    for (int i = 0; i < 8; ++i) { int a = x[(threadIdx.x + i) & 15] & 15, t = box[a]; box[a] = box[i]; box[i] = t; }
    int sum = 0;
    for (int i = 0; i < 16; ++i) sum += box[i] * (i + 1);
    y[threadIdx.x] = sum;
}
KERNEL generic_addresses(const float* g, float* y) {
    __shared__ float s[40];
    s[threadIdx.x] = threadIdx.x;
    float l[4] = {1, 2, 3, 4};
    l[threadIdx.x & 3] += g[0];
    __syncthreads();
    const float* p = threadIdx.x % 3 == 0 ? g + threadIdx.x : threadIdx.x % 3 == 1 ? s + 39 - threadIdx.x : l + (threadIdx.x & 3);
    y[threadIdx.x] = *p;  // one load from three state spaces
}
KERNEL jump_table(const int* x, int* y) {
    int v = x[threadIdx.x], r;
    switch (v) {
        case 0: r = v + 11; break;
        case 1: r = v * v * 7; break;
        case 2: r = 1000 - v; break;
        case 3: r = v << 5; break;
        case 4: r = ~v; break;
        case 5: r = v * 333; break;
        case 6: r = -v; break;
        default: r = 99;
    }
    y[threadIdx.x] = r;
}
KERNEL collatz(const int* x, int* y) {
    long long v = x[threadIdx.x];
    int steps = 0;
    while (v != 1) { v = v & 1 ? 3 * v + 1 : v / 2; ++steps; }
    y[threadIdx.x] = steps;
}
KERNEL integer_division(const int* a, const int* b, int* y, int n) {
    int i = INDEX;
    if (i < n) y[i] = a[i] / b[i] * 1000 + a[i] % b[i] + (int)((unsigned)a[i] / (unsigned)(b[i] | 1)) + (int)((long long)a[i] * b[i] / 7);
}
KERNEL bits(const unsigned* x, unsigned* y, int n) {
    int i = INDEX;
    if (i < n) y[i] = __popc(x[i]) + __clz(x[i]) * 3 + __ffs(x[i]) * 5 + (__brev(x[i]) >> 3) + __byte_perm(x[i], i, 0x5140) + __funnelshift_l(x[i], i, 7);
}
KERNEL carries(const unsigned long long* a, const unsigned long long* b, unsigned long long* y, int n) {
    int i = INDEX;
    if (i >= n) return;
    unsigned long long low = a[i] * b[i], high = __umul64hi(a[i], b[i]);
    unsigned r0, r1, r2, a0 = a[i], a1 = a[i] >> 32, b0 = b[i], b1 = b[i] >> 32;
    asm("add.cc.u32 %0, %3, %5; addc.cc.u32 %1, %4, %6; addc.u32 %2, 0, 0;" : "=r"(r0), "=r"(r1), "=r"(r2) : "r"(a0), "r"(a1), "r"(b0), "r"(b1));
    y[i] = (low ^ high) + (((unsigned long long)r1 << 32) | r0) + r2;
}

// ---- packed halves, 8-bit floats, integer dot products

KERNEL half2_polynomial(const __half2* x, __half2* y, int n) {
    int i = INDEX;
    if (i < n) y[i] = __hmax2(__hfma2(x[i], x[i], __float2half2_rn(0.5f)), __hsub2(x[i], __hmul2(x[i], __float2half2_rn(2.f))));
}
KERNEL bfloat2_polynomial(const __nv_bfloat162* x, __nv_bfloat162* y, int n) {
    int i = INDEX;
    if (i < n) y[i] = __hfma2(x[i], __float2bfloat162_rn(3.f), __hmin2(x[i], __float2bfloat162_rn(0.25f)));
}
KERNEL through_fp8(const float* x, float* y, int n) {
    int i = INDEX;
    if (i < n) y[i] = (float)__nv_fp8_e4m3(x[i]) + 1000 * (float)__nv_fp8_e5m2(x[i]);
}
KERNEL int8_dot(const int* a, const int* b, int* y, int n) {
    int sum = 0;
    for (int i = threadIdx.x; i < n; i += 32) sum = __dp4a(a[i], b[i], sum);
    for (int o = 16; o; o >>= 1) sum += __shfl_down_sync(~0u, sum, o);
    if (threadIdx.x == 0) *y = sum;
}
KERNEL int4_dequantize(const unsigned* q, __half2* y, int n) {
    int i = INDEX;
    if (i >= n) return;
    for (int j = 0; j < 4; ++j) {
        unsigned t;
        asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(t) : "r"(q[i] >> (4 * j)), "n"(0x000f000f), "n"(0x64006400));
        y[i * 4 + j] = __hsub2(*reinterpret_cast<__half2*>(&t), __float2half2_rn(1032.f));
    }
}
KERNEL roundings(const float* x, int* y, int n) {
    int i = INDEX;
    if (i < n) { y[4 * i] = __float2int_rn(x[i]); y[4 * i + 1] = __float2int_rz(x[i]); y[4 * i + 2] = __float2int_ru(x[i]); y[4 * i + 3] = __float2int_rd(x[i]); }
}

// ---- reductions, scans, shared memory

KERNEL block_sum(const float* x, float* y, int n) {
    __shared__ float part[32];
    float v = 0;
    for (int i = INDEX; i < n; i += gridDim.x * blockDim.x) v += x[i];
    v = warp_sum(v);
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = v;
    __syncthreads();
    if (threadIdx.x < 32) {
        v = threadIdx.x < blockDim.x / 32 ? part[threadIdx.x] : 0;
        v = warp_sum(v);
        if (threadIdx.x == 0) atomicAdd(y, v);
    }
}
KERNEL softmax(const float* x, float* y, int n) {
    extern __shared__ float row[];
    const float* in = x + (size_t)blockIdx.x * n;
    float most = -3.4e38f, sum = 0;
    for (int i = threadIdx.x; i < n; i += blockDim.x) { row[i] = in[i]; most = fmaxf(most, in[i]); }
    for (int o = 16; o; o >>= 1) most = fmaxf(most, __shfl_xor_sync(~0u, most, o));
    __shared__ float all[2][8];
    if (threadIdx.x % 32 == 0) all[0][threadIdx.x / 32] = most;
    __syncthreads();
    for (int w = 0; w < blockDim.x / 32; ++w) most = fmaxf(most, all[0][w]);
    for (int i = threadIdx.x; i < n; i += blockDim.x) { row[i] = __expf(row[i] - most); sum += row[i]; }
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) all[1][threadIdx.x / 32] = sum;
    __syncthreads();
    sum = 0;
    for (int w = 0; w < blockDim.x / 32; ++w) sum += all[1][w];
    for (int i = threadIdx.x; i < n; i += blockDim.x) y[(size_t)blockIdx.x * n + i] = row[i] / sum;
}
KERNEL layer_norm(const float* x, const float* g, float* y, int n) {
    const float* in = x + (size_t)blockIdx.x * n;
    float s = 0, q = 0;
    for (int i = threadIdx.x; i < n; i += 32) { s += in[i]; q += in[i] * in[i]; }
    s = warp_sum(s) / n;
    q = warp_sum(q) / n - s * s;
    for (int i = threadIdx.x; i < n; i += 32) y[(size_t)blockIdx.x * n + i] = (in[i] - s) * rsqrtf(q + 1e-5f) * g[i];
}
KERNEL transpose(const float* x, float* y, int rows, int columns) {
    __shared__ float tile[32][33];
    int c = blockIdx.x * 32 + threadIdx.x, r = blockIdx.y * 32 + threadIdx.y;
    for (int j = 0; j < 32; j += 8) if (r + j < rows && c < columns) tile[threadIdx.y + j][threadIdx.x] = x[(r + j) * columns + c];
    __syncthreads();
    c = blockIdx.y * 32 + threadIdx.x; r = blockIdx.x * 32 + threadIdx.y;
    for (int j = 0; j < 32; j += 8) if (r + j < columns && c < rows) y[(r + j) * rows + c] = tile[threadIdx.x][threadIdx.y + j];
}
KERNEL prefix_sum(const int* x, int* y) {
    __shared__ int part[256];
    int t = threadIdx.x;
    part[t] = x[t];
    __syncthreads();
    for (int o = 1; o < 256; o <<= 1) {
        int v = t >= o ? part[t - o] : 0;
        __syncthreads();
        part[t] += v;
        __syncthreads();
    }
    y[t] = part[t];
}
KERNEL bitonic_sort(float* x) {
    __shared__ float v[256];
    int t = threadIdx.x;
    v[t] = x[t];
    for (int size = 2; size <= 256; size <<= 1)
        for (int step = size >> 1; step; step >>= 1) {
            __syncthreads();
            int other = t ^ step;
            if (other > t && (v[t] > v[other]) == ((t & size) == 0)) { float s = v[t]; v[t] = v[other]; v[other] = s; }
        }
    __syncthreads();
    x[t] = v[t];
}
KERNEL histogram(const unsigned char* x, int* y, int n) {
    __shared__ int counts[256];
    counts[threadIdx.x] = 0;
    __syncthreads();
    for (int i = INDEX; i < n; i += gridDim.x * blockDim.x) atomicAdd(&counts[x[i]], 1);
    __syncthreads();
    atomicAdd(&y[threadIdx.x], counts[threadIdx.x]);
}
KERNEL bytes_in_shared(const unsigned char* x, unsigned char* y) {
    __shared__ unsigned char s[128];
    s[(threadIdx.x * 5) % 128] = x[threadIdx.x];  // neighbouring bytes are written by different warps
    __syncthreads();
    y[threadIdx.x] = s[127 - threadIdx.x];
}
KERNEL convolution(const float* x, const float* k, float* y, int n) {
    __shared__ float s[64 + 4];
    int i = blockIdx.x * 64 + threadIdx.x;
    for (int j = threadIdx.x; j < 68; j += 64) { int at = blockIdx.x * 64 + j - 2; s[j] = at >= 0 && at < n ? x[at] : 0; }
    __syncthreads();
    float v = 0;
    for (int j = 0; j < 5; ++j) v += k[j] * s[threadIdx.x + j];
    if (i < n) y[i] = v;
}

// ---- warps

KERNEL shuffles(const int* x, int* y) {
    int v = x[threadIdx.x];
    y[threadIdx.x] = __shfl_sync(~0u, v, 5) + 3 * __shfl_up_sync(~0u, v, 3) + 5 * __shfl_down_sync(~0u, v, 7, 16) + 7 * __shfl_xor_sync(~0u, v, 9) +
                     11 * __shfl_sync(~0u, v, threadIdx.x * 3);
}
KERNEL votes(const int* x, unsigned* y) {
    int v = x[threadIdx.x];
    unsigned b = __ballot_sync(~0u, v > 3);
    y[threadIdx.x] = b + __any_sync(~0u, v == 7) * 2 + __all_sync(~0u, v >= 0) * 5 + __match_any_sync(~0u, v) + __reduce_add_sync(~0u, v) +
                     __reduce_max_sync(~0u, (unsigned)v);
}
KERNEL half_a_warp(const float* x, float* y) {
    float v = x[threadIdx.x];
    if (threadIdx.x % 32 < 16) v = v + __shfl_xor_sync(0xffffu, v, 8);
    else v = v * __shfl_xor_sync(0xffff0000u, v, 4);
    __syncwarp();
    y[threadIdx.x] = v;
}
KERNEL compact(const int* x, int* y, int* count) {
    int v = x[threadIdx.x];
    unsigned keep = __ballot_sync(~0u, v > 0);
    if (v > 0) {
        unsigned here = __activemask();
        int leader = __ffs(here) - 1, at;
        if (threadIdx.x % 32 == leader) at = atomicAdd(count, __popc(keep));
        at = __shfl_sync(here, at, leader);
        y[at + __popc(keep & ((1u << (threadIdx.x % 32)) - 1))] = v;
    }
}

// ---- atomics

KERNEL atomics(const int* x, int* y, float* f, double* d, unsigned long long* u, int n) {
    int i = INDEX;
    if (i >= n) return;
    atomicMin(&y[0], x[i]); atomicMax(&y[1], x[i]); atomicOr(&y[2], x[i]); atomicAnd(&y[3], x[i]); atomicXor(&y[4], x[i]); atomicSub(&y[5], x[i]);
    atomicInc((unsigned*)&y[6], 99u);
    atomicAdd(f, (float)x[i]); atomicAdd(d, 0.5 * x[i]); atomicAdd(u, (unsigned long long)x[i]);
}
KERNEL tickets(int* next, int* y) { y[atomicAdd(next, 1)] = INDEX; }
KERNEL atomic_maximum_of_floats(const float* x, float* y, int n) {
    int i = INDEX;
    if (i >= n) return;
    int* at = (int*)y;
    int old = *at, seen;
    do { seen = old; if (__int_as_float(seen) >= x[i]) break; old = atomicCAS(at, seen, __float_as_int(x[i])); } while (old != seen);
}
KERNEL atomics_of_halves(__half2* h, __nv_bfloat162* b) {
    atomicAdd(h, __floats2half2_rn(1.f, 2.f));
    atomicAdd(b, __floats2bfloat162_rn(1.f, 0.5f));
}
KERNEL last_block_sums(const float* x, float* part, float* y, unsigned* done) {
    __shared__ bool last;
    float v = warp_sum(x[INDEX]);
    if (threadIdx.x == 0) { part[blockIdx.x] = v; __threadfence(); last = atomicAdd(done, 1) == gridDim.x - 1; }
    __syncthreads();
    if (last && threadIdx.x == 0) { float s = 0; for (int i = 0; i < gridDim.x; ++i) s += part[i]; *y = s; }
}

// ---- named barriers, mbarriers, asynchronous copies

KERNEL named_barriers(const float* x, float* y) {
    __shared__ float tile[64];
    if (threadIdx.x < 64) {
        for (int r = 0; r < 3; ++r) {
            tile[threadIdx.x] = x[r * 64 + threadIdx.x];
            asm volatile("bar.arrive 1, 128;" ::: "memory");
            asm volatile("bar.sync 2, 128;" ::: "memory");
        }
    } else {
        int t = threadIdx.x - 64;
        float sum = 0;
        for (int r = 0; r < 3; ++r) {
            asm volatile("bar.sync 1, 128;" ::: "memory");
            sum += tile[63 - t];
            asm volatile("bar.arrive 2, 128;" ::: "memory");
        }
        y[t] = sum;
    }
}
KERNEL barrier_counts(const int* x, int* y) {
    int odd = x[threadIdx.x] & 1;
    y[threadIdx.x] = __syncthreads_count(odd) * 4 + __syncthreads_or(odd) * 2 + __syncthreads_and(odd);
}
KERNEL copy_pipeline(const float4* x, float* y, int stages) {
    __shared__ float4 tile[2][64];
    float sum = 0;
    auto fetch = [&](int s) {
        asm volatile("cp.async.ca.shared.global [%0], [%1], 16;" ::"r"(shared_address(&tile[s & 1][threadIdx.x])), "l"(x + s * 64 + threadIdx.x) : "memory");
        asm volatile("cp.async.commit_group;" ::: "memory");
    };
    fetch(0);
    for (int s = 0; s < stages; ++s) {
        if (s + 1 < stages) { fetch(s + 1); asm volatile("cp.async.wait_group 1;" ::: "memory"); }
        else asm volatile("cp.async.wait_all;" ::: "memory");
        __syncthreads();
        float4 v = tile[s & 1][63 - threadIdx.x];
        sum += v.x + 2 * v.y + 3 * v.z + 4 * v.w;
        __syncthreads();
    }
    y[threadIdx.x] = sum;
}
KERNEL copy_with_zero_fill(const float* x, float* y, int n) {
    __shared__ float tile[64];
    int bytes = threadIdx.x < n ? 4 : 0;
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(&tile[threadIdx.x])), "l"(x + threadIdx.x), "r"(bytes) : "memory");
    asm volatile("cp.async.wait_all;" ::: "memory");
    __syncthreads();
    y[threadIdx.x] = tile[63 - threadIdx.x];
}

// ---- matrices

KERNEL wmma_product(const __half* a, const __half* b, float* c) {
    using namespace nvcuda::wmma;
    fragment<matrix_a, 16, 16, 16, __half, row_major> fa;
    fragment<matrix_b, 16, 16, 16, __half, col_major> fb;
    fragment<accumulator, 16, 16, 16, float> fc;
    fill_fragment(fc, 1.0f);
    load_matrix_sync(fa, a, 16);
    load_matrix_sync(fb, b, 16);
    mma_sync(fc, fa, fb, fc);
    for (int i = 0; i < fc.num_elements; ++i) fc.x[i] *= 2;
    store_matrix_sync(c, fc, 16, mem_row_major);
}
KERNEL wmma_integers(const signed char* a, const signed char* b, int* c) {
    using namespace nvcuda::wmma;
    fragment<matrix_a, 32, 8, 16, signed char, row_major> fa;
    fragment<matrix_b, 32, 8, 16, signed char, row_major> fb;
    fragment<accumulator, 32, 8, 16, int> fc;
    fill_fragment(fc, 7);
    load_matrix_sync(fa, a, 16);
    load_matrix_sync(fb, b, 8);
    mma_sync(fc, fa, fb, fc);
    store_matrix_sync(c, fc, 8, mem_row_major);
}
KERNEL ldmatrix_product(const __half* a, const __half* b, float* c) {  // 16x16 times 16x8, b stored by rows
    __shared__ __half sa[16][24], sb[16][8];
    int l = threadIdx.x;
    for (int i = l; i < 256; i += 32) sa[i / 16][i % 16] = a[i];
    for (int i = l; i < 128; i += 32) sb[i / 8][i % 8] = b[i];
    __syncthreads();
    unsigned ra[4], rb[2];
    float d[4] = {0, 0, 0, 0};
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(ra[0]), "=r"(ra[1]), "=r"(ra[2]), "=r"(ra[3])
                 : "r"(shared_address(&sa[l % 16][l / 16 * 8])) : "memory");
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];" : "=r"(rb[0]), "=r"(rb[1]) : "r"(shared_address(&sb[l % 16][0])) : "memory");
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(ra[0]), "r"(ra[1]), "r"(ra[2]), "r"(ra[3]), "r"(rb[0]), "r"(rb[1]));
    int g = l / 4, t = l % 4;
    c[g * 8 + 2 * t] = d[0]; c[g * 8 + 2 * t + 1] = d[1]; c[(g + 8) * 8 + 2 * t] = d[2]; c[(g + 8) * 8 + 2 * t + 1] = d[3];
}
KERNEL stmatrix_and_movmatrix(const unsigned* x, __half* y) {
    __shared__ __half tile[16][8];
    unsigned v = x[threadIdx.x], m;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(m) : "r"(v));
    asm volatile("stmatrix.sync.aligned.m8n8.x2.shared.b16 [%0], {%1, %2};" ::"r"(shared_address(&tile[threadIdx.x % 16][0])), "r"(v), "r"(m) : "memory");
    __syncwarp();
    for (int i = threadIdx.x; i < 128; i += 32) y[i] = tile[i / 8][i % 8];
}
KERNEL one_ahead(const int* x, int* y, int n) {  // what is read ahead by some threads of what all of them then move to another register
    int next = x[threadIdx.x], sum = 0;
#pragma unroll 1
    for (int i = 1; i < n; ++i) {
        const int read = next;
        if (i % 7 < threadIdx.x % 8) next = x[i * 64 + threadIdx.x];
        sum = sum * 3 + read;
    }
    y[threadIdx.x] = sum;
}
