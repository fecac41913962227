"""No code: the dependencies of this distribution choose one ONNX Runtime wheel per platform."""
