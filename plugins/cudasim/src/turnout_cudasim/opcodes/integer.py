"""Integer arithmetic, logic and bit fields (PTX ISA, sections 9.7.1, 9.7.2, 9.7.8)."""

from __future__ import annotations

from turnout_cudasim import dtypes
from turnout_cudasim.emit import CARRY, Emitter
from turnout_cudasim.opcodes import opcode
from turnout_cudasim.parse import Instruction

INTEGERS = "(u16|s16|u32|s32|u64|s64)"
SIGNED = "(s16|s32|s64)"
BITS = "(b16|b32|b64)"
LONG = "(u32|s32|u64|s64)"
WIDER = {"u16": "u32", "s16": "s32", "u32": "u64", "s32": "s64"}


def unsigned(type_: str) -> str:
    """The unsigned type of that size."""
    return "u" + type_[1:] if type_[0] == "s" else type_


def binary(e: Emitter, i: Instruction, symbol: str) -> None:
    """result = a symbol b. Wrapping arithmetic is the same for both signs, so it is done on unsigned numbers."""
    to, a, b = i.operands
    type_ = unsigned(i.parts[-1])
    e.write(to, f"{e.read(a, type_)} {symbol} {e.read(b, type_)}", type_)


@opcode(f"add{INTEGERS}")
def add(e: Emitter, i: Instruction) -> None:
    """Wraps around."""
    binary(e, i, "+")


@opcode(f"sub{INTEGERS}")
def subtract(e: Emitter, i: Instruction) -> None:
    """Wraps around."""
    binary(e, i, "-")


@opcode("add.sat.s32", "sub.sat.s32")
def add_saturated(e: Emitter, i: Instruction) -> None:
    """Clamps."""
    function = "add_saturated" if i.name == "add" else "subtract_saturated"
    e.write(i.operands[0], f"{function}({e.read(i.operands[1], 's32')}, {e.read(i.operands[2], 's32')})", "s32")


@opcode("add(u16x2|s16x2)", "min.u16x2", "max.u16x2", "min[relu].s16x2", "max[relu].s16x2")
def packed_integers(e: Emitter, i: Instruction) -> None:
    """Two 16-bit integers at once."""
    code = "i2" if i.parts[-1] == "s16x2" else "u2"
    text = f'integer_pairs("{i.name}", {e.read(i.operands[1], "b32")}, {e.read(i.operands[2], "b32")}, "{code}")'
    if i.has("relu"):
        text = f'integer_pairs("max", {text}, U4(0), "i2")'
    e.write(i.operands[0], text, "b32")


@opcode(f"add.cc{LONG}", f"addc[cc]{LONG}")
def add_with_carry(e: Emitter, i: Instruction) -> None:
    """Extended precision: the carry is a register of its own."""
    _carrying(e, i, "add_carry", e.read(CARRY, "pred") if i.name == "addc" else "B1(False)")


@opcode(f"sub.cc{LONG}", f"subc[cc]{LONG}")
def subtract_with_borrow(e: Emitter, i: Instruction) -> None:
    """Extended precision: the borrow is kept as a carry."""
    _carrying(e, i, "subtract_borrow", e.read(CARRY, "pred") if i.name == "subc" else "B1(False)")


def _carrying(e: Emitter, i: Instruction, function: str, carry: str) -> None:
    type_ = "u" + i.parts[-1][1:]
    name = e.temporary()
    a, b = e.read(i.operands[1], type_), e.read(i.operands[2], type_)
    e.do(f"{name} = {function}({a}, {b}, {carry})")
    e.write(i.operands[0], f"{name}[0]", type_)
    if i.has("cc"):
        e.write(CARRY, f"{name}[1]", "pred")


@opcode(f"mad(lo|hi).cc{LONG}", f"madc(lo|hi)[cc]{LONG}")
def multiply_add_with_carry(e: Emitter, i: Instruction) -> None:
    """Extended precision multiply-add."""
    to, a, b, c = i.operands
    signed = i.parts[-1]
    type_ = "u" + signed[1:]
    product = f"{e.read(a, type_)} * {e.read(b, type_)}"
    if i.has("hi"):
        product = f"multiply_high({e.read(a, signed)}, {e.read(b, signed)}).view(U{dtypes.size(type_)})"
    name = e.temporary()
    carry = e.read(CARRY, "pred") if i.name == "madc" else "B1(False)"
    e.do(f"{name} = add_carry({product}, {e.read(c, type_)}, {carry})")
    e.write(to, f"{name}[0]", type_)
    if i.has("cc"):
        e.write(CARRY, f"{name}[1]", "pred")


