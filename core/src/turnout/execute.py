"""Running a plan: values in slots, steps in order, copies only where a value crosses devices."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from turnout import control
from turnout.device import HOST, Device
from turnout.errors import CompileError, TurnoutError
from turnout.expand import is_expanded
from turnout.graph import alias_of, constant_array, ir, is_constant, label, partition
from turnout.ledger import Candidate
from turnout.plan import Control, Partition, Plan
from turnout.program import Program, Slots, guarded
from turnout.provider import Executable, Provider, WholeExecutable

if TYPE_CHECKING:
    from turnout.formats import Source

__all__ = ["CompileFailed", "build", "open_whole"]

log = logging.getLogger("turnout")


class CompileFailed(Exception):
    """A partition that could not be compiled, and the nodes of the model to plan without; never leaves `load`."""

    def __init__(self, part: Partition, error: CompileError) -> None:
        super().__init__(str(error))
        self.partition = part
        self.error = error
        at_fault = [part.lowered[position] for position in error.nodes if position < len(part.lowered)]
        self.nodes = [node for node in at_fault if node is not None] or part.nodes

    @property
    def reason(self) -> str:
        return f"it could not be compiled there: {self.error.message}"


def build(plan: Plan, options: Mapping[str, Any], file: Path | bytes | None = None) -> Program:
    """Compiles a plan's partitions. `file`: the unchanged file of the model, handed over where one partition is all of it.

    Raises CompileFailed; what was compiled until then is closed.
    """
    builder = _Builder(plan, options)
    try:
        return builder.build(file)
    except BaseException:
        builder.program.close()
        raise


def open_whole(source: Source, candidate: Candidate, options: Any) -> WholeExecutable:
    """A source as it is, opened on a device that takes it whole. Raises CompileError, or whatever else of turnout's the provider does."""
    try:
        return candidate.provider.open_whole(source, candidate.device, options)
    except TurnoutError:
        raise
    except Exception as error:
        raise CompileError(f"{candidate.provider.name} raised {type(error).__name__}: {error}") from error


