// A row of the stream and what is added to it, and the norm of their sum; a block takes a row, and each thread holds HELD times VECTOR elements of
// it in registers. A decoder's step has one row: what it takes is waiting, so all loads are under way before the first is used.
typedef pack<x_t, VECTOR> Vector;

extern "C" __global__ void __launch_bounds__(THREADS) ENTRY(PARAMETERS) {
    __shared__ float parts[THREADS / 32];
    let_next_kernel_start();
    await_earlier_kernels();
    const long long row = (long long)blockIdx.x * width;
    Vector sum[HELD], added[HELD];
    pack<scale_t, VECTOR> scales[HELD];
#pragma unroll
    for (int k = 0; k < HELD; ++k) {
        const int i = (k * THREADS + threadIdx.x) * VECTOR;
        if (i < width) {
            sum[k] = *(const Vector*)(x + row + i);
            added[k] = *(const Vector*)(more + row + i);
            scales[k] = *(const pack<scale_t, VECTOR>*)(scale + i);
        }
    }
    float squares = 0;
#pragma unroll
    for (int k = 0; k < HELD; ++k) {
        const int i = (k * THREADS + threadIdx.x) * VECTOR;
        if (i < width) {
            for (int j = 0; j < VECTOR; ++j) {
                float value = up(sum[k].at[j]) + up(added[k].at[j]);
#if BIAS
                value += up(bias[i + j]);
#endif
                sum[k].at[j] = down<x_t>(value);
                squares += up(sum[k].at[j]) * up(sum[k].at[j]);
            }
            *(Vector*)(summed + row + i) = sum[k];
        }
    }
    for (int distance = 16; distance; distance /= 2) squares += __shfl_xor_sync(0xffffffff, squares, distance);
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = squares;
    __syncthreads();
    squares = 0;
    for (int warp = 0; warp < THREADS / 32; ++warp) squares += parts[warp];
    const float scaled = 1.f / sqrt(squares / width + epsilon);
#pragma unroll
    for (int k = 0; k < HELD; ++k) {
        const int i = (k * THREADS + threadIdx.x) * VECTOR;
        if (i < width) {
            Vector made;
            for (int j = 0; j < VECTOR; ++j) made.at[j] = down<x_t>(up(sum[k].at[j]) * scaled * up(scales[k].at[j]));
            *(Vector*)(y + row + i) = made;
        }
    }
}
