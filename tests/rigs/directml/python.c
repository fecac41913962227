// python.exe: hands its arguments to Python's own main, out of the python311.dll that is there.
#include <stdio.h>
#include <windows.h>

typedef int (*py_main)(int, wchar_t **);

int wmain(int argc, wchar_t **argv) {
    HMODULE library = LoadLibraryW(L"python311.dll");
    if (!library) {
        fprintf(stderr, "cannot load python311.dll: %lu\n", GetLastError());
        return 126;
    }
    return ((py_main)(void *)GetProcAddress(library, "Py_Main"))(argc, argv);
}
