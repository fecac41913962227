/* Graphs of operations: building, changing, instantiating, launching.
 *
 * A graph owns copies of what its nodes need. An executable graph is such a copy again, in which each node remembers where it came from and the
 * nodes stand in an order in which they can run. */
#include "sim.h"

struct kept { CUuserObject object; unsigned count; };
struct CUuserObject_st { struct header header; unsigned count; CUhostFn destroy; void *data; };
struct CUgraph_st { struct header header; struct nodes nodes; struct kept *kept; size_t kept_count; bool programmatic; };
struct CUgraphExec_st { struct header header; CUgraph graph; unsigned long long flags; };

/* Sets of nodes, each with the edge that leads from it. */
static const CUgraphEdgeData plain;
static bool same_edge(CUgraphEdgeData one, CUgraphEdgeData other) { return memcmp(&one, &other, sizeof one) == 0; }
static CUgraphEdgeData edge_at(const CUgraphEdgeData *edges, size_t i) { return edges ? edges[i] : plain; }

static CUresult push(struct nodes *nodes, CUgraphNode node, CUgraphEdgeData edge) {
    if (nodes->count == nodes->capacity) {
        size_t capacity = nodes->capacity ? 2 * nodes->capacity : 4;
        CUgraphNode *items = realloc(nodes->items, capacity * sizeof *items);
        REQUIRE(items, CUDA_ERROR_OUT_OF_MEMORY);
        nodes->items = items;
        CUgraphEdgeData *edges = realloc(nodes->edges, capacity * sizeof *edges);
        REQUIRE(edges, CUDA_ERROR_OUT_OF_MEMORY);
        nodes->edges = edges;
        nodes->capacity = capacity;
    }
    nodes->items[nodes->count] = node;
    nodes->edges[nodes->count++] = edge;
    return CUDA_SUCCESS;
}

static size_t find(const struct nodes *nodes, CUgraphNode node) {
    size_t i = 0;
    while (i < nodes->count && nodes->items[i] != node) i++;
    return i;
}
static bool contains(const struct nodes *nodes, CUgraphNode node) { return find(nodes, node) < nodes->count; }

static void drop(struct nodes *nodes, CUgraphNode node) {
    size_t at = find(nodes, node);
    if (at == nodes->count) return;
    nodes->count--;
    memmove(nodes->items + at, nodes->items + at + 1, (nodes->count - at) * sizeof *nodes->items);
    memmove(nodes->edges + at, nodes->edges + at + 1, (nodes->count - at) * sizeof *nodes->edges);
}

CUresult nodes_add(struct nodes *nodes, CUgraphNode node, CUgraphEdgeData edge) {
    return contains(nodes, node) ? CUDA_SUCCESS : push(nodes, node, edge);
}

void nodes_clear(struct nodes *nodes) {
    free(nodes->items);
    free(nodes->edges);
    *nodes = (struct nodes){0};
}

/* A programmatic edge lets a kernel start once the kernel before it allows that, or has been launched; it leads from kernels to kernels. What is no
 * kernel may follow a launch, too. */
static bool edge_fits(CUgraphNode from, int kind, CUgraphEdgeData edge) {
    CUgraphEdgeData at_trigger = {.from_port = CU_GRAPH_KERNEL_NODE_PORT_PROGRAMMATIC, .type = CU_GRAPH_DEPENDENCY_TYPE_PROGRAMMATIC};
    CUgraphEdgeData at_launch = {.from_port = CU_GRAPH_KERNEL_NODE_PORT_LAUNCH_ORDER, .type = edge.type};
    if (same_edge(edge, plain)) return true;
    if (from->operation.kind != CU_GRAPH_NODE_TYPE_KERNEL || edge.type > CU_GRAPH_DEPENDENCY_TYPE_PROGRAMMATIC) return false;
    bool fits = kind == CU_GRAPH_NODE_TYPE_KERNEL || edge.type == CU_GRAPH_DEPENDENCY_TYPE_DEFAULT;
    return fits && (same_edge(edge, at_trigger) || same_edge(edge, at_launch));
}

/* What a node owns: a copy of its parameters, of its child graph, and a share of its allocation. */
static CUresult clone(CUgraph from, CUgraph *out);

static CUresult keep_parameters(struct call *call, const void *parameters) {
    CUkernel kernel = call->kernel;
    call->parameters = calloc(1, kernel->parameter_bytes + 16);
    call->pointers = calloc(kernel->parameter_count + 1, sizeof(void *));
    REQUIRE(call->parameters && call->pointers, CUDA_ERROR_OUT_OF_MEMORY);
    memcpy(call->parameters, parameters, kernel->parameter_bytes);
    for (size_t i = 0; i < kernel->parameter_count; i++) call->pointers[i] = (char *)call->parameters + kernel->parameters[i].offset;
    return CUDA_SUCCESS;
}

static CUresult keep(struct operation *own, const struct operation *given) {
    *own = *given;
    if (given->kind == CU_GRAPH_NODE_TYPE_KERNEL) return keep_parameters(&own->call, given->call.parameters);
    if (given->kind == CU_GRAPH_NODE_TYPE_GRAPH) return clone(given->graph, &own->graph);
    if (given->kind == CU_GRAPH_NODE_TYPE_MEM_ALLOC) hold(given->allocate.address);
    return CUDA_SUCCESS;
}

static void let_go(struct operation *own) {
    if (own->kind == CU_GRAPH_NODE_TYPE_KERNEL) {
        free(own->call.parameters);
        free(own->call.pointers);
    } else if (own->kind == CU_GRAPH_NODE_TYPE_GRAPH) {
        graph_free(own->graph);
    } else if (own->kind == CU_GRAPH_NODE_TYPE_MEM_ALLOC) {
        release(own->allocate.address);
    }
}

static CUresult replace(CUgraphNode node, const struct operation *given) {
    struct operation own;
    REQUIRE(node->operation.kind == given->kind, CUDA_ERROR_INVALID_VALUE);
    TRY(keep(&own, given));
    let_go(&node->operation);
    node->operation = own;
    return CUDA_SUCCESS;
}

/* Graphs. */
CUresult graph_new(CUgraph *graph) {
    CUgraph made = handle_new(GRAPH);
    REQUIRE(made, CUDA_ERROR_OUT_OF_MEMORY);
    *graph = made;
    return CUDA_SUCCESS;
}

static void release_object(CUuserObject object, unsigned count) {
    if (object->count > count) {
        object->count -= count;
        return;
    }
    object->destroy(object->data);
    handle_free(object);
}

void graph_free(CUgraph graph) {
    for (size_t i = 0; i < graph->nodes.count; i++) {
        CUgraphNode node = graph->nodes.items[i];
        let_go(&node->operation);
        nodes_clear(&node->before);
        free(node->pending);
        handle_free(node);
    }
    nodes_clear(&graph->nodes);
    for (size_t i = 0; i < graph->kept_count; i++) release_object(graph->kept[i].object, graph->kept[i].count);
    free(graph->kept);
    handle_free(graph);
}

CUresult graph_add(CUgraph graph, const CUgraphNode *before, const CUgraphEdgeData *edges, size_t count, const struct operation *operation,
                   CUgraphNode *out) {
    REQUIRE(handle_is(graph, GRAPH) && out && (before || !count), CUDA_ERROR_INVALID_VALUE);
    for (size_t i = 0; i < count; i++) {
        REQUIRE(handle_is(before[i], NODE) && before[i]->graph == graph, CUDA_ERROR_INVALID_VALUE);
        REQUIRE(edge_fits(before[i], operation->kind, edge_at(edges, i)), CUDA_ERROR_INVALID_VALUE);
    }
    CUgraphNode node = handle_new(NODE);
    REQUIRE(node, CUDA_ERROR_OUT_OF_MEMORY);
    CUresult result = keep(&node->operation, operation);
    if (result != CUDA_SUCCESS) {
        handle_free(node);
        return result;
    }
    node->graph = graph;
    for (size_t i = 0; i < count; i++) TRY(nodes_add(&node->before, before[i], edge_at(edges, i)));
    *out = node;
    return push(&graph->nodes, node, plain);
}

