"""Who installed the import package `onnxruntime`: many distributions do, and only one can have won."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from turnout.checkup import Check

__all__ = ["check", "owners", "versions"]

_WHEELS = (
    "onnxruntime",
    "onnxruntime-directml",
    "onnxruntime-windowsml",
    "onnxruntime-gpu",
    "onnxruntime-webgpu",
    "onnxruntime-openvino",
    "onnxruntime-migraphx",
    "onnxruntime-rocm",
    "onnxruntime-cann",
    "onnxruntime-qnn",
    "onnxruntime-silicon",
)


def versions() -> dict[str, str]:
    """Distribution to version of every known ONNX Runtime wheel that is installed; quick, since it loads nothing."""
    found = {}
    for name in _WHEELS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def owners() -> list[str]:
    """Every distribution that installed files into the import package `onnxruntime`, sorted."""
    return sorted(set(importlib.metadata.packages_distributions().get("onnxruntime", ())))


def winner() -> str | None:
    """The distribution whose files are the ones on disk, by their own word; None where they do not say."""
    try:
        from onnxruntime.capi.build_and_package_info import package_name
    except Exception:  # any kind of broken package: another check reports that
        return None
    return str(package_name)


def check() -> Check:
    """The doctor's check that one distribution, and no more, owns `onnxruntime`."""
    from turnout.checkup import Check

    found = owners()
    if not found:
        return Check(
            name="onnxruntime",
            ok=False,
            message="no ONNX Runtime is installed",
            commands=["pip install turnout-ort-wheel"],
        )
    if len(found) == 1:
        return Check(name="onnxruntime", ok=True, message=f"{found[0]} {importlib.metadata.version(found[0])}")
    won = winner()
    return Check(
        name="onnxruntime",
        ok=False,
        message=f"{', '.join(found)} all install the package onnxruntime, and overwrote each other; "
        f"the files that are there now are those of {won or 'nobody knows which'}",
        commands=[f"pip uninstall -y {' '.join(found)}", f"pip install --force-reinstall {_keep(found, won)}"],
    )


def _keep(found: Sequence[str], won: str | None) -> str:
    """The one to keep: a wheel for some hardware, which somebody asked for by name; never plain onnxruntime."""
    special = [name for name in found if name != "onnxruntime"]
    return won if won in special else special[0]
