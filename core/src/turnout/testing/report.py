"""The table of operators and providers, `docs/operators.md`: who takes what, by asking, and why not.

    python -m turnout.testing.report docs/operators.md --provider cpu --provider toy

Every operator of the installed onnx is asked about at its newest definition, and where that is refused at older ones: bare, with each
element type of its first type parameter, and as the kit's cases have it. A type counts as taken where any of them is. Nothing is run,
and nothing of the machine is written.
"""

from __future__ import annotations

import functools
import importlib.metadata
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import onnx.defs

from turnout.device import Device
from turnout.graph import ir
from turnout.provider import No, Provider
from turnout.testing.case import Case
from turnout.testing.finding import find
from turnout.testing.made import groups
from turnout.testing.made.draw import DTYPES, dtypes_of
from turnout.testing.onnx_cases import onnx_cases

__all__ = ["PROVIDERS", "report", "versions", "write"]

PROVIDERS = ("cpu", "toy", "reference")
"""The providers that the repository's own table has, in its order."""

_DOMAINS = ("", "ai.onnx.ml", "ai.onnx.preview", "ai.onnx.preview.training")


@dataclass(frozen=True)
class _Answer:
    """What a provider says of an operator: element types that it takes, of which definition, and why it does not take the others."""

    taken: tuple[str, ...]
    schema: Any
    reasons: tuple[str, ...]


def report(names: Sequence[str] = PROVIDERS) -> str:
    """The page. Raises NoSuchDevice for a provider that is not installed, Unavailable for one without a device here."""
    asked = [(provider, provider.probe()[0]) for provider in map(find, names)]
    schemas = _schemas()
    answers = {provider.name: [_answer(schema, provider, device) for schema in schemas] for provider, device in asked}
    lines = [*_head(answers), *_table(schemas, answers), ""]
    for name, column in answers.items():
        lines += [*_reasons(name, schemas, column), ""]
    return "\n".join(lines).rstrip() + "\n"


def write(path: str | Path, names: Sequence[str] = PROVIDERS) -> None:
    """Writes the page to a file."""
    Path(path).write_text(report(names), encoding="utf-8")


def versions(names: Sequence[str] = PROVIDERS) -> str:
    """The versions that the page depends on, in one line that stands in it."""
    found = {"onnx": importlib.metadata.version("onnx")}
    for name in names:
        found |= {key: value for key, value in find(name).versions().items() if key != "onnx"}
    return ", ".join(f"{key} {value}" for key, value in found.items())


def _schemas() -> list[Any]:
    """The newest definition of each operator, by domain and name."""
    newest: dict[tuple[str, str], Any] = {}
    for schema in onnx.defs.get_all_schemas():
        if schema.domain in _DOMAINS and not schema.deprecated:
            newest[schema.domain, schema.name] = schema
    return [newest[key] for key in sorted(newest)]


def _head(answers: Mapping[str, Sequence[_Answer]]) -> Iterator[str]:
    yield "# Operators"
    yield ""
    yield "Which provider takes which operator, at the newest definition of each, and with which element types, by asking the providers."
    yield "`uv run python -m turnout.testing.report docs/operators.md` writes this page anew. An operator that no provider takes whole may"
    yield "still run, as the nodes that define it; If, Loop and Scan are run by turnout itself."
    yield ""
    yield f"Made with {versions(list(answers))}."
    yield ""
    for name, column in answers.items():
        yield f"- **{name}**: {sum(bool(answer.taken) for answer in column)} of {len(column)} operators"
    yield ""


def _table(schemas: Sequence[Any], answers: Mapping[str, Sequence[_Answer]]) -> Iterator[str]:
    yield "| operator | since | " + " | ".join(answers) + " |"
    yield "|---|---|" + "---|" * len(answers)
    for place, schema in enumerate(schemas):
        title = f"{schema.domain}.{schema.name}" if schema.domain else schema.name
        cells = [_cell(schema, column[place]) for column in answers.values()]
        yield f"| {title} | {schema.since_version} | " + " | ".join(cells) + " |"


