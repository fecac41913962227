"""What plugins can bring, beside providers: an order of devices, operators, formats, observers; and what a broken one costs."""

import numpy as np
import onnx
import onnx.helper
import onnx.parser
import pytest

import turnout
from turnout import hookimpl, plugins
from turnout.errors import BrokenPlugin, ModelError, OutOfMemory, RunError
from turnout.formats import Format, Source
from turnout.formats.onnx import OnnxSource
from turnout.operator import Operator, operator_of
from turnout.testing.fakes import FakeProvider, installed

RELU = onnx.parser.parse_model('<ir_version: 10, opset_import: ["" : 21]> g (float[2] x) => (float[2] y) { y = Relu(x) }')


@pytest.fixture
def plugin():
    """Registers an object of hooks for the length of a test."""
    names = []

    def register(hooks: object) -> None:
        name = f"test{len(names)}"
        plugins.register(hooks, name)
        names.append(name)

    yield register
    for name in names:
        plugins.unregister(name)


def test_a_plugin_ranks_devices_where_none_is_named(plugin):
    class Hooks:
        @hookimpl
        def turnout_rank(self, devices, model):
            assert model == "g"
            return sorted(devices, key=lambda device: device.provider != "late")

    plugin(Hooks())
    with installed(FakeProvider("late", rank=99)):
        with turnout.load(RELU) as model:
            assert model.explain().partitions[0].device == "late:0"
        with turnout.load(RELU, device="cpu") as model:
            assert model.explain().partitions[0].device == "cpu:0"


@pytest.mark.parametrize("rubbish", [[], 3, ["cpu"]])
def test_an_order_that_leaves_nothing_is_ignored(plugin, rubbish):
    class Hooks:
        @hookimpl
        def turnout_rank(self, devices, model):
            return rubbish

    plugin(Hooks())
    with turnout.load(RELU) as model:
        assert model.explain().partitions[0].device == "cpu:0"


def test_a_plugin_observes_loads(plugin):
    events = []

    class Hooks:
        @hookimpl
        def turnout_observe(self, event):
            events.append(event)

    plugin(Hooks())
    with turnout.load(RELU, device="cpu") as model:
        model.run(x=[1, -1])
    (event,) = events
    assert event["event"] == "load"
    assert event["model"] == "g"
    assert event["nodes"] == {"cpu:0": 1}
    assert event["fingerprint"] == model.fingerprint
    assert event["seconds"] > 0


def test_a_plugin_adds_an_operator_of_a_domain_of_its_own(plugin):
    body = onnx.helper.make_function(
        "mine", "Twice", ["a"], ["b"], [onnx.helper.make_node("Add", ["a", "a"], ["b"])], [onnx.helper.make_opsetid("", 21)]
    )
    twice = Operator("mine", "Twice", 1, type_constraints={"T": ("tensor(float)",)}, function=body)

    class Hooks:
        @hookimpl
        def turnout_operators(self):
            return [twice]

    plugin(Hooks())
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 21, "mine" : 1]> g (float[2] x) => (float[2] y) { t = mine.Twice(x)  y = mine.Twice(t) }'
    )
    with turnout.load(model, device="cpu") as loaded:
        np.testing.assert_array_equal(loaded.run(x=[1, -1])["y"], [4, -4])


def test_operators_are_known_by_domain_name_and_version():
    node = OnnxSource(RELU).model().graph[0]
    operator = operator_of(node)
    assert (operator.domain, operator.name, operator.since_version) == ("", "Relu", 14)
    assert "tensor(float)" in operator.type_constraints["T"]
    assert str(operator) == "ai.onnx::Relu (since 14)"


def test_a_plugin_adds_a_format(plugin):
    class Backwards(Format):
        """An ONNX file, its bytes in reverse after a magic word."""

        name = "backwards"

        def accepts(self, head: bytes, name: str) -> bool:
            return head.startswith(b"BACKWARDS")

        def open(self, file, *, accuracy="fast", options=None) -> Source:
            return OnnxSource(file[len(b"BACKWARDS") :][::-1])

    class Hooks:
        @hookimpl
        def turnout_formats(self):
            return [Backwards()]

    data = b"BACKWARDS" + RELU.SerializeToString()[::-1]
    with pytest.raises(ModelError):
        turnout.load(data)
    plugin(Hooks())
    with turnout.load(data) as model:
        np.testing.assert_array_equal(model.run(x=[1, -1])["y"], [1, 0])


