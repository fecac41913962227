// The tokens of a run on their way into attention: queries with their rotary positions into `turned`, keys with theirs and values into the
// caches, behind the tokens that are there. One thread for each element. PACKED: all three lie side by side in q.

// Where batch b's tokens of this run begin: LESS is what `lengths` counts too few.
DEVICE long long past_of(const lengths_t* lengths, int b, int S) {
    const long long past = (long long)lengths[b] + LESS - S;
    return past > 0 ? past : 0;
}

extern "C" __global__ void __launch_bounds__(256) ENTRY(PARAMETERS) {
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
    float value = up(x[d]);
#if ROTARY
    if (which < 2 && d < 2 * HALF) {
#if INTERLEAVED
        const int angle = d / 2, other = d ^ 1;
        const bool first = !(d & 1);
#else
        const int angle = d % HALF, other = d < HALF ? d + HALF : d - HALF;
        const bool first = d < HALF;
#endif
#if POSITIONS
        long long at = positions[token];
#else
        long long at = place;
#endif
        at = at < 0 ? 0 : at < rows ? at : rows - 1;  // there is no angle beyond the table, and no other memory is read
        const float c = up(cosines[at * HALF + angle]), n = up(sines[at * HALF + angle]), its = up(x[other]);
        value = first ? c * value - n * its : n * its + c * value;
    }
#endif
    if (which == 0) turned[(token * heads + own) * HEAD + d] = down<q_t>(value);
    else if (place < capacity) (which == 1 ? keys : values)[(((long long)b * key_heads + own) * capacity + place) * HEAD + d] = down<q_t>(value);
}
