/* Libraries of kernels. A library and a module are one thing here, and so are a kernel and a function: there is one context. */
#include "sim.h"

struct variable { char *name; CUdeviceptr address; size_t size; struct variable *next; };
struct CUlib_st { struct header header; char *image; struct CUkern_st *kernels; struct variable *variables; };

static CUlibrary library_of(CUmodule module) { return (CUlibrary)module; }
static CUkernel kernel_of(CUfunction function) { return (CUkernel)function; }

/* Called back by turnout_cudasim while it loads an image. */
EXPORT CUkernel cudasim_add_kernel(CUlibrary library, const char *name, size_t count, const struct parameter *parameters, const int *attributes) {
    struct CUkern_st *kernel = handle_new(KERNEL);
    if (!kernel) return NULL;
    kernel->library = library;
    kernel->name = strdup(name);
    kernel->parameters = calloc(count ? count : 1, sizeof *parameters);
    kernel->parameter_count = count;
    for (size_t i = 0; i < count; i++) {
        kernel->parameters[i] = parameters[i];
        if (parameters[i].offset + parameters[i].size > kernel->parameter_bytes) kernel->parameter_bytes = parameters[i].offset + parameters[i].size;
    }
    memcpy(kernel->attributes, attributes, sizeof kernel->attributes);
    kernel->next = library->kernels;
    library->kernels = kernel;
    return kernel;
}

EXPORT void cudasim_add_variable(CUlibrary library, const char *name, CUdeviceptr address, size_t size) {
    struct variable *variable = calloc(1, sizeof *variable);
    if (!variable) return;
    *variable = (struct variable){strdup(name), address, size, library->variables};
    library->variables = variable;
}

/* Images: PTX is text; the others begin with a number of their own. */
static CUresult check_image(const void *image) {
    static const struct { unsigned magic; const char *why; } others[] = {
        {0x464c457f, "a cubin (machine code) cannot run here: the simulator runs PTX. Compile to \"ptx\", for compute_XX"},
        {0xba55ed50, "a fatbin cannot run here: the simulator runs PTX. Give it the PTX itself"},
        {0x466243b1, "a fatbin cannot run here: the simulator runs PTX. Give it the PTX itself"},
        {0x7f4e43ed, "LTO-IR cannot run here: the simulator runs PTX. Compile to \"ptx\", for compute_XX"},
    };
    unsigned magic;
    memcpy(&magic, image, sizeof magic);
    for (size_t i = 0; i < COUNT(others); i++) {
        if (magic != others[i].magic) continue;
        refuse(others[i].why);
        return CUDA_ERROR_NO_BINARY_FOR_GPU;
    }
    return CUDA_SUCCESS;
}

static void unload(CUlibrary library) {
    if (hooks.unload) hooks.unload(library);
    for (struct CUkern_st *kernel = library->kernels, *next; kernel; kernel = next) {
        next = kernel->next;
        free(kernel->name);
        free(kernel->parameters);
        handle_free(kernel);
    }
    for (struct variable *variable = library->variables, *next; variable; variable = next) {
        next = variable->next;
        free(variable->name);
        free(variable);
    }
    free(library->image);
    handle_free(library);
}

static CUresult load(CUlibrary *out, const void *image, char *log, size_t log_size) {
    TRY(enter());
    REQUIRE(out && image, CUDA_ERROR_INVALID_VALUE);
    if (!settings.any_image) TRY(check_image(image));
    CUlibrary library = handle_new(LIBRARY);
    REQUIRE(library, CUDA_ERROR_OUT_OF_MEMORY);
    if (!settings.any_image) {
        char unread[8];
        if (!log || !log_size) log = unread, log_size = sizeof unread;
        *log = 0;
        int result = hooks.load ? hooks.load(library, image, strlen(image), log, log_size) : CUDA_ERROR_DEINITIALIZED;
        if (result != CUDA_SUCCESS) {
            unload(library);
            return (CUresult)result;
        }
    }
    *out = library;
    return CUDA_SUCCESS;
}

/* The only JIT options with a meaning here: where to write what is wrong (CU_JIT_ERROR_LOG_BUFFER and its size). */
static CUresult load_with_options(CUlibrary *library, const void *image, const CUjit_option *options, void **values, unsigned count) {
    char *log = NULL;
    size_t size = 0;
    for (unsigned i = 0; options && values && i < count; i++) {
        if ((int)options[i] == 5) log = values[i];
        if ((int)options[i] == 6) size = (uintptr_t)values[i];
    }
    return load(library, image, log, size);
}