def product(e: Emitter, i: Instruction) -> tuple[str, str]:
    """The text and type of the product that mul and mad begin with."""
    type_ = i.parts[-1]
    if i.has("wide"):
        wide = WIDER[type_]
        a, b = (_widened(e, o, type_, wide) for o in i.operands[1:3])
        return f"({a} * {b}).view({dtypes.NUMPY[unsigned(wide)].upper()})", unsigned(wide)
    if i.has("hi"):
        return f"multiply_high({e.read(i.operands[1], type_)}, {e.read(i.operands[2], type_)})", type_
    type_ = unsigned(type_)
    return f"{e.read(i.operands[1], type_)} * {e.read(i.operands[2], type_)}", type_


def _widened(e: Emitter, operand: str, type_: str, wide: str) -> str:
    """A factor of a wide product: a number is cut to the narrow type first, as -1 is 0xffffffff for mul.wide.u32."""
    return f"{e.read(operand, type_)}.astype({dtypes.NUMPY[wide].upper()})"


@opcode(f"mul(lo|hi){INTEGERS}", "mul.wide(u16|s16|u32|s32)")
def multiply(e: Emitter, i: Instruction) -> None:
    """Lower half, upper half or the whole product."""
    text, type_ = product(e, i)
    e.write(i.operands[0], text, type_)


@opcode(f"mad(lo|hi){INTEGERS}", "mad.wide(u16|s16|u32|s32)", "mad.hi.sat.s32")
def multiply_add(e: Emitter, i: Instruction) -> None:
    """Lower half, upper half or the whole product, plus a third value; .hi.sat.s32 clamps."""
    text, type_ = product(e, i)
    if i.has("sat"):
        e.write(i.operands[0], f"add_saturated({text}, {e.read(i.operands[3], type_)})", type_)
    else:
        e.write(i.operands[0], f"{text} + {e.read(i.operands[3], type_)}", type_)


@opcode("mul24(lo|hi)(u32|s32)", "mad24(lo|hi)(u32|s32)", "mad24.hi.sat.s32")
def multiply_24(e: Emitter, i: Instruction) -> None:
    """The product of the lower 24 bits: its lower 32 bits (.lo) or its bits 16 to 47 (.hi)."""
    type_ = i.parts[-1]
    kind = "i8" if type_ == "s32" else "u8"
    a, b = (f"bfe({e.read(o, type_)}, U4(0), U4(24)).astype({kind.upper()})" for o in i.operands[1:3])
    text = f"({a} * {b} >> {kind.upper()}({16 if i.has('hi') else 0})).astype({dtypes.NUMPY[type_].upper()})"
    if i.name == "mad24":
        c = e.read(i.operands[3], type_)
        text = f"add_saturated({text}, {c})" if i.has("sat") else f"{text} + {c}"
    e.write(i.operands[0], text, type_)


@opcode(f"div{INTEGERS}", f"rem{INTEGERS}")
def divide(e: Emitter, i: Instruction) -> None:
    """Cuts towards zero; the remainder has the dividend's sign."""
    type_ = i.parts[-1]
    function = "divide" if i.name == "div" else "remainder"
    e.write(i.operands[0], f"{function}({e.read(i.operands[1], type_)}, {e.read(i.operands[2], type_)})", type_)


@opcode(f"min{INTEGERS}", f"max{INTEGERS}", "min.relu.s32", "max.relu.s32")
def minimum_maximum(e: Emitter, i: Instruction) -> None:
    """Of integers."""
    type_ = i.parts[-1]
    text = f"np.{i.name}imum({e.read(i.operands[1], type_)}, {e.read(i.operands[2], type_)})"
    e.write(i.operands[0], f"np.maximum({text}, I4(0))" if i.has("relu") else text, type_)


@opcode(f"abs{SIGNED}")
def absolute(e: Emitter, i: Instruction) -> None:
    """The most negative number stays."""
    e.write(i.operands[0], f"np.abs({e.read(i.operands[1], i.parts[-1])})", i.parts[-1])


