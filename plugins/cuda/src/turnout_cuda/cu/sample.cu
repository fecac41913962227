// The next token out of its logits: repetition penalty, temperature, top_k, top_p, min_p, one draw. One block for a vocabulary.
//
// Weights are exp((x - largest) / temperature) in whole numbers of 2^-40, so that their sums depend on no order, and a draw is the same each time.
// Which token the cut falls on is found by the digits of the logits' bits, in an order that compares as floats do (a radix select, as in
// Alabi et al., "Fast k-selection algorithms for graphics processing units", 2012), over counts or over weights; nothing is sorted.
typedef unsigned long long whole;
constexpr int THREADS = 1024, COPIES = 16, DIGITS = 256;
constexpr whole ONE = 1ull << 40;

struct Sum { static DEVICE whole join(whole a, whole b) { return a + b; } };
struct Largest { static DEVICE whole join(whole a, whole b) { return a > b ? a : b; } };

// `key`: of the token that the cut falls on. `before`: the measure of all that are likelier. `equals`: how many as likely go before it.
struct Cut { unsigned key; whole before; whole equals; };

DEVICE unsigned key_of(float x) {
    const unsigned raw = __float_as_uint(x + 0.f);  // -0 is 0
    return x != x ? 0 : raw ^ (raw >> 31 ? 0xffffffffu : 0x80000000u);
}

DEVICE float number_of(unsigned key) { return __uint_as_float(key ^ (key >> 31 ? 0x80000000u : 0xffffffffu)); }

// The sum over a warp's lanes up to this one.
DEVICE whole running(whole own) {
    whole reached = own;
    for (int distance = 1; distance < 32; distance *= 2) {
        const whole other = __shfl_up_sync(0xffffffff, reached, distance);
        if (threadIdx.x % 32 >= distance) reached += other;
    }
    return reached;
}

struct Tokens {
    const logits_t* logits;
    const seen_t* seen;
    int vocabulary;
    float penalty, largest, colder;

    DEVICE unsigned key(int i) const {
        const float x = up(logits[i]);
        return key_of(penalty == 1 || !seen[i] ? x : x > 0 ? x / penalty : x * penalty);
    }
    DEVICE whole weight(unsigned key) const {
        const float w = expf((number_of(key) - largest) * colder);
        return w > 0 ? (whole)(w * (float)ONE) : 0;
    }
};

__shared__ whole bins[COPIES][DIGITS];
__shared__ whole shared_before;
__shared__ unsigned shared_digit;
__shared__ int shared_token;

// The first token, from the likeliest on, with which the measure of all so far exceeds `target`: their weights, or how many they are.
template <bool WEIGHTS> DEVICE Cut cut(const Tokens& tokens, whole target) {
    unsigned prefix = 0;
    whole before = 0;
    for (int shift = 24; shift >= 0; shift -= 8) {
        for (int i = threadIdx.x; i < COPIES * DIGITS; i += THREADS) bins[i / DIGITS][i % DIGITS] = 0;
        __syncthreads();
#pragma unroll 1
        for (int i = threadIdx.x; i < tokens.vocabulary; i += THREADS) {
            const unsigned key = tokens.key(i);
            const whole measure = WEIGHTS ? tokens.weight(key) : 1;
            if (measure && (shift == 24 || key >> (shift + 8) == prefix)) atomicAdd(&bins[threadIdx.x / 32 % COPIES][key >> shift & 255], measure);
        }
        __syncthreads();
        if (threadIdx.x < DIGITS) {
            whole all = 0;
#pragma unroll 1
            for (int c = 0; c < COPIES; ++c) all += bins[c][threadIdx.x];
            bins[0][threadIdx.x] = all;
        }
        __syncthreads();
        if (threadIdx.x < 32) {  // each lane has eight digits, the first lane the highest
            const whole* own = &bins[0][DIGITS - 1 - threadIdx.x * 8];
            whole sum = 0;
            for (int d = 0; d < 8; ++d) sum += own[-d];
            whole reached = before + running(sum);
            whole start = reached - sum;
            if (start <= target && target < reached) {
                int d = 0;
                while (start + own[-d] <= target) start += own[-d++];
                shared_digit = DIGITS - 1 - threadIdx.x * 8 - d;
                shared_before = start;
            }
        }
        __syncthreads();
        prefix = prefix << 8 | shared_digit;
        before = shared_before;
    }
    const whole each = WEIGHTS ? tokens.weight(prefix) : 1;
    return Cut{prefix, before, (target - before) / each};
}

