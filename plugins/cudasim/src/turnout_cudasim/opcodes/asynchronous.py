"""Asynchronous copies, mbarriers, TMA and clusters (PTX ISA, sections 9.7.9.25 to 9.7.9.28 and 9.7.13.16)."""

from __future__ import annotations

from turnout_cudasim import dtypes
from turnout_cudasim.emit import Emitter
from turnout_cudasim.opcodes import opcode
from turnout_cudasim.parse import Instruction
from turnout_cudasim.report import NotModelled

SEM = "[~acquire|~release|~relaxed][~cta|~cluster]"
OWN = "[shared|~shared::cta]"
ANY = "[shared|~shared::cta|~shared::cluster]"
BYTES = "mbarrier::complete_tx::bytes"
DIMENSIONS = "(1d|2d|3d|4d|5d)"


def _barrier_space(i: Instruction) -> str:
    return "shared" if any(p.startswith("shared") for p in i.parts) else "generic"


@opcode("cp.async(~ca|~cg)(shared|~shared::cta).global[~L2::cache_hint][~L2::64B|~L2::128B|~L2::256B]", effect=True)
def copy(e: Emitter, i: Instruction) -> None:
    """4, 8 or 16 bytes from global to shared memory, with zero fill; reading them before the wait is reported."""
    to, source, size, *more = i.operands
    e.note_shared_access("shared", int(size))
    kept = e.constant(int(size), "u4")
    if i.has("L2::cache_hint"):
        more = more[:-1]
    if more and e.registers.get(more[0].lstrip("!")) == "pred":  # ignore-src
        kept = f"np.where({e.read(more[0], 'pred')}, U4(0), {kept})"
    elif more:
        kept = e.read(more[0], "u32")
    e.do(f"copy_async(t, {e.address(to)}, {e.address(source)}, {int(size)}, {kept}, {e.site})")


@opcode("cp.async.commit_group", effect=True)
def commit(e: Emitter, i: Instruction) -> None:
    """Close a group of copies."""
    e.do("copy_commit(t)")


@opcode("cp.async.wait_group", effect=True)
def wait(e: Emitter, i: Instruction) -> None:
    """Wait until few enough groups are under way."""
    e.do(f"copy_wait(t, {int(i.operands[0], 0)})")


@opcode("cp.async.wait_all", effect=True)
def wait_all(e: Emitter, i: Instruction) -> None:
    """Wait for all copies."""
    e.do("copy_wait(t, None)")


@opcode(f"cp.async.mbarrier.arrive[noinc]{OWN}.b64", effect=True)
def arrive_after_copies(e: Emitter, i: Instruction) -> None:
    """Arrive at an mbarrier when the thread's copies have landed."""
    e.do(f'copy_mbarrier_arrive(t, "{_barrier_space(i)}", {e.address(i.operands[0])}, {i.has("noinc")}, {e.site})')


@opcode(f"mbarrier.init{OWN}.b64", effect=True)
def barrier_init(e: Emitter, i: Instruction) -> None:
    """An mbarrier for a number of arrivals."""
    e.do(f'mbarrier_init(t, "{_barrier_space(i)}", {e.address(i.operands[0])}, {e.read(i.operands[1], "u32")}, {e.site})')


@opcode(f"mbarrier.inval{OWN}.b64", effect=True)
def barrier_invalidate(e: Emitter, i: Instruction) -> None:
    """Its memory may be used for other things."""
    e.do(f'mbarrier_invalidate(t, "{_barrier_space(i)}", {e.address(i.operands[0])}, {e.site})')


@opcode(
    f"mbarrier(arrive|arrive_drop){SEM}{ANY}.b64", f"mbarrier(arrive|arrive_drop)[~release][~cta|~cluster]{OWN}[~noComplete].b64",
    f"mbarrier(arrive|arrive_drop).expect_tx{SEM}{ANY}.b64", f"mbarrier(arrive|arrive_drop)[~release][~cta].noComplete{OWN}.b64",
    effect=True,
)  # fmt: skip
def barrier_arrive(e: Emitter, i: Instruction) -> None:
    """Arrive, with a count, with bytes to expect, at another block's too; arriving too often is reported."""
    if i.operands[0].startswith("["):
        target, address, rest = "_", i.operands[0], i.operands[1:]
    else:
        target, address, rest = i.operands[0], i.operands[1], i.operands[2:]
    first = e.read(rest[0], "u32") if rest else e.constant(1, "u4")
    count, bytes_ = (e.constant(1, "u4"), first) if i.has("expect_tx") else (first, e.constant(0, "u4"))
    drop = i.parts[1] == "arrive_drop"
    text = f'mbarrier_arrive(t, "{_barrier_space(i)}", {e.address(address)}, {count}, {bytes_}, {drop}, {e.site})'
    if target == "_":
        e.do(text)
    else:
        e.write(target, text, "b64")