API cuLibraryLoadData(CUlibrary *library, const void *code, CUjit_option *jit_options, void **jit_values, unsigned jit_count,
                      CUlibraryOption *options, void **values, unsigned count) {
    (void)options, (void)values, (void)count;
    return load_with_options(library, code, jit_options, jit_values, jit_count);
}
API cuModuleLoadDataEx(CUmodule *module, const void *image, unsigned count, CUjit_option *options, void **values) {
    return load_with_options((CUlibrary *)module, image, options, values, count);
}
API cuModuleLoadData(CUmodule *module, const void *image) { return load((CUlibrary *)module, image, NULL, 0); }

static CUresult load_file(CUlibrary *library, const char *path) {
    TRY(enter());
    FILE *file = path ? fopen(path, "rb") : NULL;
    REQUIRE(file, CUDA_ERROR_FILE_NOT_FOUND);
    fseek(file, 0, SEEK_END);
    long size = ftell(file);
    rewind(file);
    char *image = size < 0 ? NULL : calloc((size_t)size + 8, 1);
    bool whole = image && fread(image, 1, (size_t)size, file) == (size_t)size;
    fclose(file);
    CUresult result = whole ? load(library, image, NULL, 0) : CUDA_ERROR_INVALID_IMAGE;
    free(image);
    return result;
}
API cuLibraryLoadFromFile(CUlibrary *library, const char *path, CUjit_option *jit_options, void **jit_values, unsigned jit_count,
                          CUlibraryOption *options, void **values, unsigned count) {
    (void)jit_options, (void)jit_values, (void)jit_count, (void)options, (void)values, (void)count;
    return load_file(library, path);
}
API cuModuleLoad(CUmodule *module, const char *path) { return load_file((CUlibrary *)module, path); }

API cuLibraryUnload(CUlibrary library) {
    REQUIRE(handle_is(library, LIBRARY), CUDA_ERROR_INVALID_HANDLE);
    unload(library);
    return CUDA_SUCCESS;
}
API cuModuleUnload(CUmodule module) { return cuLibraryUnload(library_of(module)); }
API cuLibraryGetModule(CUmodule *module, CUlibrary library) {
    REQUIRE(module, CUDA_ERROR_INVALID_VALUE);
    REQUIRE(handle_is(library, LIBRARY), CUDA_ERROR_INVALID_HANDLE);
    *module = (CUmodule)library;
    return CUDA_SUCCESS;
}
API cuModuleGetLoadingMode(CUmoduleLoadingMode *mode) {
    REQUIRE(mode, CUDA_ERROR_INVALID_VALUE);
    *mode = 1; /* eager */
    return CUDA_SUCCESS;
}

/* Kernels. */
API cuLibraryGetKernel(CUkernel *out, CUlibrary library, const char *name) {
    TRY(enter());
    REQUIRE(handle_is(library, LIBRARY), CUDA_ERROR_INVALID_HANDLE);
    REQUIRE(out && name, CUDA_ERROR_INVALID_VALUE);
    for (struct CUkern_st *kernel = library->kernels; kernel; kernel = kernel->next) {
        if (strcmp(kernel->name, name) == 0) {
            *out = kernel;
            return CUDA_SUCCESS;
        }
    }
    REQUIRE(settings.any_image, CUDA_ERROR_NOT_FOUND);
    int attributes[COUNT((*out)->attributes)] = {[CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK] = 1024, [CU_FUNC_ATTRIBUTE_NUM_REGS] = 32};
    *out = cudasim_add_kernel(library, name, 0, NULL, attributes);
    return *out ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}
API cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name) {
    return cuLibraryGetKernel((CUkernel *)function, library_of(module), name);
}

API cuLibraryGetKernelCount(unsigned *count, CUlibrary library) {
    REQUIRE(count, CUDA_ERROR_INVALID_VALUE);
    REQUIRE(handle_is(library, LIBRARY), CUDA_ERROR_INVALID_HANDLE);
    *count = 0;
    for (struct CUkern_st *kernel = library->kernels; kernel; kernel = kernel->next) ++*count;
    return CUDA_SUCCESS;
}
API cuModuleGetFunctionCount(unsigned *count, CUmodule module) { return cuLibraryGetKernelCount(count, library_of(module)); }

API cuLibraryEnumerateKernels(CUkernel *kernels, unsigned count, CUlibrary library) {
    REQUIRE(kernels || !count, CUDA_ERROR_INVALID_VALUE);
    REQUIRE(handle_is(library, LIBRARY), CUDA_ERROR_INVALID_HANDLE);
    struct CUkern_st *kernel = library->kernels;
    for (unsigned i = 0; i < count; i++) {
        kernels[i] = kernel;
        if (kernel) kernel = kernel->next;
    }
    return CUDA_SUCCESS;
}
API cuModuleEnumerateFunctions(CUfunction *functions, unsigned count, CUmodule module) {
    return cuLibraryEnumerateKernels((CUkernel *)functions, count, library_of(module));
}

