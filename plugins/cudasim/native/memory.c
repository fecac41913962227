/* Device memory is host memory: one range of addresses, the device's part first, then what the host shares with it (pinned and managed memory).
 *
 * Allocations are placed one behind the other with a gap between them, so that a kernel that runs over the end meets no neighbour, and addresses
 * come round again late, so that a use after free meets no new owner. */
#define _GNU_SOURCE /* process_vm_readv */
#include <errno.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "sim.h"

#define ALIGNMENT ((size_t)512)
#define GAP ((size_t)512)
#define UNREACHABLE 2 /* for kernels: what the hook `allocated` is told of the host's own pools */
#define FIXED_BASE ((void *)(1ull << 40)) /* the same addresses in every run, where the system lets us */

struct pool_state { size_t used, high; uint64_t attributes[16]; };
struct CUmemPoolHandle_st { struct header header; bool host, managed, reachable; CUmemPoolProps props; struct pool_state state; };

struct block {
    CUdeviceptr address;
    size_t size;
    uint64_t id;
    CUmemoryPool pool; /* NULL: not from a pool */
    bool host, managed, usable, of_graph;
    unsigned holders; /* nodes that have it, beyond the first */
};
static struct region { size_t start, end, next, used; } regions[2]; /* offsets in the arena: device, host */
static char *arena;
static size_t arena_bytes;
static struct block *blocks; /* by address */
static size_t block_count, block_capacity;
static uint64_t next_id = 1;
static struct CUmemPoolHandle_st *default_pools[3]; /* device, pinned host, managed */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static size_t round_up(size_t size, size_t to) { return (size + to - 1) / to * to; }

/* Called once by turnout_cudasim: reserves the arena, and says where it is. */
EXPORT void *cudasim_arena(size_t *bytes) {
    if (!arena) {
        arena_bytes = round_up(settings.device_bytes + settings.host_bytes + (1 << 16), 1 << 16);
        int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
        void *range = mmap(FIXED_BASE, arena_bytes, PROT_READ | PROT_WRITE, flags, -1, 0); /* a hint: another place will do */
        if (range == MAP_FAILED) return NULL;
        arena = range;
        regions[0] = (struct region){.start = 0, .end = settings.device_bytes, .next = 0};
        regions[1] = (struct region){.start = settings.device_bytes, .end = arena_bytes, .next = settings.device_bytes};
    }
    *bytes = arena_bytes;
    return arena;
}

/* The first block that ends behind `address`. */
static size_t find_after(CUdeviceptr address) {
    size_t low = 0, high = block_count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (blocks[middle].address + blocks[middle].size <= address) low = middle + 1;
        else high = middle;
    }
    return low;
}

static struct block *find(CUdeviceptr address) {
    size_t i = find_after(address);
    return i < block_count && blocks[i].address <= address ? &blocks[i] : NULL;
}

static struct block *find_start(CUdeviceptr address) {
    struct block *block = find(address);
    return block && block->address == address ? block : NULL;
}

/* The offset of a free stretch of `size` bytes at or behind `from`, or SIZE_MAX. */
static size_t free_stretch(const struct region *region, size_t from, size_t size) {
    CUdeviceptr base = (CUdeviceptr)arena;
    for (size_t i = find_after(base + from);; i++) {
        size_t limit = i < block_count ? (size_t)(blocks[i].address - base) : region->end;
        if (limit > region->end) limit = region->end;
        if (from + size <= limit) return from;
        if (limit == region->end) return SIZE_MAX;
        from = round_up((size_t)(blocks[i].address - base) + blocks[i].size + GAP, ALIGNMENT);
    }
}

static CUresult insert(const struct block *block) {
    if (block_count == block_capacity) {
        size_t capacity = block_capacity ? 2 * block_capacity : 256;
        struct block *grown = realloc(blocks, capacity * sizeof *blocks);
        REQUIRE(grown, CUDA_ERROR_OUT_OF_MEMORY);
        blocks = grown;
        block_capacity = capacity;
    }
    size_t at = find_after(block->address);
    memmove(&blocks[at + 1], &blocks[at], (block_count - at) * sizeof *blocks);
    blocks[at] = *block;
    block_count++;
    return CUDA_SUCCESS;
}

