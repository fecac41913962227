// What queries see of a cache. A block of 128 threads takes QUERIES of the queries that share a head of keys, and a share of the tokens, STEP at
// a time: scores of all of them, their exponentials with the largest so far taken out, and the sum of the values so weighted (Milakov and
// Gimelshein, "Online normalizer calculation for softmax", 2018). LANES threads share a token, VECTOR elements of it each. With SPLITS, several
// blocks share the tokens, and whichever is through last puts their parts together.
#define THREADS 128
#define STEP 128
#define TEAMS (THREADS / LANES)

typedef pack<q_t, VECTOR> Vector;

extern "C" __global__ void __launch_bounds__(THREADS, 4) ENTRY(PARAMETERS) {
    let_next_kernel_start();
    await_earlier_kernels();
    __shared__ float scores[QUERIES][STEP], factors[QUERIES], tops[QUERIES], sums[QUERIES], joined[TEAMS][HEAD];
    const int t = threadIdx.x, lane = t % LANES, team = t / LANES, warp = t / 32;
    const int b = blockIdx.z / key_heads, kh = blockIdx.z % key_heads, group = heads / key_heads, row0 = blockIdx.y * QUERIES, rows = group * S;
    const long long past = past_of(lengths, b, S);
    const long long cached = ((long long)b * key_heads + kh) * capacity * HEAD;
    const int d0 = lane * VECTOR;
    const bool there = d0 < HEAD;

    // the tokens that any of these queries sees, and this block's share of them
    const int last_row = row0 + QUERIES < rows ? row0 + QUERIES - 1 : rows - 1;
    long long low = window ? past + row0 / group - window + 1 : 0, high = past + last_row / group + 1;
    low = low < 0 ? 0 : low;
    high = high < capacity ? high : capacity;
#if SPLITS > 1
    long long share = (high - low + SPLITS - 1) / SPLITS;  // of the tokens that are there: as many blocks as there are tokens for, the others leave
    share = share < STEP ? STEP : share;
    const int blocks = high > low ? (int)((high - low + share - 1) / share) : 1;
    if ((int)blockIdx.x >= blocks) return;
    low += (long long)blockIdx.x * share;
    high = high < low + share ? high : low + share;
#endif

    float query[QUERIES][VECTOR], seen[QUERIES][VECTOR] = {};
    for (int r = 0; r < QUERIES; ++r) {
        const int row = row0 + r < rows ? row0 + r : rows - 1;
        const long long at = (((long long)b * S + row / group) * heads + kh * group + row % group) * HEAD + d0;
        Vector loaded;
        if (there) loaded = *(const Vector*)(q + at);
        for (int e = 0; e < VECTOR; ++e) query[r][e] = there ? up(loaded.at[e]) * scale : 0.f;
    }
    if (t < QUERIES) tops[t] = -INFINITY, sums[t] = 0;

    for (long long k0 = low; k0 < high; k0 += STEP) {
#pragma unroll 4
        for (int j = team; j < STEP; j += TEAMS) {
            const long long place = k0 + j;
            Vector loaded;
            if (there && place < high) loaded = *(const Vector*)(keys + cached + place * HEAD + d0);
            for (int r = 0; r < QUERIES; ++r) {
                float dot = 0;
                if (there && place < high) for (int e = 0; e < VECTOR; ++e) dot += query[r][e] * up(loaded.at[e]);
                for (int distance = LANES / 2; distance; distance /= 2) dot += __shfl_xor_sync(0xffffffff, dot, distance);
                const long long own = past + (row0 + r) / group;
                const bool visible = place < high && place <= own && (!window || place > own - window);
#if CAPPED
                dot = cap * tanhf(dot / cap);
#endif
                if (lane == 0) scores[r][j] = visible ? dot : -INFINITY;
            }
        }
        __syncthreads();
        for (int r = warp; r < QUERIES; r += THREADS / 32) {
            float top = tops[r], sum = 0;
            const float before = top;
            for (int j = t % 32; j < STEP; j += 32) top = fmaxf(top, scores[r][j]);
            for (int distance = 16; distance; distance /= 2) top = fmaxf(top, __shfl_xor_sync(0xffffffff, top, distance));
            for (int j = t % 32; j < STEP; j += 32) {
                const float weight = top == -INFINITY ? 0.f : exp(scores[r][j] - top);
                scores[r][j] = weight;
                sum += weight;
            }
            for (int distance = 16; distance; distance /= 2) sum += __shfl_xor_sync(0xffffffff, sum, distance);
            const float factor = before == -INFINITY ? 0.f : exp(before - top), whole = sums[r] * factor + sum;
            __syncwarp();
            if (t % 32 == 0) factors[r] = factor, tops[r] = top, sums[r] = whole;
        }
        __syncthreads();
        for (int r = 0; r < QUERIES; ++r) for (int e = 0; e < VECTOR; ++e) seen[r][e] *= factors[r];
#pragma unroll 4
        for (int j = team; j < STEP; j += TEAMS) {
            const long long place = k0 + j;
            if (!there || place >= high) continue;
            const Vector loaded = *(const Vector*)(values + cached + place * HEAD + d0);
            for (int r = 0; r < QUERIES; ++r) for (int e = 0; e < VECTOR; ++e) seen[r][e] += scores[r][j] * up(loaded.at[e]);
        }
        __syncthreads();
    }

    for (int r = 0; r < QUERIES; ++r) {
        __syncthreads();
        if (there) for (int e = 0; e < VECTOR; ++e) joined[team][d0 + e] = seen[r][e];
        __syncthreads();
        const int row = row0 + r;
        if (row >= rows) continue;
        for (int d = t; d < HEAD; d += THREADS) {
            float whole = 0;
            for (int i = 0; i < TEAMS; ++i) whole += joined[i][d];
#if SPLITS > 1
            parts[(((long long)blockIdx.z * rows + row) * SPLITS + blockIdx.x) * (HEAD + 2) + d] = whole;
#else
            y[(((long long)b * S + row / group) * heads + kh * group + row % group) * HEAD + d] = down<y_t>(sums[r] > 0 ? whole / sums[r] : 0.f);
#endif
        }
#if SPLITS > 1
        if (t < 2) parts[(((long long)blockIdx.z * rows + row) * SPLITS + blockIdx.x) * (HEAD + 2) + HEAD + t] = t ? sums[r] : tops[r];
#endif
    }
#if SPLITS > 1
    __shared__ bool last;
    __threadfence();
    __syncthreads();
    if (t == 0) {
        int* count = counts + (long long)blockIdx.z * gridDim.y + blockIdx.y;
        last = atomicAdd(count, 1) == blocks - 1;
        if (last) *count = 0;  // ready for the next run
    }
    __syncthreads();
    if (!last) return;
    __threadfence();
    for (int r = 0; r < QUERIES; ++r) {
        const int row = row0 + r;
        if (row >= rows) break;
        const volatile float* own = parts + ((long long)blockIdx.z * rows + row) * SPLITS * (HEAD + 2);
        float top = -INFINITY, sum = 0;
        for (int i = 0; i < blocks; ++i) top = fmaxf(top, own[i * (HEAD + 2) + HEAD]);
        for (int i = 0; i < blocks; ++i) if (own[i * (HEAD + 2) + HEAD + 1] > 0) sum += own[i * (HEAD + 2) + HEAD + 1] * exp(own[i * (HEAD + 2) + HEAD] - top);
        for (int d = t; d < HEAD; d += THREADS) {
            float whole = 0;
            for (int i = 0; i < blocks; ++i)
                if (own[i * (HEAD + 2) + HEAD + 1] > 0) whole += own[i * (HEAD + 2) + d] * exp(own[i * (HEAD + 2) + HEAD] - top);
            y[(((long long)b * S + row / group) * heads + kh * group + row % group) * HEAD + d] = down<y_t>(sum > 0 ? whole / sum : 0.f);
        }
    }
#endif
}
