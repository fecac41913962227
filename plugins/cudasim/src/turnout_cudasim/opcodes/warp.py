"""Instructions of a whole warp (PTX ISA, sections 9.7.9.6 and 9.7.13)."""

from __future__ import annotations

from turnout_cudasim.emit import Emitter, Surveyor
from turnout_cudasim.opcodes import opcode
from turnout_cudasim.opcodes.data import _kept_type
from turnout_cudasim.parse import Instruction
from turnout_cudasim.report import NotModelled


def last(i: Instruction) -> str:
    return i.operands[-1]


@opcode("shfl.sync(up|down|bfly|idx).b32", effect=True, mask=last)
def shuffle(e: Emitter, i: Instruction) -> None:
    """up, down, bfly, idx, with segments; reading from a lane that takes no part is reported."""
    targets = [t.strip() for t in i.operands[0].split("|")]
    source, by, bounds, mask = i.operands[1:5]
    type_ = "b32"
    if isinstance(e, Surveyor) and e.is_register(source) and e.is_register(targets[0]):
        e.tie(targets[0], source)
    if e.is_register(targets[0]):
        type_ = _kept_type(e, targets[0], type_)
    arguments = f't, "{i.parts[2]}", {e.read(source, type_)}, {e.read(by, "u32")}, {e.read(bounds, "u32")}, {e.read(mask, "u32")}, {e.site}'
    if len(targets) == 2:
        name = e.temporary()
        e.do(f"{name} = shuffle({arguments}, True)")
        e.write(targets[0], f"{name}[0]", type_)
        e.write(targets[1], f"{name}[1]", "pred")
    else:
        e.write(targets[0], f"shuffle({arguments})", type_)


@opcode(
    "vote.sync(all|any|uni).pred", "vote.sync.ballot.b32", "vote(all|any|uni).sync.pred", "vote.ballot.sync.b32", effect=True, mask=last
)
def vote(e: Emitter, i: Instruction) -> None:
    """ballot, all, any, uni."""
    mode = next(p for p in i.parts if p in ("ballot", "all", "any", "uni"))
    type_ = "b32" if mode == "ballot" else "pred"
    text = f'vote(t, "{mode}", {e.read(i.operands[1], "pred")}, {e.read(i.operands[2], "u32")}, {e.site})'
    e.write(i.operands[0], text, type_)


@opcode("activemask.b32", effect=True)
def active_mask(e: Emitter, i: Instruction) -> None:
    """The lanes that run together at this moment; which they are is not promised, here or on hardware."""
    e.write(i.operands[0], "active_mask(t)", "u32")


@opcode("match(any|all).sync(b32|b64)", effect=True, mask=last)
def match(e: Emitter, i: Instruction) -> None:
    """The lanes with the same value."""
    type_ = "u" + i.parts[-1][1:]
    value, mask = e.read(i.operands[1], type_), e.read(i.operands[2], "u32")
    targets = [t.strip() for t in i.operands[0].split("|")]
    if i.has("any"):
        e.write(targets[0], f"match_any(t, {value}, {mask}, {e.site})", "u32")
        return
    name = e.temporary()
    e.do(f"{name} = match_all(t, {value}, {mask}, {e.site})")
    e.write(targets[0], f"{name}[0]", "u32")
    if len(targets) == 2:
        e.write(targets[1], f"{name}[1]", "pred")


@opcode("redux.sync(add|min|max)(u32|s32)", "redux.sync(and|or|xor).b32", "redux.sync(min|max)[abs][NaN].f32", effect=True, mask=last)
def reduce(e: Emitter, i: Instruction) -> None:
    """add, min, max, and, or, xor over the lanes of the mask; min and max of f32."""
    type_ = "u32" if i.parts[-1] == "b32" else i.parts[-1]
    value, mask = e.read(i.operands[1], type_), e.read(i.operands[2], "u32")
    operation = i.parts[2] if type_ != "f32" or i.has("NaN") else f"f{i.parts[2]}"
    if i.has("abs"):
        value = f"np.abs({value})"
    e.write(i.operands[0], f'reduce_lanes(t, "{operation}", {value}, {mask}, {e.site})', type_, computed=type_ == "f32")


@opcode("elect.sync", effect=True, mask=last)
def elect(e: Emitter, i: Instruction) -> None:
    """One lane of the mask: the lowest."""
    lane, predicate = (t.strip() for t in i.operands[0].split("|"))
    name = e.temporary()
    e.do(f"{name} = elect(t, {e.read(i.operands[1], 'u32')}, {e.site})")
    e.write(lane, f"{name}[0]", "u32")
    e.write(predicate, f"{name}[1]", "pred")


@opcode("vote(all|any|uni|ballot)...", "shfl(up|down|bfly|idx)...", refused=True)
def without_sync(e: Emitter, i: Instruction) -> None:
    """The forms without .sync do not exist from sm_70 on."""
    raise NotModelled(f"opcode {i.opcode} (use the .sync form)")