class _Builder:
    """Gives every value a slot per place where it is needed, and turns steps into functions over slots."""

    def __init__(self, plan: Plan, options: Mapping[str, Any]) -> None:
        self.plan = plan
        self.options = options
        self.program = Program()
        self.slots: dict[tuple[ir.Value, str], int] = {}
        self.owners: dict[ir.Value, Candidate] = {}
        self.copied: dict[tuple[ir.Value, str], Device] = {}
        self.on_host: set[ir.Value] = set()

    def build(self, file: Path | bytes | None) -> Program:
        plan, program = self.plan, self.program
        inputs = [*plan.graph.inputs, *plan.captured]
        program._inputs = [self._new_slot(value, HOST) for value in inputs]
        last = _last_reads(plan)
        for number, step in enumerate(plan.steps):
            if not step.outputs:  # nodes that nobody reads
                continue
            if isinstance(step, Partition):
                if file is not None and _is_whole(plan):
                    self._hand_over(step, file)
                self._add_partition(step)
            else:
                self._add_control(step)
            self._add_free(last.get(number, ()))
        for value in plan.graph.outputs:
            self._end(value)
        self._find_takers(inputs)
        program.whole = self._whole()
        program.direct = program.whole if program.whole is not None and plan.steps[0].device.on_host else None
        if program.direct is not None:
            program.run_direct = guarded(program.direct, plan.steps[0].device)
        return program

    def _hand_over(self, part: Partition, file: Path | bytes) -> None:
        """The partition becomes the file itself: all of its inputs, used or not, and its outputs as they stand in it."""
        graph = self.plan.graph
        part.inputs, part.outputs = list(graph.inputs), list(graph.outputs)
        part.graph = partition(part.nodes, part.inputs, part.outputs, graph.opset_imports, name=graph.name or "graph", file=file)

    def _add_partition(self, part: Partition) -> None:
        executable = self._compile(part)
        self.program.executables.append(executable)
        part.placement = executable.placement()
        sources = [self._at(value, part.device) for value in part.inputs]
        targets = [self._new_slot(value, part.device) for value in part.outputs]
        for value in part.outputs:
            self.owners[value] = part.candidate
        run = guarded(executable, part.device)
        buffers = self._places(part)

        def step(slots: Slots) -> None:
            out = [None if place is None else slots[place] for place in buffers] if buffers else None
            for slot, result in zip(targets, run([slots[source] for source in sources], out), strict=True):
                slots[slot] = result

        self.program._steps.append(step)

    def _places(self, part: Partition) -> list[int | None]:
        """The slot of a buffer for each output of the partition that can lie in the memory of one of its inputs; [] if there is none.

        That input must be read nowhere else: whoever comes later would find the output in it.
        """
        inputs = {value.name: value for value in self.plan.graph.inputs}
        found: list[int | None] = []
        for value in part.outputs:
            source = inputs.get(alias_of(value))
            free = part.device.on_host and source is not None and value in self.plan.graph.outputs
            if not free or source in self.plan.graph.outputs or [step for step in self.plan.steps if source in step.inputs] != [part]:
                found.append(None)
                continue
            self.program._template.append(None)
            found.append(len(self.program._template) - 1)
            self.program._in_place[self.plan.graph.outputs.index(value)] = len(self.program._template) - 1
        return found if any(place is not None for place in found) else []

    def _compile(self, part: Partition) -> Executable:
        provider = part.candidate.provider
        try:
            return provider.compile(part.graph, part.device, self.options.get(provider.name))
        except CompileError as error:
            raise CompileFailed(part, error) from error
        except TurnoutError:
            raise
        except Exception as error:  # a plugin's own exception is no reason to lose the model: plan without those nodes there
            wrapped = CompileError(f"{provider.name} raised {type(error).__name__}: {error}")
            wrapped.__cause__ = error
            raise CompileFailed(part, wrapped) from error

    def _add_control(self, step: Control) -> None:
        bodies = {name: build(body, self.options) for name, body in step.bodies.items()}
        for body in bodies.values():
            self.program.executables += body.executables
        sources = [None if value is None else self._at(value, HOST) for value in step.node.inputs]
        captured = [self._at(value, HOST) for value in next(iter(step.bodies.values())).captured]
        targets = [self._new_slot(value, HOST) for value in step.outputs]
        position = next(i for i, node in enumerate(self.plan.graph) if node is step.node)
        call = control.runner(step.node, bodies, label(step.node, position))

        def run(slots: Slots) -> None:
            own = [None if source is None else slots[source] for source in sources]
            for slot, result in zip(targets, call(own, [slots[source] for source in captured]), strict=True):
                slots[slot] = result

        self.program._steps.append(run)

    def _add_free(self, values: Sequence[ir.Value]) -> None:
        """Values that nobody reads from here on let go of their memory."""
        dead = [slot for (value, _), slot in self.slots.items() if value in values]
        if dead:

            def free(slots: Slots) -> None:
                for slot in dead:
                    slots[slot] = None

            self.program._steps.append(free)

    def _end(self, value: ir.Value) -> None:
        """How an output leaves: from host memory, and from the device that made it."""
        program, done = self.program, len(self.program._steps)
        slot = self._out(value)
        last = program._steps[done:]
        del program._steps[done:]
        program._ends.append((slot, last))
        owner = self.owners.get(value)
        if owner is None or owner.device.on_host:
            program._there.append((slot, last, HOST))
        else:
            program._there.append((self.slots[value, _memory(owner.device)], [], owner.device))

    def _find_takers(self, inputs: Sequence[ir.Value]) -> None:
        for position, value in enumerate(inputs):
            readers = {one for (read, _), one in self.copied.items() if read is value}
            if len(readers) == 1 and value not in self.on_host:
                (device,) = readers
                provider = next(one for one in self.plan.candidates if one.device == device).provider
                if type(provider).from_dlpack is not Provider.from_dlpack:
                    self.program.takes[position] = functools.partial(provider.from_dlpack, device=device)

    def _out(self, value: ir.Value) -> int:
        """The slot of an output. A constant is copied for each run: what the caller does to it must not change the model."""
        slot = self._at(value, HOST)
        if not is_constant(value) or slot in self.program._inputs:
            return slot
        own = self._new_slot(value, HOST)

        def copy(slots: Slots) -> None:
            slots[own] = slots[slot].copy()

        self.program._steps.append(copy)
        return own

    def _at(self, value: ir.Value, device: Device) -> int:
        """The slot where the value is on that device, with a copy step before it where it has to be brought there."""
        if device.on_host:
            self.on_host.add(value)
        slot = self.slots.get((value, _memory(device)))
        if slot is not None:
            return slot
        if is_constant(value) and (value, "host") not in self.slots:
            self.program._template[self._new_slot(value, HOST)] = constant_array(value)
        owner = self.owners.get(value)
        if (value, "host") not in self.slots and owner is not None:
            self._add_copy(value, owner.device, HOST, owner.provider.to_host, owner.device)
        if not device.on_host:
            candidate = next(one for one in self.plan.candidates if one.device == device)
            self._add_copy(value, HOST, device, candidate.provider.to_device, device)
            self.copied[value, _memory(device)] = device
        return self.slots[value, _memory(device)]

    def _add_copy(self, value: ir.Value, source: Device, target: Device, move: Callable[..., Any], device: Device) -> None:
        here, there = self.slots[value, _memory(source)], self._new_slot(value, target)

        def copy(slots: Slots) -> None:
            slots[there] = move(slots[here], device)

        self.program._steps.append(copy)

    def _new_slot(self, value: ir.Value, device: Device) -> int:
        self.program._template.append(None)
        slot = self.slots[value, _memory(device)] = len(self.program._template) - 1
        return slot

    def _whole(self) -> Executable | None:
        """The single executable whose inputs and outputs are the program's own, in order."""
        plan = self.plan
        if len(plan.steps) != 1 or not isinstance(plan.steps[0], Partition):
            return None
        if not self.program.executables:  # a model without outputs runs nothing
            return None
        part = plan.steps[0]
        if part.inputs == [*plan.graph.inputs, *plan.captured] and part.outputs == list(plan.graph.outputs):
            return self.program.executables[0]
        return None


def _memory(device: Device) -> str:
    """Where a device's values live: all devices in host memory share them."""
    return "host" if device.on_host else device.name


def _is_whole(plan: Plan) -> bool:
    """Whether one partition is the file as it is. A node that was expanded, because it was refused, stands in the file yet."""
    if len(plan.steps) != 1 or not isinstance(plan.steps[0], Partition) or plan.steps[0].rewrites:
        return False
    made = all(value.producer() is not None for value in plan.graph.outputs)  # a runtime may hand out its own copy of a weight
    return made and not is_expanded(plan.graph)


def _last_reads(plan: Plan) -> dict[int, list[ir.Value]]:
    """For each step, the values that it is the last to read or, where nobody reads them, to make; outputs of the graph live on."""
    last: dict[ir.Value, int] = {}
    for number, step in enumerate(plan.steps):
        for value in (*step.inputs, *step.outputs):
            last[value] = number
    kept = set(plan.graph.outputs)
    found: dict[int, list[ir.Value]] = {}
    for value, number in last.items():
        if value not in kept and not is_constant(value):
            found.setdefault(number, []).append(value)
    return found
