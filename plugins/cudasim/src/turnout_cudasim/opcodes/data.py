"""Moving data: mov, ld, st, cvta, selp, setp, shuffles of registers (PTX ISA, section 9.7.9)."""

from __future__ import annotations

from turnout_cudasim import dtypes
from turnout_cudasim.emit import Emitter, Surveyor
from turnout_cudasim.memory import LOCAL_WINDOW, PARAMETER_WINDOW, SHARED_WINDOW
from turnout_cudasim.opcodes import opcode
from turnout_cudasim.parse import Instruction

SPACES = ("global", "shared", "local", "param", "const")
WINDOWS = {"shared": SHARED_WINDOW, "local": LOCAL_WINDOW, "param": PARAMETER_WINDOW}

# Pieces of forms.
NAMED = "(shared|~shared::cta|~shared::cluster|local|global|~const|~param|~param::entry)"
SPACE = "[const|global|local|shared|~shared::cta|shared::cluster|param|~param::entry|~param::func]"
SCOPE = "(~cta|~cluster|~gpu|~sys)"
HINTS = (
    "[~L1::evict_normal|~L1::evict_unchanged|~L1::evict_first|~L1::evict_last|~L1::no_allocate]"
    "[~L2::evict_normal|~L2::evict_first|~L2::evict_last][~L2::cache_hint][~L2::64B|~L2::128B|~L2::256B]"
)
VECTOR = "[v2|v4|v8]"
DATA = "(b8|b16|b32|b64|u8|u16|u32|u64|s8|s16|s32|s64|f32|f64)"
WORDS = "(b16|b32|b64|u16|u32|u64|s16|s32|s64|f32|f64)"


def space_of(i: Instruction) -> str:
    """The state space of a memory instruction; const lies in global memory here."""
    for part in i.parts[1:]:
        head = part.partition("::")[0]
        if head in SPACES:
            return "cluster" if part == "shared::cluster" else "global" if head == "const" else head
    return "generic"


