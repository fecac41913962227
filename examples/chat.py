"""The same chat on every device here: `uv run python examples/chat.py MODEL.gguf`. Nothing changes but the device."""

import argparse

import turnout

QUESTIONS = ("What is the capital of France?", "And of Italy?")


def chat(model: str, device: str | list[str], tokens: int) -> None:
    """Two questions, the second of which needs the first."""
    with turnout.load(model, device=device, accuracy="auto") as llm:
        talk = llm.chat(max_tokens=tokens)
        for question in QUESTIONS:
            print(f"  > {question}\n  ", end="")
            for piece in talk.send(question):
                print(piece, end="", flush=True)
            print()


def main() -> None:
    here = [device.name for device in turnout.devices() if device.provider != "reference"]  # right, but minutes a word
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--tokens", type=int, default=24, help="length of an answer")
    parser.add_argument("--device", action="append", help="a device, or a comma list of them; default: each one here, and all together")
    given = parser.parse_args()
    devices = [name.split(",") if "," in name else name for name in given.device or [*here, ",".join(here)]]
    for device in devices:
        print(f"{device}:")
        try:
            chat(given.model, device, given.tokens)
        except turnout.TurnoutError as error:
            print(f"  not here: {error.message.splitlines()[0]}")


if __name__ == "__main__":
    main()
