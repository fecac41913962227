// Before a token is chosen: each logit's key, with the repetition penalty in it, and the likeliest of the tokens that LANES threads have, of equals
// the first, as its key before its number's complement. Keys behind the vocabulary are 0, and no token's.
constexpr int VECTOR = 16 / sizeof(logits_t);
typedef pack<logits_t, VECTOR> Vector;

extern "C" __global__ void __launch_bounds__(THREADS) ENTRY(PARAMETERS) {
    let_next_kernel_start();
    await_earlier_kernels();
    const int group = blockIdx.x * THREADS + threadIdx.x, first = group * VECTOR;
    const float penalty = numbers[4];
    Vector read = {};
    if (first + VECTOR <= vocabulary) read = *(const Vector*)(logits + first);
    else for (int j = 0; j < VECTOR; ++j) if (first + j < vocabulary) read.at[j] = logits[first + j];
    pack<unsigned, VECTOR> made;
    whole best = 0;
    for (int j = 0; j < VECTOR; ++j) {
        const int i = first + j;
        float x = up(read.at[j]);
        if (penalty != 1 && i < vocabulary && seen[i]) x = x > 0 ? x / penalty : x * penalty;
        made.at[j] = i < vocabulary ? key_of(x) : 0;
        if (i < vocabulary) best = Largest::join(best, (whole)made.at[j] << 32 | ~(unsigned)i);
    }
    *(pack<unsigned, VECTOR>*)(keys + first) = made;
    best = together<LANES, THREADS, Largest>(best);
    if (threadIdx.x % LANES == 0) bests[group / LANES] = best;
}
