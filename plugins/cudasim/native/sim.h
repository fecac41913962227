/* What the simulator's files share.
 *
 *   device.c    starting, the device's attributes, contexts, errors     stream.c   streams and events
 *   memory.c    the arena, pools, copies and fills                      capture.c  from streams to graphs
 *   module.c    libraries, kernels and their attributes                 graph.c    nodes, instantiation, update, launch
 *   launch.c    launch configurations and their limits                  symbols.c  which name means which function
 *
 * Whatever can be put on a stream is a `struct operation`. `submit` runs it there and then, which is one of the orders that CUDA allows, or adds
 * it as a node to the graph that the stream is being captured into. */
#pragma once
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cuda_abi.h"

#define API __attribute__((visibility("default"))) CUresult
#define EXPORT __attribute__((visibility("default")))
#define COUNT(array) (sizeof(array) / sizeof *(array))

/* The calls into Python, all optional. In the no-op mode there are none, and every entry point costs what the stand-in itself costs. */
struct launch {
    CUlibrary library;
    const char *kernel;
    unsigned grid[3], block[3], cluster[3], shared, cooperative;
    const void *parameters;
    size_t parameter_bytes;
    unsigned first, number; /* in a graph with programmatic edges: of its first launch, and its own; else 0 */
    const unsigned *pending; /* the launches, counted from the first, that may be running when it starts */
    size_t pending_count;
};
struct tensor_map {
    unsigned element, rank, interleave, swizzle, fill_nan;
    CUdeviceptr address;
    const cuuint64_t *shape, *strides;
    const cuuint32_t *box, *element_strides;
};
struct hooks {
    int (*load)(CUlibrary library, const char *image, size_t size, char *log, size_t log_size);
    void (*unload)(CUlibrary library);
    int (*launch)(const struct launch *launch);
    void (*allocated)(CUdeviceptr address, size_t size, int written);
    void (*freed)(CUdeviceptr address);
    void (*written)(CUdeviceptr address, size_t size);
    void (*copied)(CUdeviceptr destination, CUdeviceptr source, size_t size);
    int (*tensor_map)(CUtensorMap *out, const struct tensor_map *description);
    void (*refused)(const char *what);
};
extern struct hooks hooks;

struct settings {
    int init_result;    /* what cuInit says: 0, or CUDA_ERROR_NO_DEVICE ...; -1: it hangs, -2: it crashes */
    int driver_version; /* 1000 * major + 10 * minor */
    int any_image;      /* the no-op mode: load whatever is given, know every kernel by any name */
    size_t device_bytes, host_bytes;
    char name[96];
    int attributes[256];
};
extern struct settings settings;

/* Handles live in slots of one reserved range, so that any number given as a handle can be checked without following it. */
enum handle { STREAM = 1, EVENT, LIBRARY, KERNEL, POOL, GRAPH, NODE, EXEC, USER_OBJECT };
#define SLOT_BYTES 256
void *handle_new(enum handle kind); /* zeroed but for the kind; NULL when there are too many */
void handle_free(void *handle);
bool handle_is(const void *handle, enum handle kind);
struct header { unsigned kind; struct header *next; };

struct CUctx_st { CUresult error; unsigned retained, flags; };
extern struct CUctx_st primary;

CUresult enter(void); /* initialised, a context current, no error pending in it, not inside a host function */
CUresult enter_without_device(void); /* the same for what an error of the device does not hinder */
CUresult refuse(const char *why); /* says why on the terminal, returns CUDA_ERROR_NOT_SUPPORTED */
CUresult fail(CUresult error); /* makes an error of the device sticky in the context, as a GPU does */
extern __thread bool inside_host_function;
#define TRY(call) do { CUresult error_ = (call); if (error_ != CUDA_SUCCESS) return error_; } while (0)
#define REQUIRE(condition, error) do { if (!(condition)) return (error); } while (0)

/* Operations. */
struct call {
    struct CUkern_st *kernel;
    unsigned grid[3], block[3], cluster[3], shared, cooperative, early; /* early: may start before what precedes it in its stream has ended */
    int priority;
    void *parameters; /* one buffer, laid out as the kernel wants it; a node owns it, and `pointers` into it */
    void **pointers;
};
struct copy { CUdeviceptr to, from; size_t width, height, depth, to_pitch, to_slice, from_pitch, from_slice; };
struct fill { CUdeviceptr address; size_t pitch, width, height; unsigned value, element; };
struct host { CUhostFn function; void *data; };
struct allocate { CUdeviceptr address; size_t size; };
struct operation {
    int kind; /* CUgraphNodeType */
    union {
        struct call call;
        struct copy copy;
        struct fill fill;
        struct host host;
        struct allocate allocate;
        CUdeviceptr free;
        CUevent event;
        CUgraph graph;
    };
};
CUresult submit(CUstream stream, const struct operation *operation);
CUresult run(const struct operation *operation);

