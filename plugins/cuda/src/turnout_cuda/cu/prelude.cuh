// What every kernel of turnout begins with: element types that CUDA C++ has no name for, and the way to and from what they are computed in.
// Nothing is included: CUDA's own half precision headers cost 20 ms a kernel, CCCL's two seconds.
#define DEVICE __device__ __forceinline__
#define INFINITY __int_as_float(0x7f800000)
#define NAN __int_as_float(0x7fffffff)
#define PI 3.14159265358979323846

struct f16 { unsigned short bits; };
struct bf16 { unsigned short bits; };
struct bits64 { unsigned long long bits; };
struct alignas(16) bits128 { unsigned long long low, high; };
struct i4 { signed char value; };
struct u4 { unsigned char value; };
struct i2 { signed char value; };
struct u2 { unsigned char value; };

// Floats of a byte and less: sign, E bits of exponent, M of mantissa. KIND: 0 has infinities (IEEE 754), 1 has none and NaN is all ones ("fn"),
// 2 has none and NaN is negative zero ("fnuz"), 3 has neither (float4e2m1). ONNX, "Float stored in 8 bits".
template <int E, int M, int BIAS, int KIND> struct minifloat { unsigned char bits; };
using e4m3 = minifloat<4, 3, 7, 1>;
using e4m3uz = minifloat<4, 3, 8, 2>;
using e5m2 = minifloat<5, 2, 15, 0>;
using e5m2uz = minifloat<5, 2, 16, 2>;
using e2m1 = minifloat<2, 1, 1, 3>;
struct e8m0 { unsigned char bits; };

DEVICE float up(float x) { return x; }
DEVICE double up(double x) { return x; }
DEVICE bool up(bool x) { return x; }
DEVICE int up(signed char x) { return x; }
DEVICE int up(short x) { return x; }
DEVICE int up(int x) { return x; }
DEVICE long long up(long long x) { return x; }
DEVICE unsigned up(unsigned char x) { return x; }
DEVICE unsigned up(unsigned short x) { return x; }
DEVICE unsigned up(unsigned x) { return x; }
DEVICE unsigned long long up(unsigned long long x) { return x; }
// the upper bits of a byte that holds four are whatever the host left there
DEVICE int up(i4 x) { return (int)((unsigned)x.value << 28) >> 28; }
DEVICE unsigned up(u4 x) { return x.value & 15u; }
DEVICE int up(i2 x) { return (int)((unsigned)x.value << 30) >> 30; }
DEVICE unsigned up(u2 x) { return x.value & 3u; }
DEVICE bits64 up(bits64 x) { return x; }
DEVICE bits128 up(bits128 x) { return x; }
DEVICE float up(f16 x) { float y; asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits)); return y; }
DEVICE float up(bf16 x) { return __uint_as_float((unsigned)x.bits << 16); }
DEVICE float up(e8m0 x) { return x.bits == 255 ? NAN : x.bits ? __uint_as_float((unsigned)x.bits << 23) : __uint_as_float(0x00400000); }

template <int E, int M, int BIAS, int KIND> DEVICE float up(minifloat<E, M, BIAS, KIND> x) {
    unsigned sign = (x.bits >> (E + M)) & 1, exponent = (x.bits >> M) & ((1 << E) - 1), mantissa = x.bits & ((1 << M) - 1);
    bool ones = exponent == (1 << E) - 1;
    float y;
    if (KIND == 0 && ones) y = mantissa ? NAN : INFINITY;
    else if (KIND == 1 && ones && mantissa == (1 << M) - 1) y = NAN;
    else if (KIND == 2 && sign && !exponent && !mantissa) return NAN;
    else if (exponent) y = __uint_as_float((exponent + 127 - BIAS) << 23 | mantissa << (23 - M));
    else y = (float)mantissa * __uint_as_float((unsigned)(128 - BIAS - M) << 23);
    return sign ? -y : y;
}

// The float nearest to x, ties to even. What is too large becomes the largest (saturate), else an infinity, else NaN.
template <int E, int M, int BIAS, int KIND> DEVICE unsigned char encode(float x, bool saturate) {
    unsigned raw = __float_as_uint(x), sign = raw >> 31, size = raw & 0x7fffffff;
    const unsigned top = KIND == 0 ? ((1 << (E + M)) - 1 - (1 << M)) : KIND == 1 ? (1 << (E + M)) - 2 : (1 << (E + M)) - 1;
    const unsigned nan = KIND == 2 ? 1 << (E + M) : KIND == 0 ? (1 << (E + M)) - (1 << M) + (1 << (M - 1)) : (1 << (E + M)) - 1;
    if (size > 0x7f800000) return KIND == 3 ? 1 << (E + M) : KIND == 2 ? nan : (sign << (E + M) | nan | (KIND == 0 ? (1 << M) - 1 : 0));
    int exponent = (int)(size >> 23) - 127 + BIAS;
    unsigned coded, mantissa = (size & 0x7fffff) | 0x800000;
    if (exponent >= 1) {
        unsigned rounded = size + ((1u << (22 - M)) - 1) + ((size >> (23 - M)) & 1);
        coded = (rounded >> (23 - M)) - ((unsigned)(127 - BIAS) << M);
    } else {
        int shift = 24 - M - exponent;
        unsigned half = shift > 25 ? 0 : 1u << (shift - 1);
        coded = shift > 25 ? 0 : (mantissa + half - 1 + ((mantissa >> shift) & 1)) >> shift;
    }
    if (size == 0x7f800000 || coded > top || exponent > 300) {
        if (saturate || KIND == 3) coded = top;
        else if (KIND == 0) coded = top + 1;
        else return KIND == 2 ? nan : (sign << (E + M) | nan);
    }
    if (KIND == 2 && !coded) return 0;
    return sign << (E + M) | coded;
}