API cuLibraryGetGlobal(CUdeviceptr *address, size_t *size, CUlibrary library, const char *name) {
    REQUIRE(handle_is(library, LIBRARY), CUDA_ERROR_INVALID_HANDLE);
    REQUIRE(name, CUDA_ERROR_INVALID_VALUE);
    for (struct variable *variable = library->variables; variable; variable = variable->next) {
        if (strcmp(variable->name, name)) continue;
        if (address) *address = variable->address;
        if (size) *size = variable->size;
        return CUDA_SUCCESS;
    }
    return CUDA_ERROR_NOT_FOUND;
}
API cuModuleGetGlobal_v2(CUdeviceptr *address, size_t *size, CUmodule module, const char *name) {
    return cuLibraryGetGlobal(address, size, library_of(module), name);
}
API cuLibraryGetManaged(CUdeviceptr *address, size_t *size, CUlibrary library, const char *name) {
    return cuLibraryGetGlobal(address, size, library, name);
}

#define KERNEL_PROPERTY(function, type, expression) \
    API function(type *out, CUkernel kernel) { \
        REQUIRE(handle_is(kernel, KERNEL), CUDA_ERROR_INVALID_HANDLE); \
        REQUIRE(out, CUDA_ERROR_INVALID_VALUE); \
        *out = (expression); \
        return CUDA_SUCCESS; \
    }
KERNEL_PROPERTY(cuKernelGetFunction, CUfunction, (CUfunction)kernel)
KERNEL_PROPERTY(cuKernelGetLibrary, CUlibrary, kernel->library)
KERNEL_PROPERTY(cuKernelGetName, const char *, kernel->name)
API cuFuncGetName(const char **name, CUfunction function) { return cuKernelGetName(name, kernel_of(function)); }
API cuKernelGetParamCount(CUkernel kernel, size_t *count) {
    REQUIRE(handle_is(kernel, KERNEL), CUDA_ERROR_INVALID_HANDLE);
    REQUIRE(count, CUDA_ERROR_INVALID_VALUE);
    *count = kernel->parameter_count;
    return CUDA_SUCCESS;
}
API cuFuncGetParamCount(CUfunction function, size_t *count) { return cuKernelGetParamCount(kernel_of(function), count); }
API cuFuncGetModule(CUmodule *module, CUfunction function) { return cuKernelGetLibrary((CUlibrary *)module, kernel_of(function)); }
API cuFuncLoad(CUfunction function) { return handle_is(function, KERNEL) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE; }
API cuFuncIsLoaded(CUfunctionLoadingState *state, CUfunction function) {
    REQUIRE(state, CUDA_ERROR_INVALID_VALUE);
    *state = 1; /* loaded */
    return cuFuncLoad(function);
}

API cuKernelGetParamInfo(CUkernel kernel, size_t index, size_t *offset, size_t *size) {
    REQUIRE(handle_is(kernel, KERNEL), CUDA_ERROR_INVALID_HANDLE);
    REQUIRE(index < kernel->parameter_count && offset, CUDA_ERROR_INVALID_VALUE);
    *offset = kernel->parameters[index].offset;
    if (size) *size = kernel->parameters[index].size;
    return CUDA_SUCCESS;
}
API cuFuncGetParamInfo(CUfunction function, size_t index, size_t *offset, size_t *size) {
    return cuKernelGetParamInfo(kernel_of(function), index, offset, size);
}

API cuKernelGetAttribute(int *value, CUfunction_attribute attribute, CUkernel kernel, CUdevice device) {
    REQUIRE(handle_is(kernel, KERNEL), CUDA_ERROR_INVALID_HANDLE);
    REQUIRE(device == 0, CUDA_ERROR_INVALID_DEVICE);
    REQUIRE(value && (unsigned)attribute < COUNT(kernel->attributes), CUDA_ERROR_INVALID_VALUE);
    *value = kernel->attributes[attribute];
    return CUDA_SUCCESS;
}
API cuFuncGetAttribute(int *value, CUfunction_attribute attribute, CUfunction function) {
    return cuKernelGetAttribute(value, attribute, kernel_of(function), 0);
}