@opcode("mov(pred|b16|u16|s16|b32|u32|s32|b64|u64|s64|f32|f64)")
def move(e: Emitter, i: Instruction) -> None:
    """Registers, numbers, special registers, addresses; packs and unpacks vectors."""
    to, source = i.operands
    type_ = i.parts[-1]
    size = dtypes.size(type_)
    if source.startswith("{"):
        parts = e.vector(source)
        piece = f"u{8 * size // len(parts)}"
        terms = [_widened(e.read(part, piece), size, 8 * size // len(parts) * n) for n, part in enumerate(parts)]
        e.write(to, " | ".join(terms), f"u{8 * size}")
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


@opcode(f"cvta[to]{NAMED}.u64")
def convert_address(e: Emitter, i: Instruction) -> None:
    """To and from generic addresses: each state space is a window of its own."""
    window = WINDOWS.get(space_of(i) if space_of(i) != "cluster" else "shared", 0)
    type_ = i.parts[-1]
    value = e.read(i.operands[1], type_)
    if window:
        value = f"{value} {'-' if i.has('to') else '+'} {e.constant(window, 'u8')}"
    e.write(i.operands[0], value, type_)


@opcode(
    f"ld[~weak|volatile]{SPACE}[~ca|~cg|~cs|~lu|~cv]{HINTS}{VECTOR}{DATA}",
    f"ld[~weak].global[~ca|~cg|~cs|~lu|~cv].nc{HINTS}{VECTOR}{DATA}",
    f"ld(relaxed|~acquire){SCOPE}{SPACE}{HINTS}{VECTOR}{DATA}",
    f"ld.mmio.relaxed.sys[~global]{DATA}", f"ldu[~global]{VECTOR}{DATA}",
    effect=True,
)  # fmt: skip
def load(e: Emitter, i: Instruction) -> None:
    """Every space, vectors, every cache and ordering qualifier; bounds, alignment and never-written bytes are checked."""
    to, address = i.operands[:2]
    type_, space = i.parts[-1], space_of(i)
    targets = e.vector(to)
    code = dtypes.NUMPY[type_]
    if space == "param":
        base = address.strip("[] ").partition("+")[0].strip()
        if base in e.translation.flat.local:
            space = "local"
    else:
        e.note_shared_access(space, dtypes.size(type_) * len(targets))
    where = e.place(address)
    kept = "f" + type_[1:] if type_ in ("b32", "b64") and _float_home(e, targets[0], code) else type_
    code = dtypes.NUMPY[kept]
    volatile = ", True" if i.has("volatile", "relaxed", "acquire", "mmio") and space in ("shared", "generic", "cluster") else ""
    if len(targets) == 1:
        e.write(to, f'load(t, "{space}", "{code}", {where}, {e.site}{volatile})', kept)
    else:
        e.write_all(targets, f'load_vector(t, "{space}", "{code}", {len(targets)}, {where}, {e.site}{volatile})', kept)


def _float_home(e: Emitter, register: str, code: str) -> bool:
    home = getattr(e.translation, "home", {}).get(register, "")
    return bool(home == "f" + code[1:])


@opcode(
    f"st[~weak|volatile]{SPACE}[~wb|~cg|~cs|~wt]{HINTS}{VECTOR}{DATA}", f"st(relaxed|~release){SCOPE}{SPACE}{HINTS}{VECTOR}{DATA}",
    f"st.mmio.relaxed.sys[~global]{DATA}",
    effect=True,
)  # fmt: skip
def store(e: Emitter, i: Instruction) -> None:
    """Every space, vectors, every cache and ordering qualifier; bounds, alignment and races are checked."""
    address, source = i.operands[:2]
    type_, space = i.parts[-1], space_of(i)
    values = e.vector(source)
    if space == "param":
        space = "local"
    else:
        e.note_shared_access(space, dtypes.size(type_) * len(values))
    code = f"u{dtypes.size(type_)}"
    where = e.place(address)
    volatile = ", True" if i.has("volatile", "relaxed", "release", "mmio") and space in ("shared", "generic", "cluster") else ""
    if len(values) == 1:
        e.do(f'store(t, "{space}", "{code}", {where}, {e.read(source, _bits_type(type_))}, {e.site}{volatile})')
    else:
        texts = ", ".join(e.read(v, _bits_type(type_)) for v in values)
        e.do(f'store_vector(t, "{space}", "{code}", {where}, ({texts}), {e.site}{volatile})')


def _bits_type(type_: str) -> str:
    return f"b{8 * dtypes.size(type_)}"


@opcode("isspacep(global|shared|shared::cta|shared::cluster|local|param|param::entry)")
def is_in_space(e: Emitter, i: Instruction) -> None:
    """Which window a generic address lies in."""
    e.write(i.operands[0], f'is_in_space(t, {e.read(i.operands[1], "s64")}, "{space_of(i)}")', "pred")


@opcode(f"selp{WORDS}")
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


@opcode(f"slct{WORDS}.s32", f"slct[ftz]{WORDS}.f32")
def select_by_sign(e: Emitter, i: Instruction) -> None:
    """Choose by the sign of a third value."""
    type_, control = i.parts[-2], i.parts[-1]
    sign = e.read(i.operands[3], control)
    if i.has("ftz"):
        sign = f"flush({sign})"
    condition = f"{sign} >= {e.constant(0, dtypes.NUMPY[control])}"
    e.write(i.operands[0], f"np.where({condition}, {e.read(i.operands[1], type_)}, {e.read(i.operands[2], type_)})", type_)


_FLOATS = "(eq|ne|lt|le|gt|ge|equ|neu|ltu|leu|gtu|geu|num|nan)[and|or|xor]"
COMPARED = {  # forms of setp, and of set, whose result's type comes before the last group
    "(eq|ne)[and|or|xor]": "(b16|b32|b64)",
    "(eq|ne|lt|le|gt|ge|lo|ls|hi|hs)[and|or|xor]": "(u16|u32|u64)",
    "(eq|ne|lt|le|gt|ge)[and|or|xor]": "(s16|s32|s64)",
    f"{_FLOATS}[ftz]": "(f32|f16)",
    _FLOATS: "(f64|bf16)",
}
COMPARED_PAIRS = {f"{_FLOATS}[ftz]": "f16x2", _FLOATS: "bf16x2"}
COMPARISONS = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "lo": "<", "ls": "<=", "hi": ">", "hs": ">="}
UNSIGNED = {"lo", "ls", "hi", "hs"}


def compared(e: Emitter, i: Instruction, a: str, b: str) -> str:
    """The comparison of a setp or set, with the predicate it is combined with."""
    comparison = i.parts[1]
    type_ = i.parts[-1]
    if comparison in UNSIGNED:
        type_ = "u" + type_[1:]
    half = {"f16": "f16", "bf16": "bf16"}.get(type_)
    if half:
        x, y = (_half(e.read(o, "b16"), half, i) for o in (a, b))
    else:
        x, y = (f"flush({v})" if i.has("ftz") else v for v in (e.read(a, type_), e.read(b, type_)))
    if half or (type_.startswith("f") and comparison not in ("eq", "lt", "le", "gt", "ge")):
        return f'compare_halves("{comparison}", {x}, {y})'
    return f"({x} {COMPARISONS[comparison]} {y})"


def _half(text: str, format_: str, i: Instruction) -> str:
    """A half as float32; with .ftz, its subnormals are flushed."""
    return f'decode({text}, "{format_}"{", flushed=True" if i.has("ftz") else ""})'


def combined(e: Emitter, i: Instruction, text: str) -> str:
    """`text` and, or, xor the last operand, where the opcode says so."""
    symbol = next((s for name, s in (("and", "&"), ("or", "|"), ("xor", "^")) if name in i.parts[2:-1]), "")
    return f"({text} {symbol} {e.read(i.operands[-1], 'pred')})" if symbol else text


@opcode(*(f"setp{form}{t}" for form, t in COMPARED.items()), *(f"setp{form}.{t}" for form, t in COMPARED_PAIRS.items()))
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
        text = f'compare_halves("{i.parts[1]}", {_half(f"{a}[{n}]", format_, i)}, {_half(f"{b}[{n}]", format_, i)})'
        e.write(target, combined(e, i, text), "pred")


@opcode(
    *(f"set{form}(u16|s16|u32|s32|f32|f16|bf16){t}" for form, t in COMPARED.items()),
    *(f"set{form}(u32|s32|{t}).{t}" for form, t in COMPARED_PAIRS.items()),
)  # fmt: skip
def set_value(e: Emitter, i: Instruction) -> None:
    """Compare, and give all ones or 1.0 for true."""
    target_type, source_type = i.parts[-2], i.parts[-1]
    if source_type in ("f16x2", "bf16x2"):
        format_ = source_type[:-2]
        a, b = (f'pairs({e.read(o, "b32")}, "u2")' for o in i.operands[1:3])
        halves = []
        for n in range(2):
            text = f'compare_halves("{i.parts[1]}", {_half(f"{a}[{n}]", format_, i)}, {_half(f"{b}[{n}]", format_, i)})'
            one = {"f16x2": 0x3C00, "bf16x2": 0x3F80}.get(target_type, 0xFFFF)
            halves.append(f"np.where({combined(e, i, text)}, U2({one}), U2(0))")
        e.write(i.operands[0], f"join({halves[0]}, {halves[1]})", "b32")
        return
    condition = combined(e, i, compared(e, i, i.operands[1], i.operands[2]))
    if target_type in ("f16", "bf16"):
        e.write(i.operands[0], f"np.where({condition}, U2({0x3C00 if target_type == 'f16' else 0x3F80}), U2(0))", "b16")
    else:
        e.write(i.operands[0], f'select_bits({condition}, "{dtypes.NUMPY[target_type]}")', target_type)