static CUresult place(size_t size, struct block block, CUdeviceptr *address) {
    REQUIRE(size > 0 && address, CUDA_ERROR_INVALID_VALUE);
    REQUIRE(arena, CUDA_ERROR_OUT_OF_MEMORY);
    struct region *region = &regions[block.host];
    pthread_mutex_lock(&lock);
    CUresult result = CUDA_ERROR_OUT_OF_MEMORY;
    if (size <= region->end - region->start) {
        size_t with_gap = round_up(size, ALIGNMENT) + GAP;
        if (region->next - region->start > 2 * region->used + (64 << 20)) region->next = region->start; /* keep what was ever touched small */
        size_t offset = free_stretch(region, region->next, with_gap);
        if (offset == SIZE_MAX) offset = free_stretch(region, region->start, with_gap);
        if (offset != SIZE_MAX) {
            block.address = (CUdeviceptr)arena + offset;
            block.size = size;
            block.id = next_id++;
            result = insert(&block);
            if (result == CUDA_SUCCESS) {
                *address = block.address;
                region->next = offset + with_gap;
                region->used += with_gap;
                if (block.pool) {
                    struct pool_state *state = &block.pool->state;
                    state->used += size;
                    if (state->used > state->high) state->high = state->used;
                }
            }
        }
    }
    pthread_mutex_unlock(&lock);
    return result;
}

void hold(CUdeviceptr address) {
    pthread_mutex_lock(&lock);
    struct block *block = find_start(address);
    if (block) block->holders++;
    pthread_mutex_unlock(&lock);
}

void release(CUdeviceptr address) {
    pthread_mutex_lock(&lock);
    struct block *block = find_start(address);
    if (block && block->holders) {
        block->holders--;
    } else if (block && block->of_graph && block->usable) {
        block->of_graph = false; /* the graphs are gone; whoever frees the memory gives the range back */
    } else if (block) {
        regions[block->host].used -= round_up(block->size, ALIGNMENT) + GAP;
        if (block->pool && handle_is(block->pool, POOL)) block->pool->state.used -= block->size;
        if (block->size >= 1 << 16) { /* give the pages back; the start is a multiple of 512, pages are not */
            size_t page = (size_t)sysconf(_SC_PAGESIZE);
            size_t from = round_up((size_t)block->address, page), to = (size_t)(block->address + block->size) / page * page;
            if (from < to) madvise((void *)from, to - from, MADV_DONTNEED);
        }
        size_t at = (size_t)(block - blocks);
        memmove(&blocks[at], &blocks[at + 1], (block_count - at - 1) * sizeof *blocks);
        block_count--;
    }
    pthread_mutex_unlock(&lock);
}

static CUresult allocate(size_t size, struct block block, CUdeviceptr *address) {
    block.usable = true;
    TRY(place(size, block, address));
    bool reachable = !block.pool || block.managed || block.pool->reachable;
    if (hooks.allocated) hooks.allocated(*address, size, !reachable ? UNREACHABLE : block.host); /* the host writes its own memory unseen */
    return CUDA_SUCCESS;
}

/* Graphs reserve addresses when a node is made, and use them when it runs. */
CUresult reserve(size_t size, bool host, CUdeviceptr *address) { return place(size, (struct block){.host = host, .of_graph = true}, address); }

CUresult make_usable(CUdeviceptr address) {
    pthread_mutex_lock(&lock);
    struct block *block = find_start(address);
    bool again = block && block->usable;
    size_t size = block ? block->size : 0;
    if (block) block->usable = true;
    pthread_mutex_unlock(&lock);
    REQUIRE(block && !again, CUDA_ERROR_INVALID_VALUE);
    if (hooks.allocated) hooks.allocated(address, size, false);
    return CUDA_SUCCESS;
}

CUresult end_use(CUdeviceptr address, bool keep_reserved) {
    pthread_mutex_lock(&lock);
    struct block *block = find_start(address);
    bool known = block && block->usable;
    if (known) {
        block->usable = false;
        keep_reserved |= block->of_graph;
    }
    pthread_mutex_unlock(&lock);
    REQUIRE(known, CUDA_ERROR_INVALID_VALUE);
    if (hooks.freed) hooks.freed(address); /* before the address can belong to another */
    if (!keep_reserved) release(address);
    return CUDA_SUCCESS;
}

/* For the interpreter's own needs: variables of modules. */
EXPORT CUdeviceptr cudasim_reserve(size_t size) {
    CUdeviceptr address = 0;
    return place(size ? size : 1, (struct block){.usable = true}, &address) == CUDA_SUCCESS ? address : 0;
}
EXPORT void cudasim_release(CUdeviceptr address) { release(address); }

void memory_reset(void) { /* the context goes, and all of its device memory with it; host memory stays, somebody may be reading it */
    for (size_t i = block_count; i-- > 0;) {
        if (!blocks[i].host && blocks[i].usable) end_use(blocks[i].address, false);
    }
}

uint64_t graph_memory(void) {
    uint64_t sum = 0;
    for (size_t i = 0; i < block_count; i++) sum += blocks[i].of_graph ? blocks[i].size : 0;
    return sum;
}

bool device_range(CUdeviceptr address, size_t size) {
    return arena && address < (CUdeviceptr)arena + arena_bytes && address + size > (CUdeviceptr)arena;
}

