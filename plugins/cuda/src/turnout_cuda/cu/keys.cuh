// Logits in an order that compares as whole numbers do, for what looks for the likeliest tokens.
typedef unsigned long long whole;

DEVICE unsigned key_of(float x) {
    const unsigned raw = __float_as_uint(x + 0.f);  // -0 is 0
    return x != x ? 0 : raw ^ (raw >> 31 ? 0xffffffffu : 0x80000000u);
}

DEVICE float number_of(unsigned key) { return __uint_as_float(key ^ (key >> 31 ? 0x80000000u : 0xffffffffu)); }

struct Largest { static DEVICE whole join(whole a, whole b) { return a > b ? a : b; } };
