"""turnout-cudasim: a CUDA device that needs no GPU."""