@opcode(f"neg{SIGNED}")
def negate(e: Emitter, i: Instruction) -> None:
    """The most negative number stays."""
    e.write(i.operands[0], f"-{e.read(i.operands[1], i.parts[-1])}", i.parts[-1])


@opcode(f"sad{INTEGERS}")
def sum_of_differences(e: Emitter, i: Instruction) -> None:
    """c plus the distance of a and b."""
    type_ = i.parts[-1]
    a, b = (e.read(o, type_) for o in i.operands[1:3])
    e.write(i.operands[0], f"sad({a}, {b}, {e.read(i.operands[3], 'u' + type_[1:])})", "u" + type_[1:])


@opcode(*(f"{name}(pred|b16|b32|b64)" for name in ("and", "or", "xor")))
def logic(e: Emitter, i: Instruction) -> None:
    """On bits and predicates."""
    binary(e, i, {"and": "&", "or": "|", "xor": "^"}[i.name])


@opcode("not(pred|b16|b32|b64)")
def invert(e: Emitter, i: Instruction) -> None:
    """On bits and predicates."""
    e.write(i.operands[0], f"~{e.read(i.operands[1], i.parts[-1])}", i.parts[-1])


@opcode(f"cnot{BITS}")
def logical_not(e: Emitter, i: Instruction) -> None:
    """1 where the value is 0."""
    type_ = "u" + i.parts[-1][1:]
    e.write(i.operands[0], f"({e.read(i.operands[1], type_)} == 0).astype({dtypes.NUMPY[type_].upper()})", type_)


@opcode("lop3[or|and].b32")
def logic_of_three(e: Emitter, i: Instruction) -> None:
    """Any function of three bits, as a sum of products (its algebraic normal form)."""
    targets = [t.strip() for t in i.operands[0].split("|")]
    a, b, c = (e.read(o, "b32") for o in i.operands[1:4])
    text = normal_form(int(i.operands[4], 0), a, b, c)
    if len(targets) == 2:  # .or and .and combine a predicate with "any bit set"
        symbol = "|" if i.has("or") else "&"
        e.write(targets[1], f"(({text}) != 0) {symbol} {e.read(i.operands[5], 'pred')}", "pred")
    if targets[0] != "_":
        e.write(targets[0], text, "b32")


def normal_form(table: int, a: str, b: str, c: str) -> str:
    """The function of three bits whose truth table is `table` (bit 4a + 2b + c), as XORs of ANDs."""
    coefficients = [table >> row & 1 for row in range(8)]
    for bit in (1, 2, 4):  # the Moebius transform
        for row in range(8):
            if row & bit:
                coefficients[row] ^= coefficients[row ^ bit]
    terms = []
    for row, coefficient in enumerate(coefficients):
        if coefficient:
            factors = [name for name, bit in ((a, 4), (b, 2), (c, 1)) if row & bit]
            terms.append("(" + " & ".join(factors) + ")" if factors else "U4(0xFFFFFFFF)")
    return " ^ ".join(terms) or "U4(0)"


@opcode(f"shl{BITS}")
def shift_left(e: Emitter, i: Instruction) -> None:
    """Shifts of the width or more give 0."""
    _shift(e, i, "shift_left", "u" + i.parts[-1][1:], "<<")


@opcode("shr(b16|b32|b64|u16|u32|u64|s16|s32|s64)")
def shift_right(e: Emitter, i: Instruction) -> None:
    """Shifts of the width or more give 0, or the sign."""
    type_ = i.parts[-1]
    _shift(e, i, "shift_right", "u" + type_[1:] if type_[0] == "b" else type_, ">>")


def _shift(e: Emitter, i: Instruction, function: str, type_: str, symbol: str) -> None:
    to, a, by = i.operands
    if by.isdigit() and int(by) < 8 * dtypes.size(type_):
        e.write(to, f"{e.read(a, type_)} {symbol} {e.constant(int(by), dtypes.NUMPY[type_])}", type_)
    else:
        e.write(to, f"{function}({e.read(a, type_)}, {e.read(by, 'u32')})", type_)


@opcode("shf(l|r)(clamp|wrap).b32")
def funnel_shift(e: Emitter, i: Instruction) -> None:
    """Of two words, .wrap or .clamp."""
    function = "funnel_left" if i.has("l") else "funnel_right"
    low, high, by = (e.read(o, "u32") for o in i.operands[1:4])
    e.write(i.operands[0], f"{function}({low}, {high}, {by}, {i.has('clamp')})", "u32")


