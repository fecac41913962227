// A row of the stream and what is added to it, and the norm of their sum; a block of 256 threads takes a row. Each thread reads again what it has
// written itself. VECTOR elements at a time.
#define THREADS 256
typedef pack<x_t, VECTOR> Vector;
struct Plus { static DEVICE float join(float a, float b) { return a + b; } };

extern "C" __global__ void __launch_bounds__(THREADS) ENTRY(PARAMETERS) {
    const long long row = (long long)blockIdx.x * width;
    float squares = 0;
    for (int i = threadIdx.x * VECTOR; i < width; i += THREADS * VECTOR) {
        const Vector a = *(const Vector*)(x + row + i), b = *(const Vector*)(more + row + i);
        Vector sum;
        for (int j = 0; j < VECTOR; ++j) {
            float value = up(a.at[j]) + up(b.at[j]);
#if BIAS
            value += up(bias[i + j]);
#endif
            sum.at[j] = down<x_t>(value);
            squares += up(sum.at[j]) * up(sum.at[j]);
        }
        *(Vector*)(summed + row + i) = sum;
    }
    squares = together<THREADS, THREADS, Plus>(squares);
    const float scaled = 1.f / sqrt(squares / width + epsilon);
    for (int i = threadIdx.x * VECTOR; i < width; i += THREADS * VECTOR) {
        const Vector sum = *(const Vector*)(summed + row + i);
        Vector made;
        for (int j = 0; j < VECTOR; ++j) made.at[j] = down<x_t>(up(sum.at[j]) * scaled * up(scale[i + j]));
        *(Vector*)(y + row + i) = made;
    }
}
