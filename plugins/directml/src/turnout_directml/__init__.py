"""ONNX Runtime's DirectML execution provider as a turnout provider. `turnout_directml.provider` has it."""
