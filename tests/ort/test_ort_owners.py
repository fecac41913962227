"""Who installed the import package, and what to do when two did."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from turnout_ort import hooks, owners


def test_one_owner_is_fine():
    (check,) = hooks.turnout_checks()
    assert check.ok
    assert check.message.startswith("onnxruntime")


@pytest.mark.parametrize(
    ("installed", "won", "keep"),
    [
        (["onnxruntime", "onnxruntime-gpu"], "onnxruntime", "onnxruntime-gpu"),
        (["onnxruntime-directml", "onnxruntime-gpu"], "onnxruntime-gpu", "onnxruntime-gpu"),
        (["onnxruntime-directml", "onnxruntime-windowsml"], None, "onnxruntime-directml"),
    ],
)
def test_more_owners_are_not(monkeypatch, installed, won, keep):
    monkeypatch.setattr(owners, "owners", lambda: installed)
    monkeypatch.setattr(owners, "winner", lambda: won)
    check = owners.check()
    assert not check.ok
    assert check.commands == [
        f"pip uninstall -y {' '.join(installed)}",
        f"pip install --force-reinstall {keep}",
    ]


def test_owners_are_read_from_the_distributions(monkeypatch):
    twice = {"onnxruntime": ["onnxruntime-gpu", "onnxruntime", "onnxruntime"]}
    monkeypatch.setattr(owners.importlib.metadata, "packages_distributions", lambda: twice)
    assert owners.owners() == ["onnxruntime", "onnxruntime-gpu"]


def test_nobody(monkeypatch):
    monkeypatch.setattr(owners, "owners", list)
    assert owners.check().commands == ["pip install turnout-ort-wheel"]


def test_the_winner_says_so_itself():
    assert owners.winner() in owners.owners()


def test_onnx_runtime_alone_as_a_peer(tmp_path):
    path = tmp_path / "neg.onnx"
    text = '<ir_version: 10, opset_import: ["" : 21]> g (float[2] x) => (float[2] y) { y = Neg(x) }'
    onnx.save(onnx.parser.parse_model(text), path)
    assert hooks.turnout_peer("torch", str(path)) is None
    (y,) = hooks.turnout_peer("onnxruntime", str(path))({"x": np.ones(2, np.float32)})
    assert y.tolist() == [-1, -1]
