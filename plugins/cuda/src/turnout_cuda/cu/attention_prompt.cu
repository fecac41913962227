// What many queries see, through the tensor cores (sm_80 and later; Dao, "FlashAttention-2", 2023). A block of four warps takes 64 of
// the queries that share a head of keys, a warp 16 of them; keys and values come 64 tokens at a time, the values while scores are made, the next
// keys while values are summed. Weights go from the scores' registers into the next product without passing through memory: the layout of a
// sum of two neighbouring tiles is that of a left operand (PTX ISA, "Matrix fragments for mma.m16n8k16").
#define THREADS 128
#define ROWS 64
#define KEYS 64
#define DEEP (HEAD / 16)

// Tokens k0 and on of a head on their way to shared memory; zeros where there are none, since a weight of zero does not undo a NaN.
DEVICE void fetch(q_t (&to)[KEYS][HEAD + 8], const q_t* from, int step, int k0, int high) {
    for (int e = threadIdx.x; e < KEYS * (HEAD / 8); e += THREADS) {
        const int row = e / (HEAD / 8), column = e % (HEAD / 8) * 8;
        const int place = k0 + row < high ? k0 + row : high - 1;
        const int bytes = k0 + row < high ? 16 : 0;
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" :: "r"((unsigned)__cvta_generic_to_shared(&to[row][column])),
                     "l"(from + (long long)place * step + column), "r"(bytes) : "memory");
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
}
#define ARRIVED(COUNT) asm volatile("cp.async.wait_group " #COUNT ";" ::: "memory")

