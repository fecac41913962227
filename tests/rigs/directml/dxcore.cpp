// dxcore.dll for Wine, whose own is a stub: one adapter, which is DXGI's adapter 0.
// DirectML and ONNX Runtime find their hardware through it. Interfaces, their methods' order and the numbers of properties are those of
// dxcore_interface.h (Windows SDK); mingw has no such header.
#include <dxgi1_6.h>
#include <string.h>
#include <windows.h>

#define METHOD virtual HRESULT STDMETHODCALLTYPE
#define ANSWER(type) virtual type STDMETHODCALLTYPE

static const GUID IID_Unknown = {0, 0, 0, {0xC0, 0, 0, 0, 0, 0, 0, 0x46}};
static const GUID IID_Factory = {0x78ee5945, 0xc36e, 0x4b13, {0xa6, 0x69, 0x00, 0x5d, 0xd1, 0x1c, 0x0f, 0x06}};
static const GUID IID_List = {0x526c7776, 0x40e9, 0x459b, {0xb7, 0x11, 0xf3, 0x2a, 0xd7, 0x6d, 0xfc, 0x28}};
static const GUID IID_Adapter = {0xf0db4c7f, 0xfe5a, 0x42a2, {0xbd, 0x62, 0xf2, 0xa6, 0xcf, 0x6f, 0xc8, 0x3e}};
static const GUID HAS_D3D11 = {0x8c47866b, 0x7583, 0x450d, {0xf0, 0xf0, 0x6b, 0xad, 0xa8, 0x95, 0xaf, 0x4b}};
static const GUID HAS_D3D12 = {0x0c9ece4d, 0x2f6e, 0x4f01, {0x8c, 0x96, 0xe8, 0x9e, 0x33, 0x1b, 0x47, 0xb1}};
static const GUID HAS_COMPUTE = {0x248e2800, 0xa793, 0x4724, {0xab, 0xaa, 0x23, 0xa6, 0xde, 0x1b, 0xe0, 0x90}};

static const HRESULT NO_SUCH_PROPERTY = 0x887A0004;  // DXGI_ERROR_UNSUPPORTED
static const char TITLE[] = "DXGI adapter 0";

static IDXGIAdapter1 *dxgi;
static DXGI_ADAPTER_DESC1 about;

static bool is(REFGUID a, REFGUID b) { return !memcmp(&a, &b, sizeof(GUID)); }

static bool find_adapter() {
    if (dxgi) return true;
    IDXGIFactory1 *factory = nullptr;
    if (FAILED(CreateDXGIFactory1(__uuidof(IDXGIFactory1), (void **)&factory))) return false;
    bool found = SUCCEEDED(factory->EnumAdapters1(0, &dxgi));
    if (found) dxgi->GetDesc1(&about);
    factory->Release();
    return found;
}

static HRESULT query_factory(REFIID wanted, void **out);

// Objects that live as long as the process, so that nobody counts who holds them.
struct Lasting : IUnknown {
    ULONG STDMETHODCALLTYPE AddRef() override { return 2; }
    ULONG STDMETHODCALLTYPE Release() override { return 1; }

    HRESULT give(REFIID wanted, REFIID own, void **out) {
        bool right = is(wanted, own) || is(wanted, IID_Unknown);
        *out = right ? this : nullptr;
        return right ? S_OK : E_NOINTERFACE;
    }
};

enum Property { LUID_ = 0, DRIVER_VERSION, DESCRIPTION, HARDWARE_ID, DEDICATED = 7, DEDICATED_SYSTEM, SHARED, IS_HARDWARE = 11, HARDWARE_ID_PARTS = 14 };
static const SIZE_T SIZES[] = {8, 8, sizeof(TITLE), 16, 0, 2, 2, 8, 8, 8, 1, 1, 1, 1, 20};

