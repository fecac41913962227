// d3d12.dll for Wine, over Debian's libvkd3d: the vkd3d inside Wine 10 has no code for shaders of model 6, and DirectML has many.
// One adapter (DXGI's adapter 0) and one device per process, as on Windows. Built by winegcc, as it calls a library of Linux.
#define COBJMACROS
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <windows.h>

#include <d3d12.h>
#include <dxgi1_6.h>

#define VKD3D_NO_WIN32_TYPES // Wine's headers have them
#define VKD3D_NO_VULKAN_H    // and of Vulkan nothing is called here
typedef void *VkDevice, *VkInstance, *VkPhysicalDevice, *VkQueue, *PFN_vkGetInstanceProcAddr;
typedef uint64_t VkImage;
typedef int VkFormat;
#include <vkd3d.h>

// Threads and events: vkd3d's have to be those of Wine.

static HRESULT signal_event(HANDLE event) { return SetEvent(event) ? S_OK : E_FAIL; }

struct work {
    PFN_vkd3d_thread main;
    void *data;
};

static DWORD WINAPI work(void *given) {
    struct work todo = *(struct work *)given;
    free(given);
    todo.main(todo.data);
    return 0;
}

static void *create_thread(PFN_vkd3d_thread main, void *data) {
    struct work *todo = malloc(sizeof(*todo));
    *todo = (struct work){main, data};
    return CreateThread(NULL, 0, work, todo, 0, NULL);
}

static HRESULT join_thread(void *thread) {
    WaitForSingleObject(thread, INFINITE);
    CloseHandle(thread);
    return S_OK;
}

// The device

static const int ENUMERATE_META_COMMANDS = 59; // its place in the table of ID3D12Device5's methods

static HRESULT WINAPI no_metacommands(ID3D12Device5 *device, UINT *count, void *descriptions) {
    if (count) *count = 0; // vkd3d says E_NOTIMPL, and DirectML takes that for a dead device
    return S_OK;
}

static LUID luid_of_adapter(void) {
    LUID luid = {0};
    DXGI_ADAPTER_DESC about;
    IDXGIAdapter *adapter;
    IDXGIFactory1 *factory;
    if (FAILED(CreateDXGIFactory1(&IID_IDXGIFactory1, (void **)&factory))) return luid;
    if (SUCCEEDED(IDXGIFactory1_EnumAdapters(factory, 0, &adapter))) {
        if (SUCCEEDED(IDXGIAdapter_GetDesc(adapter, &about))) luid = about.AdapterLuid;
        IDXGIAdapter_Release(adapter);
    }
    IDXGIFactory1_Release(factory);
    return luid;
}

static IUnknown *device;
static HRESULT result;

static BOOL CALLBACK make_device(INIT_ONCE *once, void *given, void **context) {
    static const struct vkd3d_application_info application = {
        .type = VKD3D_STRUCTURE_TYPE_APPLICATION_INFO, .api_version = VKD3D_API_VERSION_2_1};
    struct vkd3d_instance_create_info instance = {
        .type = VKD3D_STRUCTURE_TYPE_INSTANCE_CREATE_INFO,
        .next = &application,
        .pfn_signal_event = signal_event,
        .pfn_create_thread = create_thread,
        .pfn_join_thread = join_thread,
        .wchar_size = sizeof(WCHAR),
    };
    struct vkd3d_device_create_info info = {
        .type = VKD3D_STRUCTURE_TYPE_DEVICE_CREATE_INFO,
        .minimum_feature_level = D3D_FEATURE_LEVEL_11_0,
        .instance_create_info = &instance,
        .adapter_luid = luid_of_adapter(),
    };
    result = vkd3d_create_device(&info, &IID_ID3D12Device5, (void **)&device);
    if (FAILED(result)) return TRUE;
    void **method = *(void ***)device + ENUMERATE_META_COMMANDS;
    mprotect((void *)((uintptr_t)method & -4096), 8192, PROT_READ | PROT_WRITE);
    *method = no_metacommands;
    return TRUE;
}

HRESULT WINAPI D3D12CreateDevice(IUnknown *adapter, D3D_FEATURE_LEVEL level, REFIID wanted, void **out) {
    static INIT_ONCE once = INIT_ONCE_STATIC_INIT;
    InitOnceExecuteOnce(&once, make_device, NULL, NULL);
    if (FAILED(result)) return result;
    return out ? IUnknown_QueryInterface(device, wanted, out) : S_FALSE; // without `out` it only says that there could be one
}

HRESULT WINAPI D3D12GetDebugInterface(REFIID wanted, void **out) { return E_NOTIMPL; }

HRESULT WINAPI D3D12EnableExperimentalFeatures(UINT count, const IID *features, void *settings, UINT *sizes) { return E_NOINTERFACE; }

HRESULT WINAPI D3D12SerializeVersionedRootSignature(const D3D12_VERSIONED_ROOT_SIGNATURE_DESC *signature, ID3DBlob **blob, ID3DBlob **error) {
    return vkd3d_serialize_versioned_root_signature(signature, blob, error);
}
