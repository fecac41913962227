"""The command `turnout kernel NAME`: what a kernel takes of a GPU, told by the compiler, with no GPU at hand."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import click

from turnout_cuda.roofline import CHIPS, Launched, occupancy, predicted

if TYPE_CHECKING:
    from turnout_cuda.array import Launch

__all__ = ["ARCHITECTURES", "kernel", "kernels", "moved"]

ARCHITECTURES = ("sm_75", "sm_80", "sm_90a", "sm_100", "sm_120")


_GRAPH = "A graph in ONNX's text form, at its shapes: 'g (float[64, 4096] x) => (float[64, 4096] y) { y = Softmax(x) }'."


@click.command()
@click.argument("operator")
@click.option("--dtype", default="float", show_default=True, help="Element type, as ONNX names it.")
@click.option("--arch", "archs", multiple=True, type=click.Choice(ARCHITECTURES), help="Architecture; all where none is given.")
@click.option("--source", is_flag=True, help="Show the generated source.")
@click.option("--graph", help=_GRAPH)
def kernel(operator: str, dtype: str, archs: tuple[str, ...], source: bool, graph: str | None) -> None:
    """Show what the kernels of an OPERATOR take: registers, spills, shared memory, occupancy, and what they became (with nvdisasm).

    With their bytes and operations comes what a chip would take for them at its ceilings, and the share of that which is predicted, by a
    model (turnout_cuda/roofline.py) that no GPU has been held against. Shapes are those of the conformance kit's plain cases, which are
    small, or those of --graph. No GPU is needed.
    """
    found = {arch: _launches(operator, dtype, graph, arch) for arch in archs or ARCHITECTURES}
    if not any(found.values()):
        raise click.ClickException(f"there is no CUDA kernel for {operator} of {dtype}")
    shown: set[str] = set()
    for launches in found.values():
        for entry, launch in launches.items():
            if entry not in shown:
                shown.add(entry)
                own = [one for one, others in found.items() if entry in others]
                _show(entry, launch, own, source)


def _launches(operator: str, dtype: str, graph: str | None, arch: str) -> dict[str, Launch]:
    if graph is None:
        return dict(kernels(operator, dtype, arch))
    import onnx

    from turnout.errors import TurnoutError
    from turnout_cuda.ahead import given
    from turnout_cuda.dry import launches

    try:
        model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 23, "com.microsoft" : 1]> {graph}')
        ((whole, inputs),) = given([model])
        return dict(launches(whole, inputs, arch=arch))
    except (onnx.parser.ParseError, TurnoutError) as error:
        raise click.ClickException(f"--graph: {error}") from None


def _show(entry: str, launch: Launch, archs: list[str], source: bool) -> None:
    from turnout_cuda.build import Target, make, usage
    from turnout_cuda.sass import features

    blocks, nbytes = math.prod(launch.grid), moved(launch)
    counted = "operations not counted" if launch.operations is None else f"{launch.operations:,} operations"
    click.echo(f"{entry}: {blocks:,} blocks of {launch.block} threads, {nbytes:,} bytes read and written, {counted}")
    if source:
        click.echo(launch.source)
    for arch in archs:
        took = usage(launch.source, Target(arch))
        shared = took.shared + launch.shared
        click.echo(
            f"  {arch:8} {took.registers:3} registers  {took.spilled:3} bytes spilled  {shared:7,} bytes shared  "
            f"{occupancy(arch, took.registers, shared, launch.block):4.0%} of the warps"
        )
        for warning in took.warnings:
            click.echo(f"           {warning}")
        became = features(make(launch.source, Target(arch)))
        if became:
            click.echo("           " + ", ".join(f"{count} {name}" for name, count in became.items()))
        tensor, wide = _uses(launch.source, became)
        asked = Launched(nbytes, launch.operations, tensor, wide, blocks, launch.block, took.registers, shared)
        found = predicted(arch, asked)
        if found is not None:
            click.echo(
                f"           {CHIPS[arch].name}: {found.ceiling * 1e6:,.3f} us at its ceiling, which is {found.bound}; "
                f"{found.share:.1%} of that predicted"
            )


def moved(launch: Launch) -> int:
    """Bytes that a launch reads and writes, each array once."""
    return sum(buffer.nbytes for buffer in dict.fromkeys(launch.reads)) + sum(buffer.nbytes for buffer in dict.fromkeys(launch.writes))


def _uses(source: str, became: Mapping[str, int] | None) -> tuple[bool, int]:
    """Whether tensor cores multiply, and the bytes of a load; by the source where there is no nvdisasm."""
    if became is None:
        return "mma" in source, 16 if "pack<" in source else 4
    wide = any(became.get(name) for name in ("LDG.E.128", "LDGSTS"))
    return any(became.get(name) for name in ("HGMMA", "HMMA", "IMMA")), 16 if wide else 4


def kernels(operator: str, dtype: str = "float", arch: str = "sm_80") -> Iterator[tuple[str, Launch]]:
    """The kernels that the kit's plain cases of an operator launch, by entry name."""
    from turnout.errors import TurnoutError
    from turnout.testing.made import groups
    from turnout.testing.onnx_cases import onnx_cases
    from turnout_cuda.dry import launches

    cases = [
        case for group in groups() if group.operator == operator and group.dtype == dtype for case in group.cases if "plain" in case.name
    ]
    if not cases:
        cases = [case for case in onnx_cases() if [name for _, name, _ in case.operators] == [operator]]
    for case in cases:
        try:
            yield from launches(case.model, case.runs[0], arch=arch).items()
        except TurnoutError:
            continue
