/* Launches: the configuration's limits, the parameters, the call. */
#include "sim.h"

/* Copies what kernelParams or extra point to into one buffer, laid out as the kernel declares it. */
CUresult pack(const struct CUkern_st *kernel, void **given, void **extra, void *buffer) {
    if (extra) {
        REQUIRE(!given, CUDA_ERROR_INVALID_VALUE);
        const void *from = NULL;
        size_t size = 0;
        for (; *extra != CU_LAUNCH_PARAM_END; extra += 2) {
            if (*extra == CU_LAUNCH_PARAM_BUFFER_POINTER) from = extra[1];
            else if (*extra == CU_LAUNCH_PARAM_BUFFER_SIZE) size = *(size_t *)extra[1];
            else return CUDA_ERROR_INVALID_VALUE;
        }
        REQUIRE(from && size >= kernel->parameter_bytes, CUDA_ERROR_INVALID_VALUE);
        memcpy(buffer, from, kernel->parameter_bytes);
        return CUDA_SUCCESS;
    }
    REQUIRE(given || !kernel->parameter_count, CUDA_ERROR_INVALID_VALUE);
    for (size_t i = 0; i < kernel->parameter_count; i++) {
        REQUIRE(given[i], CUDA_ERROR_INVALID_VALUE);
        memcpy((char *)buffer + kernel->parameters[i].offset, given[i], kernel->parameters[i].size);
    }
    return CUDA_SUCCESS;
}

CUresult call_from_params(const CUDA_KERNEL_NODE_PARAMS_v2 *p, const CUlaunchAttribute *attributes, unsigned count, struct call *call) {
    CUkernel kernel = p->func ? (CUkernel)p->func : p->kern;
    REQUIRE(handle_is(kernel, KERNEL), CUDA_ERROR_INVALID_HANDLE);
    const int *required = &kernel->attributes[CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_WIDTH];
    *call = (struct call){
        .kernel = kernel,
        .grid = {p->gridDimX, p->gridDimY, p->gridDimZ},
        .block = {p->blockDimX, p->blockDimY, p->blockDimZ},
        .cluster = {required[0] ? (unsigned)required[0] : 1, required[1] ? (unsigned)required[1] : 1, required[2] ? (unsigned)required[2] : 1},
        .shared = p->sharedMemBytes,
    };
    for (unsigned i = 0; i < count; i++) {
        const CUlaunchAttributeValue *value = &attributes[i].value;
        switch ((int)attributes[i].id) {
        case CU_LAUNCH_ATTRIBUTE_COOPERATIVE: call->cooperative = value->cooperative != 0; break;
        case CU_LAUNCH_ATTRIBUTE_PRIORITY: call->priority = value->priority; break;
        case CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION:
            if (required[0]) {
                REQUIRE(value->clusterDim.x == call->cluster[0] && value->clusterDim.y == call->cluster[1] && value->clusterDim.z == call->cluster[2],
                        CUDA_ERROR_INVALID_CLUSTER_SIZE);
            }
            call->cluster[0] = value->clusterDim.x;
            call->cluster[1] = value->clusterDim.y;
            call->cluster[2] = value->clusterDim.z;
            break;
        case CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION: call->early = value->programmaticStreamSerializationAllowed != 0; break;
        case CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_EVENT: return refuse("launches that record an event from within the kernel");
        case CU_LAUNCH_ATTRIBUTE_LAUNCH_COMPLETION_EVENT: record_now(value->launchCompletionEvent.event); break;
        case CU_LAUNCH_ATTRIBUTE_DEVICE_UPDATABLE_KERNEL_NODE: return refuse("graph nodes that a kernel updates");
        default: break; /* hints */
        }
    }
    return CUDA_SUCCESS;
}