extern "C" __global__ void __launch_bounds__(THREADS, 2) ENTRY(PARAMETERS) {
    let_next_kernel_start();
    await_earlier_kernels();
    __shared__ alignas(16) q_t ks[KEYS][HEAD + 8], vs[KEYS][HEAD + 8];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, quarter = lane % 4;
    const int b = blockIdx.y / key_heads, kh = blockIdx.y % key_heads, group = heads / key_heads, rows = group * S;
    const int row0 = (gridDim.x - 1 - blockIdx.x) * ROWS;  // those that see most come first
    const int past = PAST, end = END;
    const q_t *own_keys = keys + (long long)b * k_text + (long long)kh * k_head, *own_values = values + (long long)b * v_text + (long long)kh * v_head;
    const int first = past + row0 / group, last = past + (row0 + ROWS < rows ? row0 + ROWS - 1 : rows - 1) / group;  // places of these queries
    int low = WINDOWED ? first - window + 1 : 0, high = CAUSAL ? last + 1 : end;
    low = low < 0 ? 0 : low;
    high = high < end ? high : end;

    // this thread's two rows, and their places in the text
    int row[2], own[2];
    long long at[2];
    for (int i = 0; i < 2; ++i) {
        row[i] = row0 + warp * 16 + lane / 4 + i * 8;
        const int known = row[i] < rows ? row[i] : rows - 1;
        own[i] = past + known / group;
        at[i] = (long long)b * y_text + (long long)(known / group) * y_token + (long long)(kh * group + known % group) * y_head;
    }
    unsigned query[DEEP][4];
    for (int i = 0; i < 2; ++i) {
        const int known = row[i] < rows ? row[i] : rows - 1;
        const q_t* from = q + (long long)b * q_text + (long long)(known / group) * q_token + (long long)(kh * group + known % group) * q_head;
        for (int k = 0; k < DEEP; ++k) for (int e = 0; e < 2; ++e) query[k][i + 2 * e] = *(const unsigned*)(from + k * 16 + e * 8 + quarter * 2);
    }
#if MASK
    const mask_t* allowed[2];
    for (int i = 0; i < 2; ++i) {
        const int known = row[i] < rows ? row[i] : rows - 1;
        allowed[i] = mask + (long long)b * m_text + (long long)(kh * group + known % group) * m_head + (long long)(known / group) * m_token;
    }
#endif

    const float steep = scale * 1.44269504f;  // weights are powers of two
    float seen[HEAD / 8][4] = {}, top[2] = {-INFINITY, -INFINITY}, sum[2] = {};
    if (low < high) fetch(ks, own_keys, k_token, low, high);
    for (int k0 = low; k0 < high; k0 += KEYS) {
        fetch(vs, own_values, v_token, k0, high);
        ARRIVED(1);
        __syncthreads();
        float scores[KEYS / 8][4] = {};
        for (int k = 0; k < DEEP; ++k)
            for (int j = 0; j < KEYS / 8; j += 2) {
                unsigned loaded[4];
                load_matrices(loaded, &ks[j * 8 + lane % 8 + lane / 16 * 8][k * 16 + lane / 8 % 2 * 8]);
                multiply(scores[j], query[k], loaded[0], loaded[1], q_t());
                multiply(scores[j + 1], query[k], loaded[2], loaded[3], q_t());
            }
        __syncthreads();
        if (k0 + KEYS < high) {
            fetch(ks, own_keys, k_token, k0 + KEYS, high);
            ARRIVED(1);
        } else {
            ARRIVED(0);
        }
#if CAPPED
        for (int j = 0; j < KEYS / 8; ++j) for (int i = 0; i < 4; ++i) scores[j][i] = cap * tanhf(scores[j][i] * scale / cap) * 1.44269504f;
#else
        for (int j = 0; j < KEYS / 8; ++j) for (int i = 0; i < 4; ++i) scores[j][i] *= steep;
#endif
        const bool all = !MASK && k0 + KEYS <= high && (!CAUSAL || k0 + KEYS - 1 <= first) && (!WINDOWED || k0 > last - window);
        if (!all)
            for (int j = 0; j < KEYS / 8; ++j)
                for (int i = 0; i < 4; ++i) {
                    const int place = k0 + j * 8 + quarter * 2 + i % 2;
                    bool visible = place < high && (!CAUSAL || place <= own[i / 2]) && (!WINDOWED || place > own[i / 2] - window);
#if MASK
                    visible = visible && place < masked;
#if MASK == 1
                    visible = visible && allowed[i / 2][place];
#else
                    if (visible) scores[j][i] += up(allowed[i / 2][place]) * 1.44269504f;
#endif
#endif
                    if (!visible) scores[j][i] = -INFINITY;
                }
        float largest[2] = {top[0], top[1]}, before[2] = {top[0], top[1]}, lifted[2], factor[2];
        for (int j = 0; j < KEYS / 8; ++j) for (int i = 0; i < 4; ++i) largest[i / 2] = fmaxf(largest[i / 2], scores[j][i]);
        for (int i = 0; i < 2; ++i) {
            for (int distance = 1; distance < 4; distance *= 2) largest[i] = fmaxf(largest[i], __shfl_xor_sync(0xffffffff, largest[i], distance));
            top[i] = largest[i];
            lifted[i] = top[i] == -INFINITY ? 0.f : top[i];  // nothing is seen yet: weights of zero
            factor[i] = power_of_two(before[i] - lifted[i]);
            sum[i] *= factor[i];
        }
        for (int j = 0; j < KEYS / 8; ++j) for (int i = 0; i < 4; ++i) sum[i / 2] += scores[j][i] = power_of_two(scores[j][i] - lifted[i / 2]);
        for (int j = 0; j < HEAD / 8; ++j) for (int i = 0; i < 4; ++i) seen[j][i] *= factor[i / 2];
        __syncthreads();
        for (int k = 0; k < KEYS / 16; ++k) {
            unsigned weights[4];
            for (int i = 0; i < 4; ++i) weights[i] = two(scores[2 * k + i / 2][i % 2 * 2], scores[2 * k + i / 2][i % 2 * 2 + 1], q_t());
            for (int j = 0; j < HEAD / 8; j += 2) {
                unsigned loaded[4];
                load_turned(loaded, &vs[k * 16 + lane % 16][j * 8 + lane / 16 * 8]);
                multiply(seen[j], weights, loaded[0], loaded[1], q_t());
                multiply(seen[j + 1], weights, loaded[2], loaded[3], q_t());
            }
        }
        __syncthreads();
    }
    for (int i = 0; i < 2; ++i) {
        for (int distance = 1; distance < 4; distance *= 2) sum[i] += __shfl_xor_sync(0xffffffff, sum[i], distance);
        if (row[i] >= rows) continue;
        const float share = sum[i] > 0 ? 1.f / sum[i] : 0.f;
        for (int j = 0; j < HEAD / 8; ++j)
            put_two(y + at[i] + j * 8 + quarter * 2, seen[j][2 * i] * share, seen[j][2 * i + 1] * share);
    }
}
