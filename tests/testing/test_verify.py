"""What verifying one's own devices finds, remembers, and tells the planner."""

import onnx.parser
import pytest

import turnout
from turnout.errors import NoSuchDevice
from turnout.formats import open_source
from turnout.testing import operators as level
from turnout.testing import verify as verifying
from turnout.testing.broken import Clean, OperatorsAttributes
from turnout.testing.fakes import installed
from turnout.testing.result import Result
from turnout.testing.verify import Verdict, verify
from turnout.verified import against, file, wrong


@pytest.fixture(autouse=True)
def _own_memory(tmp_path, monkeypatch):
    monkeypatch.setenv("TURNOUT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(level, "onnx_cases", lambda: ())  # the made cases are enough here, and quicker


def node_of(operator: str, kind: str = "float"):
    text = f'<ir_version: 10, opset_import: ["" : 16]> g ({kind}[4] x) => ({kind}[4] y) {{ y = {operator}(x) }}'
    return next(iter(open_source(onnx.parser.parse_model(text)).model().graph))


def test_wrong_operators_are_remembered_by_device_and_type():
    broken = OperatorsAttributes()
    with installed(broken):
        (verdict,) = verify(["clean"])
        (device,) = broken.probe()
        known = wrong(device, broken)
    assert not verdict.ok
    assert verdict.claimed > verdict.passed > 100
    assert set(known) == {("", "LeakyRelu", 16, "tensor(float)")}
    assert "attributes/LeakyRelu-16 float" in known["", "LeakyRelu", 16, "tensor(float)"]
    assert "is" in against(node_of("LeakyRelu"), known)
    assert against(node_of("LeakyRelu", "double"), known) == ""
    assert against(node_of("Relu"), known) == ""
    assert str(verdict) == f"clean:0: {verdict.passed} of {verdict.claimed} claimed cases right; wrong: LeakyRelu"


def test_a_device_that_is_right_is_remembered_as_right():
    clean = Clean()
    with installed(clean):
        (verdict,) = verify(["clean"])
    assert verdict.ok
    (device,) = clean.probe()
    assert wrong(device, clean) == {}
    assert "clean:0" in file().read_text()


def test_a_device_that_is_not_there():
    with pytest.raises(NoSuchDevice, match="no device 'clean:7' to verify"), installed(Clean()):
        verify(["clean:7"])


def test_all_devices_but_the_evaluators_own(monkeypatch):
    monkeypatch.setattr(verifying, "_verdict", lambda provider, device: Verdict(device.name))
    names = [verdict.device for verdict in verify()]
    assert names == [device.name for device in turnout.devices() if device.provider != "reference"]


def test_a_crash_is_blamed_on_the_operator_and_the_rest_is_tried_without_it(monkeypatch):
    right = Result("operators", "plain/Add-14 float", "passed", operators=(("", "Add", 14),), type="tensor(float)")
    tried: list[list[str]] = []

    def swept(provider, device, without):
        tried.append(without)
        return ([right], "", "") if "Conv" in without else ([], "Conv", "the process crashed (SIGSEGV) while it ran Conv")

    monkeypatch.setattr(verifying, "_swept", swept)
    clean = Clean()
    with installed(clean):
        (verdict,) = verify(["clean"])
    assert tried == [[], ["Conv"]]
    assert verdict.trouble == ""
    assert verdict.wrong["", "Conv", 22, ""] == "the process crashed (SIGSEGV) while it ran Conv"
    (device,) = clean.probe()
    assert "SIGSEGV" in against(_conv(), wrong(device, clean))


def _conv():
    text = '<ir_version: 10, opset_import: ["" : 22]> g (float[1,1,3,3] x, float[1,1,2,2] w) => (float[1,1,2,2] y) { y = Conv(x, w) }'
    return next(iter(open_source(onnx.parser.parse_model(text)).model().graph))


def test_what_the_child_prints_is_read_back():
    result = Result("operators", "plain/Add-14 float", "failed", "wrong", operators=(("", "Add", 14),), type="tensor(float)")
    lines = ["a library's own words", f"{verifying._CASE}Add", f"{verifying._RESULT}{result.json()}", f"{verifying._CASE}Conv"]
    assert verifying._read_out("\n".join(lines)) == ([result], "Conv", False)
    assert verifying._read_out("\n".join([*lines, verifying._DONE]))[2]


@pytest.mark.slow
def test_the_toy_is_verified_in_a_child_process():
    (verdict,) = verify(["toy"])
    assert verdict.trouble == ""
    assert verdict.claimed > 50
    assert file().exists()