/* What a driver refuses before it launches: CUDA Programming Guide, "Compute Capabilities"; cuLaunchKernelEx. */
CUresult check_call(const struct call *call) {
    const int *device = settings.attributes;
    CUkernel kernel = call->kernel;
    REQUIRE(handle_is(kernel, KERNEL), CUDA_ERROR_INVALID_HANDLE);
    unsigned long long threads = 1, blocks = 1, cluster = 1;
    for (int i = 0; i < 3; i++) {
        REQUIRE(call->block[i] && call->block[i] <= (unsigned)device[CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X + i], CUDA_ERROR_INVALID_VALUE);
        REQUIRE(call->grid[i] && call->grid[i] <= (unsigned)device[CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X + i], CUDA_ERROR_INVALID_VALUE);
        REQUIRE(call->cluster[i] && call->grid[i] % call->cluster[i] == 0, CUDA_ERROR_INVALID_VALUE);
        threads *= call->block[i];
        blocks *= call->grid[i];
        cluster *= call->cluster[i];
    }
    REQUIRE(threads <= 1024, CUDA_ERROR_INVALID_VALUE);
    REQUIRE(threads <= (unsigned)kernel->attributes[CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK], CUDA_ERROR_INVALID_VALUE);
    unsigned shared = call->shared + (unsigned)kernel->attributes[CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES];
    unsigned opted = (unsigned)kernel->attributes[CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES];
    REQUIRE(settings.any_image || call->shared <= opted || shared <= (unsigned)device[CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK],
            CUDA_ERROR_INVALID_VALUE);
    if (cluster > 1) {
        REQUIRE(device[CU_DEVICE_ATTRIBUTE_CLUSTER_LAUNCH], CUDA_ERROR_INVALID_CLUSTER_SIZE);
        REQUIRE(cluster <= (kernel->attributes[CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED] ? 16 : 8), CUDA_ERROR_INVALID_CLUSTER_SIZE);
    }
    if (call->cooperative) {
        int resident = resident_blocks(kernel, (int)threads, call->shared);
        REQUIRE(blocks <= (unsigned long long)resident * (unsigned)device[CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT],
                CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE);
    }
    return CUDA_SUCCESS;
}

CUresult run_call(const struct call *call, struct order order) {
    if (settings.any_image) return CUDA_SUCCESS; /* the no-op mode */
    REQUIRE(handle_is(call->kernel, KERNEL), CUDA_ERROR_INVALID_HANDLE);
    REQUIRE(hooks.launch, CUDA_ERROR_DEINITIALIZED);
    struct launch launch = {.library = call->kernel->library, .kernel = call->kernel->name, .shared = call->shared, .cooperative = call->cooperative,
                            .parameters = call->parameters, .parameter_bytes = call->kernel->parameter_bytes,
                            .first = order.first, .number = order.number, .pending = order.pending, .pending_count = order.pending_count};
    memcpy(launch.grid, call->grid, sizeof launch.grid);
    memcpy(launch.block, call->block, sizeof launch.block);
    memcpy(launch.cluster, call->cluster, sizeof launch.cluster);
    return fail((CUresult)hooks.launch(&launch));
}

static CUresult launch(const CUDA_KERNEL_NODE_PARAMS_v2 *params, const CUlaunchAttribute *attributes, unsigned count, CUstream stream) {
    struct operation operation = {.kind = CU_GRAPH_NODE_TYPE_KERNEL};
    TRY(enter());
    TRY(call_from_params(params, attributes, count, &operation.call));
    CUresult checked = check_call(&operation.call);
    if (checked != CUDA_SUCCESS) return capture_failed(stream_of(stream), checked);
    _Alignas(16) char buffer[operation.call.kernel->parameter_bytes + 16];
    memset(buffer, 0, sizeof buffer);
    TRY(pack(operation.call.kernel, params->kernelParams, params->extra, buffer));
    operation.call.parameters = buffer;
    return submit(stream, &operation);
}

API cuLaunchKernel(CUfunction function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared, CUstream stream,
                   void **params, void **extra) {
    return launch(&(CUDA_KERNEL_NODE_PARAMS_v2){.func = function, .gridDimX = gx, .gridDimY = gy, .gridDimZ = gz, .blockDimX = bx, .blockDimY = by,
                                                .blockDimZ = bz, .sharedMemBytes = shared, .kernelParams = params, .extra = extra}, NULL, 0, stream);
}

API cuLaunchKernelEx(const CUlaunchConfig *config, CUfunction function, void **params, void **extra) {
    REQUIRE(config && (config->attrs || !config->numAttrs), CUDA_ERROR_INVALID_VALUE);
    return launch(&(CUDA_KERNEL_NODE_PARAMS_v2){.func = function, .gridDimX = config->gridDimX, .gridDimY = config->gridDimY,
                                                .gridDimZ = config->gridDimZ, .blockDimX = config->blockDimX, .blockDimY = config->blockDimY,
                                                .blockDimZ = config->blockDimZ, .sharedMemBytes = config->sharedMemBytes, .kernelParams = params,
                                                .extra = extra}, config->attrs, config->numAttrs, config->hStream);
}