static bool readable(CUdeviceptr address) { /* a wrong host pointer is an error code, not a crash, wherever the system can tell */
    char byte;
    struct iovec local = {&byte, 1}, remote = {(void *)address, 1};
    return process_vm_readv(getpid(), &local, 1, &remote, 1, 0) == 1 || errno != EFAULT;
}

/* `rows` rows of `width` bytes: each within one allocation, or wholly outside of the arena in memory that is there. */
static CUresult check_rows(CUdeviceptr address, size_t width, size_t pitch, size_t rows) {
    if (!width || !rows) return CUDA_SUCCESS;
    REQUIRE(rows == 1 || pitch >= width, CUDA_ERROR_INVALID_VALUE);
    size_t extent = pitch * (rows - 1) + width;
    if (!device_range(address, extent)) {
        return !hooks.launch || (readable(address) && readable(address + extent - 1)) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
    }
    pthread_mutex_lock(&lock);
    struct block *block = find(address);
    bool inside = block && address + extent <= block->address + block->size;
    pthread_mutex_unlock(&lock);
    return inside ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

/* Copies: 1D is 3D with one row. */
CUresult check_copy(const struct copy *copy) {
    for (size_t z = 0; z < copy->depth; z++) {
        TRY(check_rows(copy->to + z * copy->to_slice, copy->width, copy->to_pitch, copy->height));
        TRY(check_rows(copy->from + z * copy->from_slice, copy->width, copy->from_pitch, copy->height));
    }
    return CUDA_SUCCESS;
}

void run_copy(const struct copy *copy) {
    for (size_t z = 0; z < copy->depth; z++) {
        for (size_t y = 0; y < copy->height; y++) {
            CUdeviceptr to = copy->to + z * copy->to_slice + y * copy->to_pitch, from = copy->from + z * copy->from_slice + y * copy->from_pitch;
            if (!copy->width) continue;
            memmove((void *)to, (const void *)from, copy->width);
            if (!device_range(to, copy->width)) continue;
            if (device_range(from, copy->width)) {
                if (hooks.copied) hooks.copied(to, from, copy->width);
            } else if (hooks.written) {
                hooks.written(to, copy->width);
            }
        }
    }
}

static CUresult copy_linear(CUdeviceptr to, CUdeviceptr from, size_t size, CUstream stream) {
    TRY(enter());
    REQUIRE(size == 0 || (to && from), CUDA_ERROR_INVALID_VALUE);
    if (!size) return CUDA_SUCCESS;
    return submit(stream, &(struct operation){.kind = CU_GRAPH_NODE_TYPE_MEMCPY,
                                              .copy = {.to = to, .from = from, .width = size, .height = 1, .depth = 1}});
}

static CUresult copy_now(CUdeviceptr to, CUdeviceptr from, size_t size) { return copy_linear(to, from, size, NULL); }

#define ADDRESS(pointer) ((CUdeviceptr)(uintptr_t)(pointer))
API cuMemcpy(CUdeviceptr to, CUdeviceptr from, size_t size) { return copy_now(to, from, size); }
API cuMemcpyHtoD_v2(CUdeviceptr to, const void *from, size_t size) { return copy_now(to, ADDRESS(from), size); }
API cuMemcpyDtoH_v2(void *to, CUdeviceptr from, size_t size) { return copy_now(ADDRESS(to), from, size); }
API cuMemcpyDtoD_v2(CUdeviceptr to, CUdeviceptr from, size_t size) { return copy_now(to, from, size); }
API cuMemcpyAsync(CUdeviceptr to, CUdeviceptr from, size_t size, CUstream stream) { return copy_linear(to, from, size, stream); }
API cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void *from, size_t size, CUstream stream) { return copy_linear(to, ADDRESS(from), size, stream); }
API cuMemcpyDtoHAsync_v2(void *to, CUdeviceptr from, size_t size, CUstream stream) { return copy_linear(ADDRESS(to), from, size, stream); }
API cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t size, CUstream stream) { return copy_linear(to, from, size, stream); }
API cuMemcpyPeer(CUdeviceptr to, CUcontext a, CUdeviceptr from, CUcontext b, size_t size) {
    REQUIRE(a == &primary && b == &primary, CUDA_ERROR_INVALID_CONTEXT);
    return copy_now(to, from, size);
}
API cuMemcpyPeerAsync(CUdeviceptr to, CUcontext a, CUdeviceptr from, CUcontext b, size_t size, CUstream stream) {
    REQUIRE(a == &primary && b == &primary, CUDA_ERROR_INVALID_CONTEXT);
    return copy_linear(to, from, size, stream);
}

