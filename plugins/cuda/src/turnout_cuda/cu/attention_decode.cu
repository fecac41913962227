// What the next token of each text sees of a cache of halves, through the tensor cores (sm_80 and later), in one launch: the queries and the
// new key are turned here, and the block that looks at the last tokens writes the new key and value into the cache. A block takes up to ROWS of
// the queries that share a head of keys, and a share of the tokens that are there: as many blocks as there are tokens for, the others leave.
// A warp takes 16 tokens at a time and keeps a softmax of its own, so that no warp waits for another before the end; whichever block is
// through last puts the parts of all together. CLUSTER (sm_90 and later): they are a cluster, and the first reads the parts out of the others'
// shared memory.
//
// Keys and values go from memory into the tensor cores' registers in pieces of 16 bytes: the order of a sum's parts does not matter, so the
// four neighbours that a thread holds of a key stand for the places that mma.m16n8k16 gives it; a value's elements are rows of the product,
// whose order does not matter either. Weights leave the first product as the second takes them.
#define THREADS (WARPS * 32)
#define ROWS 8
#define STEP (WARPS * 16)
#define PIECES (HEAD / 8)
#define KEY ((PIECES + 3) / 4)
#define VALUE ((PIECES + 7) / 8)
#define PART (HEAD + 2)

struct alignas(16) Piece { unsigned at[4]; };

DEVICE unsigned low_halves(unsigned a, unsigned b) { return __byte_perm(a, b, 0x5410); }
DEVICE unsigned high_halves(unsigned a, unsigned b) { return __byte_perm(a, b, 0x7632); }

#if CLUSTER
#define TOGETHER __cluster_dims__(SPLITS, 1, 1)
DEVICE void meet() { asm volatile("barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;" ::: "memory"); }
DEVICE float of_block(const float* mine, int rank) {
    unsigned its;
    float x;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(its) : "r"((unsigned)__cvta_generic_to_shared(mine)), "r"(rank));
    asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(x) : "r"(its) : "memory");
    return x;
}
#else
#define TOGETHER
#endif

