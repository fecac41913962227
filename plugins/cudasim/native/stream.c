/* Streams and events. Work is done when it is put on a stream, so every stream is always done and every recorded event has happened. */
#include <time.h>

#include "sim.h"

static struct CUstream_st legacy = {.header.kind = STREAM}, per_thread = {.header.kind = STREAM, .flags = CU_STREAM_NON_BLOCKING, .id = 1};
static uint64_t last_id = 1;

CUstream stream_of(CUstream given) {
    if (!given || given == CU_STREAM_LEGACY) return &legacy;
    if (given == CU_STREAM_PER_THREAD) return &per_thread;
    return handle_is(given, STREAM) ? given : NULL;
}

CUresult run(const struct operation *operation) {
    switch (operation->kind) {
    case CU_GRAPH_NODE_TYPE_KERNEL: return run_call(&operation->call, (struct order){0});
    case CU_GRAPH_NODE_TYPE_MEMCPY: TRY(check_copy(&operation->copy)); run_copy(&operation->copy); return CUDA_SUCCESS;
    case CU_GRAPH_NODE_TYPE_MEMSET: TRY(check_fill(&operation->fill)); run_fill(&operation->fill); return CUDA_SUCCESS;
    case CU_GRAPH_NODE_TYPE_HOST:
        inside_host_function = true; /* such a function may not call CUDA */
        operation->host.function(operation->host.data);
        inside_host_function = false;
        return CUDA_SUCCESS;
    case CU_GRAPH_NODE_TYPE_GRAPH: return run_graph(operation->graph);
    case CU_GRAPH_NODE_TYPE_MEM_ALLOC: return make_usable(operation->allocate.address);
    case CU_GRAPH_NODE_TYPE_MEM_FREE: return end_use(operation->free, false);
    case CU_GRAPH_NODE_TYPE_EVENT_RECORD: record_now(operation->event); return CUDA_SUCCESS;
    default: return CUDA_SUCCESS; /* empty, and waiting for an event that has happened */
    }
}

CUresult submit(CUstream given, const struct operation *operation) {
    CUstream stream = stream_of(given);
    REQUIRE(stream, CUDA_ERROR_INVALID_HANDLE);
    if (stream->capture) return capture_operation(stream, operation);
    TRY(capture_forbids(stream));
    return run(operation);
}

/* Streams. */
API cuStreamCreateWithPriority(CUstream *stream, unsigned flags, int priority) {
    TRY(enter());
    REQUIRE(stream && flags <= CU_STREAM_NON_BLOCKING, CUDA_ERROR_INVALID_VALUE);
    CUstream made = handle_new(STREAM);
    REQUIRE(made, CUDA_ERROR_OUT_OF_MEMORY);
    made->flags = flags;
    made->priority = priority > 0 ? 0 : priority < -5 ? -5 : priority;
    made->id = __atomic_add_fetch(&last_id, 1, __ATOMIC_RELAXED);
    *stream = made;
    return CUDA_SUCCESS;
}
API cuStreamCreate(CUstream *stream, unsigned flags) { return cuStreamCreateWithPriority(stream, flags, 0); }

API cuStreamDestroy_v2(CUstream stream) {
    REQUIRE(handle_is(stream, STREAM), CUDA_ERROR_INVALID_HANDLE);
    if (stream->capture) capture_drop(stream);
    nodes_clear(&stream->tips);
    handle_free(stream);
    return CUDA_SUCCESS;
}

static CUresult done(CUstream given) {
    TRY(enter());
    CUstream stream = stream_of(given);
    REQUIRE(stream, CUDA_ERROR_INVALID_HANDLE);
    TRY(capture_forbids(stream));
    return capture_forbids_unsafe_call();
}
API cuStreamSynchronize(CUstream stream) { return done(stream); }
API cuStreamQuery(CUstream stream) { return done(stream); }

#define STREAM_PROPERTY(function, type, expression) \
    API function(CUstream given, type *out) { \
        CUstream stream = stream_of(given); \
        REQUIRE(stream, CUDA_ERROR_INVALID_HANDLE); \
        REQUIRE(out, CUDA_ERROR_INVALID_VALUE); \
        *out = (expression); \
        return CUDA_SUCCESS; \
    }
STREAM_PROPERTY(cuStreamGetFlags, unsigned, stream->flags)
STREAM_PROPERTY(cuStreamGetPriority, int, stream->priority)
STREAM_PROPERTY(cuStreamGetId, unsigned long long, stream->id)
STREAM_PROPERTY(cuStreamGetCtx, CUcontext, &primary)
STREAM_PROPERTY(cuStreamGetDevice, CUdevice, stream ? 0 : -1)

