"""Writes the list of DirectML's kernels that tests/directml/on_paper.py reads to the standard output; `winpy` runs it."""

import json

from onnxruntime.capi import _pybind_state as onnxruntime

FOREVER = 2**31 - 1


def types(kernel):
    """Each constraint's types, `tensor(float)` as "float"."""
    return {
        name: sorted(kind.removeprefix("tensor(").rstrip(")") for kind in kinds) for name, kinds in sorted(kernel.type_constraints.items())
    }


def rows():
    for kernel in onnxruntime.get_all_opkernel_def():
        if kernel.provider == "DmlExecutionProvider":
            first, last = kernel.version_range
            yield kernel.domain, kernel.op_name, first, -1 if last == FOREVER else last, json.dumps(types(kernel))


def lines(items, indent):
    """JSON values, as many to a line as fit."""
    line = ""
    for text in items:
        if line and len(line) + len(text) > 150:
            yield indent + line.strip()
            line = ""
        line += text + " "
    yield indent + line.strip()


if __name__ == "__main__":
    found = sorted(set(rows()))
    kinds = sorted({row[4] for row in found})
    kernels = [json.dumps([*row[:4], kinds.index(row[4])]) for row in found]
    print('{"types": [')
    print(",\n".join("  " + kind for kind in kinds))
    print('],\n "kernels": [')
    print("\n".join(lines([*(text + "," for text in kernels[:-1]), kernels[-1]], "  ")))
    print("]}")