static CUresult keep_object(CUgraph graph, CUuserObject object, unsigned count) {
    struct kept *grown = realloc(graph->kept, (graph->kept_count + 1) * sizeof *grown);
    REQUIRE(grown, CUDA_ERROR_OUT_OF_MEMORY);
    graph->kept = grown;
    graph->kept[graph->kept_count++] = (struct kept){object, count};
    return CUDA_SUCCESS;
}

static CUresult clone(CUgraph from, CUgraph *out) {
    CUgraph made;
    TRY(graph_new(&made));
    for (size_t i = 0; i < from->nodes.count; i++) {
        CUgraphNode original = from->nodes.items[i], copy;
        TRY(graph_add(made, NULL, NULL, 0, &original->operation, &copy));
        copy->origin = original;
        copy->disabled = original->disabled;
        original->copy = copy;
    }
    for (size_t i = 0; i < from->nodes.count; i++) {
        CUgraphNode original = from->nodes.items[i];
        const struct nodes *before = &original->before;
        for (size_t j = 0; j < before->count; j++) TRY(push(&original->copy->before, before->items[j]->copy, before->edges[j]));
    }
    for (size_t i = 0; i < from->kept_count; i++) {
        from->kept[i].object->count++;
        TRY(keep_object(made, from->kept[i].object, 1));
    }
    *out = made;
    return CUDA_SUCCESS;
}

/* Appends `start` and all that comes before it to `order`, dependencies first; false on a cycle. A depth-first walk with a stack of its own. */
enum { NEW, OPEN, DONE };
static bool order_from(CUgraphNode start, struct nodes *stack, struct nodes *order) {
    push(stack, start, plain);
    while (stack->count) {
        CUgraphNode node = stack->items[stack->count - 1];
        if (node->walk == NEW) {
            node->walk = OPEN;
            for (size_t i = node->before.count; i-- > 0;) {
                CUgraphNode before = node->before.items[i];
                if (before->walk == OPEN) return false;
                if (before->walk == NEW) push(stack, before, plain);
            }
        } else {
            stack->count--;
            if (node->walk == OPEN && order) push(order, node, plain);
            node->walk = DONE;
        }
    }
    return true;
}

static bool walk(CUgraph graph, const struct nodes *starts, struct nodes *order) {
    struct nodes stack = {0};
    bool acyclic = true;
    for (size_t i = 0; i < graph->nodes.count; i++) graph->nodes.items[i]->walk = NEW;
    for (size_t i = 0; i < starts->count && acyclic; i++) acyclic = order_from(starts->items[i], &stack, order);
    nodes_clear(&stack);
    return acyclic;
}

bool graph_covered(CUgraph graph, const struct nodes *tips) {
    walk(graph, tips, NULL);
    for (size_t i = 0; i < graph->nodes.count; i++) {
        if (graph->nodes.items[i]->walk != DONE) return false;
    }
    return true;
}

/* Who may be running when a node of an ordered graph starts: whoever comes before it, but for those that are known to have ended. Behind a plain
 * edge, that is everybody there; behind a programmatic one, whoever had ended when its start did. */
static CUresult find_pending(CUgraph graph) {
    size_t count = graph->nodes.count, words = (count + 63) / 64;
    uint64_t *before = calloc(2 * count * words, sizeof *before), *ended = before + count * words;
    REQUIRE(before, CUDA_ERROR_OUT_OF_MEMORY);
    for (size_t i = 0; i < count; i++) graph->nodes.items[i]->place = i;
    for (size_t i = 0; i < count; i++) {
        CUgraphNode node = graph->nodes.items[i];
        uint64_t *mine = before + i * words, *over = ended + i * words;
        for (size_t j = 0; j < node->before.count; j++) {
            size_t from = node->before.items[j]->place;
            bool early = !same_edge(node->before.edges[j], plain);
            for (size_t w = 0; w < words; w++) {
                mine[w] |= before[from * words + w];
                over[w] |= (early ? ended : before)[from * words + w];
            }
            mine[from / 64] |= 1ull << from % 64;
            if (!early) over[from / 64] |= 1ull << from % 64;
        }
        node->pending = calloc(i + 1, sizeof *node->pending);
        for (size_t k = 0; k < i && node->pending; k++) {
            if ((mine[k / 64] & ~over[k / 64]) >> k % 64 & 1) node->pending[node->pending_count++] = (unsigned)k;
        }
    }
    free(before);
    return CUDA_SUCCESS;
}

static CUresult put_in_order(CUgraph graph) {
    struct nodes order = {0};
    if (!walk(graph, &graph->nodes, &order)) {
        nodes_clear(&order);
        return CUDA_ERROR_INVALID_VALUE;
    }
    nodes_clear(&graph->nodes);
    graph->nodes = order;
    for (size_t i = 0; i < order.count; i++) {
        const struct nodes *before = &order.items[i]->before;
        for (size_t j = 0; j < before->count; j++) graph->programmatic |= !same_edge(before->edges[j], plain);
    }
    if (graph->programmatic) TRY(find_pending(graph));
    for (size_t i = 0; i < order.count; i++) {
        if (order.items[i]->operation.kind == CU_GRAPH_NODE_TYPE_GRAPH) TRY(put_in_order(order.items[i]->operation.graph));
    }
    return CUDA_SUCCESS;
}

CUresult run_graph(CUgraph graph) {
    static unsigned launches; /* of graphs with programmatic edges, so far */
    unsigned first = launches + 1;
    if (graph->programmatic) launches += (unsigned)graph->nodes.count;
    for (size_t i = 0; i < graph->nodes.count; i++) {
        CUgraphNode node = graph->nodes.items[i];
        if (node->disabled) continue;
        if (graph->programmatic && node->operation.kind == CU_GRAPH_NODE_TYPE_KERNEL) {
            TRY(run_call(&node->operation.call, (struct order){first, first + (unsigned)i, node->pending, node->pending_count}));
        } else {
            TRY(run(&node->operation));
        }
    }
    return CUDA_SUCCESS;
}

API cuGraphCreate(CUgraph *graph, unsigned flags) {
    TRY(enter_without_device());
    REQUIRE(graph && flags == 0, CUDA_ERROR_INVALID_VALUE);
    return graph_new(graph);
}

API cuGraphDestroy(CUgraph graph) {
    REQUIRE(handle_is(graph, GRAPH), CUDA_ERROR_INVALID_VALUE);
    graph_free(graph);
    return CUDA_SUCCESS;
}

API cuGraphClone(CUgraph *out, CUgraph graph) {
    REQUIRE(out && handle_is(graph, GRAPH), CUDA_ERROR_INVALID_VALUE);
    return clone(graph, out);
}

API cuGraphNodeFindInClone(CUgraphNode *out, CUgraphNode original, CUgraph graph) {
    REQUIRE(out && handle_is(original, NODE) && handle_is(graph, GRAPH), CUDA_ERROR_INVALID_VALUE);
    for (size_t i = 0; i < graph->nodes.count; i++) {
        if (graph->nodes.items[i]->origin != original) continue;
        *out = graph->nodes.items[i];
        return CUDA_SUCCESS;
    }
    return CUDA_ERROR_INVALID_VALUE;
}