CUresult copy_from_params(const CUDA_MEMCPY3D_v2 *p, struct copy *copy) {
    REQUIRE(p, CUDA_ERROR_INVALID_VALUE);
    if (p->srcMemoryType == CU_MEMORYTYPE_ARRAY || p->dstMemoryType == CU_MEMORYTYPE_ARRAY) return refuse("copies to and from CUDA arrays");
    CUdeviceptr from = p->srcMemoryType == CU_MEMORYTYPE_HOST ? ADDRESS(p->srcHost) : p->srcDevice;
    CUdeviceptr to = p->dstMemoryType == CU_MEMORYTYPE_HOST ? ADDRESS(p->dstHost) : p->dstDevice;
    size_t from_pitch = p->srcPitch ? p->srcPitch : p->WidthInBytes, to_pitch = p->dstPitch ? p->dstPitch : p->WidthInBytes;
    size_t from_rows = p->srcHeight ? p->srcHeight : p->Height, to_rows = p->dstHeight ? p->dstHeight : p->Height;
    *copy = (struct copy){
        .to = to + p->dstXInBytes + to_pitch * (p->dstY + to_rows * p->dstZ),
        .from = from + p->srcXInBytes + from_pitch * (p->srcY + from_rows * p->srcZ),
        .width = p->WidthInBytes, .height = p->Height, .depth = p->Depth,
        .to_pitch = to_pitch, .to_slice = to_pitch * to_rows, .from_pitch = from_pitch, .from_slice = from_pitch * from_rows,
    };
    return CUDA_SUCCESS;
}

static CUresult copy_3d(const CUDA_MEMCPY3D_v2 *params, CUstream stream) {
    struct operation operation = {.kind = CU_GRAPH_NODE_TYPE_MEMCPY};
    TRY(enter());
    TRY(copy_from_params(params, &operation.copy));
    return submit(stream, &operation);
}

static CUresult copy_2d(const CUDA_MEMCPY2D_v2 *p, CUstream stream) {
    REQUIRE(p, CUDA_ERROR_INVALID_VALUE);
    CUDA_MEMCPY3D_v2 in_3d = {
        .srcXInBytes = p->srcXInBytes, .srcY = p->srcY, .srcMemoryType = p->srcMemoryType, .srcHost = p->srcHost, .srcDevice = p->srcDevice,
        .srcPitch = p->srcPitch, .dstXInBytes = p->dstXInBytes, .dstY = p->dstY, .dstMemoryType = p->dstMemoryType, .dstHost = p->dstHost,
        .dstDevice = p->dstDevice, .dstPitch = p->dstPitch, .WidthInBytes = p->WidthInBytes, .Height = p->Height, .Depth = 1,
    };
    return copy_3d(&in_3d, stream);
}

API cuMemcpy2D_v2(const CUDA_MEMCPY2D_v2 *params) { return copy_2d(params, NULL); }
API cuMemcpy2DUnaligned_v2(const CUDA_MEMCPY2D_v2 *params) { return copy_2d(params, NULL); }
API cuMemcpy2DAsync_v2(const CUDA_MEMCPY2D_v2 *params, CUstream stream) { return copy_2d(params, stream); }
API cuMemcpy3D_v2(const CUDA_MEMCPY3D_v2 *params) { return copy_3d(params, NULL); }
API cuMemcpy3DAsync_v2(const CUDA_MEMCPY3D_v2 *params, CUstream stream) { return copy_3d(params, stream); }

/* Fills. */
CUresult check_fill(const struct fill *fill) {
    REQUIRE(fill->element == 1 || fill->element == 2 || fill->element == 4, CUDA_ERROR_INVALID_VALUE);
    REQUIRE(fill->address % fill->element == 0, CUDA_ERROR_INVALID_VALUE);
    size_t width = fill->width * fill->element;
    REQUIRE(device_range(fill->address, width ? width : 1) || !width || !fill->height, CUDA_ERROR_INVALID_VALUE);
    return check_rows(fill->address, width, fill->pitch, fill->height);
}

void run_fill(const struct fill *fill) {
    for (size_t y = 0; y < fill->height; y++) {
        char *row = (char *)fill->address + y * fill->pitch;
        size_t width = fill->width * fill->element;
        if (fill->element == 1) memset(row, (int)fill->value, fill->width);
        else for (size_t x = 0; x < width; x += fill->element) memcpy(row + x, &fill->value, fill->element); /* both are little-endian */
        if (hooks.written && width) hooks.written(ADDRESS(row), width);
    }
}

static CUresult fill(CUdeviceptr to, size_t pitch, unsigned value, unsigned element, size_t width, size_t height, CUstream stream) {
    TRY(enter());
    return submit(stream, &(struct operation){.kind = CU_GRAPH_NODE_TYPE_MEMSET, .fill = {to, pitch, width, height, value, element}});
}

