// Kernels that are wrong, one mistake each. The comment `// finds: KIND` marks the line that the report must name.
#define KERNEL extern "C" __global__ void

KERNEL missing_barrier(const float* x, float* y) {
    __shared__ float tile[128];
    tile[threadIdx.x] = x[threadIdx.x];
    y[threadIdx.x] = tile[127 - threadIdx.x];  // finds: shared-race
}

KERNEL missing_second_barrier(const float* x, float* y, int rounds) {
    __shared__ float tile[128];
    float sum = 0;
    for (int r = 0; r < rounds; ++r) {
        tile[threadIdx.x] = x[r * 128 + threadIdx.x];  // finds: shared-race
        __syncthreads();
        sum += tile[(threadIdx.x + 37) % 128];
    }
    y[threadIdx.x] = sum;
}

KERNEL two_warps_one_place(float* y) {
    __shared__ float best;
    if (threadIdx.x % 32 == 0) best = threadIdx.x;  // finds: shared-race
    __syncthreads();
    y[threadIdx.x] = best;
}

KERNEL histogram_without_barrier(const int* x, int* y) {
    __shared__ int counts[64];
    if (threadIdx.x < 64) counts[threadIdx.x] = 0;
    __syncthreads();
    atomicAdd(&counts[x[threadIdx.x] & 63], 1);
    if (threadIdx.x < 64) y[threadIdx.x] = counts[threadIdx.x];  // finds: shared-race
}

KERNEL divergent_barrier(float* y) {
    __shared__ float tile[64];
    tile[threadIdx.x] = 1;
    if (threadIdx.x < 16) {
        y[threadIdx.x] = 2;
        asm volatile("bar.sync 0;" ::: "memory");  // finds: divergent-barrier
    } else {
        y[threadIdx.x] = 3;
        asm volatile("bar.sync 0;" ::: "memory");  // finds: divergent-barrier
    }
    y[threadIdx.x] += tile[63 - threadIdx.x];
}

KERNEL barrier_after_return(float* y, int n) {
    if (threadIdx.x >= n) return;
    y[threadIdx.x] = 1;
    __syncthreads();  // finds: divergent-barrier
    y[threadIdx.x] += 1;
}

KERNEL barrier_for_too_many(float* y) {
    if (threadIdx.x < 32)
        asm volatile("bar.sync 1, 96;" ::: "memory");  // finds: barrier-deadlock
    y[threadIdx.x] = 1;
}

KERNEL off_by_one(const float* x, float* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i <= n) y[i] = 2;  // finds: out-of-bounds
}

KERNEL negative_index(const float* x, float* y) {
    y[threadIdx.x] = x[(int)threadIdx.x - 1];  // finds: out-of-bounds
}

KERNEL null_pointer(const float* x, float* y) {
    y[threadIdx.x] = *(const float*)(threadIdx.x * 4ull);  // finds: out-of-bounds
}

KERNEL shared_overrun(float* y, int n) {
    extern __shared__ float tile[];
    for (int i = threadIdx.x; i <= n; i += blockDim.x) tile[i] = i;  // finds: out-of-bounds
    __syncthreads();
    y[threadIdx.x] = tile[threadIdx.x];
}

KERNEL misaligned_vector(const float* x, float* y) {
    float4 v = *reinterpret_cast<const float4*>(x + threadIdx.x);  // finds: misaligned
    y[threadIdx.x] = v.x + v.y + v.z + v.w;
}

KERNEL never_written_global(const float* nothing, float* y) {
    y[threadIdx.x] = nothing[threadIdx.x] + 1;  // finds: never-written-read
}

KERNEL never_written_shared(float* y) {
    __shared__ float tile[64];
    if (threadIdx.x < 63) tile[threadIdx.x] = 1;
    __syncthreads();
    y[threadIdx.x] = tile[threadIdx.x];  // finds: never-written-read
}

