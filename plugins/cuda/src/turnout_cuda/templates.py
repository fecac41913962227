"""Kernels that stand in a file of their own under cu/, written over `#define`s: the constants that a compiler should know.

The file defines `ENTRY(PARAMETERS)`. Each array becomes a pointer of its name, with its element type as `name_t`; each number a parameter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from turnout_cuda.array import Array
from turnout_cuda.call import Call
from turnout_cuda.source import file

__all__ = ["launch_file"]


def launch_file(
    call: Call,
    path: str,
    *,
    constants: Mapping[str, int | str],
    arrays: Mapping[str, Array],
    writes: Sequence[str],
    grid: tuple[int, int, int],
    block: int,
    numbers: Mapping[str, int | float] | None = None,
    includes: Sequence[str] = (),
    shared: int = 0,
    name: str = "",
    operations: int | None = None,
) -> None:
    """Launches the kernel of a file.

    constants: name to what it stands for in C++. arrays: those that are written have their names in `writes`; all others are only read,
    and lie in no memory that is written. numbers: whole ones are int, others float. includes: files that stand before it. shared: bytes
    of dynamic shared memory. operations: as in Launch.
    """
    ready = {key: call.ready(one) for key, one in arrays.items()}
    lines = [f"#define {key} {value}" for key, value in constants.items()]
    lines += [f"typedef {one.element.c} {key}_t;" for key, one in ready.items()]
    parameters = [f"{key}_t* {key}" if key in writes else f"const {key}_t* __restrict__ {key}" for key in ready]
    arguments: list[tuple[str, Any]] = [("pointer", one) for one in ready.values()]
    for key, value in (numbers or {}).items():
        kind = "float" if isinstance(value, float) else "int"
        parameters.append(f"{kind} {key}")
        arguments.append((kind, value))
    text = "\n".join(lines) + "\n" + "".join(map(file, includes)) + file(path).replace("PARAMETERS", ", ".join(parameters))
    call.launch(
        text,
        name or call.node.op_type,
        grid,
        block,
        arguments,
        reads=[one for key, one in ready.items() if key not in writes],
        writes=[ready[key] for key in writes],
        shared=shared,
        operations=operations,
    )
