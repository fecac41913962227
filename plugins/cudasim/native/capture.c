/* Stream capture: what is put on a capturing stream becomes a node that depends on what the stream holds so far (its tips).
 *
 * An event recorded on a capturing stream remembers the tips; a stream that waits for it joins the capture with them (a fork), or, if it belongs
 * already, adds them to its own (a join). CUDA Programming Guide, "Creating a Graph Using Stream Capture". */
#include "sim.h"

static struct capture *running;
static uint64_t last_capture;
static unsigned blocking_captures; /* capturing streams that are blocking: the legacy stream may not be used */
static __thread CUstreamCaptureMode exchanged_mode = CU_STREAM_CAPTURE_MODE_GLOBAL; /* cuThreadExchangeStreamCaptureMode */

static CUresult join(CUstream stream, struct capture *capture) {
    CUstream *grown = realloc(capture->streams, (capture->count + 1) * sizeof *grown);
    REQUIRE(grown, CUDA_ERROR_OUT_OF_MEMORY);
    capture->streams = grown;
    capture->streams[capture->count++] = stream;
    stream->capture = capture;
    if (!(stream->flags & CU_STREAM_NON_BLOCKING)) blocking_captures++;
    return CUDA_SUCCESS;
}

static void leave(CUstream stream) {
    stream->capture = NULL;
    nodes_clear(&stream->tips);
    if (!(stream->flags & CU_STREAM_NON_BLOCKING)) blocking_captures--;
}

static void end(struct capture *capture) {
    for (size_t i = 0; i < capture->count; i++) {
        if (capture->streams[i]) leave(capture->streams[i]);
    }
    for (struct capture **link = &running; *link; link = &(*link)->next) {
        if (*link != capture) continue;
        *link = capture->next;
        break;
    }
    free(capture->streams);
    free(capture);
}

void capture_drop(CUstream stream) {
    struct capture *capture = stream->capture; /* what it captured stays: whether that was joined shows at the end */
    if (capture->streams[0] == stream) { /* nobody can end it any more */
        if (capture->owns_graph) graph_free(capture->graph);
        end(capture);
        return;
    }
    for (size_t i = 0; i < capture->count; i++) {
        if (capture->streams[i] == stream) capture->streams[i] = NULL;
    }
    leave(stream);
}

/* A call that may wait is an error while this thread captures (unless relaxed), or another does in the global mode; those captures fail. */
CUresult capture_forbids_unsafe_call(void) {
    CUresult result = CUDA_SUCCESS;
    if (exchanged_mode == CU_STREAM_CAPTURE_MODE_RELAXED) return result;
    for (struct capture *capture = running; capture; capture = capture->next) {
        bool mine = pthread_equal(capture->thread, pthread_self());
        bool global = capture->mode == CU_STREAM_CAPTURE_MODE_GLOBAL && exchanged_mode == CU_STREAM_CAPTURE_MODE_GLOBAL;
        if (capture->mode == CU_STREAM_CAPTURE_MODE_RELAXED || !(mine || global)) continue;
        capture->invalidated = true;
        result = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    }
    return result;
}

CUresult capture_forbids_waiting_for_all(void) {
    for (struct capture *capture = running; capture; capture = capture->next) capture->invalidated = true;
    return running ? CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED : CUDA_SUCCESS;
}

CUresult capture_failed(CUstream stream, CUresult error) {
    if (stream && stream->capture) stream->capture->invalidated = true;
    return error;
}

