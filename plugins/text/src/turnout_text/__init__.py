"""Prompt in, text out, with any language model that turnout runs: what `model.generate` and `model.chat` call."""
