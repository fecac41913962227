"""How many kernels of a body of PTX files the simulator can translate, and what the others lack.

    uv run python tests/benchmarks/cudasim_breadth.py FOLDER_OR_FILE...

PTX comes from `nvcc -ptx` (pip install nvidia-cuda-nvcc nvidia-nvvm nvidia-cuda-crt nvidia-cuda-runtime nvidia-cuda-cccl; it wants a host
compiler) or from NVRTC. Every kernel is read, translated, and its Python source compiled; nothing runs.
"""

from __future__ import annotations

import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

from turnout_cudasim.parse import parse
from turnout_cudasim.report import NotModelled, ParseError
from turnout_cudasim.translate import Translation


def main(arguments: list[str]) -> None:
    files = [p for a in arguments for p in (sorted(Path(a).rglob("*.ptx")) if Path(a).is_dir() else [Path(a)])]
    total = translated = instructions = 0
    missing: Counter[str] = Counter()
    examples: dict[str, str] = {}
    seconds = 0.0
    by_file: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for path in files:
        module = parse(path.read_text())
        for kernel in module.kernels.values():
            total += 1
            by_file[path.name][1] += 1
            start = time.perf_counter()
            try:
                translation = Translation(kernel)
                for block in translation.blocks:
                    translation.compile(block)
            except (NotModelled, ParseError) as error:
                for feature in (error.feature if isinstance(error, NotModelled) else str(error)).split(", "):
                    missing[feature] += 1
                    examples.setdefault(feature, f"{path.name}: {kernel.name[:60]}")
            else:
                translated += 1
                by_file[path.name][0] += 1
                instructions += len(translation.instructions)
            seconds += time.perf_counter() - start
    print(f"{translated} of {total} kernels translated ({translated / max(total, 1):.1%}) from {len(files)} files")
    print(f"{instructions} instructions in {seconds:.1f} s ({seconds / max(instructions, 1) * 1e6:.0f} us each)")
    for feature, count in missing.most_common():
        print(f"{count:6}  {feature}  (first in {examples[feature]})")


if __name__ == "__main__":
    main(sys.argv[1:])
