"""The provider contract: all that a plugin author has to know, on one page.

A provider is one way to run graphs on one family of devices. Three methods are required:

    probe()                          which devices are here, or `Unavailable` with the reason
    supports(node, graph, device)    Yes() or No("why"), for one node
    compile(graph, device, options)  an `Executable` for a graph of nodes that it said Yes to

Five are optional: `claims` (nodes that only go together), `lower` (rewrites into the provider's own dialect), and `to_device`, `to_host`
and `from_dlpack` for a provider whose values do not live in host memory. `versions` makes the memory of past probes precise. A provider
that takes files as they are, as llama.cpp does, says so in `takes_whole` and opens them in `open_whole`: no graph is built then. With
`keeps`, `keep` and `reopen` the second load of a model skips planning and lowering.

Nodes, values and graphs are `onnx_ir` objects. In the graph handed to `compile`, values are wired by name: a value's name is unique
in it, and a rewrite's replacement nodes give values the names of those that they replace.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import onnx_ir as ir
    from pydantic import BaseModel

    from turnout.device import Device
    from turnout.formats import Source

__all__ = ["API", "Claim", "Executable", "No", "Provider", "Rewrite", "WholeExecutable", "Yes"]

API = 1
"""The version of this contract. A provider with another `api` is refused as `IncompatiblePlugin`."""


@dataclass(frozen=True, slots=True)
class Yes:
    """The provider runs this node.

    seconds: its estimate of the node's time, where it can tell; only the veto reads it.
    remark: what a user should know of how it runs it ("float16, computed in float32"); `explain()` shows it.
    """

    seconds: float | None = None
    remark: str = ""

    def __bool__(self) -> bool:
        return True


@dataclass(frozen=True, slots=True)
class No:
    """The provider does not run this node; `reason` is a sentence for a person to read."""

    reason: str

    def __bool__(self) -> bool:
        return False


@dataclass(frozen=True, slots=True)
class Claim:
    """Nodes that are taken together or not at all (a fusion). `title` names what they become."""

    nodes: Sequence[ir.Node]
    title: str
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Rewrite(Claim):
    """A claim whose nodes the provider runs as other nodes: `replacement`, in order.

    The replacement reads values of the graph (or new constants: values with a `const_value`), and every value of `nodes` that
    anyone else reads must come out of it under the same name.
    """

    replacement: Sequence[ir.Node] = ()


class Executable(abc.ABC):
    """A compiled graph on one device. Safe to run from several threads at once."""

    checks_inputs: ClassVar[bool] = False
    """True where `run` itself refuses values of a wrong dtype, byte order, rank or shape; else turnout looks at them first."""
    run_by_name: Callable[[dict[str, Any]], Sequence[Any]] | None = None
    """A quicker door, for a runtime that wants names anyway: `run` with the inputs by name. Wants `checks_inputs`."""

    @abc.abstractmethod
    def run(self, values: Sequence[Any], out: Sequence[Any] | None = None) -> Sequence[Any]:
        """Runs once: one value per input of the graph, in its order, to one per output, in its order.

        On a device in host memory a tensor is a NumPy array (bfloat16, float8 and int4 through ml_dtypes, strings as objects);
        elsewhere it is whatever `to_device` makes. A sequence is a list, an empty optional is None.
        `out`, where given, has a buffer or None per output: an output with a buffer is written into it, and the buffer returned.
        Inputs are never written to, with one exception: where the graph declares that an output may lie in the memory of an input
        (`turnout.graph.alias_of(output)` names it), the buffer may be that input's very memory. Update it in place, or compute
        aside and copy into it at the end. Any other buffer shares no memory with an input.
        Raises RunError or one of its kinds; whatever else it raises reaches the user as a RunError that knows less.
        """

    def bind(self, values: Sequence[Any], out: Sequence[Any]) -> Callable[[], Sequence[Any]]:
        """The same run again and again: the buffers are looked at when the result is called, and never copied.

        One thread at a time may call the result; an output without a buffer is a new array each time.
        """
        return lambda: self.run(values, out)

    def placement(self) -> Mapping[str, int]:
        """Where a runtime below really put the nodes, by its own names, if it has a say in it: {} where it has not."""
        return {}

    def close(self) -> None:  # noqa: B027 - most executables own nothing that the garbage collector does not
        """Frees what the executable holds. Called once; no run follows it."""


class WholeExecutable(Executable):
    """A source that a provider took whole. There is no graph that says what it takes and gives, so it says so itself."""

    inputs: Sequence[ir.Value]
    """What `run` takes, in order: named values with a type, and a shape as far as it is known."""
    outputs: Sequence[ir.Value]
    """What `run` gives, in order."""
    title: str = "the whole file"
    """What `explain()` calls it, such as "the whole file, by llama.cpp"."""


class Provider(abc.ABC):
    """One execution provider. One instance serves the process; its methods may be called from any thread."""

    name: ClassVar[str]
    """Lower-case name, unique among installed plugins; its devices are `name:0`, `name:1` ..."""
    api: ClassVar[int] = API
    rank: ClassVar[int] = 50
    """Lower goes first where the user named no device; cpu is 90, the reference provider 100."""
    finite: ClassVar[str] = ""
    """Why nothing is promised of NaN, infinities and the ends of a type's range, in a sentence; "" where what ONNX says holds there too."""
    Options: ClassVar[type[BaseModel] | None] = None
    """The provider's own section of the load options: `load(..., options={"cpu": {"threads": 2}})`."""

    @abc.abstractmethod
    def probe(self) -> Sequence[Device]:
        """The devices that are here, best first. Quick; called once a process.

        Raises Unavailable with the reason, and the mending command as hint, where there is none.
        """

    @abc.abstractmethod
    def supports(self, node: ir.Node, graph: ir.Graph, device: Device) -> Yes | No:
        """Whether the node runs on the device. Pure and quick: no memory, no files, no device calls.

        `node.version` is the operator set version of the node's domain. Types and shapes are those that shape inference found.
        Bodies of If, Loop and Scan need no look: turnout asks for their nodes one by one.
        """

    @abc.abstractmethod
    def compile(self, graph: ir.GraphView, device: Device, options: BaseModel | None) -> Executable:
        """Builds a partition. Weights are the `const_value` of `graph.initializers`, mapped from the file: do not copy without need.

        Where the partition is the whole of an unchanged file, `turnout.graph.whole_file(graph)` is that file.
        Raises CompileError, with the nodes at fault where they are known: turnout plans again without them, and says so.
        """

    def claims(self, graph: ir.Graph, device: Device) -> Iterable[Claim]:
        """Fused claims, best first. A claim that would make the partitions wait for each other is dropped, with that reason."""
        return ()

    def lower(self, graph: ir.Graph, device: Device) -> Iterable[Rewrite]:
        """Rewrites into the provider's dialect, best first. Their replacement nodes are asked for like any others."""
        return ()

    def takes_whole(self, source: Source, device: Device) -> Yes | No | None:
        """Whether the device takes this source as it is, before any graph is built; a Yes may tell why in its `remark`.

        Quick: a look at `source.format`, `source.path` and `source.metadata`. A No keeps the device out of the graph as well; None,
        the answer of every provider that runs operators, leaves it to `supports`. Where another device goes first and runs the whole
        operator graph, nothing is opened here.
        """
        return None

    def open_whole(self, source: Source, device: Device, options: BaseModel | None) -> WholeExecutable:
        """Opens a source that `takes_whole` said Yes to. Its values live in host memory.

        Raises CompileError where it does not open after all: the next device is asked then, unless only this one was named.
        """
        raise NotImplementedError(f"{type(self).__name__} takes sources whole, so it must define open_whole")

    def keeps(self, device: Device) -> str | None:
        """For a provider whose graphs can be kept on disk: what makes them useless when it changes (versions below, the processor's kind).

        Quick, for it is asked at each load. None, the default, says that nothing is kept.
        """
        return None

    def keep(self, graph: ir.GraphView, device: Device, folder: Path) -> bool:
        """Leaves in an empty folder what `reopen` makes the executable of, for a graph that it compiled; False where it cannot.

        A weight that lies in a file as it is (`turnout.graph.place_of`) is better referred to than copied.
        """
        return False

    def reopen(self, folder: Path, device: Device, options: BaseModel | None) -> Executable:
        """The executable that `compile` would make of the graph, out of what `keep` left in the folder.

        Raises what it likes where that is of no use any more: the model is then loaded as if nothing were kept.
        """
        raise NotImplementedError(f"{type(self).__name__} keeps graphs, so it must define reopen")

    def to_device(self, array: Any, device: Device) -> Any:
        """Host array (or list, or None) to a value of the device. Called only where `device.on_host` is false."""
        raise NotImplementedError(f"{type(self).__name__} has a device outside host memory, so it must define to_device")

    def from_dlpack(self, value: Any, device: Device) -> Any | None:
        """A caller's tensor that lies on the device already, as a value of the device and without a copy; None where that cannot be.

        value: anything with `__dlpack__` and `__dlpack_device__`, outside host memory. The result has `shape` (a tuple) and `dtype`
        (NumPy's), and `to_device` gives it back as it is.
        """
        return None

    def to_host(self, value: Any, device: Device) -> Any:
        """Value of the device to a host array (or list, or None). Called only where `device.on_host` is false."""
        raise NotImplementedError(f"{type(self).__name__} has a device outside host memory, so it must define to_host")

    def versions(self) -> Mapping[str, str]:
        """Versions of the library and driver, as far as they can be had without loading them; they key the memory of past probes."""
        return {}
