"""A provider that takes files as they are: its place among the devices, and what explain() says of it."""

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest

import turnout
from turnout.device import Device
from turnout.errors import Closed, CompileError, InvalidInput, InvalidModel, NoProvider, RunError
from turnout.provider import No, Provider, WholeExecutable, Yes
from turnout.testing.fakes import FakeProvider, installed

RELU = onnx.parser.parse_model('<ir_version: 10, opset_import: ["" : 21]> g (float[2] x) => (float[2] y) { y = Relu(x) }')
X = np.array([-1, 2], np.float32)
KNOWN = Yes(remark="it knows this file")


class Doubler(WholeExecutable):
    """Whatever the file says: y = 2x."""

    title = "the whole file, doubled"

    def __init__(self):
        self.inputs = [ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([2]))]
        self.outputs = [ir.Value(name="y", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([2]))]
        self.closed = 0

    def run(self, values, out=None):
        if not np.isfinite(values[0]).all():
            raise ZeroDivisionError("no")
        return [values[0] * 2]

    def close(self):
        self.closed += 1


class Whole(Provider):
    name = "whole"

    def __init__(self, verdict=KNOWN, rank=95, device_rank=None, trouble=None):
        self.verdict = verdict
        self.rank = rank
        self.device_rank = device_rank
        self.trouble = trouble
        self.opened = []

    def probe(self):
        return [Device("whole", rank=self.device_rank)]

    def takes_whole(self, source, device):
        if isinstance(self.verdict, Exception):
            raise self.verdict
        assert (source.format, source.accuracy) == ("onnx", "fast")
        return self.verdict

    def open_whole(self, source, device, options):
        if self.trouble is not None:
            raise self.trouble
        self.opened.append(Doubler())
        return self.opened[-1]

    def supports(self, node, graph, device):
        raise AssertionError("a device that takes files whole, or refuses to, is asked for no node")

    def compile(self, graph, device, options):
        raise AssertionError


def reasons(model):
    return {one.device: one.reason for one in model.explain().not_used}


def test_a_named_device_takes_the_file_and_runs_it():
    whole = Whole()
    with installed(whole):
        model = turnout.load(RELU, device="whole")
        np.testing.assert_array_equal(model.run(x=X)["y"], X * 2)
        np.testing.assert_array_equal(model.bind(X).run()["y"], X * 2)
        text = str(model.explain())
        assert "taken whole, no operator graph" in text
        assert "whole:0  the whole file, doubled" in text
        assert "whole:0 takes the file whole, so no operator graph was built: it knows this file" in text
        with pytest.raises(InvalidInput, match="along axis 0"):
            model.run(x=np.zeros(3, np.float32))
        with pytest.raises(RunError, match="whole:0: ZeroDivisionError: no"):
            model.run(x=np.array([1, np.inf], np.float32))
        model.close()
        model.close()
        assert whole.opened[0].closed == 1
        with pytest.raises(Closed):
            model.run(x=X)


def test_where_none_is_named_rank_decides_and_the_other_is_told():
    with installed(Whole(rank=95)), turnout.load(RELU) as model:
        assert model.run(x=X)["y"].tolist() == [0, 2]
        assert reasons(model)["whole:0"] == "takes the file whole, but cpu:0 goes first and runs all of it; name it to use it"
    with installed(Whole(rank=10)), turnout.load(RELU) as model:
        assert model.run(x=X)["y"].tolist() == [-2, 4]
        assert reasons(model)["cpu:0"] == "would have been asked to run the operator graph, but whole:0 goes first and takes the file whole"


def test_a_device_may_have_a_rank_of_its_own():
    with installed(Whole(rank=95, device_rank=10)):
        assert turnout.devices()[0].name == "whole:0"
        with turnout.load(RELU) as model:
            assert model.explain().partitions[0].device == "whole:0"


def test_a_list_is_an_order():
    with installed(Whole()):
        for order, device in ((["cpu", "whole"], "cpu:0"), (["whole", "cpu"], "whole:0")):
            with turnout.load(RELU, device=order) as model:
                assert model.explain().partitions[0].device == device


def test_the_file_goes_whole_where_those_before_cannot_run_all_of_it():
    """Those after it are asked only where it does not take the file either."""
    with installed(FakeProvider("early", [], rank=10), Whole(rank=20)), turnout.load(RELU) as model:
        assert model.explain().partitions[0].device == "whole:0"
        assert "early:0 cannot run the operator graph: early:0 cannot run 1 of the nodes" in str(model.explain())
        assert "cpu:0" in reasons(model)


def test_a_file_that_does_not_open_goes_to_the_next_device():
    with installed(Whole(rank=10, trouble=CompileError("an architecture it has never heard of"))), turnout.load(RELU) as model:
        assert model.run(x=X)["y"].tolist() == [0, 2]
        assert "whole:0 did not open the file: an architecture it has never heard of" in str(model.explain())


def test_a_named_device_that_does_not_open_it_is_an_error():
    with installed(Whole(trouble=CompileError("no"))), pytest.raises(CompileError, match="no"):
        turnout.load(RELU, device="whole")
    with installed(Whole(trouble=KeyError("k"))), pytest.raises(CompileError, match="whole raised KeyError: 'k'"):
        turnout.load(RELU, device="whole")


def test_a_refusal_keeps_it_out_and_is_told():
    with installed(Whole(No("it takes poems only"), rank=10)):
        with turnout.load(RELU) as model:
            assert reasons(model)["whole:0"] == "it takes poems only"
        with pytest.raises(NoProvider, match="whole:0: it takes poems only"):
            turnout.load(RELU, device="whole")


def test_a_plugin_that_raises_when_asked_takes_nobody_down():
    with installed(Whole(KeyError("k"), rank=10)), turnout.load(RELU) as model:
        assert reasons(model)["whole:0"] == "its plugin raised KeyError when asked for the whole file: 'k'"


def test_a_file_that_it_finds_broken_is_broken():
    with installed(Whole(InvalidModel("cut short"), rank=10)), pytest.raises(InvalidModel, match="cut short"):
        turnout.load(RELU)


def test_where_everything_fails_every_reason_is_there():
    everything = r"early:0 cannot run(?s:.*)whole:0, which takes files whole: too old"
    providers = FakeProvider("early", [], rank=10), Whole(trouble=CompileError("too old"))
    with installed(*providers), pytest.raises(NoProvider, match=everything):
        turnout.load(RELU, device=["early", "whole"])


def test_a_graph_that_cannot_be_made_leaves_it_to_the_device_that_takes_files(monkeypatch):
    from turnout.formats.onnx import OnnxSource

    def model(self):
        raise InvalidModel("an unknown architecture")

    monkeypatch.setattr(OnnxSource, "model", model)
    with installed(Whole(rank=95)), turnout.load(RELU) as made:
        assert made.explain().partitions[0].device == "whole:0"
        assert "cpu:0 cannot run the operator graph: an unknown architecture" in str(made.explain())
    with installed(Whole(trouble=CompileError("nor here"))), pytest.raises(InvalidModel, match=r"unknown architecture(?s:.*)nor here"):
        turnout.load(RELU)


def test_the_fingerprint_tells_whole_from_graph():
    with installed(Whole()):
        prints = {turnout.load(RELU, device=device).fingerprint for device in ("cpu", "whole")}
    assert len(prints) == 2
