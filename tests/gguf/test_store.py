"""Repacked weights on disk: the second load maps them, and nothing that is wrong with them gets into a model."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from running import logits_of

import turnout
from turnout_gguf.store import Store, Wanted, store_for


@pytest.fixture(autouse=True)
def cache(own_cache: Path) -> Path:
    return own_cache / "gguf"


def answer(file: Path, **options: Any) -> np.ndarray[Any, Any]:
    with turnout.load(file, device="cpu", accuracy="exact", options={"gguf": options}) as model:
        return logits_of(model, [1, 2, 3])


def refuse(*arguments: Any) -> None:
    raise AssertionError("weights were repacked")


def test_the_second_load_repacks_nothing(file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = answer(file)
    assert len(list(cache.iterdir())) == 1
    monkeypatch.setattr("turnout_gguf.weights.repack", refuse)
    assert (answer(file) == first).all()


def test_none_is_kept_where_none_is_wanted(file: Path, cache: Path) -> None:
    answer(file, keep=False)
    assert not cache.exists()


def test_a_file_that_changed_has_another_store(file: Path, cache: Path) -> None:
    first = answer(file)
    os.utime(file, ns=(0, 0))
    assert (answer(file) == first).all()
    assert len(list(cache.iterdir())) == 2


def damaged(path: Path, how: str) -> None:
    raw = bytearray(path.read_bytes())
    if how == "cut short":
        del raw[len(raw) // 2 :]
    elif how == "empty":
        raw.clear()
    elif how == "its head changed":
        raw[40] ^= 1
    elif how == "weights changed":
        raw[len(raw) // 2] ^= 0xFF
    else:
        raw[:] = b"something else entirely" * 1000
    path.write_bytes(raw)


@pytest.mark.parametrize("how", ["cut short", "empty", "its head changed", "weights changed", "something else"])
def test_a_damaged_store_is_made_again(how: str, file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = answer(file)
    (path,) = cache.iterdir()
    damaged(path, how)
    assert (answer(file) == first).all()
    monkeypatch.setattr("turnout_gguf.weights.repack", refuse)
    assert (answer(file) == first).all()  # it is whole again


def test_where_nothing_can_be_written_the_model_loads_all_the_same(file: Path, cache: Path) -> None:
    cache.parent.mkdir()
    cache.write_text("a file where a folder is wanted")
    assert np.isfinite(answer(file)).all()


def numbers(value: int, size: int = 1000) -> dict[str, Wanted]:
    return {"n": Wanted(np.dtype(np.int32), (size,), lambda: np.full(size, value, np.int32))}


def test_stores_that_were_not_used_for_longest_go_first(tmp_path: Path) -> None:
    for name in "abc":
        assert Store(tmp_path / f"{name}.weights", 3 * 8192).arrays(numbers(1)) is not None
        time.sleep(0.01)
    Store(tmp_path / "a.weights", 3 * 8192).arrays(numbers(1))
    Store(tmp_path / "d.weights", 3 * 8192).arrays(numbers(1))
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["a", "c", "d"]


def test_a_maker_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        Store(tmp_path / "a.weights", 1 << 30).arrays({"n": Wanted(np.dtype(np.int32), (1,), lambda: np.array([1 // 0]))})
    assert not list(tmp_path.iterdir())


def _make(path: Path, results: Any) -> None:
    for _ in range(20):
        found = Store(path, 1 << 30).arrays(numbers(7))
        results.put(found is not None and bool((found["n"][0] == 7).all()))
        path.unlink(missing_ok=True)


def test_processes_that_make_one_at_once_all_get_it(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    makers = [context.Process(target=_make, args=(tmp_path / "a.weights", results)) for _ in range(3)]
    for maker in makers:
        maker.start()
    found = [results.get(timeout=60) for _ in range(60)]
    for maker in makers:
        maker.join()
    # another process may take it away between the making and the mapping: then there is none, but never a wrong one
    assert sum(found) >= 40


def test_the_store_of_a_file_that_is_gone() -> None:
    assert store_for(Path("gone.gguf"), Path("folder"), 0) is None or not Path("folder").exists()
