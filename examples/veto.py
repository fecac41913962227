"""An island that does not pay: one small operator on a far device would gain less than the copies to it and back cost."""

import onnx.parser

import turnout
from turnout.testing.fakes import FakeProvider, installed

BLOCK = """
<ir_version: 10, opset_import: ["" : 21]>
block (float[64, 64] x) => (float[64, 64] y)
<int64 axis = {1}>
{
    a = MatMul(x, x)
    b = MatMul(a, a)
    c = CumSum(b, axis)
    y = Relu(c)
}
"""

# two made-up devices: `far` is quick, behind a bus; `near` is slow, in host memory
far = FakeProvider("far", {"MatMul", "Relu"}, link=turnout.Link(10e-6, 12e9), seconds={"MatMul": 50e-6, "Relu": 1e-6})
near = FakeProvider("near", seconds={"MatMul": 900e-6, "CumSum": 8e-6, "Relu": 3e-6})

with installed(far, near), turnout.load(onnx.parser.parse_model(BLOCK), device=["far", "near"]) as model:
    print(model.explain())
    print()
    print(model.explain().node("Relu#3"))
