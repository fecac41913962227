"""What a machine without an NVIDIA driver is told, and what it costs: python tests/cuda/without_driver.py [ROUNDS]

`turnout.doctor()` in fresh processes that take turns, with the CUDA provider and without it: time by the clock, and processor time of the
process and its children, the least of each, since what else the machine does adds to both. Then the provider's probe alone, and what
`turnout.load(..., device="cuda")` raises. Ends with status 1 where the clock says 0.1 s more or longer, where no reason is told, and where
there is a driver.
"""

import json
import os
import subprocess
import sys

DOCTOR = """
import json, os, sys, time, types
if {without}:
    sys.modules["turnout_cuda.hooks"] = types.ModuleType("turnout_cuda.hooks")  # a plugin that has nothing to say
import turnout
before, start = os.times(), time.perf_counter()
said = str(turnout.doctor())
clock, after = time.perf_counter() - start, os.times()
used = sum(after[:4]) - sum(before[:4])
print(json.dumps([clock, used, [line.strip() for line in said.splitlines() if "NVIDIA driver" in line]]))
"""

PROBE = """
import time
from turnout.errors import Unavailable
from turnout_cuda.provider import CudaProvider

found = []
for _ in range(20):
    start = time.process_time()
    try:
        CudaProvider().probe()
    except Unavailable:
        found.append(time.process_time() - start)
print(f"the probe: {1e3 * found[0]:.2f} ms of processor time at first, {1e3 * min(found):.2f} again")
"""

LOAD = """
import onnx, turnout
model = onnx.parser.parse_model('<ir_version: 10, opset_import: ["" : 20]> g (float[2] x) => (float[2] y) { y = Relu(x) }')
try:
    turnout.load(model, device="cuda")
except turnout.errors.NoSuchDevice as error:
    print(type(error).__name__ + ":", error)
"""


def child(code: str) -> str:
    """What it prints, in a process of its own that no simulator is in."""
    environment = {name: value for name, value in os.environ.items() if name != "TURNOUT_CUDA"}
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, timeout=120, check=True, env=environment)
    return done.stdout.strip()


def doctor(without: bool) -> tuple[float, float, list[str]]:
    """Seconds by the clock, of processor time, and the lines about the driver."""
    clock, used, lines = json.loads(child(DOCTOR.format(without=without)).splitlines()[-1])
    return clock, used, lines


def main(rounds: int) -> int:
    with_it, without = [], []
    for _ in range(rounds):
        with_it.append(doctor(False))
        without.append(doctor(True))
    for line in with_it[0][2]:
        print(line)
    more = [min(one[k] for one in with_it) - min(one[k] for one in without) for k in (0, 1)]
    print(f"turnout doctor: {more[0]:+.3f} s by the clock and {more[1]:+.3f} s of processor time with the CUDA provider ({rounds} rounds)")
    print(child(PROBE))
    raised = child(LOAD)
    print(raised)
    right = "was not found" in raised and bool(with_it[0][2]) and not without[0][2]
    return 0 if right and more[0] < 0.1 else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 5))
