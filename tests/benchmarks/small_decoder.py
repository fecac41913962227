"""A small decoder trained on text that every Python has, written as Hugging Face writes a llama: a model that starts in float32.

    python tests/benchmarks/small_decoder.py FOLDER [STEPS] [SEED]      # wants torch and safetensors

Bytes are its tokens. It is trained on the sources of the standard library, of which it sees a tenth: it learns nothing by
heart, and is as sure of a text as it should be. Beside it lie seen.txt, pieces of that, and held_out.txt, pieces of what was left out.
"""

from __future__ import annotations

import json
import sys
import sysconfig
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTH, HIDDEN, BLOCKS, HEADS, KEY_HEADS, CONTEXT, VOCABULARY = 128, 384, 3, 4, 2, 256, 259
HEAD = WIDTH // HEADS
BATCH, LENGTH, RATE = 2, CONTEXT, 5e-3


class Norm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x, (WIDTH,), self.weight, 1e-5)


def matrix(rows: int, columns: int) -> nn.Linear:
    return nn.Linear(columns, rows, bias=False)


def turned(x: Tensor) -> Tensor:
    """Rotary positions, halves of a head against each other; x: [batch, heads, tokens, head]."""
    frequencies = 10000.0 ** (-torch.arange(HEAD // 2) / (HEAD // 2))
    angles = torch.arange(x.shape[2])[:, None] * frequencies
    first, second = x.chunk(2, -1)
    return torch.cat([first * angles.cos() - second * angles.sin(), second * angles.cos() + first * angles.sin()], -1)


class Block(nn.Module):
    """Parameters are named as transformers names them."""

    def __init__(self) -> None:
        super().__init__()
        parts = {"q_proj": HEADS * HEAD, "k_proj": KEY_HEADS * HEAD, "v_proj": KEY_HEADS * HEAD}
        self.self_attn = nn.ModuleDict({name: matrix(rows, WIDTH) for name, rows in parts.items()} | {"o_proj": matrix(WIDTH, WIDTH)})
        feed = {"gate_proj": matrix(HIDDEN, WIDTH), "up_proj": matrix(HIDDEN, WIDTH), "down_proj": matrix(WIDTH, HIDDEN)}
        self.mlp = nn.ModuleDict(feed)
        self.input_layernorm, self.post_attention_layernorm = Norm(), Norm()

    def forward(self, x: Tensor) -> Tensor:
        normed, own = self.input_layernorm(x), self.self_attn
        apart = [own[f"{part}_proj"](normed).unflatten(-1, (-1, HEAD)).transpose(1, 2) for part in "qkv"]
        q, k, v = turned(apart[0]), turned(apart[1]), apart[2]
        seen = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + own["o_proj"](seen.transpose(1, 2).flatten(2))
        normed = self.post_attention_layernorm(x)
        return x + self.mlp["down_proj"](functional.silu(self.mlp["gate_proj"](normed)) * self.mlp["up_proj"](normed))


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers = nn.ModuleList(Block() for _ in range(BLOCKS))
        self.model = nn.ModuleDict({"embed_tokens": nn.Embedding(VOCABULARY, WIDTH), "layers": layers, "norm": Norm()})
        self.lm_head = matrix(VOCABULARY, WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.model["embed_tokens"](tokens)
        for block in self.model["layers"]:
            x = block(x)
        return self.lm_head(self.model["norm"](x))


STRETCH, EVERY = 4096, 16  # bytes in a row; one stretch of so many is held out, so that what is held out is of the same kind
PIECE, PIECES = CONTEXT, 512
FOREIGN = {"test", "tests", "site-packages", "idlelib", "lib2to3", "encodings", "pydoc_data", "turtledemo"}


def texts() -> tuple[bytes, bytes]:
    """(what it is trained on, what is held out): the standard library's sources."""
    library, kinds = Path(sysconfig.get_path("stdlib")), (bytearray(), bytearray())
    files = [file for file in sorted(library.rglob("*.py")) if not FOREIGN.intersection(file.relative_to(library).parts)]
    whole = b"".join(text for file in files if (text := file.read_bytes()).isascii())
    for number, at in enumerate(range(0, len(whole), STRETCH)):
        kinds[number % EVERY == 0].extend(whole[at : at + STRETCH])
    return bytes(kinds[0]), bytes(kinds[1])


def pieces(text: bytes) -> bytes:
    """Pieces from all over a text, one after another."""
    step = (len(text) - PIECE) // PIECES
    return b"".join(text[at * step : at * step + PIECE] for at in range(PIECES))


def write_texts(folder: Path) -> None:
    for name, text in zip(("seen.txt", "held_out.txt"), texts(), strict=True):
        (folder / name).write_bytes(pieces(text))


def train(steps: int, seed: int) -> Decoder:
    torch.manual_seed(seed)
    torch.set_num_threads(1)  # small matrices; threads that spin cost more than they bring
    data = torch.frombuffer(bytearray(texts()[0]), dtype=torch.uint8).long()
    model = Decoder()
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            nn.init.normal_(parameter, std=0.02 if "embed" in name else parameter.shape[1] ** -0.5)
    chosen = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.1)
    pace = torch.optim.lr_scheduler.OneCycleLR(chosen, RATE, total_steps=steps, pct_start=0.1)
    begin = time.monotonic()
    for step in range(steps):
        starts = torch.randint(len(data) - LENGTH - 1, (BATCH,))
        rows = torch.stack([data[at : at + LENGTH + 1] for at in starts])
        loss = functional.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
        chosen.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        chosen.step()
        pace.step()
        if step % 50 == 0 or step == steps - 1:
            print(f"step {step}: loss {loss.item():.3f}, {time.monotonic() - begin:.0f} s, {len(data)} bytes of text", flush=True)
    return model


def main() -> None:
    from safetensors.torch import save_file

    folder = Path(sys.argv[1])
    steps, seed = (int(given) if given else usual for given, usual in zip([*sys.argv[2:], "", ""][:2], (1500, 0), strict=True))
    model = train(steps, seed)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / "model.safetensors")
    config = {"model_type": "llama", "hidden_size": WIDTH, "intermediate_size": HIDDEN, "num_hidden_layers": BLOCKS}
    config |= {"num_attention_heads": HEADS, "num_key_value_heads": KEY_HEADS, "max_position_embeddings": CONTEXT, "rms_norm_eps": 1e-5}
    config |= {"rope_theta": 10000.0, "vocab_size": VOCABULARY, "hidden_act": "silu", "tie_word_embeddings": False, "eos_token_id": 257}
    write_texts(folder)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
