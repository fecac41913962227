"""What a kernel became in the machine's own instructions, where nvdisasm is at hand (the package nvidia-cuda-nvdisasm, 5 MB)."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

__all__ = ["FEATURES", "features", "instructions", "nvdisasm"]

FEATURES = ("HGMMA", "HMMA", "IMMA", "LDSM", "LDGSTS", "LDG.E.128", "STG.E.128", "SHFL", "BAR.SYNC", "ATOM", "MUFU", "LDL", "STL")
"""What is worth knowing: tensor cores (HGMMA is Hopper's wgmma), copies past the registers, wide accesses, spills (LDL, STL)."""


def nvdisasm() -> str | None:
    """The program's path, None where it is not here."""
    try:
        found = [one for one in importlib.metadata.files("nvidia-cuda-nvdisasm") or () if one.stem == "nvdisasm"]
    except importlib.metadata.PackageNotFoundError:
        found = []
    return str(found[0].locate()) if found else shutil.which("nvdisasm")


def instructions(cubin: bytes) -> list[str] | None:
    """The opcodes of a cubin's code as they stand there, with their modifiers ("LDG.E.128"); None without nvdisasm."""
    program = nvdisasm()
    if program is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        done = subprocess.run([program, "-c", str(path)], capture_output=True, text=True, check=False)
    return re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", done.stdout, re.MULTILINE)


def features(cubin: bytes) -> Counter[str] | None:
    """How often each of `FEATURES` stands in a cubin's code; None without nvdisasm."""
    words = instructions(cubin)
    if words is None:
        return None
    found: Counter[str] = Counter()
    for word, count in Counter(words).items():
        for feature in FEATURES:
            if word.startswith(feature) or ("." in feature and _has(word, feature)):
                found[feature] += count
    return found


def _has(word: str, feature: str) -> bool:
    parts = word.split(".")
    return all(part in parts for part in feature.split("."))