/* Streams and events (stream.c). */
struct nodes { CUgraphNode *items; CUgraphEdgeData *edges; size_t count, capacity; };
struct capture {
    CUgraph graph;
    uint64_t id;
    int mode;
    bool invalidated, owns_graph;
    pthread_t thread;
    CUstream *streams; /* the origin first, then those that joined */
    size_t count;
    struct capture *next;
};
struct CUstream_st {
    struct header header;
    unsigned flags;
    int priority;
    uint64_t id;
    struct capture *capture;
    struct nodes tips; /* while capturing: what the next operation depends on */
};
struct CUevent_st {
    struct header header;
    unsigned flags;
    bool recorded;
    double seconds;
    uint64_t capture_id; /* recorded in this capture, at these nodes */
    struct nodes tips;
};
CUstream stream_of(CUstream given); /* NULL if it is none */
void record_now(CUevent event);

/* Capture (capture.c). */
CUresult capture_operation(CUstream stream, const struct operation *operation);
CUresult capture_forbids(CUstream stream); /* synchronising a stream, or an operation on it that would implicitly join a capture */
CUresult capture_forbids_unsafe_call(void);
CUresult capture_forbids_waiting_for_all(void);
CUresult capture_failed(CUstream stream, CUresult error); /* a wrong call on a capturing stream ends the capture; returns the error */
CUresult capture_forbids_query(CUevent event);
void capture_drop(CUstream stream); /* the stream goes away */
CUresult capture_record(CUstream stream, CUevent event);
CUresult capture_wait(CUstream stream, CUevent event);

/* Memory (memory.c). */
CUresult reserve(size_t size, bool host, CUdeviceptr *address);  /* address range for a graph's allocation: nothing may use it yet */
void hold(CUdeviceptr address); /* one more node has this range; `release` counts them down */
void release(CUdeviceptr address);
uint64_t graph_memory(void);
CUresult make_usable(CUdeviceptr address);
CUresult end_use(CUdeviceptr address, bool keep_reserved);
CUresult copy_from_params(const CUDA_MEMCPY3D_v2 *params, struct copy *copy);
CUresult check_copy(const struct copy *copy);
CUresult check_fill(const struct fill *fill);
void run_copy(const struct copy *copy);
void run_fill(const struct fill *fill);
void memory_reset(void);
bool device_range(CUdeviceptr address, size_t size); /* touches the arena at all */

/* Kernels and launches (module.c, launch.c). */
struct parameter { size_t offset, size; };
struct CUkern_st {
    struct header header;
    CUlibrary library;
    char *name;
    struct parameter *parameters;
    size_t parameter_count, parameter_bytes;
    int attributes[18];
    struct CUkern_st *next;
};
int resident_blocks(CUkernel kernel, int threads, size_t dynamic_shared); /* per multiprocessor */
CUresult check_call(const struct call *call);
CUresult pack(const struct CUkern_st *kernel, void **given, void **extra, void *buffer);
struct order { unsigned first, number; const unsigned *pending; size_t pending_count; };
CUresult run_call(const struct call *call, struct order order);
CUresult call_from_params(const CUDA_KERNEL_NODE_PARAMS_v2 *params, const CUlaunchAttribute *attributes, unsigned count, struct call *call);

/* Graphs (graph.c). */
struct CUgraphNode_st {
    struct header header;
    CUgraph graph;
    CUgraphNode origin; /* in a copy of a graph: the node this one was made from */
    CUgraphNode copy;   /* while a graph is copied: the node that was made from this one */
    struct nodes before;
    bool disabled;
    unsigned *pending; /* in an executable graph: the places of kernels that may be running when this one starts, behind programmatic edges */
    size_t pending_count;
    int walk;     /* while a graph is walked */
    size_t place; /* in the order of an executable graph */
    struct operation operation;
};
CUresult graph_add(CUgraph graph, const CUgraphNode *before, const CUgraphEdgeData *edges, size_t count, const struct operation *operation,
                   CUgraphNode *out); /* `edges` may be NULL: plain ones */
bool graph_covered(CUgraph graph, const struct nodes *tips); /* every node is a tip or comes before one */
CUresult graph_new(CUgraph *graph);
void graph_free(CUgraph graph);
CUresult nodes_add(struct nodes *nodes, CUgraphNode node, CUgraphEdgeData edge); /* a set: adding twice is once */
void nodes_clear(struct nodes *nodes);
CUresult run_graph(CUgraph graph);
