/* Starting, the one device, its one context, and errors. */
#include <sys/mman.h>
#include <unistd.h>

#include "sim.h"

enum { INIT_HANGS = -1, INIT_CRASHES = -2 };

struct hooks hooks;
struct settings settings = {.driver_version = 13050};
struct CUctx_st primary;
__thread bool inside_host_function;
static bool initialised;
static __thread CUcontext stack[64]; /* contexts of this thread; the last is current */
static __thread unsigned depth;

/* Called by turnout_cudasim before anything else knows the library. */
EXPORT void cudasim_configure(const struct settings *given) { settings = *given; }
EXPORT void cudasim_set_hooks(const struct hooks *given) { hooks = given ? *given : (struct hooks){0}; }
EXPORT void cudasim_clear_error(void) { primary.error = CUDA_SUCCESS; }

CUresult enter_without_device(void) {
    REQUIRE(initialised, CUDA_ERROR_NOT_INITIALIZED);
    REQUIRE(!inside_host_function, CUDA_ERROR_NOT_PERMITTED);
    REQUIRE(depth && stack[depth - 1], CUDA_ERROR_INVALID_CONTEXT);
    return CUDA_SUCCESS;
}

CUresult enter(void) {
    TRY(enter_without_device());
    return primary.error;
}

CUresult refuse(const char *why) {
    if (hooks.refused) hooks.refused(why);
    return CUDA_ERROR_NOT_SUPPORTED;
}

CUresult fail(CUresult error) {
    bool sticky = error >= CUDA_ERROR_ILLEGAL_ADDRESS && error < CUDA_ERROR_NOT_PERMITTED && error != CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES &&
                  error != CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE;
    if (sticky) primary.error = error;
    return error;
}

/* Handles. */
#define SLOTS (1 << 21)
static char *slots;
static unsigned used_slots;
static struct header *oldest_free, *newest_free; /* first freed, first used again: a stale handle is noticed for as long as can be */
static pthread_mutex_t slot_lock = PTHREAD_MUTEX_INITIALIZER;

