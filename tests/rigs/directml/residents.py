"""`check resident`: values that go from one run into the next. What crosses is counted where turnout runs a session."""

import sys
import threading
from pathlib import Path
from unittest import mock

import numpy as np
import onnx

import turnout

sys.path += [str(Path(__file__).parents[2] / "text")]

RNG = np.random.default_rng(11)


class Crossings:
    """Counts the bytes that DirectML's runs take from arrays and give as arrays, and those of values on the adapter that are looked at."""

    def __enter__(self):
        from turnout_directml.resident import DeviceValue
        from turnout_directml.session import Sessions

        run, get = Sessions.run, DeviceValue.get
        self.nbytes = 0

        def counted_run(sessions, values, out=None):
            made = run(sessions, values, out)
            self.nbytes += sum(one.nbytes for one in (*values, *made) if isinstance(one, np.ndarray))
            return made

        def counted_get(value):
            array = get(value)
            self.nbytes += array.nbytes
            return array

        self._mended = mock.patch.object(Sessions, "run", counted_run), mock.patch.object(DeviceValue, "get", counted_get)
        for one in self._mended:
            one.start()
        return self

    def __exit__(self, *exception):
        for one in self._mended:
            one.stop()


def at_once(work):
    """Calls work(number) for 0 to 7, each in a thread of its own."""
    workers = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for one in workers:
        one.start()
    for one in workers:
        one.join()


def host_binding():
    """Within it models are loaded as on an adapter in whose memory ONNX Runtime cannot leave values."""
    return mock.patch("turnout_directml.provider.RESIDENT", -1)


def written(model, prompt, tokens):
    """(tokens that a session of the model writes, the most likely ones; bytes that crossed for each)."""
    from turnout_text.session import sessions_of

    session, said, crossed, ids = sessions_of(model)(), [], [], prompt
    for _ in range(tokens):
        with Crossings() as crossings:
            logits = session.feed(ids, [len(ids) - 1])
        said.append(int(logits[0].argmax()))
        crossed.append(crossings.nbytes)
        ids = [said[-1]]
    session.close()
    return said, crossed


def resident():
    return all([caches(), bound(), partitions(), chains()])


def caches():
    """Decoders write the same tokens with their caches on the adapter as with host binding, and as NumPy has it."""
    from text_decoders import expected, model

    fine = []
    for form, tokens in (("in place", 8), ("growing", 4)):
        with host_binding():
            before, copied = written(turnout.load(model(form), device="directml"), [3, 1, 2], tokens)
        after, left = written(turnout.load(model(form), device="directml"), [3, 1, 2], tokens)
        wanted = [3, 1, 2]
        for _ in range(tokens):
            wanted.append(int(expected(wanted)[-1].argmax()))
        print(f"resident: caches {form}: tokens {after}, bytes for the last: {copied[-1]} by host binding, {left[-1]} with caches there")
        fine.append(before == after == wanted[3:] and left[-1] <= 24 + 259 * 4 < copied[-1])  # three numbers in, the logits out
    return all(fine)


CHAIN = """<ir_version: 8, opset_import: ["": 14]> g (float[N,64] x, float[64] z) => (float[N,64] y, float[N,64] u) {
    u = Add(x, z) y = Mul(u, z) }"""


def bound():
    """A bound run reads a value where it lies; what a run gave stays as it was when others follow, and when its model is closed."""
    x, z = (RNG.integers(-3, 4, shape).astype(np.float32) for shape in ((4096, 64), 64))
    with turnout.load(onnx.parser.parse_model(CHAIN), device="directml") as model:
        first = model.run_on_device(x=x, z=z)
        binding = model.bind(x=first["u"], z=z)
        with Crossings() as crossings:
            got = [np.array(binding.run()["y"]) for _ in range(3)]
        last = model.run_on_device(x=first["y"], z=z)
    right = all(np.array_equal(one, (x + z + z) * z) for one in got) and np.array_equal(np.asarray(last["u"]), (x + z) * z + z)
    print(f"resident: bound runs {'right' if right else 'WRONG'}, {crossings.nbytes // 3} bytes each; {x.nbytes} for each large tensor")
    return right and crossings.nbytes == 3 * (z.nbytes + 2 * x.nbytes)


def partitions():
    """A value that two partitions of the adapter share, another device's between them, is not brought there again."""
    text = """<ir_version: 8, opset_import: ["": 14]> g (float[64,64] x) => (float[64,64] y) {
        a = Relu(x) b = Neg(a) c = Det(b) d = Add(a, c) y = Mul(a, d) }"""
    x = np.eye(64, dtype=np.float32)
    with turnout.load(onnx.parser.parse_model(text), device=["directml", "cpu"]) as model, Crossings() as crossings:
        right = np.array_equal(model.run(x=x)["y"], x * (x + 1))
        places = [part.device for part in model.explain().partitions]
    print(f"resident: partitions on {', '.join(places)}: {'right' if right else 'WRONG'}, {crossings.nbytes} bytes; {x.nbytes} a tensor")
    return right and places == ["directml:0", "cpu:0", "directml:0"] and crossings.nbytes == 3 * x.nbytes + 4  # x, b, y; and c, a number


def chains():
    """Eight threads, two models that hand values to each other on the adapter; values are let go of at any time."""
    models = [turnout.load(onnx.parser.parse_model(CHAIN.replace("Mul", op)), device="directml") for op in ("Sub", "Max")]
    wrong = []

    def work(number):
        try:
            rng = np.random.default_rng(number)
            y = wanted = rng.integers(-3, 4, (1 + number % 3, 64)).astype(np.float32)
            for step in range(12):
                z = rng.integers(-3, 4, 64).astype(np.float32)
                y = models[step % 2].run_on_device(x=y, z=z)["y"]
                wanted = wanted if step % 2 == 0 else np.maximum(wanted + z, z)
            if not np.array_equal(np.asarray(y), wanted):
                wrong.append(f"thread {number}: a wrong result")
        except Exception as error:
            wrong.append(f"thread {number}: {type(error).__name__}: {error}")

    at_once(work)
    print(f"resident: {8 - len(wrong)} of 8 threads right, each with 12 runs in a chain", *wrong, sep="\n  ")
    return not wrong