// The first token, in their own order, with which the measure of all so far exceeds `target`.
template <class F> DEVICE int by_number(int vocabulary, whole target, F measure) {
    __shared__ whole ends[THREADS / 32];
    const int share = (vocabulary + THREADS - 1) / THREADS, first = threadIdx.x * share;
    const int last = first + share < vocabulary ? first + share : vocabulary;
    whole own = 0;
#pragma unroll 1
    for (int i = first; i < last; ++i) own += measure(i);
    whole reached = running(own);
    if (threadIdx.x % 32 == 31) ends[threadIdx.x / 32] = reached;
    __syncthreads();
    for (int warp = 0; warp < threadIdx.x / 32; ++warp) reached += ends[warp];
    whole start = reached - own;
    if (start <= target && target < reached) {
        int i = first;
        for (whole here; start + (here = measure(i)) <= target; ++i) start += here;
        shared_token = i;
    }
    __syncthreads();
    return shared_token;
}

template <class F> DEVICE whole total_of(int vocabulary, F measure) {
    whole sum = 0;
#pragma unroll 1
    for (int i = threadIdx.x; i < vocabulary; i += THREADS) sum += measure(i);
    return together<THREADS, THREADS, Sum>(sum);
}

DEVICE int drawn(const Tokens& tokens, int top_k, double top_p, double min_p, double draw) {
    const auto weight = [&](int i) { return tokens.weight(tokens.key(i)); };
    const int vocabulary = tokens.vocabulary;
    whole total, least = (whole)ceil(min_p * (double)ONE);
    if (top_k) {
        const Cut last = cut<false>(tokens, (top_k < vocabulary ? top_k : vocabulary) - 1);
        total = total_of(vocabulary, [&](int i) { const unsigned key = tokens.key(i); return key > last.key ? tokens.weight(key) : 0; });
        total += (last.equals + 1) * tokens.weight(last.key);
    } else {
        total = total_of(vocabulary, weight);
    }
    if (top_p < 1) {
        const whole due = (whole)ceil(top_p * (double)total);
        const Cut last = cut<true>(tokens, due ? due - 1 : 0);
        total = last.before + (last.equals + 1) * tokens.weight(last.key);
    }
    if (min_p > 0) {
        const whole likely = total_of(vocabulary, [&](int i) { const whole w = weight(i); return w >= least ? w : 0; });
        total = likely < total ? likely : total;
    }
    whole target = (whole)(draw * (double)total);
    target = target < total ? target : total - 1;
    if (top_k || top_p < 1) {  // the likeliest first, as on the host
        const Cut here = cut<true>(tokens, target);
        return by_number(vocabulary, here.equals, [&](int i) -> whole { return tokens.key(i) == here.key; });
    }
    return by_number(vocabulary, target, [&](int i) { const whole w = weight(i); return w >= least ? w : 0; });
}

// numbers: temperature, top_k, top_p, min_p, repetition penalty, and a draw from [0, 1). seen: 1 for tokens that were, the chosen one among them then.
extern "C" __global__ void __launch_bounds__(THREADS) ENTRY(PARAMETERS) {
    const double temperature = numbers[0];
    Tokens tokens{logits, seen, vocabulary, (float)numbers[4], 0, temperature > 0 ? (float)(1 / temperature) : 0};
    whole best = 0;
#pragma unroll 1
    for (int i = threadIdx.x; i < vocabulary; i += THREADS) best = Largest::join(best, (whole)tokens.key(i) << 32 | ~(unsigned)i);
    best = together<THREADS, THREADS, Largest>(best);  // of equals the first
    tokens.largest = number_of(best >> 32);
    int chosen = ~(unsigned)best;
    if (temperature > 0 && numbers[1] != 1) chosen = drawn(tokens, (int)numbers[1], numbers[2], numbers[3], numbers[5]);
    __syncthreads();
    if (!threadIdx.x) {
        token[0] = chosen;
        seen[chosen] = 1;
    }
}
