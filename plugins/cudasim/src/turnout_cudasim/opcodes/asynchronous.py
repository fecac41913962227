"""Asynchronous copies, mbarriers, TMA and clusters (PTX ISA, sections 9.7.9.25 to 9.7.9.28 and 9.7.13.16)."""

from __future__ import annotations

from turnout_cudasim import dtypes
from turnout_cudasim.emit import Emitter
from turnout_cudasim.opcodes import opcode
from turnout_cudasim.parse import Instruction
from turnout_cudasim.report import NotModelled


def _barrier_space(i: Instruction) -> str:
    return "shared" if any(p.startswith("shared") for p in i.parts) else "generic"


@opcode("cp.async", effect=True)
def copy(e: Emitter, i: Instruction) -> None:
    """4, 8 or 16 bytes from global to shared memory, with zero fill; reading them before the wait is reported."""
    to, source, size, *more = i.operands
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


@opcode("cp.async.mbarrier.arrive", effect=True)
def arrive_after_copies(e: Emitter, i: Instruction) -> None:
    """Arrive at an mbarrier when the thread's copies have landed."""
    e.do(f'copy_mbarrier_arrive(t, "{_barrier_space(i)}", {e.address(i.operands[0])}, {i.has("noinc")}, {e.site})')


@opcode("mbarrier.init", effect=True)
def barrier_init(e: Emitter, i: Instruction) -> None:
    """An mbarrier for a number of arrivals."""
    e.do(f'mbarrier_init(t, "{_barrier_space(i)}", {e.address(i.operands[0])}, {e.read(i.operands[1], "u32")}, {e.site})')


@opcode("mbarrier.inval", effect=True)
def barrier_invalidate(e: Emitter, i: Instruction) -> None:
    """Its memory may be used for other things."""
    e.do(f'mbarrier_invalidate(t, "{_barrier_space(i)}", {e.address(i.operands[0])}, {e.site})')


@opcode("mbarrier.arrive", "mbarrier.arrive_drop", effect=True)
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


@opcode("mbarrier.expect_tx", "mbarrier.complete_tx", effect=True)
def barrier_bytes(e: Emitter, i: Instruction) -> None:
    """Expect bytes, or say that they have come."""
    function = "mbarrier_expect" if i.parts[1] == "expect_tx" else "mbarrier_complete"
    e.do(f'{function}(t, "{_barrier_space(i)}", {e.address(i.operands[0])}, {e.read(i.operands[1], "u32")}, {e.site})')


@opcode("mbarrier.test_wait", "mbarrier.try_wait", effect=True)
def barrier_wait(e: Emitter, i: Instruction) -> None:
    """Whether a phase is over, by state or parity; who waits in vain lets others go first, and waiting for ever is reported."""
    target, address, phase = i.operands[:3]
    parity = i.has("parity")
    state = e.read(phase, "u32" if parity else "u64")
    e.write(target, f'mbarrier_wait(t, "{_barrier_space(i)}", {e.address(address)}, {state}, {parity}, {e.site})', "pred")


@opcode("mapa")
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


@opcode("getctarank")
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


@opcode("cp.async.bulk", effect=True)
def bulk_copy(e: Emitter, i: Instruction) -> None:
    """Between global and shared memory, and across a cluster, with mbarrier or bulk group; multicast."""
    to, source, size, *rest = i.operands
    target, origin = i.parts[3], i.parts[4]
    if i.has("cp_mask", "ignore_oob"):
        raise NotModelled(f"opcode {i.opcode}")
    values = f"{e.address(to)}, {e.address(source)}, {e.read(size, 'u32')}.astype(I8)"
    if target == "global":
        e.do(f"bulk_store(t, {values}, {e.site})")
    else:
        e.do(f"bulk_load(t, {values}, {e.address(rest[0])}, {_options(e, i, rest[1:])}, {origin.startswith('shared')}, {e.site})")


@opcode("cp.reduce.async.bulk", effect=True)
def bulk_reduce(e: Emitter, i: Instruction) -> None:
    """add, min, max, and, or, xor, inc, dec of shared memory into global memory."""
    if i.parts[4] != "global":
        raise NotModelled(f"opcode {i.opcode}")
    to, source, size = i.operands[:3]
    operation = next(p for p in i.parts if p in ("add", "min", "max", "and", "or", "xor", "inc", "dec"))
    type_ = i.parts[-1]
    code = dtypes.NUMPY[type_] if type_ not in ("f16", "bf16") else "u2"
    format_ = type_ if type_ in ("f16", "bf16") else ""
    values = f"{e.address(to)}, {e.address(source)}, {e.read(size, 'u32')}.astype(I8)"
    e.do(f'bulk_reduce(t, "{operation}", "{code}", "{format_}", {values}, {e.site})')


@opcode("cp.async.bulk.commit_group", "cp.async.bulk.wait_group", "cp.async.bulk.prefetch", "fence.proxy", effect=True)
def bulk_order(e: Emitter, i: Instruction) -> None:
    """Bulk stores are done at once."""


def _coordinates(e: Emitter, operand: str) -> tuple[str, str]:
    """`[map, {c0, c1 ...}]` as the map's address and a tuple of coordinates."""
    inner = operand.strip("[] ")
    tensor, _, numbers = inner.partition(",")
    values = "".join(f"{e.read(c.strip(), 's32')}, " for c in numbers.strip(" {}").split(","))
    return e.address(f"[{tensor.strip()}]"), f"({values})"


@opcode("cp.async.bulk.tensor", effect=True)
def tensor_copy(e: Emitter, i: Instruction) -> None:
    """TMA in 1 to 5 dimensions, tiled: loads with mbarrier and multicast, stores; every swizzle, fill outside of the tensor."""
    if i.has("im2col", "im2col_no_offs", "tile::gather4", "tile::scatter4", "cta_group::1", "cta_group::2", "im2col::w"):
        raise NotModelled(f"opcode {i.opcode}")
    target = i.parts[5]
    if target == "global":
        tensor, corner = _coordinates(e, i.operands[0])
        e.do(f'tensor_store(t, {tensor}, {corner}, {e.address(i.operands[1])}, "", {e.site})')
        return
    to, source, barrier, *rest = i.operands
    tensor, corner = _coordinates(e, source)
    e.do(f"tensor_load(t, {e.address(to)}, {tensor}, {corner}, {e.address(barrier)}, {_options(e, i, rest)}, {e.site})")


@opcode("cp.reduce.async.bulk.tensor", effect=True)
def tensor_reduce(e: Emitter, i: Instruction) -> None:
    """TMA stores that combine with what is there."""
    operation = next(p for p in i.parts if p in ("add", "min", "max", "and", "or", "xor", "inc", "dec"))
    tensor, corner = _coordinates(e, i.operands[0])
    e.do(f'tensor_store(t, {tensor}, {corner}, {e.address(i.operands[1])}, "{operation}", {e.site})')


@opcode("tensormap.replace", "tensormap.cp_fenceproxy", "cp.async.bulk.prefetch.tensor", effect=True)
def tensor_map_change(e: Emitter, i: Instruction) -> None:
    """Changing a tensor map on the device is refused; prefetching is nothing."""
    if i.name == "tensormap":
        raise NotModelled(f"opcode {i.opcode}")