#define FILLS(bits, type) \
    API cuMemsetD##bits##_v2(CUdeviceptr to, type value, size_t n) { return fill(to, 0, value, bits / 8, n, 1, NULL); } \
    API cuMemsetD##bits##Async(CUdeviceptr to, type value, size_t n, CUstream stream) { return fill(to, 0, value, bits / 8, n, 1, stream); } \
    API cuMemsetD2D##bits##_v2(CUdeviceptr to, size_t pitch, type value, size_t width, size_t height) { \
        return fill(to, pitch, value, bits / 8, width, height, NULL); \
    } \
    API cuMemsetD2D##bits##Async(CUdeviceptr to, size_t pitch, type value, size_t width, size_t height, CUstream stream) { \
        return fill(to, pitch, value, bits / 8, width, height, stream); \
    }
FILLS(8, unsigned char)
FILLS(16, unsigned short)
FILLS(32, unsigned int)

/* Allocation outside of streams. */
API cuMemAlloc_v2(CUdeviceptr *address, size_t size) {
    TRY(enter());
    TRY(capture_forbids_unsafe_call());
    return allocate(size, (struct block){0}, address);
}

API cuMemAllocPitch_v2(CUdeviceptr *address, size_t *pitch, size_t width, size_t height, unsigned element) {
    REQUIRE(pitch && (element == 4 || element == 8 || element == 16), CUDA_ERROR_INVALID_VALUE);
    *pitch = round_up(width, ALIGNMENT);
    return cuMemAlloc_v2(address, *pitch * height);
}

API cuMemAllocManaged(CUdeviceptr *address, size_t size, unsigned flags) {
    REQUIRE(flags == 1 || flags == 2, CUDA_ERROR_INVALID_VALUE);
    TRY(enter());
    TRY(capture_forbids_unsafe_call());
    return allocate(size, (struct block){.host = true, .managed = true}, address);
}

API cuMemHostAlloc(void **pointer, size_t size, unsigned flags) {
    REQUIRE(pointer && flags < 8, CUDA_ERROR_INVALID_VALUE);
    TRY(enter());
    TRY(capture_forbids_unsafe_call());
    CUdeviceptr address;
    TRY(allocate(size, (struct block){.host = true}, &address));
    *pointer = (void *)address;
    return CUDA_SUCCESS;
}
API cuMemAllocHost_v2(void **pointer, size_t size) { return cuMemHostAlloc(pointer, size, 0); }

static CUresult free_now(CUdeviceptr address) {
    REQUIRE(!inside_host_function, CUDA_ERROR_NOT_PERMITTED);
    return address ? end_use(address, false) : CUDA_SUCCESS; /* freeing works after an error too */
}
API cuMemFree_v2(CUdeviceptr address) {
    TRY(capture_forbids_unsafe_call());
    return free_now(address);
}
API cuMemFreeHost(void *pointer) { return cuMemFree_v2(ADDRESS(pointer)); }

API cuMemHostGetDevicePointer_v2(CUdeviceptr *address, void *pointer, unsigned flags) {
    REQUIRE(address && flags == 0, CUDA_ERROR_INVALID_VALUE);
    struct block *block = find(ADDRESS(pointer));
    REQUIRE(block && block->host, CUDA_ERROR_INVALID_VALUE);
    *address = ADDRESS(pointer);
    return CUDA_SUCCESS;
}

API cuMemHostGetFlags(unsigned *flags, void *pointer) {
    struct block *block = find(ADDRESS(pointer));
    REQUIRE(flags && block && block->host, CUDA_ERROR_INVALID_VALUE);
    *flags = 2;
    return CUDA_SUCCESS;
}

API cuMemGetInfo_v2(size_t *available, size_t *total) {
    TRY(enter());
    if (available) *available = settings.device_bytes - regions[0].used;
    if (total) *total = settings.device_bytes;
    return CUDA_SUCCESS;
}

API cuMemGetAddressRange_v2(CUdeviceptr *base, size_t *size, CUdeviceptr address) {
    TRY(enter());
    struct block *block = find(address);
    REQUIRE(block, CUDA_ERROR_NOT_FOUND);
    if (base) *base = block->address;
    if (size) *size = block->size;
    return CUDA_SUCCESS;
}