void *handle_new(enum handle kind) {
    pthread_mutex_lock(&slot_lock);
    if (!slots) {
        void *range = mmap(NULL, (size_t)SLOTS * SLOT_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        slots = range == MAP_FAILED ? NULL : range;
    }
    struct header *handle = NULL;
    if (oldest_free && (used_slots > 4096 || !slots)) {
        handle = oldest_free;
        oldest_free = handle->next;
        if (!oldest_free) newest_free = NULL;
        memset(handle, 0, SLOT_BYTES);
    } else if (slots && used_slots < SLOTS) {
        handle = (struct header *)(slots + (size_t)used_slots++ * SLOT_BYTES);
    }
    if (handle) handle->kind = kind;
    pthread_mutex_unlock(&slot_lock);
    return handle;
}

void handle_free(void *handle) {
    struct header *freed = handle;
    pthread_mutex_lock(&slot_lock);
    freed->kind = 0;
    freed->next = NULL;
    if (newest_free) newest_free->next = freed;
    else oldest_free = freed;
    newest_free = freed;
    pthread_mutex_unlock(&slot_lock);
}

bool handle_is(const void *handle, enum handle kind) {
    size_t offset = (size_t)handle - (size_t)slots;
    return slots && offset < (size_t)used_slots * SLOT_BYTES && offset % SLOT_BYTES == 0 && ((const struct header *)handle)->kind == kind;
}

/* Starting. */
API cuInit(unsigned flags) {
    REQUIRE(flags == 0, CUDA_ERROR_INVALID_VALUE);
    if (settings.init_result == INIT_HANGS) for (;;) sleep(1);
    if (settings.init_result == INIT_CRASHES) abort();
    REQUIRE(settings.init_result == 0, (CUresult)settings.init_result);
    initialised = true;
    return CUDA_SUCCESS;
}

API cuDriverGetVersion(int *version) {
    REQUIRE(version, CUDA_ERROR_INVALID_VALUE);
    *version = settings.driver_version;
    return CUDA_SUCCESS;
}

/* The device. */
static CUresult check_device(CUdevice device) {
    REQUIRE(initialised, CUDA_ERROR_NOT_INITIALIZED);
    return device == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

API cuDeviceGetCount(int *count) {
    REQUIRE(initialised, CUDA_ERROR_NOT_INITIALIZED);
    REQUIRE(count, CUDA_ERROR_INVALID_VALUE);
    *count = 1;
    return CUDA_SUCCESS;
}

API cuDeviceGet(CUdevice *device, int ordinal) {
    REQUIRE(device, CUDA_ERROR_INVALID_VALUE);
    TRY(check_device(ordinal));
    *device = 0;
    return CUDA_SUCCESS;
}

API cuDeviceGetName(char *name, int length, CUdevice device) {
    TRY(check_device(device));
    REQUIRE(name && length > 0, CUDA_ERROR_INVALID_VALUE);
    snprintf(name, (size_t)length, "%s", settings.name);
    return CUDA_SUCCESS;
}

API cuDeviceGetUuid_v2(CUuuid *uuid, CUdevice device) {
    TRY(check_device(device));
    REQUIRE(uuid, CUDA_ERROR_INVALID_VALUE);
    memcpy(uuid->bytes, "turnout-cudasim0", sizeof uuid->bytes);
    return CUDA_SUCCESS;
}
API cuDeviceGetUuid(CUuuid *uuid, CUdevice device) { return cuDeviceGetUuid_v2(uuid, device); }

API cuDeviceGetLuid(char *luid, unsigned *mask, CUdevice device) {
    (void)luid, (void)mask, (void)device;
    return CUDA_ERROR_NOT_SUPPORTED; /* only Windows has them */
}

API cuDeviceTotalMem_v2(size_t *bytes, CUdevice device) {
    TRY(check_device(device));
    REQUIRE(bytes, CUDA_ERROR_INVALID_VALUE);
    *bytes = settings.device_bytes;
    return CUDA_SUCCESS;
}

API cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice device) {
    TRY(check_device(device));
    REQUIRE(value && attribute > 0 && (size_t)attribute < COUNT(settings.attributes), CUDA_ERROR_INVALID_VALUE);
    *value = settings.attributes[attribute];
    return CUDA_SUCCESS;
}

API cuDeviceComputeCapability(int *major, int *minor, CUdevice device) {
    TRY(cuDeviceGetAttribute(major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device));
    return cuDeviceGetAttribute(minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device);
}

API cuDeviceGetPCIBusId(char *id, int length, CUdevice device) {
    TRY(check_device(device));
    REQUIRE(id && length >= 13, CUDA_ERROR_INVALID_VALUE);
    snprintf(id, (size_t)length, "0000:00:00.0");
    return CUDA_SUCCESS;
}

API cuDeviceGetByPCIBusId(CUdevice *device, const char *id) {
    REQUIRE(device && id, CUDA_ERROR_INVALID_VALUE);
    REQUIRE(strcmp(id, "0000:00:00.0") == 0, CUDA_ERROR_INVALID_DEVICE);
    return cuDeviceGet(device, 0);
}

API cuDeviceCanAccessPeer(int *can, CUdevice device, CUdevice peer) {
    TRY(check_device(device));
    TRY(check_device(peer));
    REQUIRE(can, CUDA_ERROR_INVALID_VALUE);
    *can = 0;
    return CUDA_SUCCESS;
}

/* Contexts: the primary one, and no other. */
API cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) {
    TRY(check_device(device));
    REQUIRE(context, CUDA_ERROR_INVALID_VALUE);
    primary.retained++;
    *context = &primary;
    return CUDA_SUCCESS;
}

API cuDevicePrimaryCtxReset_v2(CUdevice device) {
    TRY(check_device(device));
    primary.error = CUDA_SUCCESS;
    memory_reset();
    return CUDA_SUCCESS;
}

API cuDevicePrimaryCtxRelease_v2(CUdevice device) {
    TRY(check_device(device));
    REQUIRE(primary.retained > 0, CUDA_ERROR_INVALID_CONTEXT);
    if (--primary.retained == 0) return cuDevicePrimaryCtxReset_v2(device);
    return CUDA_SUCCESS;
}

API cuDevicePrimaryCtxSetFlags_v2(CUdevice device, unsigned flags) {
    TRY(check_device(device));
    primary.flags = flags;
    return CUDA_SUCCESS;
}

API cuDevicePrimaryCtxGetState(CUdevice device, unsigned *flags, int *active) {
    TRY(check_device(device));
    if (flags) *flags = primary.flags;
    if (active) *active = primary.retained > 0;
    return CUDA_SUCCESS;
}

API cuCtxSetCurrent(CUcontext context) {
    REQUIRE(initialised, CUDA_ERROR_NOT_INITIALIZED);
    REQUIRE(!context || context == &primary, CUDA_ERROR_INVALID_CONTEXT);
    if (!depth) depth = 1;
    stack[depth - 1] = context;
    return CUDA_SUCCESS;
}

API cuCtxGetCurrent(CUcontext *context) {
    REQUIRE(initialised, CUDA_ERROR_NOT_INITIALIZED);
    REQUIRE(context, CUDA_ERROR_INVALID_VALUE);
    *context = depth ? stack[depth - 1] : NULL;
    return CUDA_SUCCESS;
}

API cuCtxPushCurrent_v2(CUcontext context) {
    REQUIRE(initialised, CUDA_ERROR_NOT_INITIALIZED);
    REQUIRE(context == &primary && depth < COUNT(stack), CUDA_ERROR_INVALID_CONTEXT);
    stack[depth++] = context;
    return CUDA_SUCCESS;
}