CUresult capture_forbids(CUstream stream) {
    if (stream->capture) return capture_failed(stream, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    if (!blocking_captures || stream != stream_of(NULL)) return CUDA_SUCCESS;
    for (struct capture *capture = running; capture; capture = capture->next) {
        for (size_t i = 0; i < capture->count; i++) {
            if (capture->streams[i] && !(capture->streams[i]->flags & CU_STREAM_NON_BLOCKING)) capture->invalidated = true;
        }
    }
    return CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
}

/* Programmatic stream serialization, captured: the edges from kernels become programmatic ones, if there is nothing else to wait for. */
static void make_programmatic(struct nodes *tips) {
    for (size_t i = 0; i < tips->count; i++) {
        if (tips->items[i]->operation.kind != CU_GRAPH_NODE_TYPE_KERNEL) return;
    }
    for (size_t i = 0; i < tips->count; i++) {
        tips->edges[i] = (CUgraphEdgeData){.from_port = CU_GRAPH_KERNEL_NODE_PORT_PROGRAMMATIC, .type = CU_GRAPH_DEPENDENCY_TYPE_PROGRAMMATIC};
    }
}

CUresult capture_operation(CUstream stream, const struct operation *operation) {
    REQUIRE(!stream->capture->invalidated, CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    CUgraphNode node;
    if (operation->kind == CU_GRAPH_NODE_TYPE_KERNEL && operation->call.early) make_programmatic(&stream->tips);
    CUresult result = graph_add(stream->capture->graph, stream->tips.items, stream->tips.edges, stream->tips.count, operation, &node);
    if (result != CUDA_SUCCESS) {
        stream->capture->invalidated = true;
        return result;
    }
    nodes_clear(&stream->tips);
    return nodes_add(&stream->tips, node, (CUgraphEdgeData){0});
}

CUresult capture_record(CUstream stream, CUevent event) {
    REQUIRE(!stream->capture->invalidated, CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    nodes_clear(&event->tips);
    event->capture_id = stream->capture->id;
    for (size_t i = 0; i < stream->tips.count; i++) TRY(nodes_add(&event->tips, stream->tips.items[i], stream->tips.edges[i]));
    return CUDA_SUCCESS;
}

static struct capture *find_capture(uint64_t id) {
    struct capture *capture = running;
    while (capture && capture->id != id) capture = capture->next;
    return capture;
}

CUresult capture_forbids_query(CUevent event) {
    if (!event->capture_id) return CUDA_SUCCESS;
    struct capture *capture = find_capture(event->capture_id);
    REQUIRE(capture, CUDA_ERROR_INVALID_VALUE);
    capture->invalidated = true;
    return CUDA_ERROR_CAPTURED_EVENT;
}

CUresult capture_wait(CUstream stream, CUevent event) {
    struct capture *capture = event->capture_id ? find_capture(event->capture_id) : NULL;
    if (!event->capture_id) { /* work outside of the capture cannot be waited for inside it */
        if (!event->recorded) return CUDA_SUCCESS;
        stream->capture->invalidated = true;
        return CUDA_ERROR_STREAM_CAPTURE_ISOLATION;
    }
    REQUIRE(capture, CUDA_ERROR_INVALID_VALUE);
    REQUIRE(stream != stream_of(NULL), CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
    if (stream->capture && stream->capture != capture) {
        stream->capture->invalidated = capture->invalidated = true;
        return CUDA_ERROR_STREAM_CAPTURE_MERGE;
    }
    REQUIRE(!capture->invalidated, CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    if (!stream->capture) TRY(join(stream, capture));
    for (size_t i = 0; i < event->tips.count; i++) TRY(nodes_add(&stream->tips, event->tips.items[i], event->tips.edges[i]));
    return CUDA_SUCCESS;
}

static CUresult begin(CUstream given, CUgraph graph, int mode) {
    TRY(enter());
    CUstream stream = stream_of(given);
    REQUIRE(stream, CUDA_ERROR_INVALID_HANDLE);
    REQUIRE(mode >= CU_STREAM_CAPTURE_MODE_GLOBAL && mode <= CU_STREAM_CAPTURE_MODE_RELAXED, CUDA_ERROR_INVALID_VALUE);
    REQUIRE(stream != stream_of(NULL), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED); /* the legacy stream cannot be captured */
    REQUIRE(!stream->capture, CUDA_ERROR_ILLEGAL_STATE);
    struct capture *capture = calloc(1, sizeof *capture);
    REQUIRE(capture, CUDA_ERROR_OUT_OF_MEMORY);
    *capture = (struct capture){.graph = graph, .id = ++last_capture, .mode = mode, .thread = pthread_self(), .owns_graph = !graph, .next = running};
    CUresult result = graph ? CUDA_SUCCESS : graph_new(&capture->graph);
    if (result == CUDA_SUCCESS) result = join(stream, capture);
    if (result != CUDA_SUCCESS) {
        free(capture);
        return result;
    }
    running = capture;
    return CUDA_SUCCESS;
}

API cuStreamBeginCapture_v2(CUstream stream, CUstreamCaptureMode mode) { return begin(stream, NULL, (int)mode); }

API cuStreamBeginCaptureToGraph(CUstream stream, CUgraph graph, const CUgraphNode *before, const CUgraphEdgeData *edges, size_t count,
                                CUstreamCaptureMode mode) {
    REQUIRE(handle_is(graph, GRAPH), CUDA_ERROR_INVALID_VALUE);
    for (size_t i = 0; i < count; i++) REQUIRE(handle_is(before[i], NODE) && before[i]->graph == graph, CUDA_ERROR_INVALID_VALUE);
    TRY(begin(stream, graph, (int)mode));
    for (size_t i = 0; i < count; i++) TRY(nodes_add(&stream_of(stream)->tips, before[i], edges ? edges[i] : (CUgraphEdgeData){0}));
    return CUDA_SUCCESS;
}

API cuStreamEndCapture(CUstream given, CUgraph *graph) {
    CUstream stream = stream_of(given);
    REQUIRE(stream, CUDA_ERROR_INVALID_HANDLE);
    struct capture *capture = stream->capture;
    if (graph) *graph = NULL;
    REQUIRE(capture, CUDA_ERROR_ILLEGAL_STATE);
    if (capture->streams[0] != stream) {
        capture->invalidated = true;
        return CUDA_ERROR_STREAM_CAPTURE_UNMATCHED;
    }
    REQUIRE(capture->mode == CU_STREAM_CAPTURE_MODE_RELAXED || pthread_equal(capture->thread, pthread_self()),
            CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD);
    CUresult result = CUDA_SUCCESS;
    if (capture->invalidated) result = CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    else if (!graph_covered(capture->graph, &stream->tips)) result = CUDA_ERROR_STREAM_CAPTURE_UNJOINED;
    CUgraph captured = capture->graph;
    bool owned = capture->owns_graph;
    end(capture);
    if (result != CUDA_SUCCESS && owned) graph_free(captured);
    else if (graph) *graph = captured;
    return result;
}

API cuStreamIsCapturing(CUstream given, CUstreamCaptureStatus *status) {
    CUstream stream = stream_of(given);
    REQUIRE(stream, CUDA_ERROR_INVALID_HANDLE);
    REQUIRE(status, CUDA_ERROR_INVALID_VALUE);
    *status = !stream->capture ? CU_STREAM_CAPTURE_STATUS_NONE
              : stream->capture->invalidated ? CU_STREAM_CAPTURE_STATUS_INVALIDATED : CU_STREAM_CAPTURE_STATUS_ACTIVE;
    return CUDA_SUCCESS;
}

API cuStreamGetCaptureInfo_v3(CUstream given, CUstreamCaptureStatus *status, cuuint64_t *id, CUgraph *graph, const CUgraphNode **tips,
                              const CUgraphEdgeData **edges, size_t *count) {
    TRY(cuStreamIsCapturing(given, status));
    CUstream stream = stream_of(given);
    bool active = *status == CU_STREAM_CAPTURE_STATUS_ACTIVE;
    if (id) *id = active ? stream->capture->id : 0;
    if (graph) *graph = active ? stream->capture->graph : NULL;
    if (tips) *tips = active ? stream->tips.items : NULL;
    if (edges) *edges = active ? stream->tips.edges : NULL;
    if (count) *count = active ? stream->tips.count : 0;
    return CUDA_SUCCESS;
}
API cuStreamGetCaptureInfo_v2(CUstream stream, CUstreamCaptureStatus *status, cuuint64_t *id, CUgraph *graph, const CUgraphNode **tips, size_t *count) {
    return cuStreamGetCaptureInfo_v3(stream, status, id, graph, tips, NULL, count);
}
API cuStreamGetCaptureInfo(CUstream stream, CUstreamCaptureStatus *status, cuuint64_t *id) {
    return cuStreamGetCaptureInfo_v3(stream, status, id, NULL, NULL, NULL, NULL);
}

API cuStreamUpdateCaptureDependencies_v2(CUstream given, CUgraphNode *nodes, const CUgraphEdgeData *edges, size_t count, unsigned flags) {
    CUstream stream = stream_of(given);
    REQUIRE(stream, CUDA_ERROR_INVALID_HANDLE);
    REQUIRE(stream->capture, CUDA_ERROR_ILLEGAL_STATE);
    REQUIRE(flags <= CU_STREAM_SET_CAPTURE_DEPENDENCIES, CUDA_ERROR_INVALID_VALUE);
    for (size_t i = 0; i < count; i++) REQUIRE(handle_is(nodes[i], NODE) && nodes[i]->graph == stream->capture->graph, CUDA_ERROR_INVALID_VALUE);
    if (flags == CU_STREAM_SET_CAPTURE_DEPENDENCIES) nodes_clear(&stream->tips);
    for (size_t i = 0; i < count; i++) TRY(nodes_add(&stream->tips, nodes[i], edges ? edges[i] : (CUgraphEdgeData){0}));
    return CUDA_SUCCESS;
}
API cuStreamUpdateCaptureDependencies(CUstream stream, CUgraphNode *nodes, size_t count, unsigned flags) {
    return cuStreamUpdateCaptureDependencies_v2(stream, nodes, NULL, count, flags);
}

API cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode *mode) {
    REQUIRE(mode, CUDA_ERROR_INVALID_VALUE);
    CUstreamCaptureMode before = exchanged_mode;
    exchanged_mode = *mode;
    *mode = before;
    return CUDA_SUCCESS;
}
