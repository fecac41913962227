// Axes in another order, of which the last is another: tiles go through shared memory, so that both sides are read and written as neighbours.
// `along` is the axis of x's neighbours, with `step` elements of y from one to the next; `across` that of y's, `stride` of x. VECTOR elements at
// a time. PLACE takes the block's number apart into a tile of both, and where the other axes begin.
constexpr int THREADS = 256, WIDE = TILE / VECTOR;
typedef int index;
typedef pack<x_t, VECTOR> Vector;

extern "C" __global__ void __launch_bounds__(THREADS) ENTRY(PARAMETERS) {
    let_next_kernel_start();
    await_earlier_kernels();
    constexpr int PITCH = TILE + (sizeof(x_t) < 4 ? 4 / sizeof(x_t) : 1);
    __shared__ x_t tile[TILE][PITCH];
    index from = 0, to = 0, rest = blockIdx.x;
    PLACE
    const int inner = threadIdx.x % WIDE * VECTOR, outer = threadIdx.x / WIDE;
#pragma unroll
    for (int o = outer; o < TILE; o += THREADS / WIDE) {
        if (first + inner < along && other + o < across) {
            const Vector read = *(const Vector*)(x + from + (other + o) * stride + first + inner);
            for (int j = 0; j < VECTOR; ++j) tile[o][inner + j] = read.at[j];
        }
    }
    __syncthreads();
#pragma unroll
    for (int o = outer; o < TILE; o += THREADS / WIDE) {
        if (other + inner < across && first + o < along) {
            Vector made;
            for (int j = 0; j < VECTOR; ++j) made.at[j] = tile[inner + j][o];
            *(Vector*)(y + to + (first + o) * step + other + inner) = made;
        }
    }
}