/* From a node's parameters to its operation. A kernel's parameters are packed into memory that `discard` frees. */
static CUresult kernel_operation(const CUDA_KERNEL_NODE_PARAMS_v2 *params, const struct call *attributes, struct operation *operation) {
    REQUIRE(params, CUDA_ERROR_INVALID_VALUE);
    *operation = (struct operation){.kind = CU_GRAPH_NODE_TYPE_KERNEL};
    struct call *call = &operation->call;
    TRY(call_from_params(params, NULL, 0, call));
    if (attributes) { /* an update leaves the launch attributes as they were */
        memcpy(call->cluster, attributes->cluster, sizeof call->cluster);
        call->cooperative = attributes->cooperative;
        call->priority = attributes->priority;
    }
    TRY(check_call(call));
    void *buffer = calloc(1, call->kernel->parameter_bytes + 16);
    REQUIRE(buffer, CUDA_ERROR_OUT_OF_MEMORY);
    CUresult result = pack(call->kernel, params->kernelParams, params->extra, buffer);
    if (result == CUDA_SUCCESS) call->parameters = buffer;
    else free(buffer);
    return result;
}

static void discard(struct operation *operation) {
    if (operation->kind == CU_GRAPH_NODE_TYPE_KERNEL) free(operation->call.parameters);
}

static CUresult copy_operation(const CUDA_MEMCPY3D_v2 *params, struct operation *operation) {
    *operation = (struct operation){.kind = CU_GRAPH_NODE_TYPE_MEMCPY};
    TRY(copy_from_params(params, &operation->copy));
    return check_copy(&operation->copy);
}

static CUresult fill_operation(const CUDA_MEMSET_NODE_PARAMS_v1 *p, struct operation *operation) {
    REQUIRE(p, CUDA_ERROR_INVALID_VALUE);
    *operation = (struct operation){.kind = CU_GRAPH_NODE_TYPE_MEMSET, .fill = {p->dst, p->pitch, p->width, p->height, p->value, p->elementSize}};
    return check_fill(&operation->fill);
}

static CUresult host_operation(const CUDA_HOST_NODE_PARAMS_v1 *params, struct operation *operation) {
    REQUIRE(params && params->fn, CUDA_ERROR_INVALID_VALUE);
    *operation = (struct operation){.kind = CU_GRAPH_NODE_TYPE_HOST, .host = {params->fn, params->userData}};
    return CUDA_SUCCESS;
}

static CUresult event_operation(int kind, CUevent event, struct operation *operation) {
    REQUIRE(handle_is(event, EVENT), CUDA_ERROR_INVALID_HANDLE);
    *operation = (struct operation){.kind = kind, .event = event};
    return CUDA_SUCCESS;
}

static CUresult child_operation(CUgraph child, struct operation *operation) {
    REQUIRE(handle_is(child, GRAPH), CUDA_ERROR_INVALID_VALUE);
    *operation = (struct operation){.kind = CU_GRAPH_NODE_TYPE_GRAPH, .graph = child};
    return CUDA_SUCCESS;
}

static CUresult operation_from(const CUgraphNodeParams *params, const struct call *attributes, struct operation *operation) {
    REQUIRE(params, CUDA_ERROR_INVALID_VALUE);
    switch ((int)params->type) {
    case CU_GRAPH_NODE_TYPE_KERNEL: return kernel_operation((const CUDA_KERNEL_NODE_PARAMS_v2 *)&params->kernel, attributes, operation);
    case CU_GRAPH_NODE_TYPE_MEMCPY: return copy_operation(&params->memcpy.copyParams, operation);
    case CU_GRAPH_NODE_TYPE_MEMSET: return fill_operation((const CUDA_MEMSET_NODE_PARAMS_v1 *)&params->memset, operation);
    case CU_GRAPH_NODE_TYPE_HOST: return host_operation((const CUDA_HOST_NODE_PARAMS_v1 *)&params->host, operation);
    case CU_GRAPH_NODE_TYPE_GRAPH: return child_operation(params->graph.graph, operation);
    case CU_GRAPH_NODE_TYPE_WAIT_EVENT: case CU_GRAPH_NODE_TYPE_EVENT_RECORD: return event_operation((int)params->type, params->eventWait.event, operation);
    case CU_GRAPH_NODE_TYPE_EMPTY: *operation = (struct operation){.kind = CU_GRAPH_NODE_TYPE_EMPTY}; return CUDA_SUCCESS;
    case CU_GRAPH_NODE_TYPE_MEM_FREE: *operation = (struct operation){.kind = CU_GRAPH_NODE_TYPE_MEM_FREE, .free = params->free.dptr}; return CUDA_SUCCESS;
    default: return refuse("conditional nodes, batched memory operations and external semaphores in graphs");
    }
}

/* Adding nodes. */
static CUresult add_after(CUgraphNode *out, CUgraph graph, const CUgraphNode *before, const CUgraphEdgeData *edges, size_t count, CUresult made,
                          struct operation *operation) {
    TRY(made);
    CUresult result = graph_add(graph, before, edges, count, operation, out);
    discard(operation);
    return result;
}
#define add(out, graph, before, count, made, operation) add_after(out, graph, before, NULL, count, made, operation)

static CUresult add_allocation(CUgraphNode *out, CUgraph graph, const CUgraphNode *before, const CUgraphEdgeData *edges, size_t count,
                               CUDA_MEM_ALLOC_NODE_PARAMS_v1 *params) {
    REQUIRE(params && params->bytesize, CUDA_ERROR_INVALID_VALUE);
    struct operation operation = {.kind = CU_GRAPH_NODE_TYPE_MEM_ALLOC, .allocate.size = params->bytesize};
    TRY(reserve(params->bytesize, (int)params->poolProps.location.type != CU_MEM_LOCATION_TYPE_DEVICE, &operation.allocate.address));
    CUresult result = graph_add(graph, before, edges, count, &operation, out);
    release(operation.allocate.address); /* the node holds it now */
    if (result == CUDA_SUCCESS) params->dptr = operation.allocate.address;
    return result;
}