/* Hints about managed memory: there is one memory here, so they are right as soon as they are valid. */
static CUresult check_hint(CUdeviceptr address, size_t size) {
    TRY(enter());
    struct block *block = find(address);
    return block && block->managed && address + size <= block->address + block->size ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
API cuMemAdvise_v2(CUdeviceptr address, size_t size, CUmem_advise advice, CUmemLocation location) {
    (void)advice, (void)location;
    return check_hint(address, size);
}
API cuMemPrefetchAsync_v2(CUdeviceptr address, size_t size, CUmemLocation location, unsigned flags, CUstream stream) {
    (void)location, (void)flags;
    REQUIRE(stream_of(stream), CUDA_ERROR_INVALID_HANDLE);
    return check_hint(address, size);
}
API cuStreamAttachMemAsync(CUstream stream, CUdeviceptr address, size_t size, unsigned flags) {
    (void)flags;
    REQUIRE(stream_of(stream), CUDA_ERROR_INVALID_HANDLE);
    return check_hint(address, size);
}

/* Pools: they give memory back at once, so what is reserved is what is used. Their greatest size is a whole number of these. */
#define POOL_GRANULARITY ((size_t)32 << 20)
static CUresult pool_new(CUmemoryPool *pool, const CUmemPoolProps *props) {
    CUmemoryPool made = handle_new(POOL);
    REQUIRE(made, CUDA_ERROR_OUT_OF_MEMORY);
    made->props = *props;
    made->props.maxSize = round_up(props->maxSize, POOL_GRANULARITY);
    made->managed = props->allocType == CU_MEM_ALLOCATION_TYPE_MANAGED;
    made->host = made->managed || props->location.type != CU_MEM_LOCATION_TYPE_DEVICE;
    made->reachable = !made->host; /* the host's pools are, once cuMemPoolSetAccess says so */
    made->state.attributes[1] = made->state.attributes[2] = made->state.attributes[3] = 1; /* reuse is allowed in every way */
    *pool = made;
    return CUDA_SUCCESS;
}

API cuMemPoolCreate(CUmemoryPool *pool, const CUmemPoolProps *props) {
    TRY(enter());
    TRY(capture_forbids_unsafe_call());
    REQUIRE(pool && props, CUDA_ERROR_INVALID_VALUE);
    REQUIRE(props->allocType == CU_MEM_ALLOCATION_TYPE_PINNED || props->allocType == CU_MEM_ALLOCATION_TYPE_MANAGED, CUDA_ERROR_INVALID_VALUE);
    REQUIRE(props->location.type != CU_MEM_LOCATION_TYPE_DEVICE || props->location.id == 0, CUDA_ERROR_INVALID_VALUE);
    if (props->handleTypes) return refuse("memory pools shared between processes");
    return pool_new(pool, props);
}

API cuMemPoolDestroy(CUmemoryPool pool) {
    REQUIRE(handle_is(pool, POOL), CUDA_ERROR_INVALID_VALUE);
    for (size_t i = 0; i < COUNT(default_pools); i++) REQUIRE(pool != default_pools[i], CUDA_ERROR_INVALID_VALUE);
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < block_count; i++) {
        if (blocks[i].pool == pool) blocks[i].pool = NULL; /* what it gave out stays usable */
    }
    pthread_mutex_unlock(&lock);
    handle_free(pool);
    return CUDA_SUCCESS;
}

static CUresult default_pool(CUmemoryPool *pool, int which) {
    REQUIRE(pool, CUDA_ERROR_INVALID_VALUE);
    if (!default_pools[which]) {
        CUmemPoolProps props = {.allocType = which == 2 ? CU_MEM_ALLOCATION_TYPE_MANAGED : CU_MEM_ALLOCATION_TYPE_PINNED,
                                .location = {.type = which == 1 ? CU_MEM_LOCATION_TYPE_HOST : CU_MEM_LOCATION_TYPE_DEVICE}};
        TRY(pool_new(&default_pools[which], &props));
    }
    *pool = default_pools[which];
    return CUDA_SUCCESS;
}

static CUmemoryPool device_pool; /* what cuMemAllocAsync draws from, where somebody chose another than the default */

API cuDeviceGetDefaultMemPool(CUmemoryPool *pool, CUdevice device) { return device == 0 ? default_pool(pool, 0) : CUDA_ERROR_INVALID_DEVICE; }
API cuDeviceGetMemPool(CUmemoryPool *pool, CUdevice device) {
    REQUIRE(device == 0, CUDA_ERROR_INVALID_DEVICE);
    if (!handle_is(device_pool, POOL)) return default_pool(pool, 0);
    *pool = device_pool;
    return CUDA_SUCCESS;
}
API cuDeviceSetMemPool(CUdevice device, CUmemoryPool pool) {
    REQUIRE(device == 0, CUDA_ERROR_INVALID_DEVICE);
    REQUIRE(handle_is(pool, POOL) && !pool->host, CUDA_ERROR_INVALID_VALUE);
    device_pool = pool;
    return CUDA_SUCCESS;
}
API cuMemGetDefaultMemPool(CUmemoryPool *pool, CUmemLocation *location, CUmemAllocationType type) {
    REQUIRE(location, CUDA_ERROR_INVALID_VALUE);
    if (type == CU_MEM_ALLOCATION_TYPE_MANAGED) return default_pool(pool, 2);
    return default_pool(pool, location->type != CU_MEM_LOCATION_TYPE_DEVICE);
}
API cuMemGetMemPool(CUmemoryPool *pool, CUmemLocation *location, CUmemAllocationType type) { return cuMemGetDefaultMemPool(pool, location, type); }

