"""NVIDIA GPUs as a turnout provider: cuda:0, cuda:1 ... `turnout_cuda.provider` has it; docs/write-a-kernel.md is the way in."""