static struct Adapter : Lasting {
    HRESULT STDMETHODCALLTYPE QueryInterface(REFIID wanted, void **out) override {
        return SUCCEEDED(give(wanted, IID_Adapter, out)) ? S_OK : dxgi->QueryInterface(wanted, out);
    }
    ANSWER(bool) IsValid() { return true; }
    ANSWER(bool) IsAttributeSupported(REFGUID one) { return is(one, HAS_D3D11) || is(one, HAS_D3D12) || is(one, HAS_COMPUTE); }
    ANSWER(bool) IsPropertySupported(UINT one) { return one < 15 && SIZES[one]; }
    METHOD GetProperty(UINT one, SIZE_T size, void *out) {
        if (!IsPropertySupported(one) || size < SIZES[one]) return E_INVALIDARG;
        memset(out, 0, size);
        switch (one) {
            case LUID_: memcpy(out, &about.AdapterLuid, 8); break;
            case DRIVER_VERSION: *(UINT64 *)out = 0x001f000f000f1234; break;
            case DESCRIPTION: memcpy(out, TITLE, sizeof(TITLE)); break;
            case HARDWARE_ID: {
                UINT id[] = {about.VendorId, about.DeviceId, about.SubSysId, about.Revision};
                memcpy(out, id, sizeof(id));
                break;
            }
            case DEDICATED: *(UINT64 *)out = about.DedicatedVideoMemory; break;
            case DEDICATED_SYSTEM: *(UINT64 *)out = about.DedicatedSystemMemory; break;
            case SHARED: *(UINT64 *)out = about.SharedSystemMemory; break;
            case IS_HARDWARE: *(bool *)out = true; break;
            case HARDWARE_ID_PARTS: {
                UINT id[] = {about.VendorId, about.DeviceId, about.SubSysId & 0xffff, about.SubSysId >> 16, about.Revision};
                memcpy(out, id, sizeof(id));
                break;
            }
        }
        return S_OK;
    }
    METHOD GetPropertySize(UINT one, SIZE_T *size) {
        if (!IsPropertySupported(one)) return NO_SUCH_PROPERTY;
        *size = SIZES[one];
        return S_OK;
    }
    ANSWER(bool) IsQueryStateSupported(UINT) { return false; }
    METHOD QueryState(UINT, SIZE_T, const void *, SIZE_T, void *) { return NO_SUCH_PROPERTY; }
    ANSWER(bool) IsSetStateSupported(UINT) { return false; }
    METHOD SetState(UINT, SIZE_T, const void *, SIZE_T, const void *) { return NO_SUCH_PROPERTY; }
    METHOD GetFactory(REFIID wanted, void **out) { return query_factory(wanted, out); }
} adapter;

static struct List : Lasting {
    UINT count;
    explicit List(UINT count) : count(count) {}
    HRESULT STDMETHODCALLTYPE QueryInterface(REFIID wanted, void **out) override { return give(wanted, IID_List, out); }
    METHOD GetAdapter(UINT number, REFIID wanted, void **out) {
        return number < count ? adapter.QueryInterface(wanted, out) : E_INVALIDARG;
    }
    ANSWER(UINT) GetAdapterCount() { return count; }
    ANSWER(bool) IsStale() { return false; }
    METHOD GetFactory(REFIID wanted, void **out) { return query_factory(wanted, out); }
    METHOD Sort(UINT, const UINT *) { return S_OK; }
    ANSWER(bool) IsAdapterPreferenceSupported(UINT) { return true; }
} one(1), none(0);

static struct Factory : Lasting {
    HRESULT STDMETHODCALLTYPE QueryInterface(REFIID wanted, void **out) override { return give(wanted, IID_Factory, out); }
    METHOD CreateAdapterList(UINT count, const GUID *attributes, REFIID wanted, void **out) {
        bool all = true;
        for (UINT i = 0; i < count; i++) all = all && adapter.IsAttributeSupported(attributes[i]);
        return (all ? one : none).QueryInterface(wanted, out);
    }
    METHOD GetAdapterByLuid(const LUID &luid, REFIID wanted, void **out) {
        return memcmp(&luid, &about.AdapterLuid, sizeof(LUID)) ? E_INVALIDARG : adapter.QueryInterface(wanted, out);
    }
    ANSWER(bool) IsNotificationTypeSupported(UINT) { return false; }
    METHOD RegisterEventNotification(IUnknown *, UINT, void *, void *, UINT *) { return NO_SUCH_PROPERTY; }
    METHOD UnregisterEventNotification(UINT) { return NO_SUCH_PROPERTY; }
} factory;

static HRESULT query_factory(REFIID wanted, void **out) { return factory.QueryInterface(wanted, out); }

extern "C" __declspec(dllexport) HRESULT WINAPI DXCoreCreateAdapterFactory(REFIID wanted, void **out) {
    if (!out) return E_POINTER;
    *out = nullptr;
    return find_adapter() ? query_factory(wanted, out) : E_FAIL;
}