#define ENTER_NEW_NODE struct operation operation; TRY(enter())
API cuGraphAddKernelNode_v2(CUgraphNode *out, CUgraph graph, const CUgraphNode *before, size_t count, const CUDA_KERNEL_NODE_PARAMS_v2 *params) {
    ENTER_NEW_NODE;
    return add(out, graph, before, count, kernel_operation(params, NULL, &operation), &operation);
}
API cuGraphAddKernelNode(CUgraphNode *out, CUgraph graph, const CUgraphNode *before, size_t count, const CUDA_KERNEL_NODE_PARAMS_v1 *params) {
    REQUIRE(params, CUDA_ERROR_INVALID_VALUE);
    CUDA_KERNEL_NODE_PARAMS_v2 wide = {0};
    memcpy(&wide, params, sizeof *params);
    return cuGraphAddKernelNode_v2(out, graph, before, count, &wide);
}
API cuGraphAddMemcpyNode(CUgraphNode *out, CUgraph graph, const CUgraphNode *before, size_t count, const CUDA_MEMCPY3D_v2 *params, CUcontext context) {
    (void)context;
    ENTER_NEW_NODE;
    return add(out, graph, before, count, copy_operation(params, &operation), &operation);
}
API cuGraphAddMemsetNode(CUgraphNode *out, CUgraph graph, const CUgraphNode *before, size_t count, const CUDA_MEMSET_NODE_PARAMS_v1 *params,
                         CUcontext context) {
    (void)context;
    ENTER_NEW_NODE;
    return add(out, graph, before, count, fill_operation(params, &operation), &operation);
}
API cuGraphAddHostNode(CUgraphNode *out, CUgraph graph, const CUgraphNode *before, size_t count, const CUDA_HOST_NODE_PARAMS_v1 *params) {
    ENTER_NEW_NODE;
    return add(out, graph, before, count, host_operation(params, &operation), &operation);
}
API cuGraphAddChildGraphNode(CUgraphNode *out, CUgraph graph, const CUgraphNode *before, size_t count, CUgraph child) {
    ENTER_NEW_NODE;
    return add(out, graph, before, count, child_operation(child, &operation), &operation);
}
API cuGraphAddEmptyNode(CUgraphNode *out, CUgraph graph, const CUgraphNode *before, size_t count) {
    ENTER_NEW_NODE;
    operation = (struct operation){.kind = CU_GRAPH_NODE_TYPE_EMPTY};
    return add(out, graph, before, count, CUDA_SUCCESS, &operation);
}
API cuGraphAddEventRecordNode(CUgraphNode *out, CUgraph graph, const CUgraphNode *before, size_t count, CUevent event) {
    ENTER_NEW_NODE;
    return add(out, graph, before, count, event_operation(CU_GRAPH_NODE_TYPE_EVENT_RECORD, event, &operation), &operation);
}
API cuGraphAddEventWaitNode(CUgraphNode *out, CUgraph graph, const CUgraphNode *before, size_t count, CUevent event) {
    ENTER_NEW_NODE;
    return add(out, graph, before, count, event_operation(CU_GRAPH_NODE_TYPE_WAIT_EVENT, event, &operation), &operation);
}
API cuGraphAddMemAllocNode(CUgraphNode *out, CUgraph graph, const CUgraphNode *before, size_t count, CUDA_MEM_ALLOC_NODE_PARAMS_v1 *params) {
    TRY(enter());
    return add_allocation(out, graph, before, NULL, count, params);
}
API cuGraphAddMemFreeNode(CUgraphNode *out, CUgraph graph, const CUgraphNode *before, size_t count, CUdeviceptr address) {
    ENTER_NEW_NODE;
    operation = (struct operation){.kind = CU_GRAPH_NODE_TYPE_MEM_FREE, .free = address};
    return add(out, graph, before, count, CUDA_SUCCESS, &operation);
}
API cuGraphAddNode_v2(CUgraphNode *out, CUgraph graph, const CUgraphNode *before, const CUgraphEdgeData *edges, size_t count, CUgraphNodeParams *params) {
    ENTER_NEW_NODE;
    REQUIRE(params, CUDA_ERROR_INVALID_VALUE);
    if ((int)params->type == CU_GRAPH_NODE_TYPE_MEM_ALLOC) {
        return add_allocation(out, graph, before, edges, count, (CUDA_MEM_ALLOC_NODE_PARAMS_v1 *)&params->alloc);
    }
    TRY(add_after(out, graph, before, edges, count, operation_from(params, NULL, &operation), &operation));
    if ((int)params->type == CU_GRAPH_NODE_TYPE_GRAPH) params->graph.graph = (*out)->operation.graph;
    return CUDA_SUCCESS;
}
API cuGraphAddNode_v3(CUgraphNode *out, CUgraph graph, const CUgraphNode *before, const CUgraphEdgeData *edges, size_t count, CUgraphNodeParams *params) {
    return cuGraphAddNode_v2(out, graph, before, edges, count, params);
}
API cuGraphAddNode(CUgraphNode *out, CUgraph graph, const CUgraphNode *before, size_t count, CUgraphNodeParams *params) {
    return cuGraphAddNode_v2(out, graph, before, NULL, count, params);
}

API cuGraphDestroyNode(CUgraphNode node) {
    REQUIRE(handle_is(node, NODE), CUDA_ERROR_INVALID_VALUE);
    struct nodes *all = &node->graph->nodes;
    drop(all, node);
    for (size_t i = 0; i < all->count; i++) drop(&all->items[i]->before, node);
    let_go(&node->operation);
    nodes_clear(&node->before);
    handle_free(node);
    return CUDA_SUCCESS;
}

/* Structure. Lists are asked for twice: first their length, then, with room for it, what is in them. Who has no room for what edges say must not
 * take them for plain ones. */
static CUresult list(const struct nodes *nodes, CUgraphNode *out, CUgraphEdgeData *edges, size_t *count) {
    REQUIRE(count, CUDA_ERROR_INVALID_VALUE);
    if (out) {
        for (size_t i = 0; i < *count; i++) out[i] = i < nodes->count ? nodes->items[i] : NULL;
        for (size_t i = 0; i < *count; i++) {
            CUgraphEdgeData edge = i < nodes->count ? nodes->edges[i] : plain;
            REQUIRE(edges || same_edge(edge, plain), CUDA_ERROR_LOSSY_QUERY);
            if (edges) edges[i] = edge;
        }
        if (*count <= nodes->count) return CUDA_SUCCESS;
    }
    *count = nodes->count;
    return CUDA_SUCCESS;
}

API cuGraphGetNodes(CUgraph graph, CUgraphNode *out, size_t *count) {
    REQUIRE(handle_is(graph, GRAPH), CUDA_ERROR_INVALID_VALUE);
    return list(&graph->nodes, out, NULL, count);
}

API cuGraphGetRootNodes(CUgraph graph, CUgraphNode *out, size_t *count) {
    REQUIRE(handle_is(graph, GRAPH), CUDA_ERROR_INVALID_VALUE);
    struct nodes roots = {0};
    for (size_t i = 0; i < graph->nodes.count; i++) {
        if (!graph->nodes.items[i]->before.count) push(&roots, graph->nodes.items[i], plain);
    }
    CUresult result = list(&roots, out, NULL, count);
    nodes_clear(&roots);
    return result;
}

API cuGraphNodeGetDependencies_v2(CUgraphNode node, CUgraphNode *out, CUgraphEdgeData *edges, size_t *count) {
    REQUIRE(handle_is(node, NODE), CUDA_ERROR_INVALID_VALUE);
    return list(&node->before, out, edges, count);
}

API cuGraphNodeGetDependentNodes_v2(CUgraphNode node, CUgraphNode *out, CUgraphEdgeData *edges, size_t *count) {
    REQUIRE(handle_is(node, NODE), CUDA_ERROR_INVALID_VALUE);
    struct nodes after = {0};
    const struct nodes *all = &node->graph->nodes;
    for (size_t i = 0; i < all->count; i++) {
        size_t at = find(&all->items[i]->before, node);
        if (at < all->items[i]->before.count) push(&after, all->items[i], all->items[i]->before.edges[at]);
    }
    CUresult result = list(&after, out, edges, count);
    nodes_clear(&after);
    return result;
}

API cuGraphGetEdges_v2(CUgraph graph, CUgraphNode *from, CUgraphNode *to, CUgraphEdgeData *edges, size_t *count) {
    REQUIRE(handle_is(graph, GRAPH), CUDA_ERROR_INVALID_VALUE);
    struct nodes starts = {0}, ends = {0};
    for (size_t i = 0; i < graph->nodes.count; i++) {
        CUgraphNode node = graph->nodes.items[i];
        for (size_t j = 0; j < node->before.count; j++) {
            push(&starts, node->before.items[j], node->before.edges[j]);
            push(&ends, node, plain);
        }
    }
    size_t room = count ? *count : 0;
    CUresult result = list(&starts, from, edges, count);
    if (to && result == CUDA_SUCCESS) result = list(&ends, to, NULL, &room);
    nodes_clear(&starts);
    nodes_clear(&ends);
    return result;
}