KERNEL wrong_shuffle_mask(float* y) {
    float v = threadIdx.x;
    if (threadIdx.x < 16) v += __shfl_down_sync(0xffff0000u, v, 8);  // finds: shuffle-mask
    y[threadIdx.x] = v;
}

KERNEL shuffle_from_absent_lane(float* y, int n) {
    if (threadIdx.x >= n) return;
    float v = threadIdx.x;
    v += __shfl_xor_sync(0xffffffffu, v, 16);  // finds: shuffle-mask
    y[threadIdx.x] = v;
}

KERNEL shuffle_that_never_meets(float* y) {
    if (threadIdx.x < 16) {
        y[threadIdx.x] = __shfl_xor_sync(0xffffffffu, threadIdx.x, 1);  // finds: shuffle-mask
    } else {
        asm volatile("bar.sync 1, 64;" ::: "memory");
        y[threadIdx.x] = 1;
    }
}

KERNEL copy_without_wait(const float4* x, float* y) {
    __shared__ float4 tile[64];
    unsigned to = (unsigned)__cvta_generic_to_shared(&tile[threadIdx.x]);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(x + threadIdx.x) : "memory");
    asm volatile("cp.async.commit_group;" ::: "memory");
    __syncthreads();
    y[threadIdx.x] = tile[threadIdx.x].y;  // finds: unwaited-copy
}

KERNEL copy_wait_too_early(const float4* x, float* y) {
    __shared__ float4 tile[128];
    for (int stage = 0; stage < 2; ++stage) {
        unsigned to = (unsigned)__cvta_generic_to_shared(&tile[stage * 64 + threadIdx.x]);
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(x + stage * 64 + threadIdx.x) : "memory");
        asm volatile("cp.async.commit_group;" ::: "memory");
    }
    asm volatile("cp.async.wait_group 1;" ::: "memory");
    __syncthreads();
    y[threadIdx.x] = tile[64 + (63 - threadIdx.x)].x;  // finds: unwaited-copy
}

KERNEL bulk_copy_without_wait(const float* x, float* y) {
    __shared__ alignas(128) float tile[256];
    __shared__ alignas(8) unsigned long long barrier;
    unsigned bar = (unsigned)__cvta_generic_to_shared(&barrier), to = (unsigned)__cvta_generic_to_shared(tile);
    if (threadIdx.x == 0) {
        asm volatile("mbarrier.init.shared.b64 [%0], 1;" ::"r"(bar) : "memory");
        asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], 1024;" ::"r"(bar) : "memory");
        asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], 1024, [%2];" ::"r"(to), "l"(x),
                     "r"(bar) : "memory");
    }
    __syncthreads();
    y[threadIdx.x] = tile[threadIdx.x];  // finds: unwaited-copy
}

KERNEL mbarrier_that_nobody_completes(float* y) {
    __shared__ alignas(8) unsigned long long barrier;
    unsigned bar = (unsigned)__cvta_generic_to_shared(&barrier);
    if (threadIdx.x == 0) asm volatile("mbarrier.init.shared.b64 [%0], 65;" ::"r"(bar) : "memory");
    __syncthreads();
    asm volatile("mbarrier.arrive.shared.b64 _, [%0];" ::"r"(bar) : "memory");
    unsigned done = 0;
    while (!done)
        asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.shared.b64 p, [%1], 0; selp.u32 %0, 1, 0, p; }"  // finds: barrier-deadlock
                     : "=r"(done) : "r"(bar) : "memory");
    y[threadIdx.x] = 1;
}

KERNEL endless(volatile int* y) {
    while (y[0] == 0) y[1] = 5;  // finds: endless-loop
}

KERNEL trapped(const float* x, float* y) {
    if (x[threadIdx.x] < 0) __trap();  // finds: trap
    y[threadIdx.x] = x[threadIdx.x];
}

KERNEL through_a_freed_pointer(const float* freed, float* y) {
    y[threadIdx.x] = freed[threadIdx.x];  // finds: use-after-free
}
