// The tokens of a run on their way into attention: queries with their rotary positions into `turned`, keys with theirs and values into the
// caches, behind the tokens that are there. One thread for each element. PACKED: all three lie side by side in q.
extern "C" __global__ void __launch_bounds__(256) ENTRY(PARAMETERS) {
    let_next_kernel_start();
    await_earlier_kernels();
    const int all = PACKED ? heads + 2 * key_heads : heads;
    const long long i = (long long)blockIdx.x * 256 + threadIdx.x;
    const int d = i % HEAD, head = i / HEAD % (heads + 2 * key_heads);
    const long long token = i / HEAD / (heads + 2 * key_heads);
    if (token >= tokens) return;
    const int which = head < heads ? 0 : head < heads + key_heads ? 1 : 2, own = which == 0 ? head : which == 1 ? head - heads : head - heads - key_heads;
    const long long row = PACKED ? (token * all + head) * HEAD : (token * (which ? key_heads : heads) + own) * HEAD;
    const q_t* x = (PACKED || which == 0 ? q : which == 1 ? k : v) + row;
    const int b = token / S, s = token % S;
    const long long place = past_of(lengths, b, S) + s;
    const float value = which == 2 ? up(x[d]) : turned_by(x, d, POSITIONS ? (long long)positions[token] : place, cosines, sines, rows);
    if (which == 0) turned[(token * heads + own) * HEAD + d] = down<q_t>(value);
    else if (place < capacity) (which == 1 ? keys : values)[(((long long)b * key_heads + own) * capacity + place) * HEAD + d] = down<q_t>(value);
}
