"""ONNX Runtime's CPU execution provider as a turnout provider: the device cpu:0. `turnout_cpu.provider` has it."""