def test_text_goes_to_the_plugin_that_takes_the_model(plugin):
    class Writer:
        def generate(self, prompt, **options):
            return iter([prompt, "!"])

        def chat(self, **options):
            return "a conversation"

    class Hooks:
        @hookimpl
        def turnout_text(self, model):
            return Writer() if model.name == "g" else None

    plugin(Hooks())
    with turnout.load(RELU, device="cpu") as model:
        assert list(model.generate("hello")) == ["hello", "!"]
        assert model.chat() == "a conversation"


def test_a_hook_that_raises_takes_nothing_else_down(plugin):
    class Hooks:
        @hookimpl
        def turnout_observe(self, event):
            raise ZeroDivisionError("a bug in a plugin")

    plugin(Hooks())
    with turnout.load(RELU, device="cpu") as model:
        assert model.run(x=[1, -1])
    assert any("raised in turnout_observe: ZeroDivisionError" in problem.message for problem in plugins.problems())


def test_what_is_no_provider_is_refused():
    class Hooks:
        @hookimpl
        def turnout_providers(self):
            return [FakeProvider]

    with pytest.raises(BrokenPlugin, match=r"is not a turnout\.Provider"):
        plugins.register(Hooks(), "classes")
    assert "classes" not in {plugin.name for plugin in plugins.installed()}


def test_options_are_checked_by_the_provider():
    with pytest.raises(turnout.TurnoutError, match="threads") as caught:
        turnout.load(RELU, device="cpu", options={"cpu": {"threads": "many"}})
    assert "its options are" in caught.value.hint
    for wrong, said in (
        ({"thread": 2}, ": there is no option 'thread'"),
        ({"threads": 0}, ": threads=0 should be greater than or equal to 1"),
        ({"threads": "two"}, ": threads='two' should be a valid integer"),
        ({"graph_optimization": "some"}, ": graph_optimization='some' should be 'all', 'extended', 'basic' or 'none'"),
        (5, "=5 is no mapping"),
    ):
        with pytest.raises(turnout.TurnoutError) as found:
            turnout.load(RELU, device="cpu", options={"cpu": wrong})
        assert str(found.value).splitlines()[0] == f"options['cpu']{said}"
    with pytest.raises(turnout.TurnoutError, match="nothing installed of that name"):
        turnout.load(RELU, device="cpu", options={"cpuu": {}})
    with turnout.load(RELU, device="cpu", options={"cpu": {"threads": 1}}) as model:
        assert model.run(x=[1, -1])


def test_a_table_of_kernels_writes_its_own_refusals():
    class Table(turnout.KernelProvider):
        """A table"""

        name = "table"

        @turnout.kernel("Relu", since=6, dtypes=("float32",))
        def relu(self, x):
            return np.maximum(x, 0)

        @turnout.kernel("Clip", since=11, until=12)
        @turnout.kernel("Clip", since=13)
        def clip(self, x, low=None, high=None):
            return np.clip(x, low, high)

    with installed(Table()):
        with turnout.load(RELU, device="table") as model:
            np.testing.assert_array_equal(model.run(x=[1, -1])["y"], [1, 0])
        half = onnx.parser.parse_model('<ir_version: 10, opset_import: ["" : 21]> g (float16[2] x) => (float16[2] y) { y = Relu(x) }')
        with pytest.raises(turnout.TurnoutError, match="Relu kernel takes float32, not float16"):
            turnout.load(half, device="table")
        old = onnx.parser.parse_model('<ir_version: 3, opset_import: ["" : 5]> g (float[2] x) => (float[2] y) { y = Relu(x) }')
        with pytest.raises(turnout.TurnoutError, match="Relu kernel is for operator set 6 and later, not 5"):
            turnout.load(old, device="table")


