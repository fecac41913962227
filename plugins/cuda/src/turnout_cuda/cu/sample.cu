// The next token out of its logits: repetition penalty, temperature, top_k, top_p, min_p, one draw. One block, behind likeliest.cu.
//
// Weights are exp((x - largest) / temperature) in whole numbers of 2^-40, so that their sums depend on no order, and a draw is the same each time.
// Which token the cut falls on is found by the digits of the logits' bits, in an order that compares as floats do (a radix select, as in
// Alabi et al., "Fast k-selection algorithms for graphics processing units", 2012), over counts or over weights. That is for the rare case: mostly
// a few hundred of the likeliest tokens hold all that can be chosen. They are the `wanted` largest or more if each is no less than the wanted-th
// largest of the best ones of parts of the vocabulary; those are sorted, and one running sum of their weights answers everything.
constexpr int THREADS = 1024, COPIES = 16, DIGITS = 256;
constexpr int LISTED = THREADS, WANTED = 256;  // tokens that are sorted at most, and looked for where no number is given
constexpr whole ONE = 1ull << 40;

struct Sum { static DEVICE whole join(whole a, whole b) { return a + b; } };

// `key`: of the token that the cut falls on. `before`: the measure of all that are likelier. `equals`: how many as likely go before it.
struct Cut { unsigned key; whole before; whole equals; };

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
    const unsigned* keys;
    int vocabulary;
    float largest, colder;

    DEVICE whole weight(unsigned key) const {
        const float w = expf((number_of(key) - largest) * colder);
        return w > 0 ? (whole)(w * (float)ONE) : 0;
    }
    // f(number, key) of the tokens from `begin` to before `end`, multiples of 4, that are the LANES threads' `lane`-th
    template <int LANES, class F> DEVICE void each(int lane, int begin, int end, F f) const {
        typedef pack<unsigned, 4> Four;
        int i = begin + lane * 4;
        Four next = Four{};
        if (i < end) next = *(const Four*)(keys + i);
#pragma unroll 1
        for (; i < end; i += LANES * 4) {
            const Four read = next;
            if (i + LANES * 4 < end) next = *(const Four*)(keys + i + LANES * 4);
            for (int j = 0; j < 4; ++j) f(i + j, read.at[j]);
        }
    }
    template <class F> DEVICE void all(F f) const { each<THREADS>(threadIdx.x, 0, whole_fours(), f); }
    DEVICE int whole_fours() const { return (vocabulary + 3) / 4 * 4; }
};

__shared__ whole bins[COPIES][DIGITS];
__shared__ whole shared_before;
__shared__ unsigned shared_digit;
__shared__ int shared_token;

