"""Moving data: mov, ld, st, cvta, selp, setp, shuffles of registers (PTX ISA, section 9.7.9)."""

from __future__ import annotations

from turnout_cudasim import dtypes
from turnout_cudasim.emit import Emitter, Surveyor
from turnout_cudasim.memory import LOCAL_WINDOW, PARAMETER_WINDOW, SHARED_WINDOW
from turnout_cudasim.opcodes import opcode
from turnout_cudasim.parse import Instruction
from turnout_cudasim.report import NotModelled

SPACES = ("global", "shared", "local", "param", "const")
WINDOWS = {"shared": SHARED_WINDOW, "local": LOCAL_WINDOW, "param": PARAMETER_WINDOW}


def space_of(i: Instruction) -> str:
    """The state space of a memory instruction; const lies in global memory here."""
    for part in i.parts[1:]:
        head = part.partition("::")[0]
        if head in SPACES:
            return "cluster" if part == "shared::cluster" else "global" if head == "const" else head
    return "generic"


@opcode("mov")
def move(e: Emitter, i: Instruction) -> None:
    """Registers, numbers, special registers, addresses; packs and unpacks vectors."""
    to, source = i.operands
    type_ = i.parts[-1]
    size = dtypes.size(type_)
    if source.startswith("{"):
        parts = e.vector(source)
        piece = f"u{8 * size // len(parts)}"
        total = f"u{size}"
        terms = [_widened(e.read(part, piece), size, 8 * size // len(parts) * n) for n, part in enumerate(parts)]
        e.write(to, " | ".join(terms), f"u{8 * size}")
        del total
        return
    if to.startswith("{"):
        parts = e.vector(to)
        width = 8 * size // len(parts)
        value = e.read(source, f"u{8 * size}")
        for n, part in enumerate(parts):
            if part != "_":
                shifted = f"({value} >> {e.constant(width * n, f'u{size}')})" if n else f"({value})"
                e.write(part, f"{shifted}.astype(U{width // 8})", f"u{width}")
        return
    if isinstance(e, Surveyor) and e.is_register(to) and e.is_register(source):
        e.tie(to, source)
    if e.is_register(to) and e.is_register(source) and type_ != "pred":
        type_ = _kept_type(e, to, type_)
    elif type_.startswith("b") and source.startswith(("0f", "0d", "0F")):
        type_ = "f" + type_[1:]
    e.write(to, e.read(source, type_), type_)


def _kept_type(e: Emitter, register: str, type_: str) -> str:
    """A move between registers keeps their type, whatever its own says: no bits change."""
    home = getattr(e.translation, "home", {}).get(register, "")
    return f"f{8 * int(home[1])}" if home[:1] == "f" and int(home[1]) == dtypes.size(type_) else type_


def _widened(text: str, size: int, shift: int) -> str:
    wide = f"{text}.astype(U{size})"
    return f"({wide} << U{size}({shift}))" if shift else wide


@opcode("cvta")
def convert_address(e: Emitter, i: Instruction) -> None:
    """To and from generic addresses: each state space is a window of its own."""
    window = WINDOWS.get(space_of(i) if space_of(i) != "cluster" else "shared", 0)
    type_ = i.parts[-1]
    value = e.read(i.operands[1], type_)
    if window == PARAMETER_WINDOW:
        window = 0  # addresses of parameters are generic from the start
    if window:
        value = f"{value} {'-' if i.has('to') else '+'} {e.constant(window, 'u8')}"
    e.write(i.operands[0], value, type_)


@opcode("ld", "ldu", effect=True)
def load(e: Emitter, i: Instruction) -> None:
    """Every space, vectors, every cache and ordering qualifier; bounds, alignment and never-written bytes are checked."""
    to, address = i.operands[:2]
    type_, space = i.parts[-1], space_of(i)
    targets = e.vector(to)
    code = dtypes.NUMPY[type_]
    if type_ == "b128":
        raise NotModelled("128-bit registers (.b128)")
    size = dtypes.size(type_) * len(targets)
    if space == "param":
        base = address.strip("[] ").partition("+")[0].strip()
        if base in e.translation.flat.local:
            space = "local"
    else:
        e.note_shared_access(space, dtypes.size(type_))
    where = e.address(address)
    kept = "f" + type_[1:] if type_ in ("b32", "b64") and _float_home(e, targets[0], code) else type_
    code = dtypes.NUMPY[kept]
    volatile = ", True" if i.has("volatile", "relaxed", "acquire", "mmio") and space in ("shared", "generic", "cluster") else ""
    if len(targets) == 1:
        e.write(to, f'load(t, "{space}", "{code}", {where}, {e.site}{volatile})', kept)
    else:
        del size
        e.write_all(targets, f'load_vector(t, "{space}", "{code}", {len(targets)}, {where}, {e.site}{volatile})', kept)


def _float_home(e: Emitter, register: str, code: str) -> bool:
    home = getattr(e.translation, "home", {}).get(register, "")
    return bool(home == "f" + code[1:])


@opcode("st", effect=True)
def store(e: Emitter, i: Instruction) -> None:
    """Every space, vectors, every cache and ordering qualifier; bounds, alignment and races are checked."""
    address, source = i.operands[:2]
    type_, space = i.parts[-1], space_of(i)
    if type_ == "b128":
        raise NotModelled("128-bit registers (.b128)")
    if i.has("async"):
        raise NotModelled("st.async")
    values = e.vector(source)
    if space == "param":
        space = "local"
    else:
        e.note_shared_access(space, dtypes.size(type_))
    code = f"u{dtypes.size(type_)}"
    where = e.address(address)
    volatile = ", True" if i.has("volatile", "relaxed", "release", "mmio") and space in ("shared", "generic", "cluster") else ""
    if len(values) == 1:
        e.do(f'store(t, "{space}", "{code}", {where}, {e.read(source, _bits_type(type_))}, {e.site}{volatile})')
    else:
        texts = ", ".join(e.read(v, _bits_type(type_)) for v in values)
        e.do(f'store_vector(t, "{space}", "{code}", {where}, ({texts}), {e.site}{volatile})')


def _bits_type(type_: str) -> str:
    return f"b{8 * dtypes.size(type_)}"


@opcode("isspacep")
def is_in_space(e: Emitter, i: Instruction) -> None:
    """Which window a generic address lies in."""
    space = "shared" if space_of(i) == "cluster" else space_of(i)
    e.write(i.operands[0], f'is_in_space(t, {e.read(i.operands[1], "s64")}, "{space}")', "pred")


@opcode("selp")
def select(e: Emitter, i: Instruction) -> None:
    """Choose by a predicate."""
    to, yes, no, condition = i.operands
    type_ = i.parts[-1]
    if isinstance(e, Surveyor):
        for source in (yes, no):
            if e.is_register(source) and e.is_register(to):
                e.tie(to, source)
    if type_.startswith(("b", "u", "s")) and e.is_register(to):
        type_ = _kept_type(e, to, type_)
    e.write(to, f"np.where({e.read(condition, 'pred')}, {e.read(yes, type_)}, {e.read(no, type_)})", type_)


@opcode("slct")
def select_by_sign(e: Emitter, i: Instruction) -> None:
    """Choose by the sign of a third value."""
    type_, control = i.parts[-2], i.parts[-1]
    condition = f"{e.read(i.operands[3], control)} >= {e.constant(0, dtypes.NUMPY[control])}"
    e.write(i.operands[0], f"np.where({condition}, {e.read(i.operands[1], type_)}, {e.read(i.operands[2], type_)})", type_)


COMPARISONS = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "lo": "<", "ls": "<=", "hi": ">", "hs": ">="}
UNSIGNED = {"lo", "ls", "hi", "hs"}


def compared(e: Emitter, i: Instruction, a: str, b: str) -> str:
    """The comparison of a setp or set, with the predicate it is combined with."""
    comparison = i.parts[1]
    type_ = i.parts[-1]
    if comparison in UNSIGNED:
        type_ = "u" + type_[1:]
    half = {"f16": "f16", "bf16": "bf16"}.get(type_)
    if type_.startswith("f") and half is None and comparison in ("eq", "lt", "le", "gt", "ge"):
        text = f"{e.read(a, type_)} {COMPARISONS[comparison]} {e.read(b, type_)}"
    elif type_.startswith("f") and half is None:
        text = f'compare_halves("{comparison}", {e.read(a, type_)}, {e.read(b, type_)})'
    elif half:
        text = f'compare_halves("{comparison}", decode({e.read(a, "b16")}, "{half}"), decode({e.read(b, "b16")}, "{half}"))'
    else:
        text = f"{e.read(a, type_)} {COMPARISONS[comparison]} {e.read(b, type_)}"
    return f"({text})"


def combined(e: Emitter, i: Instruction, text: str) -> str:
    """`text` and, or, xor the last operand, where the opcode says so."""
    symbol = next((s for name, s in (("and", "&"), ("or", "|"), ("xor", "^")) if name in i.parts[2:-1]), "")
    return f"({text} {symbol} {e.read(i.operands[-1], 'pred')})" if symbol else text


@opcode("setp")
def set_predicate(e: Emitter, i: Instruction) -> None:
    """Compare; with NaN as the ISA says for ordered and unordered comparisons; combined with a predicate; one or two results."""
    if i.parts[-1] in ("f16x2", "bf16x2"):
        _compare_pairs(e, i)
        return
    text = compared(e, i, i.operands[1], i.operands[2])
    targets = [t.strip() for t in i.operands[0].split("|")]
    if len(targets) == 2:
        e.write(targets[1], combined(e, i, f"~{text}"), "pred")
    e.write(targets[0], combined(e, i, text), "pred")


def _compare_pairs(e: Emitter, i: Instruction) -> None:
    format_ = i.parts[-1][:-2]
    a, b = (f'pairs({e.read(o, "b32")}, "u2")' for o in i.operands[1:3])
    for n, target in enumerate(t.strip() for t in i.operands[0].split("|")):
        text = f'compare_halves("{i.parts[1]}", decode({a}[{n}], "{format_}"), decode({b}[{n}], "{format_}"))'
        e.write(target, combined(e, i, text), "pred")


@opcode("set")
def set_value(e: Emitter, i: Instruction) -> None:
    """Compare, and give all ones or 1.0 for true."""
    target_type, source_type = i.parts[-2], i.parts[-1]
    if source_type in ("f16x2", "bf16x2"):
        format_ = source_type[:-2]
        a, b = (f'pairs({e.read(o, "b32")}, "u2")' for o in i.operands[1:3])
        halves = []
        for n in range(2):
            text = f'compare_halves("{i.parts[1]}", decode({a}[{n}], "{format_}"), decode({b}[{n}], "{format_}"))'
            one = {"f16x2": 0x3C00, "bf16x2": 0x3F80}.get(target_type, 0xFFFF)
            halves.append(f"np.where({combined(e, i, text)}, U2({one}), U2(0))")
        e.write(i.operands[0], f"join({halves[0]}, {halves[1]})", "b32")
        return
    condition = combined(e, i, compared(e, i, i.operands[1], i.operands[2]))
    if target_type in ("f16", "bf16"):
        e.write(i.operands[0], f"np.where({condition}, U2({0x3C00 if target_type == 'f16' else 0x3F80}), U2(0))", "b16")
    else:
        e.write(i.operands[0], f'select_bits({condition}, "{dtypes.NUMPY[target_type]}")', target_type)
