/* a * b + c, rounded once, of whole arrays: what NumPy lacks. A step of 0 stands for one value that all elements share.
 *
 * __builtin_fma rounds once everywhere: by an instruction where the processor has one, in software elsewhere. */
#include <stddef.h>

#define DEFINE(name, type, fuse)                                                                                                   \
    static void name(size_t n, const type *a, size_t step_a, const type *b, size_t step_b, const type *c, size_t step_c, type *out) { \
        for (size_t i = 0; i < n; ++i) out[i] = fuse(a[i * step_a], b[i * step_b], c[i * step_c]);                                 \
    }
#define EXPORT(name, type, choice)                                                                                                 \
    __attribute__((visibility("default"))) void name(size_t n, const type *a, size_t step_a, const type *b, size_t step_b,         \
                                                     const type *c, size_t step_c, type *out) {                                    \
        (choice)(n, a, step_a, b, step_b, c, step_c, out);                                                                         \
    }

DEFINE(plain_f4, float, __builtin_fmaf)
DEFINE(plain_f8, double, __builtin_fma)

#ifdef __x86_64__
#include <cpuid.h>

#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
DEFINE(vector_f4, float, __builtin_fmaf)
DEFINE(vector_f8, double, __builtin_fma)
#pragma clang attribute pop

static int has_fma;
__attribute__((constructor)) static void look(void) { /* by hand: zig's __builtin_cpu_supports knows no processor */
    unsigned a, b, c, d, state, high;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_FMA) || !(c & bit_OSXSAVE)) return;
    __asm__("xgetbv" : "=a"(state), "=d"(high) : "c"(0));
    has_fma = (state & 6) == 6 && __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & bit_AVX2); /* the system saves wide registers */
}
EXPORT(fma_f4, float, has_fma ? vector_f4 : plain_f4)
EXPORT(fma_f8, double, has_fma ? vector_f8 : plain_f8)
#else
EXPORT(fma_f4, float, plain_f4)
EXPORT(fma_f8, double, plain_f8)
#endif
