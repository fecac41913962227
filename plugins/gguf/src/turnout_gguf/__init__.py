"""GGUF files as operator graphs, without loss."""