class Kernels(turnout.KernelProvider):
    """Kernels as somebody writes them who has read the tutorial"""

    name = "kernels"

    @turnout.kernel("LeakyRelu", since=6)
    def leaky(self, x, alpha=0.01):
        return np.where(x < 0, x * alpha, x)

    @turnout.kernel("Softmax")
    def softmax(self, x, axis):
        self.axis = axis
        return x

    @turnout.kernel("Split", dtypes=("float32",))
    def split(self, x, sizes=None, axis=0, num_outputs=None):
        return np.split(x, np.cumsum(sizes)[:-1] if sizes is not None else num_outputs, axis)

    @turnout.kernel("TopK")
    def top(self, x, k):
        return x

    @turnout.kernel("SplitToSequence")
    def parts(self, x):
        return list(x)

    @turnout.kernel("Where", dtypes=("float32",))
    def where(self, condition, x, y):
        return np.where(condition, x, y)


def kernels(body: str, version: int = 21):
    provider = Kernels()
    source = f'<ir_version: 10, opset_import: ["" : {version}]> g {body}'
    with installed(provider), turnout.load(onnx.parser.parse_model(source), device="kernels") as model:
        return provider, list(model.run({one.name: np.array([[1.0, -2.0]]).astype(one.dtype) for one in model.inputs}).values())


def test_a_kernel_gets_the_defaults_of_the_operators_definition():
    provider, (y,) = kernels("(double[1,2] x) => (double[1,2] y) { y = LeakyRelu(x) }")
    assert y[0, 1] == -2 * float(np.float32(0.01))  # an attribute is a float32, its default too
    provider, _ = kernels("(float[1,2] x) => (float[1,2] y) { y = Softmax(x) }", 11)
    assert provider.axis == 1
    provider, _ = kernels("(float[1,2] x) => (float[1,2] y) { y = Softmax(x) }")
    assert provider.axis == -1


def test_a_kernel_may_give_a_list_of_outputs_or_one_that_is_a_list():
    _, (a, b) = kernels("(float[1,2] x) => (float[1,1] a, float[1,1] b) { a, b = Split<axis=1, num_outputs=2>(x) }")
    assert (a.item(), b.item()) == (1, -2)
    _, (parts,) = kernels("(float[1,2] x) => (seq(float[1,2]) y) { y = SplitToSequence(x) }")
    assert isinstance(parts, list)
    with pytest.raises(RunError, match="the TopK kernel gave 1 values for 2 outputs"):
        kernels("(float[1,2] x) => (float[1,1] y, int64[1,1] at) { k = Constant<value_ints = [1]>() y, at = TopK(x, k) }")


def test_the_types_of_a_kernel_say_nothing_of_inputs_that_have_none_of_them():
    _, (a, b) = kernels("(float[1,2] x) => (float[1,1] a, float[1,1] b) { s = Constant<value_ints = [1, 1]>() a, b = Split<axis=1>(x, s) }")
    assert (a.item(), b.item()) == (1, -2)
    _, (y,) = kernels("(bool[1,2] c, float[1,2] x) => (float[1,2] y) { y = Where(c, x, x) }")
    assert y.tolist() == [[1, -2]]
    with pytest.raises(turnout.TurnoutError, match="Where kernel takes float32, not float64"):
        kernels("(bool[1,2] c, double[1,2] x) => (double[1,2] y) { y = Where(c, x, x) }")


@pytest.mark.parametrize(("raised", "expected"), [(MemoryError("too big"), OutOfMemory), (ZeroDivisionError("a bug"), RunError)])
def test_what_a_plugin_raises_in_a_run_is_an_error_of_turnouts(raised, expected):
    class Raising(turnout.KernelProvider):
        """Raises"""

        name = "raising"

        def compile(self, graph, device, options):
            class Never(turnout.Executable):
                def run(self, values, out=None):
                    raise raised

            return Never()

        @turnout.kernel("Relu")
        def relu(self, x):
            raise NotImplementedError

    with installed(Raising()), turnout.load(RELU, device="raising") as model:
        for run in (lambda: model.run(x=[1, -1]), model.bind(x=[1, -1]).run):
            with pytest.raises(expected, match=str(raised)) as caught:
                run()
            assert caught.value.hint
