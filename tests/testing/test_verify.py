"""What verifying one's own devices finds, remembers, and tells the planner."""

import os
import sys

import onnx.parser
import pytest
from click.testing import CliRunner

import turnout
from turnout import checkup, probe
from turnout.cli import cli
from turnout.errors import NoProvider, NoSuchDevice
from turnout.formats import open_source
from turnout.testing import operators as level
from turnout.testing import verify as verifying
from turnout.testing.broken import Clean, OperatorsAttributes
from turnout.testing.fakes import installed
from turnout.testing.result import Result
from turnout.testing.subject import Subject
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
    monkeypatch.setattr(verifying, "_verdict", lambda provider, device, progress: Verdict(device.name))
    names = [verdict.device for verdict in verify()]
    assert names == [device.name for device in turnout.devices() if device.provider != "reference"]


def test_a_crash_is_blamed_on_the_operator_and_the_rest_is_tried_without_it(monkeypatch):
    right = Result("operators", "plain/Add-14 float", "passed", operators=(("", "Add", 14),), type="tensor(float)")
    tried: list[list[str]] = []

    def swept(provider, device, without, progress):
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
    told: list[str] = []
    found = verifying._Found(told.append)
    for line in ("a library's own words", f"{verifying._CASE}Add", f"{verifying._RESULT}{result.json()}", f"{verifying._CASE}Conv"):
        found.read(line)
    assert (found.results, found.at, found.done) == ([result], "Conv", False)
    assert told == ["1 cases, Add"]  # the second came too soon after it
    found.read(verifying._DONE)
    assert found.done


def child(monkeypatch, *lines: str) -> verifying._Child:
    """A child process that runs this instead of the sweep."""
    code = "\n".join(["import os, sys, time", f"C, R, D = {(verifying._CASE, verifying._RESULT, verifying._DONE)!r}", *lines])
    monkeypatch.setattr(probe, "child_command", lambda module, argument: ([sys.executable, "-u", "-c", code], dict(os.environ)))
    return verifying._Child("cpu:0", [])


def silent(text: str) -> None:
    pass


def test_a_child_that_crashes_hangs_or_takes_too_long(monkeypatch):
    with child(monkeypatch, "print(C + 'Add')", "print(C + 'Conv')", "os.abort()") as crashing:
        results, at, trouble = crashing.followed(verifying._Found(silent))
    assert (results, at) == ([], "Conv")
    assert "while it ran Conv" in trouble
    monkeypatch.setattr(verifying, "CASE_SECONDS", 0.3)
    with child(monkeypatch, "print(C + 'Conv')", "time.sleep(60)") as hanging:
        _, at, trouble = hanging.followed(verifying._Found(silent))
    assert (at, trouble) == ("Conv", "Conv did not come back within 0.3 s")
    monkeypatch.setenv("TURNOUT_VERIFY_SECONDS", "0.5")
    with child(monkeypatch, "while True:", "    print(C + 'Conv')", "    time.sleep(0.05)") as slow:
        _, at, trouble = slow.followed(verifying._Found(silent))
    assert at == ""
    assert "stopped after 0.5 s, at Conv" in trouble
    assert [one._process.poll() is not None for one in (crashing, hanging, slow)] == [True] * 3


def test_whoever_is_interrupted_leaves_no_child_behind(monkeypatch):
    def interrupt(text: str) -> None:
        raise KeyboardInterrupt

    running = child(monkeypatch, "print(C + 'Conv')", "time.sleep(60)")
    with pytest.raises(KeyboardInterrupt), running:
        running.followed(verifying._Found(interrupt))
    assert running._process.poll() is not None


@pytest.fixture
def leaky_only(monkeypatch):
    """Verifies nothing but LeakyRelu, here, and only on the provider under test."""

    def swept(provider, device, without, progress):
        if provider.name != "clean":
            return [], "", ""
        return list(level.sweep(Subject(provider, device), {"LeakyRelu"})), "", ""

    monkeypatch.setattr(verifying, "_swept", swept)
    monkeypatch.setattr(checkup, "_tried_in_child", lambda name: {"ok": True})


def test_what_is_found_is_shown_refused_and_forgotten(leaky_only):
    model = onnx.parser.parse_model('<ir_version: 10, opset_import: ["" : 21]> g (float[4] x) => (float[4] y) { y = LeakyRelu(x) }')
    with installed(OperatorsAttributes()):
        turnout.load(model, device="clean").close()
        shown = CliRunner().invoke(cli, ["doctor", "--verify"])
        assert "clean:0 gave wrong results for these when it was verified" in shown.output
        assert "LeakyRelu since 16 tensor(float): attributes/LeakyRelu-16 float" in shown.output
        with pytest.raises(NoProvider, match=r"clean:0: it gave a wrong result on this machine when it was verified: attributes/LeakyRelu"):
            turnout.load(model, device="clean")
        with turnout.load(model, device=["clean", "cpu"]) as loaded:
            assert "when it was verified" in str(loaded.explain().node("LeakyRelu#0"))
        assert "LeakyRelu since 16" in CliRunner().invoke(cli, ["doctor"]).output
        assert "LeakyRelu" not in CliRunner().invoke(cli, ["doctor", "--forget"]).output
        turnout.load(model, device="clean").close()


@pytest.mark.slow
def test_the_toy_is_verified_in_a_child_process():
    (verdict,) = verify(["toy"])
    assert verdict.trouble == ""
    assert verdict.claimed > 50
    assert file().exists()
