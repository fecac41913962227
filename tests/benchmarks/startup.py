"""How long it takes before anything runs: the import, the command, the plan of a large graph.

    python tests/benchmarks/startup.py [--check]

Each line is a figure, its target, and whether it is within it; with --check, the exit status is 1 where one is not.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

NODES = 10_000


def median(measure: Callable[[], float], times: int) -> float:
    return statistics.median(measure() for _ in range(times))


def process(folder: str, *arguments: str) -> float:
    """Seconds that a Python process takes. Compiled modules are kept in the folder, whatever the environment says of them."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment |= {"PYTHONPYCACHEPREFIX": folder, "TURNOUT_CACHE": folder}
    start = time.perf_counter()
    subprocess.run([sys.executable, "-P", *arguments], stdout=subprocess.DEVNULL, check=True, env=environment)
    return time.perf_counter() - start


def import_milliseconds() -> float:
    """`import turnout` above a bare interpreter; the two take turns."""
    with tempfile.TemporaryDirectory() as folder:
        process(folder, "-c", "import turnout")
        taken = [(process(folder, "-c", "import turnout"), process(folder, "-c", "pass")) for _ in range(10)]
    return 1000 * (statistics.median(one for one, _ in taken) - statistics.median(bare for _, bare in taken))


def devices_seconds() -> float:
    with tempfile.TemporaryDirectory() as folder:
        process(folder, "-m", "turnout", "devices")  # the first probe of a machine runs in a child process first
        return median(lambda: process(folder, "-m", "turnout", "devices"), 5)


def large_model() -> Any:
    """A chain of 10,000 nodes of five operators, with a branch at every tenth."""
    from onnx import TensorProto, helper

    kinds = ("Add", "Mul", "Relu", "Sub", "Tanh")
    nodes = []
    for i in range(NODES):
        name, value = kinds[i % len(kinds)], f"v{i}"
        other = [f"v{max(i - 9, 0)}" if i % 10 == 0 else "weight"] if name in ("Add", "Mul", "Sub") else []
        nodes.append(helper.make_node(name, [value, *other], [f"v{i + 1}"], name=f"node{i}"))
    weight = helper.make_tensor("weight", TensorProto.FLOAT, [4], [0.5] * 4)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 4]) for name in ("v0", f"v{NODES}")]
    graph = helper.make_graph(nodes, "large", ends[:1], ends[1:], [weight])
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])


def plan_seconds() -> float:
    """Planning alone: the file is read and its types are inferred before, and nothing is compiled after."""
    from turnout.formats import open_source
    from turnout.ledger import Candidate
    from turnout.plan import plan
    from turnout.probe import probe_all

    candidates = [Candidate(probed.provider, device) for probed in probe_all() for device in probed.devices]
    content = large_model().SerializeToString()

    def once() -> float:
        model = open_source(content).model()
        start = time.perf_counter()
        made = plan(model, candidates)
        taken = time.perf_counter() - start
        assert len(made.ledger.placements) == NODES
        return taken

    return median(once, 3)


FIGURES = (
    ("import turnout, above a bare interpreter", import_milliseconds, 10.0, "ms"),
    ("turnout devices", devices_seconds, 0.6, "s"),
    (f"plan of {NODES:,} nodes", plan_seconds, 1.0, "s"),
)


def main() -> int:
    over = 0
    for name, measure, target, unit in FIGURES:
        figure = measure()
        over += figure > target
        print(f"{name:42} {figure:7.2f} {unit:2}  target {target:g} {unit:2}  {'ok' if figure <= target else 'over'}")
    return int(over > 0 and "--check" in sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
