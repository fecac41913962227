// A warp's product of halves (sm_80 and later): tiles of 8 by 8 out of shared memory, as they lie or turned, and 16 by 16 times 16 by 8. The
// fragments' layouts are those that ldmatrix gives (PTX ISA, "Matrix multiply-accumulate operation using mma instruction").
#if __CUDA_ARCH__ >= 800
template <class Half> DEVICE void load_matrices(unsigned (&r)[4], const Half* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"((unsigned)__cvta_generic_to_shared(row)) : "memory");
}
template <class Half> DEVICE void load_turned(unsigned (&r)[4], const Half* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"((unsigned)__cvta_generic_to_shared(row)) : "memory");
}
#define MULTIPLY(TYPE) \
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." TYPE "." TYPE ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1))
DEVICE void multiply(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, f16) { MULTIPLY("f16"); }
DEVICE void multiply(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, bf16) { MULTIPLY("bf16"); }
#undef MULTIPLY
DEVICE float power_of_two(float x) { float y; asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y; }
DEVICE unsigned two(float a, float b, f16) { unsigned y; asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(b), "f"(a)); return y; }
DEVICE unsigned two(float a, float b, bf16) { unsigned y; asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(b), "f"(a)); return y; }
DEVICE void put_two(float* to, float a, float b) { *(float2*)to = make_float2(a, b); }
template <class Half> DEVICE void put_two(Half* to, float a, float b) { *(unsigned*)to = two(a, b, Half()); }
#endif