API cuStreamGetCtx_v2(CUstream stream, CUcontext *context, CUgreenCtx *green) {
    if (green) *green = NULL;
    return cuStreamGetCtx(stream, context);
}

API cuLaunchHostFunc(CUstream stream, CUhostFn function, void *data) {
    TRY(enter());
    REQUIRE(function, CUDA_ERROR_INVALID_VALUE);
    return submit(stream, &(struct operation){.kind = CU_GRAPH_NODE_TYPE_HOST, .host = {function, data}});
}
API cuLaunchHostFunc_v2(CUstream stream, CUhostFn function, void *data, unsigned mode) {
    (void)mode;
    return cuLaunchHostFunc(stream, function, data);
}

API cuStreamAddCallback(CUstream given, CUstreamCallback callback, void *data, unsigned flags) {
    TRY(enter());
    CUstream stream = stream_of(given);
    REQUIRE(stream, CUDA_ERROR_INVALID_HANDLE);
    REQUIRE(callback && !flags, CUDA_ERROR_INVALID_VALUE);
    TRY(capture_forbids(stream));
    inside_host_function = true;
    callback(given, CUDA_SUCCESS, data);
    inside_host_function = false;
    return CUDA_SUCCESS;
}

/* Events. */
static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

void record_now(CUevent event) {
    event->recorded = true;
    event->capture_id = 0;
    nodes_clear(&event->tips);
    if (!(event->flags & CU_EVENT_DISABLE_TIMING)) event->seconds = now();
}

API cuEventCreate(CUevent *event, unsigned flags) {
    TRY(enter());
    REQUIRE(event && flags < 8, CUDA_ERROR_INVALID_VALUE);
    if (flags & CU_EVENT_INTERPROCESS) return refuse("events shared between processes");
    CUevent made = handle_new(EVENT);
    REQUIRE(made, CUDA_ERROR_OUT_OF_MEMORY);
    made->flags = flags;
    *event = made;
    return CUDA_SUCCESS;
}

API cuEventDestroy_v2(CUevent event) {
    REQUIRE(handle_is(event, EVENT), CUDA_ERROR_INVALID_HANDLE);
    nodes_clear(&event->tips);
    handle_free(event);
    return CUDA_SUCCESS;
}

API cuEventRecordWithFlags(CUevent event, CUstream given, unsigned flags) {
    TRY(enter());
    CUstream stream = stream_of(given);
    REQUIRE(stream && handle_is(event, EVENT), CUDA_ERROR_INVALID_HANDLE);
    if (stream->capture && !(flags & CU_EVENT_RECORD_EXTERNAL)) return capture_record(stream, event);
    REQUIRE(stream->capture || !(flags & CU_EVENT_RECORD_EXTERNAL), CUDA_ERROR_INVALID_VALUE);
    return submit(given, &(struct operation){.kind = CU_GRAPH_NODE_TYPE_EVENT_RECORD, .event = event});
}
API cuEventRecord(CUevent event, CUstream stream) { return cuEventRecordWithFlags(event, stream, 0); }

API cuStreamWaitEvent(CUstream given, CUevent event, unsigned flags) {
    TRY(enter());
    CUstream stream = stream_of(given);
    REQUIRE(stream && handle_is(event, EVENT), CUDA_ERROR_INVALID_HANDLE);
    if (flags & CU_EVENT_WAIT_EXTERNAL) {
        REQUIRE(stream->capture, CUDA_ERROR_INVALID_VALUE);
        return submit(given, &(struct operation){.kind = CU_GRAPH_NODE_TYPE_WAIT_EVENT, .event = event});
    }
    return stream->capture || event->capture_id ? capture_wait(stream, event) : CUDA_SUCCESS;
}

static CUresult happened(CUevent event) {
    TRY(enter());
    REQUIRE(handle_is(event, EVENT), CUDA_ERROR_INVALID_HANDLE);
    return capture_forbids_query(event);
}
API cuEventSynchronize(CUevent event) {
    TRY(happened(event));
    return capture_forbids_unsafe_call();
}
API cuEventQuery(CUevent event) { return cuEventSynchronize(event); }

API cuEventElapsedTime_v2(float *milliseconds, CUevent start, CUevent end) {
    TRY(happened(start));
    TRY(happened(end));
    REQUIRE(milliseconds, CUDA_ERROR_INVALID_VALUE);
    REQUIRE(start->recorded && end->recorded && !((start->flags | end->flags) & CU_EVENT_DISABLE_TIMING), CUDA_ERROR_INVALID_HANDLE);
    *milliseconds = (float)(1e3 * (end->seconds - start->seconds));
    return CUDA_SUCCESS;
}
API cuEventElapsedTime(float *milliseconds, CUevent start, CUevent end) { return cuEventElapsedTime_v2(milliseconds, start, end); }