API cuMemPoolGetAttribute(CUmemoryPool pool, CUmemPool_attribute attribute, void *value) {
    REQUIRE(handle_is(pool, POOL) && value && attribute >= 1 && attribute <= 15, CUDA_ERROR_INVALID_VALUE);
    uint64_t wide = pool->state.attributes[attribute];
    switch (attribute) {
    case CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT: case CU_MEMPOOL_ATTR_USED_MEM_CURRENT: wide = pool->state.used; break;
    case CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH: case CU_MEMPOOL_ATTR_USED_MEM_HIGH: wide = pool->state.high; break;
    case 9: wide = (uint64_t)pool->props.allocType; break;
    case 11: wide = (uint64_t)pool->props.location.id; break;
    case 12: wide = (uint64_t)pool->props.location.type; break;
    case 13: wide = pool->props.maxSize; break;
    default: break;
    }
    if (attribute <= 3 || (attribute >= 9 && attribute != 13)) *(int *)value = (int)wide;
    else *(cuuint64_t *)value = wide;
    return CUDA_SUCCESS;
}

API cuMemPoolSetAttribute(CUmemoryPool pool, CUmemPool_attribute attribute, void *value) {
    REQUIRE(handle_is(pool, POOL) && value, CUDA_ERROR_INVALID_VALUE);
    if (attribute >= 1 && attribute <= 3) pool->state.attributes[attribute] = (uint64_t)(*(int *)value != 0);
    else if (attribute == CU_MEMPOOL_ATTR_RELEASE_THRESHOLD) pool->state.attributes[attribute] = *(cuuint64_t *)value;
    else if ((attribute == CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH || attribute == CU_MEMPOOL_ATTR_USED_MEM_HIGH) && *(cuuint64_t *)value == 0) pool->state.high = pool->state.used;
    else return CUDA_ERROR_INVALID_VALUE;
    return CUDA_SUCCESS;
}