@opcode(f"mbarrier(expect_tx|complete_tx){SEM}{ANY}.b64", effect=True)
def barrier_bytes(e: Emitter, i: Instruction) -> None:
    """Expect bytes, or say that they have come."""
    function = "mbarrier_expect" if i.parts[1] == "expect_tx" else "mbarrier_complete"
    e.do(f'{function}(t, "{_barrier_space(i)}", {e.address(i.operands[0])}, {e.read(i.operands[1], "u32")}, {e.site})')


@opcode(f"mbarrier(~test_wait|~try_wait)[parity]{SEM}{OWN}.b64", effect=True)
def barrier_wait(e: Emitter, i: Instruction) -> None:
    """Whether a phase is over, by state or parity; who waits in vain lets others go first, and waiting for ever is reported."""
    target, address, phase = i.operands[:3]
    parity = i.has("parity")
    state = e.read(phase, "u32" if parity else "u64")
    e.write(target, f'mbarrier_wait(t, "{_barrier_space(i)}", {e.address(address)}, {state}, {parity}, {e.site})', "pred")


@opcode("mapa[shared::cluster](u32|u64)")
def map_address(e: Emitter, i: Instruction) -> None:
    """The same shared memory address in another block of the cluster."""
    to, address, rank = i.operands
    generic = not any(p.startswith("shared") for p in i.parts)
    type_ = i.parts[-1]
    value = e.read(address, type_)
    if not generic and type_ == "u64":
        e.write(to, f"map_address(t, {value}, {e.read(rank, 'u32')}, False).astype(U8)", "u64")
    else:
        e.write(to, f"map_address(t, {value}, {e.read(rank, 'u32')}, {generic})", type_)


@opcode("getctarank[shared::cluster](u32|u64)")
def rank_of(e: Emitter, i: Instruction) -> None:
    """Which block of the cluster an address belongs to."""
    generic = not any(p.startswith("shared") for p in i.parts)
    window = " - I8(1 << 32)" if generic else ""
    kind = "u64" if generic or dtypes.size(e.registers.get(i.operands[1], "b32")) == 8 else "u32"
    value = f"({e.read(i.operands[1], kind)}.astype(I8){window} >> I8(24))"
    e.write(i.operands[0], f'np.where({value} == 0, t.special["cluster_ctarank"], {value} - 1).astype(U4)', "u32")


def _options(e: Emitter, i: Instruction, rest: list[str]) -> str:
    """The multicast mask, if there is one."""
    if not i.has("multicast::cluster"):
        return "None"
    return e.read(rest[0], "u16") + ".astype(I8)"


@opcode(
    f"cp.async.bulk(shared::cluster|~shared::cta).global.{BYTES}[multicast::cluster][~L2::cache_hint]",
    f"cp.async.bulk.shared::cluster.shared::cta.{BYTES}", "cp.async.bulk.global.shared::cta.bulk_group[~L2::cache_hint]",
    effect=True,
)  # fmt: skip
def bulk_copy(e: Emitter, i: Instruction) -> None:
    """Between global and shared memory, and across a cluster, with mbarrier or bulk group; multicast."""
    to, source, size, *rest = i.operands
    target, origin = i.parts[3], i.parts[4]
    values = f"{e.address(to)}, {e.address(source)}, {e.read(size, 'u32')}.astype(I8)"
    if target == "global":
        e.do(f"bulk_store(t, {values}, {e.site})")
    else:
        e.do(f"bulk_load(t, {values}, {e.address(rest[0])}, {_options(e, i, rest[1:])}, {origin.startswith('shared')}, {e.site})")