// The first token, from the likeliest on, with which the measure of all so far exceeds `target`: their weights, or how many they are.
template <bool WEIGHTS> DEVICE Cut cut(const Tokens& tokens, whole target) {
    unsigned prefix = 0;
    whole before = 0;
#pragma unroll 1
    for (int shift = 24; shift >= 0; shift -= 8) {
        for (int i = threadIdx.x; i < COPIES * DIGITS; i += THREADS) bins[i / DIGITS][i % DIGITS] = 0;
        __syncthreads();
        tokens.all([&](int i, unsigned key) {
            if (shift < 24 && key >> (shift + 8) != prefix) return;
            const whole measure = WEIGHTS ? tokens.weight(key) : 1;
            if (measure) atomicAdd(&bins[threadIdx.x / 32 % COPIES][key >> shift & 255], measure);
        });
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

// The sum over the block's threads up to this one.
DEVICE whole running_of_block(whole own) {
    __shared__ whole ends[THREADS / 32];
    whole reached = running(own);
    __syncthreads();
    if (threadIdx.x % 32 == 31) ends[threadIdx.x / 32] = reached;
    __syncthreads();
    for (int warp = 0; warp < threadIdx.x / 32; ++warp) reached += ends[warp];
    return reached;
}

// The first token from `begin` to before `end`, in their own order, with which the measure of all so far exceeds `target`.
template <class F> DEVICE int by_number(int begin, int end, whole target, F measure) {
    const int share = (end - begin + THREADS - 1) / THREADS, first = begin + threadIdx.x * share;
    const int last = first + share < end ? first + share : end;
    whole own = 0;
#pragma unroll 1
    for (int i = first; i < last; ++i) own += measure(i);
    const whole reached = running_of_block(own);
    whole start = reached - own;
    if (start <= target && target < reached) {
        int i = first;
        for (whole here; start + (here = measure(i)) <= target; ++i) start += here;
        shared_token = i;
    }
    __syncthreads();
    return shared_token;
}

template <class F> DEVICE whole total_of(const Tokens& tokens, F measure) {
    whole sum = 0;
    tokens.all([&](int i, unsigned key) { sum += measure(key); });
    return together<THREADS, THREADS, Sum>(sum);
}

DEVICE whole target_of(double draw, whole total) {
    const whole target = (whole)(draw * (double)total);
    return target < total ? target : total - 1;
}

// A draw from all that are likely enough, in their own order: each warp sums up a stretch, and the block looks into the one that is hit.
DEVICE int drawn_of_all(const Tokens& tokens, whole least, double draw) {
    __shared__ whole sums[THREADS / 32];
    const int stretch = (tokens.vocabulary + THREADS * 4 - 1) / (THREADS * 4) * 32 * 4, begin = threadIdx.x / 32 * stretch;
    const int end = begin + stretch < tokens.vocabulary ? begin + stretch : tokens.whole_fours();
    const auto measure = [&](unsigned key) { const whole w = tokens.weight(key); return w >= least ? w : 0; };
    whole own = 0;
    if (begin < end) tokens.each<32>(threadIdx.x % 32, begin, end, [&](int i, unsigned key) { own += measure(key); });
    own = running(own);
    if (threadIdx.x % 32 == 31) sums[threadIdx.x / 32] = own;
    __syncthreads();
    whole total = 0;
    for (int warp = 0; warp < THREADS / 32; ++warp) total += sums[warp];
    whole target = target_of(draw, total);
    int warp = 0;
    for (; sums[warp] <= target; ++warp) target -= sums[warp];
    const int last = (warp + 1) * stretch < tokens.vocabulary ? (warp + 1) * stretch : tokens.vocabulary;
    return by_number(warp * stretch, last, target, [&](int i) { return measure(tokens.keys[i]); });
}

// The place, from the likeliest on, with which the running sum exceeds `target`: `reached` is that of the thread's own place.
DEVICE int place_of(whole target, whole reached, whole own) {
    __shared__ int found;
    __syncthreads();
    if (reached - own <= target && target < reached) found = threadIdx.x;
    __syncthreads();
    return found;
}

// The token drawn where those that are sorted hold it for sure; -1 where they may not. own_best: the likeliest token of those that the thread looks after.
DEVICE int drawn_of_likeliest(const Tokens& tokens, const whole* bests, whole own_best, int top_k, double top_p, whole least, double draw) {
    __shared__ int listed;
    whole *list = &bins[0][0], *sorted = list + LISTED;
    unsigned* ranks = (unsigned*)(sorted + LISTED);
    const int wanted = top_k ? top_k : WANTED;
    if (wanted > WANTED) return -1;
    if (!threadIdx.x) listed = 0;
    ranks[threadIdx.x] = 0;
    unsigned bound = 0;
    for (unsigned bit = 1u << 31; bit >= 1u << 10; bit >>= 1)
        if (__syncthreads_count((unsigned)(own_best >> 32) >= (bound | bit)) >= wanted) bound |= bit;
    whole total = 0;
    const auto take = [&](int i, unsigned key) {
        if (key < bound || i >= tokens.vocabulary) return;
        const int place = atomicAdd(&listed, 1);
        if (place < LISTED) list[place] = (whole)key << 32 | ~(unsigned)i;
    };
    if (!top_k) total = total_of(tokens, [&](unsigned key) { return tokens.weight(key); });
#pragma unroll 1
    for (int first = threadIdx.x / 32 * 32; first < PARTS; first += THREADS) {  // a warp looks into one part after the other
        const int part = first + threadIdx.x % 32;
        const whole there = part < PARTS ? bests[part] : 0;
        unsigned hold = __ballot_sync(0xffffffff, there && (unsigned)(there >> 32) >= bound);
#pragma unroll 1
        for (; hold; hold &= hold - 1) {
            const int begin = (first + __ffs(hold) - 1) * SPAN;
            tokens.each<32>(threadIdx.x % 32, begin, begin + SPAN, take);
        }
    }
    __syncthreads();
    const int count = listed;
    if (count > LISTED) return -1;
    int columns = 32;  // threads that have a token of the list each; the others take a part of the comparisons
    while (columns < count) columns *= 2;
    const int column = threadIdx.x % columns;
    if (column < count) {
        unsigned before = 0;
        for (int i = threadIdx.x / columns; i < count; i += THREADS / columns) before += list[i] > list[column];
        atomicAdd(&ranks[column], before);
    }
    __syncthreads();
    if (threadIdx.x < count) sorted[ranks[threadIdx.x]] = list[threadIdx.x];
    __syncthreads();
    const whole own = threadIdx.x < count ? tokens.weight(sorted[threadIdx.x] >> 32) : 0;
    const whole reached = running_of_block(own);
    const int kept = top_k < count ? top_k : count;
    __shared__ whole sum_of_kept, sum_of_likely;
    if (!threadIdx.x) sum_of_likely = 0;
    __syncthreads();
    if (threadIdx.x == (top_k ? kept : count) - 1) sum_of_kept = reached;
    if (threadIdx.x < count && own >= least) atomicMax(&sum_of_likely, reached);
    __syncthreads();
    if (top_k) total = sum_of_kept;
    if (top_p < 1) {
        const whole due = (whole)ceil(top_p * (double)total), target = due ? due - 1 : 0;
        if (!top_k && target >= sum_of_kept) return -1;
        const int last = place_of(target, reached, own);
        if (threadIdx.x == last) sum_of_kept = reached;
        __syncthreads();
        total = sum_of_kept;
    }
    if (least && sum_of_likely < total) total = sum_of_likely;
    return ~(unsigned)sorted[place_of(target_of(draw, total), reached, own)];
}

// The same of any number of tokens.
DEVICE int drawn(const Tokens& tokens, int top_k, double top_p, whole least, double draw) {
    const int vocabulary = tokens.vocabulary;
    const auto weight = [&](unsigned key) { return tokens.weight(key); };
    whole total;
    __syncthreads();
    if (top_k) {
        const Cut last = cut<false>(tokens, (top_k < vocabulary ? top_k : vocabulary) - 1);
        total = total_of(tokens, [&](unsigned key) { return key > last.key ? tokens.weight(key) : 0; });
        total += (last.equals + 1) * tokens.weight(last.key);
    } else {
        total = total_of(tokens, weight);
    }
    if (top_p < 1) {
        const whole due = (whole)ceil(top_p * (double)total);
        const Cut last = cut<true>(tokens, due ? due - 1 : 0);
        total = last.before + (last.equals + 1) * tokens.weight(last.key);
    }
    if (least) {
        const whole likely = total_of(tokens, [&](unsigned key) { const whole w = tokens.weight(key); return w >= least ? w : 0; });
        total = likely < total ? likely : total;
    }
    const Cut here = cut<true>(tokens, target_of(draw, total));  // the likeliest first, as on the host
    return by_number(0, vocabulary, here.equals, [&](int i) -> whole { return tokens.keys[i] == here.key; });
}

DEVICE int chosen_of(const Tokens& tokens, const whole* bests, whole own_best, int top_k, double top_p, double min_p, double draw) {
    const whole least = min_p > 0 ? (whole)ceil(min_p * (double)ONE) : 0;
    if (!top_k && top_p >= 1) return drawn_of_all(tokens, least, draw);
    const int found = drawn_of_likeliest(tokens, bests, own_best, top_k, top_p, least, draw);
    return found >= 0 ? found : drawn(tokens, top_k, top_p, least, draw);
}

// numbers: temperature, top_k, top_p, min_p, repetition penalty, and a draw from [0, 1). seen: 1 for tokens that were, the chosen one among them then.
// keys, bests: what likeliest.cu has made, a best one for each SPAN tokens.
extern "C" __global__ void __launch_bounds__(THREADS, 1) ENTRY(PARAMETERS) {
    let_next_kernel_start();
    await_earlier_kernels();
    const double temperature = numbers[0];
    whole own = 0;
    for (int part = threadIdx.x; part < PARTS; part += THREADS) own = Largest::join(own, bests[part]);
    const whole best = together<THREADS, THREADS, Largest>(own);
    int chosen = ~(unsigned)best;
    if (temperature > 0 && numbers[1] != 1) {
        const Tokens tokens{keys, vocabulary, number_of(best >> 32), (float)(1 / temperature)};
        chosen = chosen_of(tokens, bests, own, (int)numbers[1], numbers[2], numbers[3], numbers[5]);
        __syncthreads();
    }
    if (!threadIdx.x) {
        token[0] = chosen;
        seen[chosen] = 1;
    }
}
