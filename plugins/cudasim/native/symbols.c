/* cuGetProcAddress: which function a name means for a caller that was built for some version of CUDA. */
#include "sim.h"

typedef void (*function)(void);
static const struct symbol { const char *name; int since; function address; } symbols[];

/* What the simulator knows of but does not model: such a call says so. */
#define REFUSED(name, why) \
    EXPORT CUresult name(void) { return refuse(#name ": " why); }
#ifndef CUDASIM_CHECK_ABI
#include "refused.def"
#endif
#undef REFUSED

API cuGetExportTable(const void **table, const CUuuid *id) { /* NVIDIA's own libraries ask for undocumented tables, and do without */
    (void)id;
    if (table) *table = NULL;
    return CUDA_ERROR_NOT_FOUND;
}
API cuProfilerStart(void) { return CUDA_SUCCESS; }
API cuProfilerStop(void) { return CUDA_SUCCESS; }

API cuGetProcAddress_v2(const char *name, void **address, int version, cuuint64_t flags, CUdriverProcAddressQueryResult *status) {
    (void)flags; /* the per-thread default stream: the legacy one does the same where all work is done at once */
    REQUIRE(name && address, CUDA_ERROR_INVALID_VALUE);
    const struct symbol *best = NULL;
    bool known = false;
    for (const struct symbol *symbol = symbols; symbol->name; symbol++) {
        if (strcmp(symbol->name, name) != 0 || symbol->since > settings.driver_version) continue;
        known = true;
        if (symbol->since <= version && (!best || symbol->since > best->since)) best = symbol;
    }
    *address = best ? (void *)best->address : NULL;
    if (status) *status = best ? CU_GET_PROC_ADDRESS_SUCCESS : known ? CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT : CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
    return best || status ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}
API cuGetProcAddress(const char *name, void **address, int version, cuuint64_t flags) { return cuGetProcAddress_v2(name, address, version, flags, NULL); }

#ifndef CUDASIM_CHECK_ABI
/* Their parameters do not matter here: the table only holds addresses. */
#define SYMBOL(name, since, address) extern CUresult address(void);
#define OWN(name, since, address)
#include "symbols.def"
#undef SYMBOL
#undef OWN

#define SYMBOL(name, since, address) {#name, since, (function)address},
#define OWN SYMBOL
#define REFUSED(name, why) {#name, 2000, (function)name},
static const struct symbol symbols[] = {
#include "symbols.def"
#include "refused.def"
    {NULL, 0, NULL},
};
#else
static const struct symbol symbols[] = {{NULL, 0, NULL}};
#endif
