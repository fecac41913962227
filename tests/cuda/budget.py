"""Every operator's kernels, built for each architecture, against a budget: python tests/cuda/budget.py [--write] [OPERATOR ...]

tests/cuda/budget.json holds, by operator and element type, the registers and the bytes spilled that the kernels of its first plain case
take on each architecture (in the order of `ARCHITECTURES`). A kernel that takes more than a tenth more registers, or spills more, fails;
so does an operator without a line. `--write` writes the file anew, or the lines of the operators that it is given. No GPU is needed.
"""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
from language_cases import FAMILIES, TextCase

from turnout.errors import TurnoutError
from turnout.graph import ir
from turnout.testing.case import Case
from turnout.testing.made import groups
from turnout.testing.onnx_cases import onnx_cases
from turnout_cuda.ahead import given
from turnout_cuda.build import Target, make, usage
from turnout_cuda.command import ARCHITECTURES
from turnout_cuda.dry import launches
from turnout_cuda.kernel import declarations
from turnout_cuda.sass import features

FILE = Path(__file__).with_name("budget.json")
TYPES = ("float", "float16")
SLACK = 1.1


def cases(only: list[str]) -> dict[str, Case]:
    """The first plain case of each operator and element type; for operators without made cases, ONNX's first of that operator alone."""
    declared = {one.operator for one in declarations() if not only or one.operator in only}
    found: dict[str, Case] = {}
    for group in groups():
        if group.operator in declared and group.dtype in TYPES:
            found[f"{group.operator} {group.dtype}"] = group.cases[0]
    made = {key.split()[0] for key in found}
    for case in onnx_cases():
        names = {name for _, name, _ in case.operators}
        (name, *more) = names or {""}
        if not more and name in declared - made:
            found.setdefault(name, case)
    return {key: case for key, case in found.items() if not only or key.split()[0] in only}


def text_cases(only: list[str]) -> dict[str, TextCase]:
    """The first case of each kernel of language models."""
    found: dict[str, TextCase] = {}
    for family, made in FAMILIES.items():
        for case in made() if not only or family in only else ():
            if case.kernel:
                found.setdefault(case.kernel, case)
    return found


PRODUCTS = {
    "MatMul large float16": "g (float16[256, 192] x, float16[192, 128] w) => (float16[256, 128] y) { y = MatMul(x, w) }",
    "Gemm large bfloat16": "g (bfloat16[256, 192] x, bfloat16[128, 192] w) => (bfloat16[256, 128] y) { y = Gemm<transB = 1>(x, w) }",
    "MatMul larger float16": "g (float16[4096, 192] x, float16[192, 4096] w) => (float16[4096, 4096] y) { y = MatMul(x, w) }",
    "MatMulNBits large float16": "g (float16[256, 128] x, uint8[256, 4, 16] w, float16[256, 4] s) => (float16[256, 256] y)"
    " { y = com.microsoft.MatMulNBits<K = 128, N = 256, bits = 4, block_size = 32>(x, w, s) }",
}
"""Products that tensor cores take, which ones is in their rows: HGMMA is Hopper's wgmma, HMMA those of before."""

Row = list[Any]
"""Registers, bytes spilled, and of products the instruction that multiplies."""


def took(model: ir.Model, inputs: Sequence[Any]) -> list[Row]:
    """Registers and bytes spilled on each architecture: the most that one kernel of the model takes."""
    rows = []
    for arch in ARCHITECTURES:
        try:
            usages = [usage(one.source, Target(arch)) for one in launches(model, inputs, arch=arch).values()]
        except TurnoutError:
            return []
        if not usages:
            return []
        rows.append([max(one.registers for one in usages), max(one.spilled for one in usages)])
    return rows


def product_cases(only: list[str]) -> dict[str, list[Row]]:
    """The rows of `PRODUCTS`, with the instruction; one that ptxas warns of (products that wait for each other) counts as none."""
    found = {}
    for key, text in PRODUCTS.items():
        if only and key.split()[0] not in only:
            continue
        ((model, inputs),) = given([onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 23, "com.microsoft" : 1]> {text}')])
        found[key] = took(model, inputs)
        for row, arch in zip(found[key], ARCHITECTURES, strict=True):
            (one,) = launches(model, inputs, arch=arch).values()
            became = features(make(one.source, Target(arch)))
            assert became is not None, "nvdisasm is not here: pip install nvidia-cuda-nvdisasm"
            warned = usage(one.source, Target(arch)).warnings
            row.append("" if warned else next((name for name in ("HGMMA", "HMMA") if became[name]), ""))
    return found


def main(arguments: list[str]) -> int:
    start = time.perf_counter()
    write = "--write" in arguments
    only = [one for one in arguments if one != "--write"]
    known = json.loads(FILE.read_text("utf-8")) if FILE.exists() and (only or not write) else {}
    found = {key: rows for key, case in cases(only).items() if (rows := took(case.model, case.runs[0]))}
    found |= {key: rows for key, case in text_cases(only).items() if (rows := took(case.model, list(case.inputs.values())))}
    found |= product_cases(only)
    if write:
        found = {**known, **found}
        lines = ",\n".join(f" {json.dumps(key)}: {json.dumps(found[key])}" for key in sorted(found))
        FILE.write_text(f"{{\n{lines}\n}}\n", "utf-8")
    wrong = [] if write else [text for key, rows in found.items() if (text := _over(key, rows, known.get(key)))]
    for text in wrong:
        print(text)
    spilling = sum(any(spilled for _, spilled, *_ in rows) for rows in found.values())
    most = max(registers for rows in found.values() for registers, *_ in rows)
    print(
        f"cuda budget: {len(found)} operators and types on {', '.join(ARCHITECTURES)}: at most {most} registers, {spilling} spill, "
        f"{len(wrong)} over budget ({time.perf_counter() - start:.0f} s)"
    )
    return 1 if wrong else 0


def _over(key: str, rows: list[Row], budget: list[Row] | None) -> str:
    if budget is None:
        return f"{key}: it has no line in {FILE.name}; `python tests/cuda/budget.py --write` writes one"
    for arch, (registers, spilled, *through), (allowed, spills, *due) in zip(ARCHITECTURES, rows, budget, strict=True):
        if registers > allowed * SLACK or spilled > spills:
            return f"{key} on {arch}: {registers} registers and {spilled} bytes spilled, where the budget is {allowed} and {spills}"
        if through != due:
            return f"{key} on {arch}: it multiplies through {through}, where {due} is due"
    return ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
