"""What the kit says, to whom, and what it costs those who do not use it."""

import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from click.testing import CliRunner

from turnout.errors import NoSuchDevice
from turnout.graph import ir
from turnout.provider import No, Rewrite
from turnout.testing import LEVELS, ProviderSuite, Result, run, summary
from turnout.testing.broken import Clean, HonestyCompiles, OperatorsEmpty, ProbeReason
from turnout.testing.command import suite
from turnout.testing.fakes import FakeProvider, installed
from turnout.testing.levels import Kit
from turnout.testing.result import strictly


def fresh(code: str) -> str:
    """What a fresh interpreter prints."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_the_package_brings_in_no_pytest():
    assert fresh("import sys, turnout.testing; print({'pytest', 'numpy', 'onnx'} & set(sys.modules))") == "set()"


def test_the_pytest_plugin_brings_in_nothing_heavy():
    heavy = "{'numpy', 'onnx', 'onnx_ir', 'pydantic', 'turnout.plan'}"
    assert fresh(f"import sys, turnout.testing.plugin; print({heavy} & set(sys.modules))") == "set()"


def test_a_provider_that_is_not_installed_is_said_kindly():
    with pytest.raises(NoSuchDevice, match="no installed plugin brings a provider 'nowhere'"):
        next(run("nowhere"))


def test_a_level_that_there_is_not():
    with pytest.raises(ValueError, match="the levels are imports, probe"):
        next(run(Clean(), ["everything"]))


def test_what_is_skipped_counts_as_failed_where_nothing_may_be():
    results = list(run(ProbeReason(), ["lifetime", "faults"]))
    assert [result.outcome for result in results] == ["skipped", "skipped"]
    assert "no device" in results[0].detail
    assert [result.outcome for result in run(ProbeReason(), ["lifetime"], require=True)] == ["failed"]
    refused = Result("operators", "plain/Add", "refused", "it has no Add at all")
    assert strictly(refused) is refused


def test_a_provider_that_claims_nothing_is_not_green():
    nothing = FakeProvider("nothing", set())
    results = list(run(nothing, ["operators", "together", "lifetime", "faults"], only=["Add"]))
    assert {result.level for result in results if result.outcome == "skipped"} >= {"operators", "together", "lifetime", "faults"}
    assert not [result for result in results if result.level == "operators" and result.outcome == "passed"]


def test_a_summary_counts():
    add = (("", "Add", 14),)
    found = summary(
        [
            Result("operators", "plain/Add-14 float", "passed", operators=add),
            Result("operators", "empty/Add-14 float", "failed", "it is empty", operators=add),
            Result("operators", "plain/Add-14 int8", "refused", "no int8 here at all"),
            Result("probe", "twice/x", "passed"),
        ]
    )
    assert (found.claimed, found.passed, found.ok) == (2, 1, False)
    assert found.line("mine") == "mine: 1 of 2 claimed cases passed, operators: 1, failed: 1"
    assert found.levels == {"operators": {"passed": 1, "failed": 1, "refused": 1}, "probe": {"passed": 1}}


@pytest.mark.parametrize("required", [False, True])
def test_a_level_that_is_skipped_is_no_claim(required: bool):
    """As that of a provider which takes files whole."""
    results = [Result("operators", "claims/any", "skipped", "it claims none of the cases"), Result("text", "streams/x", "passed")]
    found = summary(strictly(one) if required else one for one in results)
    assert (found.claimed, found.passed, found.ok) == (0, 0, not required)
    assert found.line("whole") == "whole: 1 checks passed" + (", failed: 1" if required else "")


def test_a_claim_that_does_not_compile_is_no_pass():
    results = list(run(HonestyCompiles(), ["operators"], only=["LeakyRelu"]))
    assert summary(results).claimed > summary(results).passed == 0
    assert "its claim is not honest" in next(result.detail for result in results if result.outcome == "skipped")


def test_a_sweep_is_not_done_twice():
    kit = Kit(Clean(), ["LeakyRelu"])
    first = list(kit.run(["operators"]))
    asked: list[str] = []
    kit.provider.supports = lambda node, *rest: asked.append(node.op_type) or No("it must not be asked about cases again")  # type: ignore
    second = list(kit.run(["honesty"]))
    assert first
    assert second
    assert "LeakyRelu" not in asked


def test_the_command():
    with installed(Clean()):
        done = CliRunner().invoke(suite, ["clean", "--level", "operators", "--level", "probe", "--only", "LeakyRelu"])
    assert done.exit_code == 0, done.output
    assert done.output.strip().splitlines()[-1] == "clean: 14 of 14 claimed cases passed, operators: 1"


def test_the_command_tells_failures_and_fails():
    with installed(OperatorsEmpty()):
        done = CliRunner().invoke(suite, ["clean", "--level", "operators", "--only", "LeakyRelu"])
        as_json = CliRunner().invoke(suite, ["clean", "--level", "operators", "--only", "LeakyRelu", "--json"])
    assert done.exit_code == as_json.exit_code == 1
    assert "FAILED operators empty/LeakyRelu-16 float" in done.output
    found = json.loads(as_json.output)
    assert found["ok"] is False
    assert {failure["case"] for failure in found["failures"]} == {"empty/LeakyRelu-16 float", "open/LeakyRelu-16 float"}


def pytest_says(folder, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)


def test_pytest_without_a_provider_says_what_to_add(tmp_path):
    said = pytest_says(tmp_path, "--pyargs", "turnout.testing.suite")
    assert said.returncode == 4
    assert "add --turnout-provider NAME" in said.stderr + said.stdout
    assert "Traceback" not in said.stderr + said.stdout


def test_pytest_with_a_provider_that_is_not_there(tmp_path):
    said = pytest_says(tmp_path, "--pyargs", "turnout.testing.suite", "--turnout-provider", "nowhere")
    assert said.returncode == 4
    assert "no installed plugin brings a provider 'nowhere'" in said.stderr + said.stdout
    assert "Traceback" not in said.stderr + said.stdout


def test_three_lines_are_a_whole_test_file(tmp_path):
    (tmp_path / "test_mine.py").write_text(
        textwrap.dedent("""
        from turnout.testing import ProviderSuite
        class TestMine(ProviderSuite):
            provider = "toy"
        """)
    )
    said = pytest_says(tmp_path, "test_mine.py", "-k", "probe or imports")
    assert said.returncode == 0, said.stdout
    assert "2 passed" in said.stdout
    assert "toy: 8 checks passed" in said.stdout


class Nowhere(ProviderSuite):
    provider = ProbeReason()


def test_under_pytest_nothing_checked_is_skipped(request, monkeypatch):
    monkeypatch.setattr("turnout.testing.suite._remember", lambda *given: None)
    with pytest.raises(pytest.skip.Exception, match="it has no device here"):
        Nowhere().level("lifetime", request)
    monkeypatch.setattr(request.config.option, "turnout_require", True)
    with pytest.raises(pytest.fail.Exception, match="nothing may be skipped"):
        Nowhere().level("lifetime", request)


def test_under_pytest_failures_are_shown(request, monkeypatch):
    monkeypatch.setattr("turnout.testing.suite._remember", lambda *given: None)
    with pytest.raises(pytest.fail.Exception, match=r"1 failed:\nprobe reason/clean: failed: its reason for having no device"):
        Nowhere().level("probe", request)


def test_native_code_at_the_top_of_a_plugin_is_caught(tmp_path, monkeypatch):
    """A provider whose module loads a library of its own: here ONNX Runtime, which turnout does not need."""
    pytest.importorskip("onnxruntime")
    (tmp_path / "heavy_provider.py").write_text(
        textwrap.dedent("""
        from turnout.testing.broken import Clean
        class Heavy(Clean):
            def __init__(self):
                import onnxruntime
        """)
    )
    monkeypatch.syspath_prepend(tmp_path)
    from heavy_provider import Heavy

    results = {result.kind: result for result in run(Heavy(), ["imports"])}
    assert results["native"].outcome == "failed"
    assert "onnxruntime" in results["native"].detail


def test_levels_have_a_place_each():
    assert LEVELS == ("imports", "probe", "operators", "honesty", "together", "lifetime", "faults", "text")
    assert np.all([Result(level, "a/b", "passed").kind == "a" for level in LEVELS])


def neg_as_sub(graph: ir.Graph) -> list[Rewrite]:
    """Neg(x) in a dialect that has only Sub: 0 - x."""
    found = []
    for node in graph:
        if node.op_type == "Neg" and node.inputs[0].dtype == ir.DataType.FLOAT:
            zero = ir.val("zero", const_value=ir.tensor(np.zeros((), np.float32)))
            twin = ir.Value(name=node.outputs[0].name, type=node.outputs[0].type, shape=node.outputs[0].shape)
            found.append(
                Rewrite([node], "Sub from zero", replacement=[ir.Node("", "Sub", [zero, node.inputs[0]], outputs=[twin], version=14)])
            )
    return found


def test_what_is_taken_by_a_rewrite_counts_as_claimed():
    results = list(run(FakeProvider("dialect", {"Sub"}, rewrites=neg_as_sub), ["operators"], only=["Neg"]))
    passed = {result.case for result in results if result.outcome == "passed"}
    assert {"onnx/test_neg", "plain/Neg-13 float", "empty/Neg-13 float", "special/Neg-13 float"} <= passed
    assert {result.detail for result in results if result.outcome == "refused"} == {"dialect has no Neg"}
    assert not [str(result) for result in results if result.outcome in ("failed", "skipped")]


def test_shares_are_all_of_it_and_nothing_twice():
    whole = sorted(result.case for result in run(Clean(), ["operators"], only=["LeakyRelu", "Add"]))
    parts = [result for which in range(3) for result in run(Clean(), ["operators"], only=["LeakyRelu", "Add"], share=(which, 3))]
    assert sorted(result.case for result in parts) == whole
    assert [Result.of_json(result.json()) for result in parts] == parts