def _cell(schema: Any, answer: _Answer) -> str:
    if not answer.taken:
        return "no"
    older = "" if answer.schema is schema else f", only as of {answer.schema.since_version}"
    admitted = _types(answer.schema)
    others = [name for name in admitted if name not in answer.taken]
    if not others:
        return f"yes{older}"
    if len(others) <= 3 < len(answer.taken):
        return "all but " + ", ".join(_short(name) for name in others) + older
    return ", ".join(_short(name) for name in answer.taken) + older


def _short(name: str) -> str:
    return {"float": "float32", "double": "float64"}.get(name, name)


def _reasons(name: str, schemas: Sequence[Any], column: Sequence[_Answer]) -> Iterator[str]:
    """The refusals of one provider, alike ones together: what differs by operator is written as `…`."""
    grouped: dict[str, list[str]] = {}
    for schema, answer in zip(schemas, column, strict=True):
        for reason in answer.reasons:
            pattern = re.sub(rf"\b{re.escape(schema.name)}\b", "…", reason)
            pattern = re.sub(rf"\bnot ({'|'.join(map(_short, DTYPES))})\b", "not …", pattern)
            grouped.setdefault(pattern, []).append(schema.name)
    if not grouped:
        return
    yield f"## What {name} refuses"
    yield ""
    for pattern, operators in sorted(grouped.items(), key=lambda item: (-len(item[1]), item[0])):
        yield f"- {_plain(pattern)}: {', '.join(dict.fromkeys(operators))}"


def _plain(text: str) -> str:
    """The text as Markdown shows it unchanged."""
    return re.sub(r"([*_<>|`])", r"\\\1", " ".join(text.split()))


_UNTYPED = "any"


def _types(schema: Any) -> list[str]:
    """Element types of the type parameter that matters: that of the first input, or of the first output where there is none."""
    formal = [*schema.inputs, *schema.outputs]
    for one in formal:
        if found := dtypes_of(schema, one.type_str):
            return found
    return [_UNTYPED]


def _answer(schema: Any, provider: Provider, device: Device) -> _Answer:
    """The newest definition that the provider takes any of; the reasons are about the newest of all."""
    taken, reasons = _asked(schema, provider, device)
    older = schema
    while not taken and (found := _before(older)) is not None:
        older = found
        taken = _asked(older, provider, device)[0]
    return _Answer(tuple(taken), older if taken else schema, tuple(dict.fromkeys(reasons)))


def _asked(schema: Any, provider: Provider, device: Device) -> tuple[list[str], list[str]]:
    taken, reasons = [], []
    for name in _types(schema):
        bare = _bare(schema, name, provider, device)
        if bare is None or any(reason is None for reason in _in_cases(schema, name, provider, device)):
            taken.append(name)
        else:
            reasons.append(bare)
    return taken, reasons


def _before(schema: Any) -> Any:
    """The definition before this one; None where it is the first, or as old as operator set 7, which nobody exports any more."""
    try:
        found = onnx.defs.get_schema(schema.name, schema.since_version - 1, schema.domain)
    except onnx.defs.SchemaError:
        return None
    return found if found.since_version >= 7 and not found.deprecated else None


def _bare(schema: Any, dtype: str, provider: Provider, device: Device) -> str | None:
    """The provider's refusal of the operator with inputs of that type and no shapes; None where it takes it."""
    node = ir.Node(
        schema.domain,
        schema.name,
        [_value(schema, formal, dtype, place) for place, formal in enumerate(schema.inputs) if formal.option.name != "Optional"],
        [_attribute(attribute) for attribute in schema.attributes.values() if attribute.required],
        version=schema.since_version,
        outputs=[
            _value(schema, formal, dtype, f"y{place}") for place, formal in enumerate(schema.outputs) if formal.option.name != "Optional"
        ],
    )
    graph = ir.Graph([], node.outputs, nodes=[node], opset_imports={schema.domain: schema.since_version}, name="bare")
    return _refusal(provider, node, graph, device)