DEVICE unsigned short half_bits(float x) { unsigned short y; asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y) : "f"(x)); return y; }
DEVICE unsigned short brain_bits(float x) {  // in integers, since sm_75 has no instruction for it
    unsigned raw = __float_as_uint(x);
    return (raw & 0x7fffffff) > 0x7f800000 ? (raw >> 16) | 64 : (raw + 0x7fff + ((raw >> 16) & 1)) >> 16;
}

// double to half and its kin: round to odd in float32 first, so that the second rounding cannot be off
DEVICE float narrow(double x) {
    float y = __double2float_rz(x);
    return (double)y != x && x == x && !(__float_as_uint(y) & 1) && (__float_as_uint(y) & 0x7fffffff) < 0x7f7fffff ? __uint_as_float(__float_as_uint(y) | 1) : y;
}
template <class W> DEVICE float narrow(W x) { return (float)x; }

template <class T> struct Down { template <class W> static DEVICE T from(W x) { return (T)x; } };
template <> struct Down<bool> { template <class W> static DEVICE bool from(W x) { return x != (W)0; } };
template <> struct Down<f16> { template <class W> static DEVICE f16 from(W x) { return f16{half_bits(narrow(x))}; } };
template <> struct Down<bf16> { template <class W> static DEVICE bf16 from(W x) { return bf16{brain_bits(narrow(x))}; } };
template <> struct Down<i4> { template <class W> static DEVICE i4 from(W x) { return i4{(signed char)((signed char)((int)x << 4) >> 4)}; } };
template <> struct Down<u4> { template <class W> static DEVICE u4 from(W x) { return u4{(unsigned char)((int)x & 15)}; } };
template <> struct Down<i2> { template <class W> static DEVICE i2 from(W x) { return i2{(signed char)((signed char)((int)x << 6) >> 6)}; } };
template <> struct Down<u2> { template <class W> static DEVICE u2 from(W x) { return u2{(unsigned char)((int)x & 3)}; } };
template <> struct Down<bits64> { static DEVICE bits64 from(bits64 x) { return x; } };
template <> struct Down<bits128> { static DEVICE bits128 from(bits128 x) { return x; } };
template <int E, int M, int BIAS, int KIND> struct Down<minifloat<E, M, BIAS, KIND>> {
    static DEVICE minifloat<E, M, BIAS, KIND> from(minifloat<E, M, BIAS, KIND> x) { return x; }
    template <class W> static DEVICE minifloat<E, M, BIAS, KIND> from(W x, bool saturate = true) {
        return minifloat<E, M, BIAS, KIND>{encode<E, M, BIAS, KIND>(narrow(x), saturate)};
    }
};
template <> struct Down<e8m0> {  // powers of two only: what is between them is cut
    template <class W> static DEVICE e8m0 from(W x) {
        const unsigned size = __float_as_uint(narrow(x)) & 0x7fffffff;
        return e8m0{(unsigned char)(size > 0x7f800000 ? 255 : size >> 23)};
    }
};
template <class T, class W> DEVICE T down(W x) { return Down<T>::from(x); }

// Programmatic dependent launch (PTX ISA, griddepcontrol; Hopper and later): in a graph a kernel that waits for itself is launched while the ones
// before it still run. Every thread waits before it touches memory that another kernel writes, or reads; what no kernel writes may be read before.
DEVICE void await_earlier_kernels() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
// The kernels behind this one may be launched as soon as every block has come here.
DEVICE void let_next_kernel_start() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

template <class T, int N> struct alignas(sizeof(T) * N) pack { T at[N]; };

// A product that is rounded by itself, and never becomes half of a fused multiply and add.
DEVICE float apart(float a, float b) { return __fmul_rn(a, b); }
DEVICE double apart(double a, double b) { return __dmul_rn(a, b); }

template <class W> DEVICE W larger(W a, W b) { return a > b || a != a ? a : b; }
template <class W> DEVICE W smaller(W a, W b) { return a < b || a != a ? a : b; }

// a to the b, by squaring; below one where b is negative, and so 0 unless a is 1 or -1
template <class A, class B> DEVICE A whole_power(A a, B b) {
    if (b < 0) return a == 1 ? 1 : a == (A)-1 ? (b & 1 ? a : 1) : 0;
    A r = 1;
    for (; b; b >>= 1, a *= a) if (b & 1) r *= a;
    return r;
}

// A value of the lane `distance` away, word by word.
template <class A> DEVICE A exchanged(A a, int distance) {
    union { A value; unsigned words[sizeof(A) / 4]; } from, to;
    from.value = a;
    for (int i = 0; i < (int)(sizeof(A) / 4); ++i) to.words[i] = __shfl_xor_sync(0xffffffff, from.words[i], distance);
    return to.value;
}

// What the LANES threads of a row have accumulated, joined; each of them gets it. `JOIN` is a type with a static join(a, b).
template <int LANES, int BLOCK, class JOIN, class A> DEVICE A together(A a) {
    for (int distance = (LANES < 32 ? LANES : 32) / 2; distance; distance /= 2) a = JOIN::join(a, exchanged(a, distance));
    if (LANES <= 32) return a;
    __shared__ A parts[BLOCK / 32];
    __syncthreads();
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = a;
    __syncthreads();
    const int first = threadIdx.x / LANES * (LANES / 32);
    a = parts[first];
    for (int i = 1; i < LANES / 32; ++i) a = JOIN::join(a, parts[first + i]);
    return a;
}
