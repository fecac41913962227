"""A whole execution provider."""

import numpy as np

from turnout import Device, Executable, No, Provider, Yes

OPERATORS = {"Add": np.add, "Mul": np.multiply, "Relu": lambda x: np.maximum(x, 0)}


class ToyProvider(Provider):
    name = "toy"
    rank = 95

    def probe(self):
        return [Device("toy", description="Add, Mul and Relu in NumPy", automatic=False)]

    def supports(self, node, graph, device):
        if node.domain or node.op_type not in OPERATORS:
            return No(f"the toy knows {', '.join(OPERATORS)}, not {node.op_type}")
        if any(value.dtype is None or value.dtype.name != "FLOAT" for value in node.inputs):
            return No(f"the toy's {node.op_type} takes float32 only")
        return Yes() if node.version >= 7 else No("before operator set 7 broadcasting worked otherwise")

    def compile(self, graph, device, options):
        return ToyExecutable(graph)


class ToyExecutable(Executable):
    def __init__(self, graph):
        self.graph = graph
        self.constants = {value.name: value.const_value.numpy() for value in graph.initializers.values()}

    def run(self, values, out=None):
        named = self.constants | {value.name: given for value, given in zip(self.graph.inputs, values, strict=True)}
        for node in self.graph:
            result = OPERATORS[node.op_type](*(named[value.name] for value in node.inputs))
            named[node.outputs[0].name] = np.asarray(result)  # NumPy makes numbers of arrays without dimensions
        return [named[value.name] for value in self.graph.outputs]