def _refusal(provider: Provider, node: ir.Node, graph: ir.Graph, device: Device) -> str | None:
    answer = provider.supports(node, graph, device)
    return answer.reason if isinstance(answer, No) else None


def _value(schema: Any, formal: Any, dtype: str, name: Any) -> ir.Value:
    return ir.Value(name=f"v{name}", type=_type(schema, formal, dtype))


def _type(schema: Any, formal: Any, dtype: str) -> Any:
    """The type of a formal parameter: the asked one where it is of the parameter that matters, else the first that is admitted."""
    admitted = dtypes_of(schema, formal.type_str)
    matters = dtype in admitted and admitted == _types(schema)
    name = dtype if matters else admitted[0] if admitted else formal.type_str
    found = re.fullmatch(r"(?:tensor\()?(\w+)\)?", name)
    if found is not None and found[1] in DTYPES:
        return ir.TensorType(_number(found[1]))
    inner = re.search(r"tensor\((\w+)\)", "float" if admitted else _first(schema, formal))
    element = ir.TensorType(_number(inner[1]) if inner is not None and inner[1] in DTYPES else ir.DataType.FLOAT)
    text = _first(schema, formal)
    return ir.SequenceType(element) if text.startswith("seq") else ir.OptionalType(element) if text.startswith("optional") else element


def _first(schema: Any, formal: Any) -> str:
    for constraint in schema.type_constraints:
        if constraint.type_param_str == formal.type_str:
            return str(sorted(constraint.allowed_type_strs)[0])
    return str(formal.type_str)


def _number(name: str) -> ir.DataType:
    return ir.DataType.STRING if name == "string" else ir.DataType.from_numpy(DTYPES[name])


def _attribute(attribute: Any) -> ir.Attr:
    """A required attribute with a value of its kind, for a provider that looks whether it is there."""
    values: dict[str, Any] = {"INT": 1, "INTS": [1], "FLOAT": 1.0, "FLOATS": [1.0], "STRING": "LEFT", "STRINGS": ["a"]}
    kind = attribute.type.name
    if kind in values:
        return ir.Attr(attribute.name, ir.AttributeType[kind], values[kind])
    if kind == "GRAPH":
        return ir.AttrGraph(attribute.name, ir.Graph([], [], nodes=[], name="body"))
    return ir.AttrTensor(attribute.name, ir.tensor([1.0]))


def _in_cases(schema: Any, dtype: str, provider: Provider, device: Device) -> Iterator[str | None]:
    """The provider's refusals of the operator as cases of the type have it: with shapes, and constants where it wants some."""
    for case in _cases().get((schema.domain, schema.name, schema.since_version, f"tensor({dtype})"), ()):
        graph = case.model.graph
        for node in graph:
            yield _refusal(provider, node, graph, device)


@functools.cache
def _cases() -> dict[tuple[str, str, int, str], list[Case]]:
    """Cases of a single node, by operator and type of its first input: the first made one of each type, and ONNX's own."""
    found: dict[tuple[str, str, int, str], list[Case]] = {}
    for case in (*(group.cases[0] for group in groups()), *onnx_cases()):
        if len(case.operators) == 1 and case.type:
            found.setdefault((*case.operators[0], case.type), []).append(case)
    return found


@click.command()
@click.argument("path", type=click.Path(dir_okay=False))
@click.option("--provider", "names", multiple=True, default=PROVIDERS, show_default=True, help="A provider that the table is to have.")
def _main(path: str, names: tuple[str, ...]) -> None:
    """Write the table of operators and providers to PATH."""
    write(path, names)


if __name__ == "__main__":
    _main()