@opcode(f"bfe{LONG}")
def bit_field_extract(e: Emitter, i: Instruction) -> None:
    """Signed types repeat the field's sign."""
    type_ = i.parts[-1]
    e.write(i.operands[0], f"bfe({e.read(i.operands[1], type_)}, {e.read(i.operands[2], 'u32')}, {e.read(i.operands[3], 'u32')})", type_)


@opcode("bfi(b32|b64)")
def bit_field_insert(e: Emitter, i: Instruction) -> None:
    """Insert the lower bits of one value into another."""
    type_ = i.parts[-1]
    a, b = (e.read(o, "u" + type_[1:]) for o in i.operands[1:3])
    e.write(i.operands[0], f"bfi({a}, {b}, {e.read(i.operands[3], 'u32')}, {e.read(i.operands[4], 'u32')})", type_)


@opcode(f"bfind[shiftamt]{LONG}")
def find_highest_bit(e: Emitter, i: Instruction) -> None:
    """The highest bit that is not the sign, or its distance from the top (.shiftamt)."""
    e.write(i.operands[0], f"bfind({e.read(i.operands[1], i.parts[-1])}, {i.has('shiftamt')})", "u32")


@opcode("clz(b32|b64)", "popc(b32|b64)")
def count_bits(e: Emitter, i: Instruction) -> None:
    """Leading zeros; ones."""
    e.write(i.operands[0], f"{i.name}({e.read(i.operands[1], i.parts[-1])})", "u32")


@opcode("brev(b32|b64)")
def reverse_bits(e: Emitter, i: Instruction) -> None:
    """Bits in reverse order."""
    e.write(i.operands[0], f"brev({e.read(i.operands[1], i.parts[-1])})", i.parts[-1])


@opcode("fns.b32")
def find_nth_set(e: Emitter, i: Instruction) -> None:
    """The n-th set bit from a base."""
    mask, base, offset = i.operands[1:4]
    e.write(i.operands[0], f"fns({e.read(mask, 'u32')}, {e.read(base, 'u32')}, {e.read(offset, 's32')})", "u32")


@opcode("bmsk(clamp|wrap).b32")
def bit_mask(e: Emitter, i: Instruction) -> None:
    """A run of ones."""
    e.write(i.operands[0], f"bmsk({e.read(i.operands[1], 'u32')}, {e.read(i.operands[2], 'u32')}, {i.has('clamp')})", "u32")


@opcode("szext(clamp|wrap)(u32|s32)")
def extend(e: Emitter, i: Instruction) -> None:
    """Keep some bits, extended by zero or sign."""
    type_ = i.parts[-1]
    e.write(i.operands[0], f"szext({e.read(i.operands[1], type_)}, {e.read(i.operands[2], 'u32')}, {i.has('clamp')})", type_)


@opcode("prmt.b32[f4e|b4e|rc8|ecl|ecr|rc16]")
def permute_bytes(e: Emitter, i: Instruction) -> None:
    """Four bytes chosen from eight, in every mode."""
    a, b, selector = (e.read(o, "u32") for o in i.operands[1:4])
    mode = i.parts[-1] if i.parts[-1] != "b32" else ""
    e.write(i.operands[0], f'permute({a}, {b}, {selector}, "{mode}")', "u32")


@opcode("dp4a(u32|s32)(u32|s32)")
def dot_of_bytes(e: Emitter, i: Instruction) -> None:
    """c + the dot product of four bytes."""
    a, b, c = (e.read(o, "u32") for o in i.operands[1:4])
    e.write(i.operands[0], f"dot4({a}, {b}, {c}, {i.parts[-2] == 's32'}, {i.parts[-1] == 's32'})", "u32")


@opcode("dp2a(lo|hi)(u32|s32)(u32|s32)")
def dot_of_halves(e: Emitter, i: Instruction) -> None:
    """c + the dot product of two 16-bit values and two bytes."""
    a, b, c = (e.read(o, "u32") for o in i.operands[1:4])
    e.write(i.operands[0], f"dot2({a}, {b}, {c}, {i.parts[-2] == 's32'}, {i.parts[-1] == 's32'}, {i.has('hi')})", "u32")