API cuGraphAddDependencies_v2(CUgraph graph, const CUgraphNode *from, const CUgraphNode *to, const CUgraphEdgeData *edges, size_t count) {
    REQUIRE(handle_is(graph, GRAPH), CUDA_ERROR_INVALID_VALUE);
    for (size_t i = 0; i < count; i++) {
        REQUIRE(handle_is(from[i], NODE) && handle_is(to[i], NODE) && from[i]->graph == graph && to[i]->graph == graph, CUDA_ERROR_INVALID_VALUE);
        REQUIRE(from[i] != to[i] && !contains(&to[i]->before, from[i]), CUDA_ERROR_INVALID_VALUE);
        REQUIRE(edge_fits(from[i], to[i]->operation.kind, edge_at(edges, i)), CUDA_ERROR_INVALID_VALUE);
        TRY(push(&to[i]->before, from[i], edge_at(edges, i)));
    }
    return CUDA_SUCCESS;
}

API cuGraphRemoveDependencies_v2(CUgraph graph, const CUgraphNode *from, const CUgraphNode *to, const CUgraphEdgeData *edges, size_t count) {
    (void)edges; /* a driver looks at the nodes alone */
    REQUIRE(handle_is(graph, GRAPH), CUDA_ERROR_INVALID_VALUE);
    for (size_t i = 0; i < count; i++) {
        REQUIRE(handle_is(from[i], NODE) && handle_is(to[i], NODE) && contains(&to[i]->before, from[i]), CUDA_ERROR_INVALID_VALUE);
        drop(&to[i]->before, from[i]);
    }
    return CUDA_SUCCESS;
}

API cuGraphNodeGetDependencies(CUgraphNode node, CUgraphNode *out, size_t *count) { return cuGraphNodeGetDependencies_v2(node, out, NULL, count); }
API cuGraphNodeGetDependentNodes(CUgraphNode node, CUgraphNode *out, size_t *count) { return cuGraphNodeGetDependentNodes_v2(node, out, NULL, count); }
API cuGraphGetEdges(CUgraph graph, CUgraphNode *from, CUgraphNode *to, size_t *count) { return cuGraphGetEdges_v2(graph, from, to, NULL, count); }
API cuGraphAddDependencies(CUgraph graph, const CUgraphNode *from, const CUgraphNode *to, size_t count) {
    return cuGraphAddDependencies_v2(graph, from, to, NULL, count);
}
API cuGraphRemoveDependencies(CUgraph graph, const CUgraphNode *from, const CUgraphNode *to, size_t count) {
    return cuGraphRemoveDependencies_v2(graph, from, to, NULL, count);
}

API cuGraphNodeGetType(CUgraphNode node, CUgraphNodeType *type) {
    REQUIRE(handle_is(node, NODE) && type, CUDA_ERROR_INVALID_VALUE);
    *type = (CUgraphNodeType)node->operation.kind;
    return CUDA_SUCCESS;
}

API cuGraphNodeGetContainingGraph(CUgraphNode node, CUgraph *graph) {
    REQUIRE(handle_is(node, NODE) && graph, CUDA_ERROR_INVALID_VALUE);
    *graph = node->graph;
    return CUDA_SUCCESS;
}

/* Reading a node's parameters back. What they point to stays the node's own. */
static CUresult read_kernel(const struct operation *o, CUDA_KERNEL_NODE_PARAMS_v2 *params) {
    const struct call *call = &o->call;
    *params = (CUDA_KERNEL_NODE_PARAMS_v2){
        .func = (CUfunction)call->kernel, .gridDimX = call->grid[0], .gridDimY = call->grid[1], .gridDimZ = call->grid[2],
        .blockDimX = call->block[0], .blockDimY = call->block[1], .blockDimZ = call->block[2], .sharedMemBytes = call->shared,
        .kernelParams = call->pointers, .kern = call->kernel, .ctx = &primary};
    return CUDA_SUCCESS;
}

static CUresult read_copy(const struct operation *o, CUDA_MEMCPY3D_v2 *params) {
    const struct copy *copy = &o->copy;
    bool to_device = device_range(copy->to, 1), from_device = device_range(copy->from, 1);
    *params = (CUDA_MEMCPY3D_v2){
        .srcMemoryType = from_device ? CU_MEMORYTYPE_DEVICE : CU_MEMORYTYPE_HOST, .dstMemoryType = to_device ? CU_MEMORYTYPE_DEVICE : CU_MEMORYTYPE_HOST,
        .srcDevice = from_device ? copy->from : 0, .srcHost = from_device ? NULL : (void *)copy->from,
        .dstDevice = to_device ? copy->to : 0, .dstHost = to_device ? NULL : (void *)copy->to,
        .srcPitch = copy->from_pitch, .srcHeight = copy->from_pitch ? copy->from_slice / copy->from_pitch : 0,
        .dstPitch = copy->to_pitch, .dstHeight = copy->to_pitch ? copy->to_slice / copy->to_pitch : 0,
        .WidthInBytes = copy->width, .Height = copy->height, .Depth = copy->depth};
    return CUDA_SUCCESS;
}

static CUresult read_fill(const struct operation *o, CUDA_MEMSET_NODE_PARAMS_v1 *params) {
    *params = (CUDA_MEMSET_NODE_PARAMS_v1){o->fill.address, o->fill.pitch, o->fill.value, o->fill.element, o->fill.width, o->fill.height};
    return CUDA_SUCCESS;
}

static CUresult read_host(const struct operation *o, CUDA_HOST_NODE_PARAMS_v1 *params) {
    *params = (CUDA_HOST_NODE_PARAMS_v1){o->host.function, o->host.data};
    return CUDA_SUCCESS;
}

static CUresult read_allocation(const struct operation *o, CUDA_MEM_ALLOC_NODE_PARAMS_v1 *params) {
    memset(params, 0, sizeof *params);
    params->poolProps.allocType = CU_MEM_ALLOCATION_TYPE_PINNED;
    params->poolProps.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    params->bytesize = o->allocate.size;
    params->dptr = o->allocate.address;
    return CUDA_SUCCESS;
}

static CUresult read_event(const struct operation *o, CUevent *event) { *event = o->event; return CUDA_SUCCESS; }
static CUresult read_free(const struct operation *o, CUdeviceptr *address) { *address = o->free; return CUDA_SUCCESS; }
static CUresult read_child(const struct operation *o, CUgraph *graph) { *graph = o->graph; return CUDA_SUCCESS; }

#define READER(function, type, node_kind, read) \
    API function(CUgraphNode node, type *out) { \
        REQUIRE(handle_is(node, NODE) && out && node->operation.kind == node_kind, CUDA_ERROR_INVALID_VALUE); \
        return read(&node->operation, out); \
    }
READER(cuGraphKernelNodeGetParams_v2, CUDA_KERNEL_NODE_PARAMS_v2, CU_GRAPH_NODE_TYPE_KERNEL, read_kernel)
READER(cuGraphMemcpyNodeGetParams, CUDA_MEMCPY3D_v2, CU_GRAPH_NODE_TYPE_MEMCPY, read_copy)
READER(cuGraphMemsetNodeGetParams, CUDA_MEMSET_NODE_PARAMS_v1, CU_GRAPH_NODE_TYPE_MEMSET, read_fill)
READER(cuGraphHostNodeGetParams, CUDA_HOST_NODE_PARAMS_v1, CU_GRAPH_NODE_TYPE_HOST, read_host)
READER(cuGraphMemAllocNodeGetParams, CUDA_MEM_ALLOC_NODE_PARAMS_v1, CU_GRAPH_NODE_TYPE_MEM_ALLOC, read_allocation)
READER(cuGraphMemFreeNodeGetParams, CUdeviceptr, CU_GRAPH_NODE_TYPE_MEM_FREE, read_free)
READER(cuGraphEventRecordNodeGetEvent, CUevent, CU_GRAPH_NODE_TYPE_EVENT_RECORD, read_event)
READER(cuGraphEventWaitNodeGetEvent, CUevent, CU_GRAPH_NODE_TYPE_WAIT_EVENT, read_event)
READER(cuGraphChildGraphNodeGetGraph, CUgraph, CU_GRAPH_NODE_TYPE_GRAPH, read_child)

