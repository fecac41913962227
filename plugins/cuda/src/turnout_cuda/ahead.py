"""Building kernels ahead of time: python -m turnout_cuda.ahead FOLDER [--arch sm_90a ...] [--only OPERATOR ...] [--model FILE ...]

Writes one archive of cubins per architecture into the folder; turnout-cuda-cubins is such a folder as a package. Which kernels: those that
the conformance kit's cases launch, ONNX's own cases among them, and those of `typical` shapes, for the element types in `TYPES`; and those
of given models, where their inputs have fixed shapes (open dimensions count as 1). A kernel's source depends on operator, types, ranks and
which operands are spread over others, but not on sizes: so most of what a model wants is known ahead. What is not are fused chains, and so
a process without NVRTC does not fuse.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import sys
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from turnout_cuda.build import Target, compiler_version, key_of, make
from turnout_cuda.command import ARCHITECTURES

__all__ = ["TYPES", "given", "known", "main", "typical", "write"]

TYPES = frozenset({"float", "float16", "bfloat16", "int64", "int32", "bool", "int8", "uint8"})
"""Element types, as ONNX names them, whose kernels are built ahead."""

_ELEMENTWISE = ("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Equal", "Greater", "Less", "PRelu")
_ROWS = ("Softmax(x)", "LogSoftmax(x)", "ReduceSum(x)", "ReduceMean(x)", "ReduceMax(x)", "ReduceL2(x)", "ArgMax(x)")
_SPREADS = (
    ("8,64,32", "8,64,32"),
    ("8,64,32", ""),
    ("", "8,64,32"),
    ("8,64,32", "32"),
    ("32", "8,64,32"),
    ("8,64,32", "8,64,1"),
    ("8,64,32", "8,1,32"),
    ("8,64,6,32", "64,1,1"),
    ("8,64,6,32", "8,64,1,1"),
    ("8,64,6,32", "8,1,1,32"),
    ("8,64,7,7", "64,1,1"),
    ("8,64,7,7", "8,64,1,1"),
)


_HOPPER = "__CUDA_ARCH_FEAT_SM90_ALL"
"""Stands in sources that are for sm_90a alone."""
_OPERATOR = re.compile(r"y = (\w+)")


def typical() -> Iterator[str]:
    """Models in ONNX's text form with what networks are made of, at shapes that the kit's cases, which are small and odd, do not have."""
    for dtype, name, (a, b) in itertools.product(("float", "float16", "bfloat16"), _ELEMENTWISE, _SPREADS):
        out = "bool" if name in ("Equal", "Greater", "Less") else dtype
        yield f"g ({dtype}[{a}] x, {dtype}[{b}] z) => ({out}[?] y) {{ y = {name}(x, z) }}"
    for dtype, name in itertools.product(("float", "float16", "bfloat16"), ("Add", "Mul")):
        yield f"g ({dtype}[8,64,32] x) => ({dtype}[?] y) {{ y = {name}(x, x) }}"
    for dtype, call, width in itertools.product(("float", "float16", "bfloat16"), _ROWS, (40, 1024, 4096)):
        out = "int64" if "Arg" in call else dtype
        yield f"g ({dtype}[3,5,{width}] x) => ({out}[?] y) {{ y = {call} }}".replace(
            "(x)", "<axis = -1>(x)" if "Reduce" not in call else "(x)"
        )
    for dtype, width in itertools.product(("float", "float16", "bfloat16"), (40, 1024, 4096)):
        yield (
            f"g ({dtype}[3,5,{width}] x, {dtype}[{width}] s, {dtype}[{width}] b) => ({dtype}[?] y)"
            "{ y = LayerNormalization<axis = -1>(x, s, b) }"
        )
        yield f"g ({dtype}[3,5,{width}] x, {dtype}[{width}] s) => ({dtype}[?] y) {{ y = RMSNormalization<axis = -1>(x, s) }}"
    for dtype, (a, b) in itertools.product(
        ("float", "float16", "bfloat16"), (("8,40", "40,24"), ("2,8,40", "40,24"), ("2,4,8,40", "2,4,40,24"), ("1,8,40", "40,24"))
    ):
        yield f"g ({dtype}[{a}] x, {dtype}[{b}] z) => ({dtype}[?] y) {{ y = MatMul(x, z) }}"
    for dtype, turned in itertools.product(("float", "float16", "bfloat16"), (0, 1)):
        tail = f"{{ y = Gemm<transB = {turned}>(x, z, c) }}"
        yield f"g ({dtype}[128,64] x, {dtype}[{'128,64' if turned else '64,128'}] z, {dtype}[128] c) => ({dtype}[?] y) {tail}"
    for dtype, (a, b) in itertools.product(
        ("float16", "bfloat16"), (("128,64", "64,128"), ("2,128,64", "64,128"), ("2,4,128,64", "2,4,64,128"))
    ):
        yield f"g ({dtype}[{a}] x, {dtype}[{b}] z) => ({dtype}[?] y) {{ y = MatMul(x, z) }}"

    for dtype, call, spatial in itertools.product(
        ("float", "float16", "bfloat16"),
        ("GlobalAveragePool(x)", "GlobalMaxPool(x)"),
        ("1,1", "7,7", "8,8", "24,24", "56,56", "56", "55", "900"),
    ):
        yield f"g ({dtype}[2,16,{spatial}] x) => ({dtype}[?] y) {{ y = {call} }}"
    for dtype, epsilon, shape in itertools.product(("float", "float16"), ("1e-5", "1e-3", "1e-6"), ("1,16,8,8", "1,16,1,1", "1,16,7,7")):
        inputs = ", ".join(f"{dtype}[{one}] {name}" for name, one in (("x", shape), *((name, "16") for name in "sbmv")))
        yield f"g ({inputs}) => ({dtype}[?] y) {{ y = BatchNormalization<epsilon = {epsilon}>(x, s, b, m, v) }}"
    for dtype, call in itertools.product(
        ("float", "float16", "bfloat16"),
        (
            "HardSigmoid(x)",
            "HardSigmoid<alpha = 0.16666670143604279>(x)",
            "LeakyRelu(x)",
            "LeakyRelu<alpha = 0.1>(x)",
            "LeakyRelu<alpha = 0.2>(x)",
        ),
    ):
        yield f"g ({dtype}[2,16,8,8] x) => ({dtype}[?] y) {{ y = {call} }}"


def known(only: Iterable[str] = (), models: Iterable[Any] = (), types: frozenset[str] = TYPES) -> dict[str, str]:
    """Kernels to build: entry name to source.

    only: operators, all where none are named. models: further models, as files or protos. types: of the kit's cases.
    """
    found: dict[str, str] = {}
    for model, inputs in itertools.chain(_cases(frozenset(only), types), _typical(frozenset(only)), given(_choices(only)), given(models)):
        found.update(sources(model, inputs))
    return found


def sources(model: Any, inputs: Sequence[Any]) -> dict[str, str]:
    """The kernels of a model at these inputs, with what can be fused fused and not: entry name to source. {} where it cannot run."""
    from turnout.errors import TurnoutError
    from turnout_cuda.dry import launches

    found: dict[str, str] = {}
    for fuses, arch in ((True, "sm_90a"), (False, "sm_90a"), (True, "sm_80"), (False, "sm_80")):
        try:
            found.update({entry: one.source for entry, one in launches(model, inputs, fuses=fuses, arch=arch).items()})
        except (TurnoutError, AssertionError, KeyError):  # the kit has cases that nobody claims, or that must fail
            return found
    return found


def _cases(only: frozenset[str], types: frozenset[str]) -> Iterator[tuple[Any, Sequence[Any]]]:
    from turnout.testing.made import groups
    from turnout.testing.onnx_cases import onnx_cases
    from turnout_cuda.kernel import declarations

    declared = {one.operator for one in declarations()}
    wanted = declared & only if only else declared
    for group in groups():
        if group.operator in wanted and group.dtype in types:
            for case in group.cases:
                for run in case.runs:
                    yield case.model, run
    for case in onnx_cases():
        names = {name for _, name, _ in case.operators}
        if names and names <= wanted:
            yield case.model, case.runs[0]


def _typical(only: frozenset[str]) -> Iterator[tuple[Any, Sequence[Any]]]:
    for text in typical():
        if not only or _OPERATOR.findall(text)[0] in only:
            yield from given([onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 23]> {text}')])


def _choices(only: Iterable[str]) -> Iterator[Any]:
    """What chooses a decoder's next token, of every type of logits; its kernel is the same for every vocabulary."""
    from turnout.graph import ir
    from turnout_cuda.sampling import choice

    if not only or "Sample" in only:
        for name in ("FLOAT", "FLOAT16", "BFLOAT16"):
            yield ir.to_proto(ir.Model(choice(64, ir.DataType[name].numpy()), ir_version=11))