@opcode(
    *(
        f"cp.reduce.async.bulk.global.shared::cta.bulk_group[~L2::cache_hint]{form}"
        for form in (
            "(and|or|xor)(b32|b64)", "(inc|dec).u32", "(min|max)(u32|s32|u64|s64)", ".add(u32|s32|u64|s64|f32|f64)",
            ".add.noftz(f16|bf16)", "(min|max)(f16|bf16)",
        )
    ),
    effect=True,
)  # fmt: skip
def bulk_reduce(e: Emitter, i: Instruction) -> None:
    """add, min, max, and, or, xor, inc, dec of shared memory into global memory."""
    to, source, size = i.operands[:3]
    operation = next(p for p in i.parts if p in ("add", "min", "max", "and", "or", "xor", "inc", "dec"))
    type_ = i.parts[-1]
    code = dtypes.NUMPY[type_] if type_ not in ("f16", "bf16") else "u2"
    format_ = type_ if type_ in ("f16", "bf16") else ""
    values = f"{e.address(to)}, {e.address(source)}, {e.read(size, 'u32')}.astype(I8)"
    e.do(f'bulk_reduce(t, "{operation}", "{code}", "{format_}", {values}, {e.site})')


@opcode(
    "cp.async.bulk.commit_group", "cp.async.bulk.wait_group[~read]", "cp.async.bulk.prefetch.L2.global[~L2::cache_hint]",
    "cp.async.bulk.prefetch.tensor(~1d|~2d|~3d|~4d|~5d).L2.global[~tile][~L2::cache_hint]",
    "fence.proxy.alias", "fence.proxy.async[~global|~shared::cta|~shared::cluster]", "fence.proxy(~async::generic|~tensormap::generic)...",
    "membar.proxy(~alias|~async)",
    effect=True,
)  # fmt: skip
def bulk_order(e: Emitter, i: Instruction) -> None:
    """Bulk stores are done at once, and prefetching is nothing."""


def _coordinates(e: Emitter, operand: str) -> tuple[str, str]:
    """`[map, {c0, c1 ...}]` as the map's address and a tuple of coordinates."""
    inner = operand.strip("[] ")
    tensor, _, numbers = inner.partition(",")
    values = "".join(f"{e.read(c.strip(), 's32')}, " for c in numbers.strip(" {}").split(","))
    return e.address(f"[{tensor.strip()}]"), f"({values})"


@opcode(
    f"cp.async.bulk.tensor{DIMENSIONS}(shared::cluster|~shared::cta).global[~tile].{BYTES}[multicast::cluster][~L2::cache_hint]",
    f"cp.async.bulk.tensor{DIMENSIONS}.global.shared::cta[~tile].bulk_group[~L2::cache_hint]",
    effect=True,
)  # fmt: skip
def tensor_copy(e: Emitter, i: Instruction) -> None:
    """TMA in 1 to 5 dimensions, tiled: loads with mbarrier and multicast, stores; every swizzle, fill outside of the tensor."""
    target = i.parts[5]
    if target == "global":
        tensor, corner = _coordinates(e, i.operands[0])
        e.do(f'tensor_store(t, {tensor}, {corner}, {e.address(i.operands[1])}, "", {e.site})')
        return
    to, source, barrier, *rest = i.operands
    tensor, corner = _coordinates(e, source)
    e.do(f"tensor_load(t, {e.address(to)}, {tensor}, {corner}, {e.address(barrier)}, {_options(e, i, rest)}, {e.site})")


@opcode(
    f"cp.reduce.async.bulk.tensor{DIMENSIONS}.global.shared::cta(add|min|max|inc|dec|and|or|xor)[~tile].bulk_group[~L2::cache_hint]",
    effect=True,
)
def tensor_reduce(e: Emitter, i: Instruction) -> None:
    """TMA stores that combine with what is there."""
    operation = next(p for p in i.parts if p in ("add", "min", "max", "and", "or", "xor", "inc", "dec"))
    tensor, corner = _coordinates(e, i.operands[0])
    e.do(f'tensor_store(t, {tensor}, {corner}, {e.address(i.operands[1])}, "{operation}", {e.site})')


@opcode("tensormap...", effect=True, refused=True)
def tensor_map_change(e: Emitter, i: Instruction) -> None:
    """Changing a tensor map on the device."""
    raise NotModelled(f"opcode {i.opcode} (changing a tensor map on the device)")