API cuGraphKernelNodeGetParams(CUgraphNode node, CUDA_KERNEL_NODE_PARAMS_v1 *out) {
    CUDA_KERNEL_NODE_PARAMS_v2 wide;
    REQUIRE(out, CUDA_ERROR_INVALID_VALUE);
    TRY(cuGraphKernelNodeGetParams_v2(node, &wide));
    memcpy(out, &wide, sizeof *out);
    return CUDA_SUCCESS;
}

API cuGraphNodeGetParams(CUgraphNode node, CUgraphNodeParams *params) {
    REQUIRE(handle_is(node, NODE) && params, CUDA_ERROR_INVALID_VALUE);
    const struct operation *operation = &node->operation;
    memset(params, 0, sizeof *params);
    params->type = (CUgraphNodeType)operation->kind;
    switch (operation->kind) {
    case CU_GRAPH_NODE_TYPE_KERNEL: return read_kernel(operation, (CUDA_KERNEL_NODE_PARAMS_v2 *)&params->kernel);
    case CU_GRAPH_NODE_TYPE_MEMCPY: return read_copy(operation, &params->memcpy.copyParams);
    case CU_GRAPH_NODE_TYPE_MEMSET: return read_fill(operation, (CUDA_MEMSET_NODE_PARAMS_v1 *)&params->memset);
    case CU_GRAPH_NODE_TYPE_HOST: return read_host(operation, (CUDA_HOST_NODE_PARAMS_v1 *)&params->host);
    case CU_GRAPH_NODE_TYPE_GRAPH: return read_child(operation, &params->graph.graph);
    case CU_GRAPH_NODE_TYPE_WAIT_EVENT: case CU_GRAPH_NODE_TYPE_EVENT_RECORD: return read_event(operation, &params->eventWait.event);
    case CU_GRAPH_NODE_TYPE_MEM_ALLOC: return read_allocation(operation, (CUDA_MEM_ALLOC_NODE_PARAMS_v1 *)&params->alloc);
    case CU_GRAPH_NODE_TYPE_MEM_FREE: return read_free(operation, &params->free.dptr);
    default: return CUDA_SUCCESS;
    }
}

/* Changing nodes: the same for a graph's own node and for the node of an executable graph that was made from it. */
static CUresult change(CUgraphNode node, CUresult made, struct operation *operation) {
    TRY(made);
    CUresult result = replace(node, operation);
    discard(operation);
    return result;
}

static CUgraphNode node_of(CUgraphExec exec, CUgraphNode original) {
    if (!handle_is(exec, EXEC) || !handle_is(original, NODE)) return NULL; /* it is gone with its graph */
    for (size_t i = 0; i < exec->graph->nodes.count; i++) {
        if (exec->graph->nodes.items[i]->origin == original) return exec->graph->nodes.items[i];
    }
    return NULL;
}

static CUresult child_change(CUgraphNode node, CUgraph child, struct operation *operation) {
    TRY(child_operation(child, operation));
    REQUIRE(child->nodes.count == node->operation.graph->nodes.count, CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE);
    return CUDA_SUCCESS;
}

#define SETTER(name, node_kind, make, ...) \
    API cuGraph##name(CUgraphNode node, __VA_ARGS__ params) { \
        struct operation operation; \
        REQUIRE(handle_is(node, NODE) && node->operation.kind == node_kind, CUDA_ERROR_INVALID_VALUE); \
        return change(node, make, &operation); \
    }
#define EXEC_SETTER(name, node_kind, make, type, ...) \
    API cuGraphExec##name(CUgraphExec exec, CUgraphNode original, type params __VA_ARGS__) { \
        struct operation operation; \
        CUgraphNode node = node_of(exec, original); \
        REQUIRE(node && node->operation.kind == node_kind, CUDA_ERROR_INVALID_VALUE); \
        return change(node, make, &operation); \
    }
#define KERNEL_CHANGE kernel_operation(params, &node->operation.call, &operation)
SETTER(KernelNodeSetParams_v2, CU_GRAPH_NODE_TYPE_KERNEL, KERNEL_CHANGE, const CUDA_KERNEL_NODE_PARAMS_v2 *)
SETTER(MemcpyNodeSetParams, CU_GRAPH_NODE_TYPE_MEMCPY, copy_operation(params, &operation), const CUDA_MEMCPY3D_v2 *)
SETTER(MemsetNodeSetParams, CU_GRAPH_NODE_TYPE_MEMSET, fill_operation(params, &operation), const CUDA_MEMSET_NODE_PARAMS_v1 *)
SETTER(HostNodeSetParams, CU_GRAPH_NODE_TYPE_HOST, host_operation(params, &operation), const CUDA_HOST_NODE_PARAMS_v1 *)
SETTER(EventRecordNodeSetEvent, CU_GRAPH_NODE_TYPE_EVENT_RECORD, event_operation(CU_GRAPH_NODE_TYPE_EVENT_RECORD, params, &operation), CUevent)
SETTER(EventWaitNodeSetEvent, CU_GRAPH_NODE_TYPE_WAIT_EVENT, event_operation(CU_GRAPH_NODE_TYPE_WAIT_EVENT, params, &operation), CUevent)
SETTER(NodeSetParams, node->operation.kind, operation_from(params, &node->operation.call, &operation), CUgraphNodeParams *)
API cuGraphNodeSetParams_v2(CUgraphNode node, CUgraphNodeParams *params) { return cuGraphNodeSetParams(node, params); }

EXEC_SETTER(KernelNodeSetParams_v2, CU_GRAPH_NODE_TYPE_KERNEL, KERNEL_CHANGE, const CUDA_KERNEL_NODE_PARAMS_v2 *)
EXEC_SETTER(MemcpyNodeSetParams, CU_GRAPH_NODE_TYPE_MEMCPY, ((void)context, copy_operation(params, &operation)), const CUDA_MEMCPY3D_v2 *, , CUcontext context)
EXEC_SETTER(MemsetNodeSetParams, CU_GRAPH_NODE_TYPE_MEMSET, ((void)context, fill_operation(params, &operation)), const CUDA_MEMSET_NODE_PARAMS_v1 *, , CUcontext context)
EXEC_SETTER(HostNodeSetParams, CU_GRAPH_NODE_TYPE_HOST, host_operation(params, &operation), const CUDA_HOST_NODE_PARAMS_v1 *)
EXEC_SETTER(ChildGraphNodeSetParams, CU_GRAPH_NODE_TYPE_GRAPH, child_change(node, params, &operation), CUgraph)
EXEC_SETTER(EventRecordNodeSetEvent, CU_GRAPH_NODE_TYPE_EVENT_RECORD, event_operation(CU_GRAPH_NODE_TYPE_EVENT_RECORD, params, &operation), CUevent)
EXEC_SETTER(EventWaitNodeSetEvent, CU_GRAPH_NODE_TYPE_WAIT_EVENT, event_operation(CU_GRAPH_NODE_TYPE_WAIT_EVENT, params, &operation), CUevent)
EXEC_SETTER(NodeSetParams, node->operation.kind, operation_from(params, &node->operation.call, &operation), CUgraphNodeParams *)

