"""What verifying found wrong on this machine, the planner refuses from then on, with that reason, until it is forgotten."""

import numpy as np
import onnx.parser
import pytest

import turnout
from turnout import probe, verified
from turnout.errors import NoProvider
from turnout.testing.fakes import FakeProvider, installed

TANH = onnx.parser.parse_model('<ir_version: 10, opset_import: ["" : 21]> g (float[2] x) => (float[2] y) { y = Tanh(x) }')
FLOAT = ("", "Tanh", 13, "tensor(float)")


@pytest.fixture
def suspect(tmp_path, monkeypatch):
    monkeypatch.setenv("TURNOUT_CACHE", str(tmp_path))
    provider = FakeProvider("suspect")
    with installed(provider, FakeProvider("rest")):
        (device,) = probe.probe(provider).devices
        yield provider, device


def test_a_wrong_operator_goes_elsewhere_and_says_why(suspect):
    provider, device = suspect
    verified.remember(device, provider, {FLOAT: "0.5 where 0.25 was due"})
    with turnout.load(TANH, device=["suspect", "rest"]) as model:
        story = model.explain().node("Tanh#0")
        assert story.device == "rest:0"
        assert "wrong result on this machine when it was verified: 0.5 where 0.25 was due" in str(story)
        np.testing.assert_array_equal(model.run(x=[1, -1])["y"], np.tanh(np.array([1, -1], np.float32)))
    with pytest.raises(NoProvider, match="wrong result on this machine"):
        turnout.load(TANH, device="suspect")


@pytest.mark.parametrize("other", [("", "Tanh", 6, "tensor(float)"), ("", "Tanh", 13, "tensor(float16)"), ("", "Abs", 13, "")])
def test_other_operators_versions_and_types_stay(suspect, other):
    provider, device = suspect
    verified.remember(device, provider, {other: "wrong"})
    with turnout.load(TANH, device="suspect") as model:
        assert model.explain().partitions[0].device == "suspect:0"


def test_every_type_may_be_wrong(suspect):
    provider, device = suspect
    verified.remember(device, provider, {("", "Tanh", 13, ""): "it crashed"})
    with pytest.raises(NoProvider, match="it crashed"):
        turnout.load(TANH, device="suspect")


def test_forgetting_and_upgrading(suspect, monkeypatch):
    provider, device = suspect
    verified.remember(device, provider, {FLOAT: "wrong"})
    assert verified.wrong(device, provider)
    with monkeypatch.context() as patch:
        patch.setattr(provider, "versions", lambda: {"driver": "2"})
        assert not verified.wrong(device, provider)
    assert verified.wrong(device, provider)
    verified.forget()
    assert not verified.wrong(device, provider)
    verified.forget()


def test_a_broken_memory_is_no_memory(suspect):
    provider, device = suspect
    verified.remember(device, provider, {FLOAT: "wrong"})
    verified.file().write_text("{")
    assert not verified.wrong(device, provider)