API cuLaunchCooperativeKernel(CUfunction function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared,
                              CUstream stream, void **params) {
    CUlaunchAttribute cooperative = {.id = CU_LAUNCH_ATTRIBUTE_COOPERATIVE, .value.cooperative = 1};
    return launch(&(CUDA_KERNEL_NODE_PARAMS_v2){.func = function, .gridDimX = gx, .gridDimY = gy, .gridDimZ = gz, .blockDimX = bx, .blockDimY = by,
                                                .blockDimZ = bz, .sharedMemBytes = shared, .kernelParams = params}, &cooperative, 1, stream);
}

/* Clusters: how many fit at once, and how large one may be. */
static CUresult cluster_of(const CUlaunchConfig *config, CUfunction function, struct call *call) {
    TRY(enter());
    REQUIRE(config, CUDA_ERROR_INVALID_VALUE);
    CUDA_KERNEL_NODE_PARAMS_v2 params = {.func = function, .gridDimX = config->gridDimX, .gridDimY = config->gridDimY, .gridDimZ = config->gridDimZ,
                                         .blockDimX = config->blockDimX, .blockDimY = config->blockDimY, .blockDimZ = config->blockDimZ,
                                         .sharedMemBytes = config->sharedMemBytes};
    return call_from_params(&params, config->attrs, config->numAttrs, call);
}

API cuOccupancyMaxPotentialClusterSize(int *size, CUfunction function, const CUlaunchConfig *config) {
    struct call call;
    REQUIRE(size, CUDA_ERROR_INVALID_VALUE);
    TRY(cluster_of(config, function, &call));
    REQUIRE(settings.attributes[CU_DEVICE_ATTRIBUTE_CLUSTER_LAUNCH], CUDA_ERROR_NOT_SUPPORTED);
    *size = call.kernel->attributes[CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED] ? 16 : 8;
    return CUDA_SUCCESS;
}

API cuOccupancyMaxActiveClusters(int *count, CUfunction function, const CUlaunchConfig *config) {
    struct call call;
    REQUIRE(count, CUDA_ERROR_INVALID_VALUE);
    TRY(cluster_of(config, function, &call));
    REQUIRE(settings.attributes[CU_DEVICE_ATTRIBUTE_CLUSTER_LAUNCH], CUDA_ERROR_NOT_SUPPORTED);
    int blocks = resident_blocks(call.kernel, (int)(call.block[0] * call.block[1] * call.block[2]), call.shared);
    *count = blocks * settings.attributes[CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT] / (int)(call.cluster[0] * call.cluster[1] * call.cluster[2]);
    return CUDA_SUCCESS;
}

/* Descriptions of tensors for TMA: 128 bytes that the interpreter alone reads. */
API cuTensorMapEncodeTiled(CUtensorMap *map, CUtensorMapDataType type, cuuint32_t rank, void *address, const cuuint64_t *shape,
                           const cuuint64_t *strides, const cuuint32_t *box, const cuuint32_t *element_strides, CUtensorMapInterleave interleave,
                           CUtensorMapSwizzle swizzle, CUtensorMapL2promotion promotion, CUtensorMapFloatOOBfill fill) {
    (void)promotion;
    REQUIRE(map && shape && box && element_strides && (strides || rank == 1) && rank >= 1 && rank <= 5, CUDA_ERROR_INVALID_VALUE);
    REQUIRE((uintptr_t)address % 16 == 0, CUDA_ERROR_INVALID_VALUE); /* cuda.core keeps `map` at any address; launches copy it to one of 64 */
    for (unsigned i = 0; i < rank; i++) {
        REQUIRE(shape[i] && shape[i] <= 1ull << 32 && box[i] && box[i] <= 256 && element_strides[i] && element_strides[i] <= 8, CUDA_ERROR_INVALID_VALUE);
        if (i + 1 < rank) REQUIRE(strides[i] % 16 == 0 && strides[i] < 1ull << 40, CUDA_ERROR_INVALID_VALUE);
    }
    memset(map, 0, sizeof *map);
    struct tensor_map description = {.element = (unsigned)type, .rank = rank, .interleave = (unsigned)interleave, .swizzle = (unsigned)swizzle,
                                     .fill_nan = (unsigned)fill, .address = (CUdeviceptr)(uintptr_t)address, .shape = shape, .strides = strides,
                                     .box = box, .element_strides = element_strides};
    return hooks.tensor_map ? (CUresult)hooks.tensor_map(map, &description) : CUDA_SUCCESS;
}
