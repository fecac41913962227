// What products on Hopper share: copies into a ring of slices by a warpgroup of their own, barriers that say which slice is there and which place
// is free, and descriptors of slices for wgmma. Rows of a slice are 128 bytes, whose 16-byte pieces are mixed by the row's number.
DEVICE unsigned at(const void* p) { return (unsigned)__cvta_generic_to_shared(p); }

// 16 bytes on their way to shared memory, or zeros where they would lie outside
DEVICE void fetch(unsigned to, const void* from, bool inside) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(inside ? 16 : 0) : "memory");
}

DEVICE void expect(unsigned barrier, unsigned arrivals) { asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory"); }
DEVICE void arrive(unsigned barrier) { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory"); }
// Arrives once what this thread has fetched so far is there.
DEVICE void arrive_with_copies(unsigned barrier) { asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(barrier) : "memory"); }
DEVICE void await(unsigned barrier, unsigned parity) {
    unsigned over;
    do {
        asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
                     : "=r"(over) : "r"(barrier), "r"(parity) : "memory");
    } while (!over);
}

// PTX ISA, "Matrix descriptor format": where an operand begins, the steps from one 64 to the next along m or n, and from 8 rows to the next
DEVICE unsigned long long descriptor(unsigned address, unsigned leading) {
    return (unsigned long long)((address & 0x3ffff) >> 4) | (unsigned long long)(leading >> 4) << 16 | (unsigned long long)(1024 >> 4) << 32 | 1ull << 62;
}

// A place in a ring of STAGES, and how often it has been round.
struct Turn {
    unsigned place = 0, round = 0;
    DEVICE void next() { if (++place == STAGES) { place = 0; round ^= 1; } }
};

// What has arrived is seen by wgmma, too, which reads shared memory by another way (PTX ISA, "Async proxy").
DEVICE void copies_are_seen() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
DEVICE void before_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
DEVICE void products_end() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int LEFT_RUNNING> DEVICE void await_products() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT_RUNNING) : "memory"); }

// Blocks of a cluster: which one this is, a meeting of all their threads, and a float at an address of another one's shared memory.
DEVICE unsigned rank() { unsigned r; asm volatile("mov.u32 %0, %cluster_ctarank;" : "=r"(r)); return r; }
DEVICE void meet() { asm volatile("barrier.cluster.arrive.release.aligned;\n\tbarrier.cluster.wait.acquire.aligned;" ::: "memory"); }
DEVICE float theirs(unsigned address, unsigned rank) {
    float a;
    asm volatile("{ .reg .b32 there; mapa.shared::cluster.u32 there, %1, %2; ld.shared::cluster.f32 %0, [there]; }" : "=f"(a) : "r"(address), "r"(rank) : "memory");
    return a;
}
// Of the sums that each block of a cluster has for the same tile this one adds up a part, and stores it by PIECE sums of a thread at a time. 256
// threads call it, with `kept` of shared memory that no one needs; the others of the block meet twice.
template <int COUNT, int PIECE, class Store> DEVICE void share_sums(unsigned char* kept, const float (&d)[COUNT], int rank, const Store& store) {
    float* own = (float*)kept + threadIdx.x;
    #pragma unroll
    for (int i = 0; i < COUNT; ++i) own[i * 256] = d[i];
    meet();
    #pragma unroll
    for (int i = 0; i < COUNT / PIECE / SPLIT; ++i) {
        const int j = rank * (COUNT / PIECE / SPLIT) + i;
        float sums[PIECE] = {};
        #pragma unroll
        for (int other = 0; other < SPLIT; ++other)
            for (int e = 0; e < PIECE; ++e) sums[e] += theirs(at(own) + (PIECE * j + e) * 1024, other);
        store(j, sums);
    }
    meet();  // none ends while others read
}