def given(models: Iterable[Any]) -> Iterator[tuple[Any, Sequence[Any]]]:
    """Models, as files or protos, each with inputs of ones; open dimensions count as 1."""
    from turnout.formats import open_source

    for one in models:
        model = open_source(one).model()
        inputs = []
        for value in model.graph.inputs:
            shape = [dim if isinstance(dim, int) else 1 for dim in value.shape or ()]
            inputs.append(np.ones(shape, value.dtype.numpy() if value.dtype is not None else np.float32))
        yield model, inputs


def write(folder: Path, targets: Sequence[Target], found: dict[str, str], processes: int = 0) -> None:
    """Builds the kernels for each target, an archive each. Raises CompileError."""
    folder.mkdir(parents=True, exist_ok=True)
    compiler = compiler_version()
    with ProcessPoolExecutor(processes or os.cpu_count()) as pool:
        for target in targets:
            own = [source for source in found.values() if target.arch == "sm_90a" or _HOPPER not in source]
            binaries = pool.map(make, own, itertools.repeat(target), chunksize=8)
            path = folder / f"{target.arch}{'-ptx' if target.ptx else ''}.zip"
            with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
                archive.comment = compiler.encode()
                for source, binary in zip(own, binaries, strict=True):
                    name = zipfile.ZipInfo(key_of(source, target, compiler))  # of no date: the same sources make the same archive
                    name.compress_type = zipfile.ZIP_LZMA
                    archive.writestr(name, binary)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m turnout_cuda.ahead", description="Build kernels ahead of time.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--arch", nargs="*", default=list(ARCHITECTURES))
    parser.add_argument("--ptx", action="store_true", help="PTX, for the simulator")
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--model", nargs="*", default=[], type=Path)
    chosen = parser.parse_args(arguments)
    found = known(chosen.only, chosen.model)
    write(chosen.folder, [Target(arch, ptx=chosen.ptx) for arch in chosen.arch], found)
    size = sum(path.stat().st_size for path in chosen.folder.glob("*.zip"))
    print(f"{len(found)} kernels for {', '.join(chosen.arch)}: {size / 1e6:.1f} MB in {chosen.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
