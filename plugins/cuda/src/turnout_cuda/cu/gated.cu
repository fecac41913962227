// The first half of each row through a gate, times the second half. `columns`: blocks that share a row. VECTOR elements a thread.
typedef pack<x_t, VECTOR> Vector;

extern "C" __global__ void __launch_bounds__(THREADS) ENTRY(PARAMETERS) {
    let_next_kernel_start();
    await_earlier_kernels();
    const int row = blockIdx.x / columns, i = (blockIdx.x % columns * THREADS + threadIdx.x) * VECTOR;
    if (i >= width) return;
    const x_t* own = x + 2LL * row * width + i;
    const Vector gates = *(const Vector*)own, values = *(const Vector*)(own + width);
    Vector made;
    for (int j = 0; j < VECTOR; ++j) {
        const float g = up(gates.at[j]);
        made.at[j] = down<x_t>((GATE) * up(values.at[j]));
    }
    *(Vector*)(y + (long long)row * width + i) = made;
}
