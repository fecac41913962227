"""Control flow, barriers and calls (PTX ISA, sections 9.7.12, 9.7.13)."""

from __future__ import annotations

from turnout_cudasim.emit import Emitter
from turnout_cudasim.opcodes import opcode
from turnout_cudasim.parse import Instruction
from turnout_cudasim.report import NotModelled


def _guard(e: Emitter, i: Instruction) -> None:
    if i.guard:
        e.control_by(e.read(("!" if i.negated else "") + i.guard, "pred"))


@opcode("bra[~uni]", ends_block="branch")
def branch(e: Emitter, i: Instruction) -> None:
    """Branch, taken by each thread on its own; threads meet again where their paths do."""
    _guard(e, i)


@opcode("brx.idx[~uni]", ends_block="switch")
def branch_by_index(e: Emitter, i: Instruction) -> None:
    """Branch through a table of labels."""
    e.control_by(e.read(i.operands[0], "u32"))


@opcode("ret[~uni]", "exit", ends_block="return")
def leave(e: Emitter, i: Instruction) -> None:
    """End of the thread (or of an inlined call)."""
    _guard(e, i)


@opcode("trap", "brkpt", effect=True)
def trap(e: Emitter, i: Instruction) -> None:
    """Reported, with the first thread that gets there."""
    e.do(f"trap(t, {e.site})")


@opcode(
    "bar[~cta].sync", "bar[~cta].red.popc.u32", "bar[~cta].red(and|or).pred",
    "barrier[~cta].sync[aligned]", "barrier[~cta].red.popc[aligned].u32", "barrier[~cta].red(and|or)[aligned].pred",
    ends_block="barrier", effect=True,
)  # fmt: skip
def barrier(e: Emitter, i: Instruction) -> None:
    """Block barriers, named and counted; .red gives every thread the count, the conjunction or the disjunction. Divergence is reported."""
    operands = list(i.operands)
    result, predicate = "", "None"
    if i.has("red"):
        result = operands.pop(0)
        predicate = e.read(operands.pop(), "pred")
    number = e.read(operands[0], "u32") if operands else "U4(0)"
    count = e.read(operands[1], "u32") if len(operands) > 1 else "U4(0)"
    e.control_by(f"({number}, {count}, {predicate})")
    if result:
        e.write(result, e.constant(0, "?" if not i.has("popc") else "u4"), "pred" if not i.has("popc") else "u32")


@opcode("bar[~cta].arrive", "barrier[~cta].arrive[~aligned]", effect=True)
def barrier_arrive(e: Emitter, i: Instruction) -> None:
    """Arrive at a named barrier without waiting."""
    e.do(f"barrier_arrive(t, {e.read(i.operands[0], 'u32')}, {e.read(i.operands[1], 'u32')}, {e.site})")


@opcode("bar.warp.sync", effect=True, mask=lambda i: i.operands[0])
def warp_barrier(e: Emitter, i: Instruction) -> None:
    """The lanes of the mask meet. Races inside a warp are not looked for."""
    e.do(f"check_mask(t, {e.read(i.operands[0], 'u32')}, {e.site})")


@opcode("barrier.cluster.arrive[~release|~relaxed][~aligned]", effect=True)
def cluster_arrive(e: Emitter, i: Instruction) -> None:
    """Arrive at the cluster's barrier."""
    e.do(f"cluster_arrive(t, {e.site})")


@opcode("barrier.cluster.wait[~acquire][~aligned]", ends_block="cluster", effect=True)
def cluster_wait(e: Emitter, i: Instruction) -> None:
    """Wait for the whole cluster."""


LEVELS = "(~L1|~L2|~L2::evict_last|~L2::evict_normal)"
KEPT = "(~L2::evict_last|~L2::evict_normal|~L2::evict_first|~L2::evict_unchanged)"


@opcode(
    "membar(~cta|~gl|~sys)", "fence[~sc|~acq_rel|~acquire|~release](~cta|~cluster|~gpu|~sys)", "fence.mbarrier_init.release.cluster",
    "fence(~acquire|~release).sync_restrict(~shared::cta|~shared::cluster).cluster",
    "setmaxnreg(~inc|~dec).sync.aligned.u32", "pmevent[~mask]",
    "discard[~global].L2", "applypriority[~global].L2::evict_normal",
    f"prefetch[~global|~local]{LEVELS}", "prefetch[~const|~param].tensormap", "prefetchu.L1",
    f"createpolicy.fractional{KEPT}[~L2::evict_first|~L2::evict_unchanged].b64",
    f"createpolicy.range[~global]{KEPT}[~L2::evict_first|~L2::evict_unchanged].b64", "createpolicy.cvt.L2.b64",
)  # fmt: skip
def hint(e: Emitter, i: Instruction) -> None:
    """Ordering and hints: memory is in order here, one launch ends before the next begins, caches do not exist."""
    if i.name == "createpolicy":
        e.write(i.operands[0], e.constant(0, "u8"), "b64")


@opcode("griddepcontrol(~launch_dependents|~wait)", effect=True)
def earlier_kernels(e: Emitter, i: Instruction) -> None:
    """Kernels run one after the other here, so nothing waits; what a kernel behind a programmatic edge touches before is reported."""
    if i.has("wait"):
        e.do("await_earlier(t)")


@opcode("nanosleep.u32", effect=True)
def sleep(e: Emitter, i: Instruction) -> None:
    """Lets other threads go first."""
    e.do("step_aside(t)")


@opcode("call.vprintf", effect=True)
def print_format(e: Emitter, i: Instruction) -> None:
    """printf, to standard output, thread by thread."""
    result, text, arguments = i.operands
    e.do(f"print_format(t, {e.symbol(text, 'i8')}, {e.symbol(arguments, 'i8')}, {e.symbol(result, 'i8')}, {e.site})")


@opcode("call.__assertfail", effect=True)
def assertion(e: Emitter, i: Instruction) -> None:
    """A failed assert is reported with its text."""
    message, file, line, function = (e.symbol(o, "i8") for o in i.operands[:4])
    e.do(f"assertion(t, {message}, {file}, {line}, {function}, {e.site})")


@opcode("call.malloc", "call.free", effect=True, refused=True)
def heap(e: Emitter, i: Instruction) -> None:
    """Device-side malloc and free are refused."""
    raise NotModelled(f"{i.parts[1]} in a kernel")
