"""One graph, two providers: the toy takes the operators it knows, the CPU takes the rest, and the plan says so."""

import onnx.parser

import turnout

CLASSIFIER = """
<ir_version: 10, opset_import: ["" : 21]>
classifier (float[N, 2] x) => (float[N, 3] probabilities)
<float[2, 3] weight = {1, 2, 3, 4, 5, 6}, float[3] bias = {0, -1, 1}>
{
    product = MatMul(x, weight)
    shifted = Add(product, bias)
    active = Relu(shifted)
    probabilities = Softmax <axis: int = -1> (active)
}
"""

with turnout.load(onnx.parser.parse_model(CLASSIFIER), device=["toy", "cpu"]) as model:
    model.run(x=[[1.0, -1.0]])
    print(model.explain())
    print()
    print(model.explain().node("Softmax#3"))
