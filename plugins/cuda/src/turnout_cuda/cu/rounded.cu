// Rows of float32 as halves: each times the power of two that brings its largest number to between 2^13 and 2^14, so that none overflows and none
// that matters is lost; `powers` undoes that. A block of 256 threads takes a row.
#define THREADS 256
typedef pack<float, VECTOR> Floats;
typedef pack<f16, VECTOR> Halves;
struct Largest { static DEVICE float join(float a, float b) { return fmaxf(a, b); } };

extern "C" __global__ void __launch_bounds__(THREADS) ENTRY(PARAMETERS) {
    let_next_kernel_start();
    await_earlier_kernels();
    const long long row = (long long)blockIdx.x * width;
    float most = 0;
    for (int i = threadIdx.x * VECTOR; i < width; i += THREADS * VECTOR) {
        const Floats a = *(const Floats*)(x + row + i);
        for (int j = 0; j < VECTOR; ++j) most = fmaxf(most, fabsf(a.at[j]));
    }
    most = together<THREADS, THREADS, Largest>(most);
    int exponent = (int)(__float_as_uint(most) >> 23) - 127 - 13;
    exponent = most == INFINITY ? 0 : exponent < -100 ? -100 : exponent;  // an infinity stays one
    const float down_by = __uint_as_float((unsigned)(127 - exponent) << 23);
    for (int i = threadIdx.x * VECTOR; i < width; i += THREADS * VECTOR) {
        const Floats a = *(const Floats*)(x + row + i);
        Halves made;
        for (int j = 0; j < VECTOR; ++j) made.at[j] = down<f16>(a.at[j] * down_by);
        *(Halves*)(y + row + i) = made;
    }
    if (threadIdx.x == 0) powers[blockIdx.x] = __uint_as_float((unsigned)(127 + exponent) << 23);
}