API cuKernelSetAttribute(CUfunction_attribute attribute, int value, CUkernel kernel, CUdevice device) {
    REQUIRE(handle_is(kernel, KERNEL), CUDA_ERROR_INVALID_HANDLE);
    REQUIRE(device == 0, CUDA_ERROR_INVALID_DEVICE);
    int most = settings.attributes[CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN] - kernel->attributes[CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES];
    bool settable = (int)attribute == CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES ? value >= 0 && value <= most
                    : (int)attribute == CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT ? value >= -1 && value <= 100
                    : (int)attribute >= CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_WIDTH && (int)attribute <= CU_FUNC_ATTRIBUTE_CLUSTER_SCHEDULING_POLICY_PREFERENCE;
    REQUIRE(settable, CUDA_ERROR_INVALID_VALUE);
    kernel->attributes[attribute] = value;
    return CUDA_SUCCESS;
}
API cuFuncSetAttribute(CUfunction function, CUfunction_attribute attribute, int value) {
    return cuKernelSetAttribute(attribute, value, kernel_of(function), 0);
}
API cuFuncSetCacheConfig(CUfunction function, CUfunc_cache config) {
    (void)config;
    return cuFuncLoad(function);
}
API cuKernelSetCacheConfig(CUkernel kernel, CUfunc_cache config, CUdevice device) {
    (void)config, (void)device;
    return cuFuncLoad((CUfunction)kernel);
}

/* Occupancy, from threads, blocks, registers and shared memory (CUDA Programming Guide, "Hardware Multithreading"). */
int resident_blocks(CUkernel kernel, int threads, size_t dynamic_shared) {
    const int *device = settings.attributes;
    if (threads <= 0 || threads > kernel->attributes[CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK]) return 0;
    int warps = (threads + 31) / 32;
    int most = device[CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR];
    int by_threads = device[CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR] / (32 * warps);
    int registers = (kernel->attributes[CU_FUNC_ATTRIBUTE_NUM_REGS] + 7) / 8 * 8 * 32 * warps; /* given out in eights per thread */
    int by_registers = registers ? device[CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR] / registers : most;
    size_t shared = (size_t)kernel->attributes[CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES] + dynamic_shared;
    bool opted_in = settings.any_image || dynamic_shared <= (size_t)kernel->attributes[CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES];
    if (!opted_in || shared > (size_t)device[CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN]) return 0;
    shared = (shared + (size_t)device[CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK] + 127) / 128 * 128;
    int by_shared = shared ? (int)((size_t)device[CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR] / shared) : most;
    if (by_threads < most) most = by_threads;
    if (by_registers < most) most = by_registers;
    return by_shared < most ? by_shared : most;
}

API cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *count, CUfunction function, int threads, size_t dynamic_shared, unsigned flags) {
    (void)flags;
    TRY(enter());
    REQUIRE(handle_is(function, KERNEL), CUDA_ERROR_INVALID_HANDLE);
    REQUIRE(count && threads > 0, CUDA_ERROR_INVALID_VALUE);
    *count = resident_blocks(kernel_of(function), threads, dynamic_shared);
    return CUDA_SUCCESS;
}
API cuOccupancyMaxActiveBlocksPerMultiprocessor(int *count, CUfunction function, int threads, size_t dynamic_shared) {
    return cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(count, function, threads, dynamic_shared, 0);
}

API cuOccupancyMaxPotentialBlockSizeWithFlags(int *grid, int *block, CUfunction function, CUoccupancyB2DSize shared_of, size_t shared, int limit,
                                              unsigned flags) {
    (void)flags;
    TRY(enter());
    REQUIRE(handle_is(function, KERNEL), CUDA_ERROR_INVALID_HANDLE);
    REQUIRE(grid && block, CUDA_ERROR_INVALID_VALUE);
    CUkernel kernel = kernel_of(function);
    int most = kernel->attributes[CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK], best = 0;
    if (limit > 0 && limit < most) most = limit;
    for (int threads = most / 32 * 32; threads > 0; threads -= 32) { /* the largest block of those that fill most */
        int blocks = resident_blocks(kernel, threads, shared_of ? shared_of(threads) : shared);
        if (blocks * threads <= best) continue;
        best = blocks * threads;
        *block = threads;
        *grid = blocks * settings.attributes[CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT];
    }
    return best ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
API cuOccupancyMaxPotentialBlockSize(int *grid, int *block, CUfunction function, CUoccupancyB2DSize shared_of, size_t shared, int limit) {
    return cuOccupancyMaxPotentialBlockSizeWithFlags(grid, block, function, shared_of, shared, limit, 0);
}

API cuOccupancyAvailableDynamicSMemPerBlock(size_t *size, CUfunction function, int blocks, int threads) {
    TRY(enter());
    REQUIRE(handle_is(function, KERNEL), CUDA_ERROR_INVALID_HANDLE);
    REQUIRE(size && blocks > 0 && threads > 0, CUDA_ERROR_INVALID_VALUE);
    const int *device = settings.attributes;
    int of_block = device[CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR] / blocks - device[CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK];
    if (of_block > device[CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN]) of_block = device[CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN];
    of_block -= kernel_of(function)->attributes[CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES];
    *size = of_block > 0 ? (size_t)of_block : 0;
    return CUDA_SUCCESS;
}