extern "C" __global__ void TOGETHER __launch_bounds__(THREADS, RESIDENT) ENTRY(PARAMETERS) {
    let_next_kernel_start();
    await_earlier_kernels();
    __shared__ alignas(16) q_t fresh[ROWS + 2][HEAD];  // the queries, then the new key and the new value
    __shared__ float joined[WARPS][ROWS][HEAD + 2], tops[WARPS][ROWS], sums[WARPS][ROWS];
#if CLUSTER
    __shared__ float own[ROWS][PART];
#endif
    const int t = threadIdx.x, lane = t % 32, warp = t / 32, mine = lane / 4, quarter = lane % 4;
    const int b = blockIdx.y / key_heads, kh = blockIdx.y % key_heads, group = heads / key_heads, row0 = blockIdx.z * ROWS;
    const int count = group - row0 < ROWS ? group - row0 : ROWS;
    const int past = past_of(lengths, b, 1), known = past < capacity ? past : capacity, high = past < capacity ? past + 1 : capacity;
    const int low = window && past - window + 1 > 0 ? past - window + 1 : 0;

    // this block's share of the tokens: a multiple of what a warp takes at once, and enough for all warps
    int share = (high - low + SPLITS - 1) / SPLITS;
    share = share < LEAST ? LEAST : (share + 15) / 16 * 16;
    const int blocks = high > low ? (high - low + share - 1) / share : 1, from = low + (int)blockIdx.x * share;
    if ((int)blockIdx.x >= blocks) return;
    const int to = from + share < high ? from + share : high, stored = to < known ? to : known;
    const bool newest = past < capacity && to > past;
    const q_t* own_keys = keys + ((long long)b * key_heads + kh) * capacity * HEAD;
    const q_t* own_values = values + ((long long)b * key_heads + kh) * capacity * HEAD;

    Piece key[2][KEY], value[4][VALUE];
    auto load_keys = [&](int first) {
        for (int n = 0; n < 2; ++n) for (int i = 0; i < KEY; ++i) {
            const int place = first + n * 8 + mine, piece = i * 4 + quarter;
            key[n][i] = place < stored && piece < PIECES ? *(const Piece*)(own_keys + (long long)place * HEAD + piece * 8) : Piece{};
        }
    };
    auto load_values = [&](int first) {
        for (int n = 0; n < 4; ++n) for (int i = 0; i < VALUE; ++i) {
            const int place = first + n / 2 * 8 + quarter * 2 + n % 2, piece = i * 8 + mine;
            value[n][i] = place < stored && piece < PIECES ? *(const Piece*)(own_values + (long long)place * HEAD + piece * 8) : Piece{};
        }
    };
    load_keys(from + warp * 16);
    load_values(from + warp * 16);

    const int all = PACKED ? heads + 2 * key_heads : heads, its = PACKED ? all : key_heads;
    const q_t* queries = q + ((long long)b * all + kh * group + row0) * HEAD;
    const q_t* new_key = (PACKED ? q : k) + ((long long)b * its + (PACKED ? heads : 0) + kh) * HEAD;
    const q_t* new_value = (PACKED ? q : v) + ((long long)b * its + (PACKED ? heads + key_heads : 0) + kh) * HEAD;
    const long long place = POSITIONS ? (long long)positions[b] : past;
#pragma unroll 2
    for (int e = t; e < (count + 2 * newest) * HEAD; e += THREADS) {
        const int r = e / HEAD, d = e % HEAD;
        const float x = r == count + 1 ? up(new_value[d]) : turned_by(r == count ? new_key : queries + r * HEAD, d, place, cosines, sines, rows);
        fresh[r < count ? r : r - count + ROWS][d] = down<q_t>(x);
        if (r >= count && row0 == 0) (r == count ? keys : values)[(((long long)b * key_heads + kh) * capacity + past) * HEAD + d] = down<q_t>(x);
    }
    __syncthreads();

    // Of the 16 rows of a product the queries take 8. The others give the same queries' second halves: what a piece's first half makes of them,
    // and what its second half makes of the first rows, nobody reads.
    unsigned query[KEY][4] = {};
    for (int i = 0; i < KEY; ++i) if (mine < count && i * 4 + quarter < PIECES) {
        const Piece piece = *(const Piece*)&fresh[mine][(i * 4 + quarter) * 8];
        query[i][0] = piece.at[0], query[i][1] = piece.at[2], query[i][2] = piece.at[1], query[i][3] = piece.at[3];
    }
    const float steep = scale * 1.44269504f;  // weights are powers of two
    float seen[VALUE][4][4] = {}, top = -INFINITY, sum = 0;
#pragma unroll 1
    for (int first = from + warp * 16; first < to; first += STEP) {
        if (newest && first + 16 > past) {  // the new token is not read from the cache, where it may not be yet
            for (int n = 0; n < 2; ++n) for (int i = 0; i < KEY; ++i)
                if (first + n * 8 + mine == past && i * 4 + quarter < PIECES) key[n][i] = *(const Piece*)&fresh[ROWS][(i * 4 + quarter) * 8];
            for (int n = 0; n < 4; ++n) for (int i = 0; i < VALUE; ++i)
                if (first + n / 2 * 8 + quarter * 2 + n % 2 == past && i * 8 + mine < PIECES) value[n][i] = *(const Piece*)&fresh[ROWS + 1][(i * 8 + mine) * 8];
        }
        float one[2][4] = {}, other[2][4] = {}, scores[2][2];
        for (int i = 0; i < KEY; ++i) for (int n = 0; n < 2; ++n) {
            multiply(one[n], query[i], key[n][i].at[0], key[n][i].at[1], q_t());
            multiply(other[n], query[i], key[n][i].at[2], key[n][i].at[3], q_t());
        }
        load_keys(first + STEP);
        float largest = top;
        for (int n = 0; n < 2; ++n) for (int i = 0; i < 2; ++i) {
            const float dot = one[n][i] + other[n][i + 2];
#if CAPPED
            const float score = cap * 1.44269504f * tanhf(dot * scale / cap);
#else
            const float score = dot * steep;
#endif
            scores[n][i] = first + n * 8 + quarter * 2 + i < to ? score : -INFINITY;
            largest = fmaxf(largest, scores[n][i]);
        }
        for (int distance = 1; distance < 4; distance *= 2) largest = fmaxf(largest, __shfl_xor_sync(0xffffffff, largest, distance));
        const float factor = power_of_two(top - largest);
        top = largest;
        sum *= factor;
        for (int n = 0; n < 2; ++n) for (int i = 0; i < 2; ++i) sum += scores[n][i] = power_of_two(scores[n][i] - top);
        const unsigned weights[2] = {two(scores[0][0], scores[0][1], q_t()), two(scores[1][0], scores[1][1], q_t())};
        float factors[2];  // of the two queries whose sums this thread holds
        for (int i = 0; i < 2; ++i) factors[i] = __shfl_sync(0xffffffff, factor, quarter * 8 + i * 4);
        for (int i = 0; i < VALUE; ++i) for (int j = 0; j < 4; ++j) {
            const unsigned turned[4] = {low_halves(value[0][i].at[j], value[1][i].at[j]), high_halves(value[0][i].at[j], value[1][i].at[j]),
                                        low_halves(value[2][i].at[j], value[3][i].at[j]), high_halves(value[2][i].at[j], value[3][i].at[j])};
            for (int e = 0; e < 4; ++e) seen[i][j][e] *= factors[e % 2];
            multiply(seen[i][j], turned, weights[0], weights[1], q_t());
        }
        load_values(first + STEP);
    }

    // the warps' parts into one
    for (int distance = 1; distance < 4; distance *= 2) sum += __shfl_xor_sync(0xffffffff, sum, distance);
    if (quarter == 0) tops[warp][mine] = top, sums[warp][mine] = sum;
    for (int i = 0; i < VALUE; ++i) for (int j = 0; j < 4; ++j) for (int e = 0; e < 4; ++e) {
        const int d = (i * 8 + mine) * 8 + j * 2 + e / 2, r = quarter * 2 + e % 2;
        if (d < HEAD && r < count) joined[warp][r][d] = seen[i][j][e];
    }
    __syncthreads();
    const int z = blockIdx.y * group + row0;
    for (int e = t; e < count * HEAD; e += THREADS) {
        const int r = e / HEAD, d = e % HEAD;
        float most = -INFINITY, whole = 0, total = 0;
        for (int w = 0; w < WARPS; ++w) most = fmaxf(most, tops[w][r]);
        for (int w = 0; w < WARPS; ++w) {
            const float factor = tops[w][r] == -INFINITY ? 0.f : power_of_two(tops[w][r] - most);
            whole += joined[w][r][d] * factor;
            total += sums[w][r] * factor;
        }
        if (blocks == 1) {
            y[(long long)(z + r) * HEAD + d] = down<y_t>(total > 0 ? whole / total : 0.f);
            continue;
        }
#if CLUSTER
        own[r][d] = whole;
        if (d == 0) own[r][HEAD] = most, own[r][HEAD + 1] = total;
#elif SPLITS > 1
        float* part = parts + ((long long)(z + r) * SPLITS + blockIdx.x) * PART;
        part[d] = whole;
        if (d == 0) part[HEAD] = most, part[HEAD + 1] = total;
#endif
    }
    if (blocks == 1) return;
#if CLUSTER
    meet();
    if (blockIdx.x == 0) for (int e = t; e < count * HEAD; e += THREADS) {
        const int r = e / HEAD, d = e % HEAD;
        float tops_of[SPLITS], most = -INFINITY, whole = 0, total = 0;
        for (int i = 0; i < SPLITS; ++i) tops_of[i] = i < blocks ? of_block(&own[r][HEAD], i) : -INFINITY, most = fmaxf(most, tops_of[i]);
        for (int i = 0; i < SPLITS; ++i) if (i < blocks) {
            const float factor = power_of_two(tops_of[i] - most);
            whole += of_block(&own[r][d], i) * factor;
            total += of_block(&own[r][HEAD + 1], i) * factor;
        }
        y[(long long)(z + r) * HEAD + d] = down<y_t>(whole / total);
    }
    meet();  // no block leaves before its memory is read
#elif SPLITS > 1
    __shared__ bool last;
    __shared__ float shares[ROWS][SPLITS];
    __threadfence();
    __syncthreads();
    if (t == 0) {
        int* arrived = counts + (long long)blockIdx.z * gridDim.y + blockIdx.y;
        last = atomicAdd(arrived, 1) == blocks - 1;
        if (last) *arrived = 0;  // ready for the next run
    }
    __syncthreads();
    if (!last) return;
    __threadfence();
    for (int r = warp; r < count; r += WARPS) {
        const volatile float* part = parts + (long long)(z + r) * SPLITS * PART;
        float most = -INFINITY, total = 0;
        for (int i = lane; i < blocks; i += 32) most = fmaxf(most, part[i * PART + HEAD]);
        for (int distance = 16; distance; distance /= 2) most = fmaxf(most, __shfl_xor_sync(0xffffffff, most, distance));
        for (int i = lane; i < blocks; i += 32) {
            const float factor = power_of_two(part[i * PART + HEAD] - most);
            shares[r][i] = factor;
            total += factor * part[i * PART + HEAD + 1];
        }
        for (int distance = 16; distance; distance /= 2) total += __shfl_xor_sync(0xffffffff, total, distance);
        for (int i = lane; i < blocks; i += 32) shares[r][i] /= total;
    }
    __syncthreads();
    for (int e = t; e < count * HEAD; e += THREADS) {
        const int r = e / HEAD, d = e % HEAD;
        const float* part = parts + (long long)(z + r) * SPLITS * PART + d;
        float whole = 0;
#pragma unroll 8
        for (int i = 0; i < blocks; ++i) whole += shares[r][i] * __ldcg(part + i * PART);
        y[(long long)(z + r) * HEAD + d] = down<y_t>(whole);
    }
#endif
}
