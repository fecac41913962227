"""The command `turnout kernel NAME`: what a kernel takes of a GPU, told by the compiler, with no GPU at hand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from turnout_cuda.array import Launch

__all__ = ["ARCHITECTURES", "kernel"]

ARCHITECTURES = ("sm_75", "sm_80", "sm_90a", "sm_100", "sm_120")


@dataclass(frozen=True)
class _Multiprocessor:
    """What one holds: registers, warps, bytes of shared memory (CUDA C++ programming guide, "Compute Capabilities")."""

    registers: int
    warps: int
    shared: int


_HOLDS = {
    "sm_75": _Multiprocessor(65536, 32, 64 << 10),
    "sm_80": _Multiprocessor(65536, 64, 164 << 10),
    "sm_90a": _Multiprocessor(65536, 64, 228 << 10),
    "sm_100": _Multiprocessor(65536, 64, 228 << 10),
    "sm_120": _Multiprocessor(65536, 48, 100 << 10),
}


def occupancy(arch: str, registers: int, shared: int, block: int) -> float:
    """The share of a multiprocessor's warps that can be there at once, as registers and shared memory allow."""
    holds, warps = _HOLDS[arch], -(-block // 32)
    by_registers = holds.registers // (-(-max(registers, 1) // 8) * 8 * 32 * warps)
    by_shared = holds.shared // max(shared, 1) if shared else 32
    return min(by_registers, by_shared, 32, holds.warps // warps) * warps / holds.warps


@click.command()
@click.argument("operator")
@click.option("--dtype", default="float", show_default=True, help="Element type, as ONNX names it.")
@click.option("--arch", "archs", multiple=True, type=click.Choice(ARCHITECTURES), help="Architecture; all where none is given.")
@click.option("--source", is_flag=True, help="Show the generated source.")
def kernel(operator: str, dtype: str, archs: tuple[str, ...], source: bool) -> None:
    """Show what the kernels of an OPERATOR take: registers, spills, shared memory, occupancy, and what they became (with nvdisasm).

    The conformance kit's plain cases say at which shapes. No GPU is needed.
    """
    from turnout_cuda.build import Target, make, usage
    from turnout_cuda.sass import features

    found = dict(kernels(operator, dtype))
    if not found:
        raise click.ClickException(f"there is no CUDA kernel for {operator} of {dtype}")
    for entry, launch in found.items():
        moved = sum(buffer.nbytes for buffer in (*launch.reads, *launch.writes))
        click.echo(f"{entry}: {launch.grid[0]} blocks of {launch.block} threads, {moved:,} bytes read and written")
        if source:
            click.echo(launch.source)
        for arch in archs or ARCHITECTURES:
            took = usage(launch.source, Target(arch))
            share = occupancy(arch, took.registers, took.shared + launch.shared, launch.block)
            click.echo(
                f"  {arch:8} {took.registers:3} registers  {took.spilled:3} bytes spilled  {took.shared + launch.shared:7,} bytes shared  "
                f"{share:4.0%} of the warps"
            )
            for warning in took.warnings:
                click.echo(f"           {warning}")
            became = features(make(launch.source, Target(arch)))
            if became:
                click.echo("           " + ", ".join(f"{count} {name}" for name, count in became.items()))


def kernels(operator: str, dtype: str = "float") -> Iterator[tuple[str, Launch]]:
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
            yield from launches(case.model, case.runs[0]).items()
        except TurnoutError:
            continue
