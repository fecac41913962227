"""A module in device memory: its variables with their first values, and the barrier of a grid."""

from __future__ import annotations

import re

import numpy as np

from turnout_cudasim.memory import Memory
from turnout_cudasim.parse import Module, Variable, parse
from turnout_cudasim.report import NotModelled


class Program:
    """A module in device memory. `symbols` are its variables: name -> (address, size)."""

    def __init__(self, module: Module, memory: Memory) -> None:
        self.module, self.memory = module, memory
        self.symbols: dict[str, tuple[int, int]] = {}
        for name, variable in module.variables.items():
            if not variable.external:
                address = memory.allocate(max(variable.size, 1), label=name)
                self.symbols[name] = (address, variable.size)
        for name, (address, size) in self.symbols.items():
            memory.write(address, self._initial(module.variables[name]))
            assert size == module.variables[name].size
        self._workspace = 0
        self.addresses = {name: np.uint64(address) for name, (address, _) in self.symbols.items()}

    @property
    def workspace(self) -> int:
        """Where cooperative_groups keeps the barrier of a grid: {bytes, barrier}, which the driver hands over in %envreg1 and %envreg2."""
        if not self._workspace:
            self._workspace = self.memory.allocate(16, label="the grid's barrier")
            self.memory.write(self._workspace, np.array([8, 0, 0, 0], np.uint32))
        return self._workspace

    def unload(self) -> None:
        if self._workspace:
            self.memory.free(self._workspace)
            self._workspace = 0
        for address, _ in self.symbols.values():
            self.memory.free(address)
        self.symbols = {}

    def _initial(self, variable: Variable) -> bytes:
        """The bytes of an initialiser; what it does not name is zero."""
        width = variable.size // max(variable.count, 1)
        data = b"".join(self._element(text, variable, width) for text in variable.values)
        return data.ljust(variable.size, b"\0")

    def _element(self, text: str, variable: Variable, width: int) -> bytes:
        if text.startswith(("0f", "0F", "0d", "0D")):
            return int(text[2:], 16).to_bytes(width, "little")
        if re.fullmatch(r"-?(0[xX][0-9a-fA-F]+|\d+)U?", text):
            return (int(text.rstrip("U"), 0) & ((1 << 8 * width) - 1)).to_bytes(width, "little")
        if re.fullmatch(r"-?\d*\.\d+(e-?\d+)?", text):
            return np.array(float(text), np.float32 if width == 4 else np.float64).tobytes()
        found = re.fullmatch(r"(?:0x([0-9a-fA-F]+)\()?(?:generic\()?\s*([\w$%.]+)\s*\)*(?:\s*\+\s*(\d+))?\)?", text)
        if found is None or found[2] not in self.symbols:
            raise NotModelled(f"initialiser {text} of {variable.name}")
        address = self.symbols[found[2]][0] + int(found[3] or 0)
        if found[1]:  # 0xFF00(symbol): one byte of the address
            mask = int(found[1], 16)
            return ((address & mask) >> ((mask & -mask).bit_length() - 1)).to_bytes(width, "little")
        return address.to_bytes(width, "little")


def load(module: Module | str, memory: Memory) -> Program:
    """Put a module's variables into memory. Raises ParseError, NotModelled."""
    return Program(parse(module) if isinstance(module, str) else module, memory)
