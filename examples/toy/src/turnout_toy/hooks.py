"""What turnout finds: one hook, and nothing heavy at the top."""

from turnout import Provider, hookimpl


@hookimpl
def turnout_providers() -> list[Provider]:
    from turnout_toy.provider import ToyProvider

    return [ToyProvider()]