API cuMemPoolSetAccess(CUmemoryPool pool, const CUmemAccessDesc *access, size_t count) {
    REQUIRE(handle_is(pool, POOL) && (access || !count), CUDA_ERROR_INVALID_VALUE);
    for (size_t i = 0; i < count; i++) {
        if (access[i].location.type != CU_MEM_LOCATION_TYPE_DEVICE) continue;
        REQUIRE(access[i].location.id == 0, CUDA_ERROR_INVALID_DEVICE);
        pool->reachable = access[i].flags != 0;
    }
    for (size_t i = 0; i < block_count; i++) { /* what it gave out before can be reached from now on */
        if (blocks[i].pool == pool && pool->reachable && hooks.allocated) hooks.allocated(blocks[i].address, blocks[i].size, true);
    }
    return CUDA_SUCCESS;
}
API cuMemPoolGetAccess(CUmemAccess_flags *flags, CUmemoryPool pool, CUmemLocation *location) {
    REQUIRE(handle_is(pool, POOL) && flags && location, CUDA_ERROR_INVALID_VALUE);
    *flags = location->type != CU_MEM_LOCATION_TYPE_DEVICE || pool->reachable ? CU_MEM_ACCESS_FLAGS_PROT_READWRITE : 0;
    return CUDA_SUCCESS;
}
API cuMemPoolTrimTo(CUmemoryPool pool, size_t keep) {
    (void)keep;
    return handle_is(pool, POOL) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

API cuMemAllocFromPoolAsync(CUdeviceptr *address, size_t size, CUmemoryPool pool, CUstream given) {
    TRY(enter());
    CUstream stream = stream_of(given);
    REQUIRE(stream, CUDA_ERROR_INVALID_HANDLE);
    REQUIRE(handle_is(pool, POOL) && address && size, CUDA_ERROR_INVALID_VALUE);
    if (stream->capture) {
        struct operation operation = {.kind = CU_GRAPH_NODE_TYPE_MEM_ALLOC, .allocate = {.size = size}};
        TRY(reserve(size, pool->host, &operation.allocate.address));
        CUresult result = submit(given, &operation);
        release(operation.allocate.address); /* the node holds it now */
        if (result == CUDA_SUCCESS) *address = operation.allocate.address;
        return result;
    }
    TRY(capture_forbids_unsafe_call());
    REQUIRE(!pool->props.maxSize || pool->state.used + size <= pool->props.maxSize, CUDA_ERROR_OUT_OF_MEMORY);
    return allocate(size, (struct block){.pool = pool, .host = pool->host, .managed = pool->managed}, address);
}

API cuMemAllocAsync(CUdeviceptr *address, size_t size, CUstream stream) {
    CUmemoryPool pool;
    TRY(cuDeviceGetMemPool(&pool, 0));
    return cuMemAllocFromPoolAsync(address, size, pool, stream);
}

API cuMemFreeAsync(CUdeviceptr address, CUstream given) {
    CUstream stream = stream_of(given);
    REQUIRE(stream, CUDA_ERROR_INVALID_HANDLE);
    if (!address) return CUDA_SUCCESS;
    if (stream->capture) return submit(given, &(struct operation){.kind = CU_GRAPH_NODE_TYPE_MEM_FREE, .free = address});
    TRY(capture_forbids_unsafe_call());
    return free_now(address);
}

/* What a pointer is. */
static CUresult pointer_attribute(void *data, CUpointer_attribute attribute, CUdeviceptr address, const struct block *block) {
    switch (attribute) {
    case CU_POINTER_ATTRIBUTE_CONTEXT: *(CUcontext *)data = block ? &primary : NULL; break;
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE: *(unsigned *)data = !block ? 0 : block->host && !block->managed ? CU_MEMORYTYPE_HOST : CU_MEMORYTYPE_DEVICE; break;
    case CU_POINTER_ATTRIBUTE_DEVICE_POINTER: *(CUdeviceptr *)data = block ? address : 0; break;
    case CU_POINTER_ATTRIBUTE_HOST_POINTER: *(void **)data = block && block->host ? (void *)address : NULL; break;
    case CU_POINTER_ATTRIBUTE_SYNC_MEMOPS: *(unsigned *)data = 0; break;
    case CU_POINTER_ATTRIBUTE_BUFFER_ID: *(unsigned long long *)data = block ? block->id : 0; break;
    case CU_POINTER_ATTRIBUTE_IS_MANAGED: *(unsigned *)data = block && block->managed; break;
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL: *(int *)data = block ? 0 : -2; break;
    case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR: *(CUdeviceptr *)data = block ? block->address : 0; break;
    case CU_POINTER_ATTRIBUTE_RANGE_SIZE: *(size_t *)data = block ? block->size : 0; break;
    case CU_POINTER_ATTRIBUTE_MAPPED: *(unsigned *)data = block != NULL; break;
    case CU_POINTER_ATTRIBUTE_ALLOWED_HANDLE_TYPES: *(unsigned long long *)data = 0; break;
    case CU_POINTER_ATTRIBUTE_ACCESS_FLAGS: *(int *)data = block ? CU_MEM_ACCESS_FLAGS_PROT_READWRITE : 0; break;
    case CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE: *(CUmemoryPool *)data = block ? block->pool : NULL; break;
    case 10: case 15: case 21: *(bool *)data = false; break; /* CUDA's booleans: IPC, GPUDirect, hardware decompression */
    default: return CUDA_ERROR_INVALID_VALUE;
    }
    return CUDA_SUCCESS;
}

API cuPointerGetAttribute(void *data, CUpointer_attribute attribute, CUdeviceptr address) {
    TRY(enter());
    struct block *block = find(address);
    REQUIRE(data && block, CUDA_ERROR_INVALID_VALUE);
    return pointer_attribute(data, attribute, address, block);
}

API cuPointerGetAttributes(unsigned count, CUpointer_attribute *attributes, void **data, CUdeviceptr address) {
    TRY(enter());
    struct block *block = find(address); /* unlike the call for one attribute, this one takes any pointer */
    for (unsigned i = 0; i < count; i++) TRY(pointer_attribute(data[i], attributes[i], address, block));
    return CUDA_SUCCESS;
}

API cuPointerSetAttribute(const void *value, CUpointer_attribute attribute, CUdeviceptr address) {
    TRY(enter());
    return value && attribute == CU_POINTER_ATTRIBUTE_SYNC_MEMOPS && find(address) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

/* Several copies in one call, and copies with hints about where to read from. */
API cuMemcpyBatchAsync_v2(CUdeviceptr *to, CUdeviceptr *from, size_t *sizes, size_t count, CUmemcpyAttributes *attributes, size_t *indices,
                          size_t attribute_count, CUstream stream) {
    (void)attributes, (void)indices, (void)attribute_count;
    REQUIRE(to && from && sizes, CUDA_ERROR_INVALID_VALUE);
    for (size_t i = 0; i < count; i++) TRY(copy_linear(to[i], from[i], sizes[i], stream));
    return CUDA_SUCCESS;
}
API cuMemcpyWithAttributesAsync(CUdeviceptr to, CUdeviceptr from, size_t size, CUmemcpyAttributes *attributes, CUstream stream) {
    (void)attributes;
    return copy_linear(to, from, size, stream);
}
