// Where a run's tokens lie in a cache, and how they are turned on their way there.

// Where batch b's tokens of this run begin: LESS is what `lengths` counts too few.
DEVICE long long past_of(const lengths_t* lengths, int b, int S) {
    const long long past = (long long)lengths[b] + LESS - S;
    return past > 0 ? past : 0;
}

#ifdef ROTARY
// Element d of a head, turned by the angles of a place: the first 2 * HALF of them are, in pairs of neighbours (INTERLEAVED) or of halves.
DEVICE float turned_by(const q_t* x, int d, long long at, const cosines_t* cosines, const sines_t* sines, int rows) {
    const float value = up(x[d]);
    if (!ROTARY || d >= 2 * HALF) return value;
    const int half = HALF > 0 ? HALF : 1;
    const int angle = INTERLEAVED ? d / 2 : d % half, other = INTERLEAVED ? d ^ 1 : d < half ? d + half : d - half;
    const bool first = INTERLEAVED ? !(d & 1) : d < half;
    at = at < 0 ? 0 : at < rows ? at : rows - 1;  // there is no angle beyond the table, and no other memory is read
    const float c = up(cosines[at * HALF + angle]), n = up(sines[at * HALF + angle]), its = up(x[other]);
    return first ? c * value - n * its : n * its + c * value;
}
#endif