API cuGraphKernelNodeSetParams(CUgraphNode node, const CUDA_KERNEL_NODE_PARAMS_v1 *params) {
    CUDA_KERNEL_NODE_PARAMS_v2 wide = {0};
    REQUIRE(params, CUDA_ERROR_INVALID_VALUE);
    memcpy(&wide, params, sizeof *params);
    return cuGraphKernelNodeSetParams_v2(node, &wide);
}
API cuGraphExecKernelNodeSetParams(CUgraphExec exec, CUgraphNode node, const CUDA_KERNEL_NODE_PARAMS_v1 *params) {
    CUDA_KERNEL_NODE_PARAMS_v2 wide = {0};
    REQUIRE(params, CUDA_ERROR_INVALID_VALUE);
    memcpy(&wide, params, sizeof *params);
    return cuGraphExecKernelNodeSetParams_v2(exec, node, &wide);
}

API cuGraphKernelNodeGetAttribute(CUgraphNode node, CUlaunchAttributeID id, CUlaunchAttributeValue *value) {
    REQUIRE(handle_is(node, NODE) && value && node->operation.kind == CU_GRAPH_NODE_TYPE_KERNEL, CUDA_ERROR_INVALID_VALUE);
    const struct call *call = &node->operation.call;
    memset(value, 0, sizeof *value);
    if ((int)id == CU_LAUNCH_ATTRIBUTE_COOPERATIVE) value->cooperative = (int)call->cooperative;
    else if ((int)id == CU_LAUNCH_ATTRIBUTE_PRIORITY) value->priority = call->priority;
    else if ((int)id == CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION) memcpy(&value->clusterDim, call->cluster, sizeof call->cluster);
    return CUDA_SUCCESS;
}

API cuGraphKernelNodeSetAttribute(CUgraphNode node, CUlaunchAttributeID id, const CUlaunchAttributeValue *value) {
    REQUIRE(handle_is(node, NODE) && value && node->operation.kind == CU_GRAPH_NODE_TYPE_KERNEL, CUDA_ERROR_INVALID_VALUE);
    struct call call = node->operation.call;
    if ((int)id == CU_LAUNCH_ATTRIBUTE_COOPERATIVE) call.cooperative = value->cooperative != 0;
    else if ((int)id == CU_LAUNCH_ATTRIBUTE_PRIORITY) call.priority = value->priority;
    else if ((int)id == CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION) memcpy(call.cluster, &value->clusterDim, sizeof call.cluster);
    TRY(check_call(&call));
    node->operation.call = call;
    return CUDA_SUCCESS;
}

API cuGraphKernelNodeCopyAttributes(CUgraphNode to, CUgraphNode from) {
    REQUIRE(handle_is(to, NODE) && handle_is(from, NODE), CUDA_ERROR_INVALID_VALUE);
    REQUIRE(to->operation.kind == CU_GRAPH_NODE_TYPE_KERNEL && from->operation.kind == CU_GRAPH_NODE_TYPE_KERNEL, CUDA_ERROR_INVALID_VALUE);
    memcpy(to->operation.call.cluster, from->operation.call.cluster, sizeof to->operation.call.cluster);
    to->operation.call.cooperative = from->operation.call.cooperative;
    to->operation.call.priority = from->operation.call.priority;
    return CUDA_SUCCESS;
}

/* Executable graphs. */
API cuGraphInstantiateWithFlags(CUgraphExec *out, CUgraph graph, unsigned long long flags) {
    TRY(enter());
    TRY(capture_forbids_unsafe_call());
    REQUIRE(out && handle_is(graph, GRAPH), CUDA_ERROR_INVALID_VALUE);
    if (flags & CUDA_GRAPH_INSTANTIATE_FLAG_DEVICE_LAUNCH) return refuse("graphs that a kernel launches");
    CUgraph body;
    TRY(clone(graph, &body));
    CUresult result = put_in_order(body);
    CUgraphExec exec = result == CUDA_SUCCESS ? handle_new(EXEC) : NULL;
    if (!exec) {
        graph_free(body);
        return result == CUDA_SUCCESS ? CUDA_ERROR_OUT_OF_MEMORY : result;
    }
    exec->graph = body;
    exec->flags = flags;
    *out = exec;
    return CUDA_SUCCESS;
}

API cuGraphInstantiateWithParams(CUgraphExec *out, CUgraph graph, CUDA_GRAPH_INSTANTIATE_PARAMS *params) {
    REQUIRE(params, CUDA_ERROR_INVALID_VALUE);
    CUresult result = cuGraphInstantiateWithFlags(out, graph, params->flags);
    params->hErrNode_out = NULL;
    params->result_out = result == CUDA_SUCCESS ? CUDA_GRAPH_INSTANTIATE_SUCCESS : CUDA_GRAPH_INSTANTIATE_ERROR;
    return result;
}

API cuGraphExecDestroy(CUgraphExec exec) {
    REQUIRE(handle_is(exec, EXEC), CUDA_ERROR_INVALID_VALUE);
    graph_free(exec->graph);
    handle_free(exec);
    return CUDA_SUCCESS;
}

API cuGraphExecGetFlags(CUgraphExec exec, cuuint64_t *flags) {
    REQUIRE(handle_is(exec, EXEC) && flags, CUDA_ERROR_INVALID_VALUE);
    *flags = exec->flags;
    return CUDA_SUCCESS;
}

