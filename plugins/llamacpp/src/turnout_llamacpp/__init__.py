"""llama.cpp as a turnout provider: it takes GGUF files whole, on the backends it has here. `turnout_llamacpp.provider` has it."""