API cuCtxPopCurrent_v2(CUcontext *context) {
    REQUIRE(initialised, CUDA_ERROR_NOT_INITIALIZED);
    REQUIRE(depth, CUDA_ERROR_INVALID_CONTEXT);
    depth--;
    if (context) *context = stack[depth];
    return CUDA_SUCCESS;
}

API cuCtxGetDevice(CUdevice *device) {
    REQUIRE(device, CUDA_ERROR_INVALID_VALUE);
    REQUIRE(initialised, CUDA_ERROR_NOT_INITIALIZED);
    REQUIRE(depth && stack[depth - 1], CUDA_ERROR_INVALID_CONTEXT);
    *device = 0;
    return CUDA_SUCCESS;
}

API cuCtxGetDevice_v2(CUdevice *device, CUcontext context) {
    REQUIRE(device, CUDA_ERROR_INVALID_VALUE);
    REQUIRE(!context || context == &primary, CUDA_ERROR_INVALID_CONTEXT);
    if (!context) return cuCtxGetDevice(device);
    *device = 0;
    return CUDA_SUCCESS;
}

API cuCtxGetId(CUcontext context, unsigned long long *id) {
    REQUIRE(id, CUDA_ERROR_INVALID_VALUE);
    REQUIRE(!context || context == &primary, CUDA_ERROR_INVALID_CONTEXT);
    *id = 1;
    return CUDA_SUCCESS;
}

API cuCtxGetApiVersion(CUcontext context, unsigned *version) {
    REQUIRE(version, CUDA_ERROR_INVALID_VALUE);
    REQUIRE(!context || context == &primary, CUDA_ERROR_INVALID_CONTEXT);
    *version = 3020;
    return CUDA_SUCCESS;
}

API cuCtxGetFlags(unsigned *flags) {
    REQUIRE(flags, CUDA_ERROR_INVALID_VALUE);
    TRY(enter());
    *flags = primary.flags;
    return CUDA_SUCCESS;
}

API cuCtxSynchronize(void) {
    TRY(enter());
    return capture_forbids_waiting_for_all();
}
API cuCtxSynchronize_v2(CUcontext context) {
    REQUIRE(!context || context == &primary, CUDA_ERROR_INVALID_CONTEXT);
    return cuCtxSynchronize();
}

API cuCtxGetStreamPriorityRange(int *least, int *greatest) {
    TRY(enter());
    if (least) *least = 0;
    if (greatest) *greatest = -5;
    return CUDA_SUCCESS;
}

static size_t limits[16] = {1024, 1 << 20, 8 << 20, 2, 2048, 128, 0, 0};

API cuCtxGetLimit(size_t *value, CUlimit limit) {
    TRY(enter());
    REQUIRE(value && (unsigned)limit < COUNT(limits), CUDA_ERROR_INVALID_VALUE);
    *value = limits[limit];
    return CUDA_SUCCESS;
}

API cuCtxSetLimit(CUlimit limit, size_t value) {
    TRY(enter());
    REQUIRE((unsigned)limit < COUNT(limits), CUDA_ERROR_INVALID_VALUE);
    limits[limit] = value;
    return CUDA_SUCCESS;
}

API cuCtxGetCacheConfig(CUfunc_cache *config) {
    REQUIRE(config, CUDA_ERROR_INVALID_VALUE);
    TRY(enter());
    *config = 0;
    return CUDA_SUCCESS;
}

API cuCtxSetCacheConfig(CUfunc_cache config) {
    (void)config;
    return enter();
}

API cuCtxResetPersistingL2Cache(void) { return enter(); }
API cuCtxEnablePeerAccess(CUcontext peer, unsigned flags) {
    (void)peer, (void)flags;
    return CUDA_ERROR_INVALID_CONTEXT;
}

/* Errors: names and sentences in CUDA's words, more briefly. */
static const struct { int code; const char *name, *meaning; } errors[] = {
#define ERROR(code, name, meaning) {code, "CUDA_" #name, meaning},
#include "errors.def"
#undef ERROR
};

static CUresult find_error(CUresult error, const char **name, const char **meaning) {
    for (size_t i = 0; i < COUNT(errors); i++) {
        if (errors[i].code != (int)error) continue;
        if (name) *name = errors[i].name;
        if (meaning) *meaning = errors[i].meaning;
        return CUDA_SUCCESS;
    }
    if (name) *name = NULL;
    if (meaning) *meaning = NULL;
    return CUDA_ERROR_INVALID_VALUE;
}

API cuGetErrorName(CUresult error, const char **name) { return name ? find_error(error, name, NULL) : CUDA_ERROR_INVALID_VALUE; }
API cuGetErrorString(CUresult error, const char **text) { return text ? find_error(error, NULL, text) : CUDA_ERROR_INVALID_VALUE; }
