"""The cases themselves: each has a name of its own, and an answer that is right."""

import importlib.metadata
from collections import Counter

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator

from turnout.testing.bounds import difference
from turnout.testing.made import groups
from turnout.testing.made.definitions import DEFINITIONS, WRONG
from turnout.testing.made.draft import Group
from turnout.testing.onnx_cases import onnx_cases


def of(*operators: str) -> list[Group]:
    return [group for group in groups() if group.operator in operators]


def evaluated(case) -> list:
    """What ONNX's evaluator says of a case that has its answer from a definition."""
    names = [info.name for info in case.proto.graph.input]
    return [ReferenceEvaluator(case.proto).run(None, dict(zip(names, run, strict=True))) for run in case.runs]


def test_every_case_has_a_name_of_its_own():
    names = [case.name for group in of("Add", "Relu", "Softmax", "Reshape", "ReduceSum", "MatMul", "Cast", "Clip") for case in group.cases]
    assert len(names) > 1000
    assert not [name for name, count in Counter(names).items() if count > 1]


def test_a_case_is_the_same_every_time():
    (group, *_) = of("Add")
    again = Group("Add", group.dtype, group._drafts)
    for one, other in zip(group.cases, again.cases, strict=True):
        assert one.proto == other.proto
        for runs in zip(one.runs, other.runs, strict=True):
            for left, right in zip(*runs, strict=True):
                np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("operator", sorted(set(DEFINITIONS) - {"MeanVarianceNormalization"}))
def test_a_definition_agrees_with_the_evaluator_where_that_is_right(operator):
    """Each was written down because the evaluator is wrong somewhere; elsewhere the two must agree."""
    agreed = 0
    for group in of(operator):
        if group.dtype not in ("float", "double", "int64", "int8"):
            continue
        for case in group.cases:
            if case._given is None or case.name.startswith(("older/", "version/")):
                continue
            try:
                with np.errstate(all="ignore"):
                    results = evaluated(case)
            except Exception:
                continue
            agreed += all(
                not difference(np.asarray(got), wanted, "sum")
                for result, wanteds in zip(results, case.wanted, strict=True)
                for got, wanted in zip(result, wanteds, strict=True)
            )
    assert agreed >= (0 if operator in ("ConvTranspose", "Pad", "ReduceSumSquare", "LRN") else 2)


def test_every_definition_says_what_is_wrong_with_the_evaluator():
    assert set(DEFINITIONS) == set(WRONG)


def test_onnx_cases_are_all_there():
    cases = onnx_cases()
    assert len(cases) > 1500
    assert len({case.name for case in cases}) == len(cases)
    assert {case.name for case in cases if case.type_only} >= {"onnx/test_bernoulli", "onnx/test_training_dropout_default"}


@pytest.mark.slow
def test_every_made_case_has_an_answer():
    names: Counter[str] = Counter()
    for group in groups():
        for case in group.cases:
            names[case.name] += 1
            assert len(case.wanted) == len(case.runs), case
            assert all(len(wanted) == len(case.model.graph.outputs) for wanted in case.wanted), case
    assert not [name for name, count in names.items() if count > 1]
    assert len(names) > 10_000


@pytest.mark.slow
@pytest.mark.skipif(not importlib.metadata.version("onnx").startswith("1.23."), reason="written down for onnx 1.23")
@pytest.mark.parametrize("operator", sorted(WRONG))
def test_what_is_said_to_be_wrong_is_wrong(operator):
    """A definition whose reason is gone can go."""
    for group in of(operator):
        for case in group.cases:
            if case._given is None:
                continue
            try:
                with np.errstate(all="ignore"):
                    results = evaluated(case)
            except Exception:
                return
            for result, wanteds in zip(results, case.wanted, strict=True):
                if any(difference(np.asarray(got), wanted, "sum") for got, wanted in zip(result, wanteds, strict=True)):
                    return
    pytest.fail(f"the evaluator gives what the definition of {operator} gives")