API cuGraphUpload(CUgraphExec exec, CUstream stream) {
    TRY(enter());
    return handle_is(exec, EXEC) && stream_of(stream) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

static void free_what_is_left(CUgraph graph) {
    for (size_t i = 0; i < graph->nodes.count; i++) {
        const struct operation *operation = &graph->nodes.items[i]->operation;
        if (operation->kind == CU_GRAPH_NODE_TYPE_MEM_ALLOC) end_use(operation->allocate.address, true); /* an error: it was freed already */
        if (operation->kind == CU_GRAPH_NODE_TYPE_GRAPH) free_what_is_left(operation->graph);
    }
}

API cuGraphLaunch(CUgraphExec exec, CUstream stream) {
    TRY(enter());
    REQUIRE(handle_is(exec, EXEC), CUDA_ERROR_INVALID_VALUE);
    if (exec->flags & CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH) free_what_is_left(exec->graph);
    return submit(stream, &(struct operation){.kind = CU_GRAPH_NODE_TYPE_GRAPH, .graph = exec->graph});
}

API cuGraphNodeSetEnabled(CUgraphExec exec, CUgraphNode original, unsigned enabled) {
    CUgraphNode node = node_of(exec, original);
    REQUIRE(node, CUDA_ERROR_INVALID_VALUE);
    int kind = node->operation.kind;
    REQUIRE(kind == CU_GRAPH_NODE_TYPE_KERNEL || kind == CU_GRAPH_NODE_TYPE_MEMSET || kind == CU_GRAPH_NODE_TYPE_MEMCPY, CUDA_ERROR_INVALID_VALUE);
    node->disabled = !enabled;
    return CUDA_SUCCESS;
}

API cuGraphNodeGetEnabled(CUgraphExec exec, CUgraphNode original, unsigned *enabled) {
    CUgraphNode node = node_of(exec, original);
    REQUIRE(node && enabled, CUDA_ERROR_INVALID_VALUE);
    *enabled = !node->disabled;
    return CUDA_SUCCESS;
}

/* Takes over the parameters of another graph with the same nodes and edges (cuGraphExecUpdate). Nothing changes unless everything fits. */
static CUgraphExecUpdateResult differs(CUgraph old, CUgraph new, CUgraphNode *at, CUgraphNode *from) {
    if (old->nodes.count != new->nodes.count) return CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED;
    for (size_t i = 0; i < old->nodes.count; i++) {
        CUgraphNode before = old->nodes.items[i], after = new->nodes.items[i];
        *at = after->origin;
        if (before->operation.kind != after->operation.kind) return CU_GRAPH_EXEC_UPDATE_ERROR_NODE_TYPE_CHANGED;
        if (before->before.count != after->before.count) return CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED;
        for (size_t j = 0; j < before->before.count; j++) {
            *from = after->before.items[j]->origin;
            bool same = before->before.items[j]->place == after->before.items[j]->place && same_edge(before->before.edges[j], after->before.edges[j]);
            if (!same) return CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED;
        }
        *from = NULL;
        bool moved = before->operation.kind == CU_GRAPH_NODE_TYPE_MEM_ALLOC && before->operation.allocate.size != after->operation.allocate.size;
        if (moved) return CU_GRAPH_EXEC_UPDATE_ERROR_PARAMETERS_CHANGED;
    }
    *at = NULL;
    return CU_GRAPH_EXEC_UPDATE_SUCCESS;
}

API cuGraphExecUpdate_v2(CUgraphExec exec, CUgraph graph, CUgraphExecUpdateResultInfo *info) {
    TRY(enter());
    REQUIRE(handle_is(exec, EXEC) && handle_is(graph, GRAPH) && info, CUDA_ERROR_INVALID_VALUE);
    CUgraph body;
    *info = (CUgraphExecUpdateResultInfo){.result = CU_GRAPH_EXEC_UPDATE_ERROR};
    TRY(clone(graph, &body));
    CUresult result = put_in_order(body);
    for (size_t i = 0; i < body->nodes.count; i++) body->nodes.items[i]->place = i;
    for (size_t i = 0; i < exec->graph->nodes.count; i++) exec->graph->nodes.items[i]->place = i;
    if (result == CUDA_SUCCESS) info->result = differs(exec->graph, body, &info->errorNode, &info->errorFromNode);
    if (info->result != CU_GRAPH_EXEC_UPDATE_SUCCESS) {
        graph_free(body);
        return CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE;
    }
    for (size_t i = 0; i < body->nodes.count; i++) body->nodes.items[i]->origin = exec->graph->nodes.items[i]->origin; /* handles stay what they were */
    graph_free(exec->graph);
    exec->graph = body;
    return CUDA_SUCCESS;
}

API cuGraphExecUpdate(CUgraphExec exec, CUgraph graph, CUgraphNode *node, CUgraphExecUpdateResult *outcome) {
    CUgraphExecUpdateResultInfo info;
    CUresult result = cuGraphExecUpdate_v2(exec, graph, &info);
    if (node) *node = info.errorNode;
    if (outcome) *outcome = info.result;
    return result;
}

/* User objects: data that lives as long as the graphs that use it. */
API cuUserObjectCreate(CUuserObject *out, void *data, CUhostFn destroy, unsigned count, unsigned flags) {
    REQUIRE(out && destroy && count && flags == 1, CUDA_ERROR_INVALID_VALUE);
    CUuserObject object = handle_new(USER_OBJECT);
    REQUIRE(object, CUDA_ERROR_OUT_OF_MEMORY);
    object->count = count;
    object->destroy = destroy;
    object->data = data;
    *out = object;
    return CUDA_SUCCESS;
}

API cuUserObjectRetain(CUuserObject object, unsigned count) {
    REQUIRE(handle_is(object, USER_OBJECT) && count, CUDA_ERROR_INVALID_VALUE);
    object->count += count;
    return CUDA_SUCCESS;
}

API cuUserObjectRelease(CUuserObject object, unsigned count) {
    REQUIRE(handle_is(object, USER_OBJECT) && count, CUDA_ERROR_INVALID_VALUE);
    release_object(object, count);
    return CUDA_SUCCESS;
}

API cuGraphRetainUserObject(CUgraph graph, CUuserObject object, unsigned count, unsigned flags) {
    REQUIRE(handle_is(graph, GRAPH) && handle_is(object, USER_OBJECT) && count, CUDA_ERROR_INVALID_VALUE);
    if (!(flags & CU_GRAPH_USER_OBJECT_MOVE)) object->count += count;
    return keep_object(graph, object, count);
}

API cuGraphReleaseUserObject(CUgraph graph, CUuserObject object, unsigned count) {
    REQUIRE(handle_is(graph, GRAPH) && handle_is(object, USER_OBJECT) && count, CUDA_ERROR_INVALID_VALUE);
    for (size_t i = 0; i < graph->kept_count; i++) {
        if (graph->kept[i].object != object || graph->kept[i].count < count) continue;
        graph->kept[i].count -= count;
        if (!graph->kept[i].count) graph->kept[i] = graph->kept[--graph->kept_count];
        release_object(object, count);
        return CUDA_SUCCESS;
    }
    return CUDA_ERROR_INVALID_VALUE;
}

/* Memory of graphs is given back when they go; there is nothing to trim. */
API cuDeviceGraphMemTrim(CUdevice device) { return device == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE; }
API cuDeviceGetGraphMemAttribute(CUdevice device, CUgraphMem_attribute attribute, void *value) {
    (void)attribute;
    REQUIRE(device == 0, CUDA_ERROR_INVALID_DEVICE);
    REQUIRE(value, CUDA_ERROR_INVALID_VALUE);
    *(cuuint64_t *)value = graph_memory();
    return CUDA_SUCCESS;
}
API cuDeviceSetGraphMemAttribute(CUdevice device, CUgraphMem_attribute attribute, void *value) {
    (void)attribute, (void)value;
    return device == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

API cuGraphDebugDotPrint(CUgraph graph, const char *path, unsigned flags) {
    static const char *const kinds[] = {"KERNEL", "MEMCPY", "MEMSET", "HOST", "GRAPH", "EMPTY", "WAIT_EVENT", "EVENT_RECORD", "", "", "MEM_ALLOC", "MEM_FREE"};
    (void)flags;
    REQUIRE(handle_is(graph, GRAPH) && path, CUDA_ERROR_INVALID_VALUE);
    FILE *file = fopen(path, "w");
    REQUIRE(file, CUDA_ERROR_INVALID_VALUE);
    fprintf(file, "digraph dot {\nsubgraph cluster_0 {\nlabel=\"graph_0\" graph[style=\"dashed\"];\n");
    for (size_t i = 0; i < graph->nodes.count; i++) {
        CUgraphNode node = graph->nodes.items[i];
        const struct fill *fill = node->operation.kind == CU_GRAPH_NODE_TYPE_MEMSET ? &node->operation.fill : NULL;
        bool kernel = node->operation.kind == CU_GRAPH_NODE_TYPE_KERNEL;
        node->place = i;
        fprintf(file, "\"graph_0_node_%zu\"[style=\"%s\" shape=\"%slabel=\"%zu\n%s\n", i, kernel ? "bold" : "solid",
                kernel ? "octagon\" " : fill ? "invtrapezium\"" : "rectangle\" ", i, kernel ? node->operation.call.kernel->name : kinds[node->operation.kind]);
        if (fill) fprintf(file, "(%u,%zu)\n", fill->value, fill->width * fill->element * fill->height);
        fprintf(file, "\"];\n\n");
    }
    for (size_t i = 0; i < graph->nodes.count; i++) {
        const struct nodes *before = &graph->nodes.items[i]->before;
        for (size_t j = 0; j < before->count; j++) fprintf(file, "\"graph_0_node_%zu\" -> \"graph_0_node_%zu\";\n", before->items[j]->place, i);
    }
    fprintf(file, "}\n}\n");
    fclose(file);
    return CUDA_SUCCESS;
}
