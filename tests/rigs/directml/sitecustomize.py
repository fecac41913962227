"""The rig's Windows Python loads this at start-up. Before onnxruntime is first imported it mends one thing of Wine's DXGI.

CreateDXGIFactory2 gives one factory per process. Wine's looks at all drivers each time: a fifth of a second.
"""

import ctypes
import sys
import uuid
from importlib.abc import MetaPathFinder

IDXGIFACTORY1 = "770aae78-f26f-4dba-a829-253c83d1b387"
PAGE_EXECUTE_READWRITE = 0x40

POINTER = ctypes.c_void_p
kept = []  # what Wine's code now points to


def write(address, data):
    """Bytes to anywhere in this process, code included."""
    before = ctypes.c_ulong()
    ctypes.windll.kernel32.VirtualProtect(POINTER(address), ctypes.c_size_t(len(data)), PAGE_EXECUTE_READWRITE, ctypes.byref(before))
    ctypes.memmove(address, data, len(data))


def pointer_at(address):
    return POINTER.from_address(address).value


def address_of(function):
    kept.append(function)
    return ctypes.cast(function, POINTER).value


def made_once(create, interface, *arguments):
    """The object that a function of a library makes, and its QueryInterface."""
    iid = (ctypes.c_char * 16).from_buffer_copy(uuid.UUID(interface).bytes_le)
    made = POINTER()
    if create(*arguments, ctypes.byref(iid), ctypes.byref(made)) < 0:
        return None  # no Vulkan driver: DirectML itself is to say so
    query_interface = ctypes.WINFUNCTYPE(ctypes.c_long, POINTER, POINTER, POINTER)(pointer_at(pointer_at(made.value)))
    return made.value, query_interface


def jump(function, target):
    """From now on whoever calls the library's function calls the target."""
    code = b"\x48\xb8" + address_of(target).to_bytes(8, "little") + b"\xff\xe0"  # mov rax, address; jmp rax
    write(ctypes.cast(function, POINTER).value, code)


def one_factory(dxgi):
    found = made_once(dxgi.CreateDXGIFactory2, IDXGIFACTORY1, 0)
    if found is None:
        return
    factory, query_interface = found

    @ctypes.WINFUNCTYPE(ctypes.c_long, ctypes.c_uint, POINTER, POINTER)
    def create(flags, wanted, out):
        return query_interface(factory, wanted, out)

    jump(dxgi.CreateDXGIFactory2, create)


class Before(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "onnxruntime":
            sys.meta_path.remove(self)
            one_factory(ctypes.WinDLL("dxgi.dll"))


if sys.platform == "win32":
    sys.meta_path.insert(0, Before())
