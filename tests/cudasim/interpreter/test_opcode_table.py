"""The page of opcodes is what the table says; every modifier means something, is known to change no value, or is refused by name."""

from __future__ import annotations

import re
from pathlib import Path
from random import Random

import pytest

from turnout_cudasim import dtypes, opcodes
from turnout_cudasim.opcodes import TABLE
from turnout_cudasim.opcodes.__main__ import page
from turnout_cudasim.opcodes.forms import Form
from turnout_cudasim.parse import Instruction, parse
from turnout_cudasim.report import NotModelled
from turnout_cudasim.translate import Translation

PAGE = Path(__file__).parents[3] / "docs" / "cudasim-opcodes.md"
FORMS = [(form, handler) for handler in TABLE for form in handler.forms]

# Operands by what an opcode looks like, the first that fits. a, b, c ... are registers of 64 bits (a narrower type takes the lower bits),
# p and q predicates, [a] an address, 4{a} four registers in braces, #{a} as many as .v2, .x4 or .3d say.
OPERANDS = {
    r"(bar|barrier)(\.cta)?\.red\.popc": "a, 1, 64, q", r"(bar|barrier)(\.cta)?\.red": "p, 1, 64, q", r"bar.warp": "-1",
    r"barrier\.cluster|membar|fence|griddep|ret|exit|trap|brkpt|wgmma\.(fence|commit)|cp\.async\.(bulk\.)?(commit|wait_all)": "",
    r"bar|barrier": "1, 64", r"bra": "END", r"brx": "a, TABLE", r"nanosleep|setmaxnreg|pmevent|.*wait_group": "1",
    r"discard|applyp": "[a], 128",
    r"createpolicy": "a, 0.5", r"call\.vprintf": "result, text, text", r"call\.": "text, text, text, text, text",
    r"(mov|not)\.pred": "p, q", r"(and|or|xor)\.pred": "p, q, q", r"(ld|ldu|ldmatrix)\.": "#{a}, [b]", r"(st|red|stmatrix)\.": "[a], #{b}",
    r"isspacep|testp": "p, a", r"selp": "a, b, c, p", r"setp?\.\w+\.(and|or|xor)": "p, a, b, q", r"setp": "p, a, b",
    r"lop3\.(or|and)": "a|p, b, c, d, 0x96, q", r"lop3": "a, b, c, d, 0x96", r"bfi\.": "a, b, c, d, e",
    r"cvt\.pack.*b32|(slct|madc?|mad24|fma|sad|shf|bfe|fns|prmt|dp[24]a)\.": "a, b, c, d", r"cvt\.pack|cvt.*x2\.f32": "a, b, c",
    r"shfl": "a, b, 1, 31, -1", r"vote.*ballot": "a, q, -1", r"vote": "p, q, -1", r"activemask": "a", r"match|redux": "a, b, -1",
    r"elect": "a|p, -1", r"atom.*\.cas": "a, [b], c, d", r"atom": "#{a}, [b], #{c}", r"mma": "4{a}, 4{b}, 2{c}, 4{d}",
    r"wmma\.load": "8{a}, [b], 64", r"wmma\.store": "[a], 8{b}, 64", r"wmma": "8{a}, 8{b}, 8{c}, 8{d}",
    r"wgmma.*(tf32|u8|s8|e4m3|e5m2|b1)": "4{a}, b, c, 1", r"wgmma": "4{a}, b, c, 1, 1, 1, 0, 0",
    r"cp\.async\.mbarrier": "[a]", r"mbarrier\.inval|prefetch": "[a]", r"mbarrier\.arrive": "a, [b], 1", r"mbarrier.*wait": "p, [a], b",
    r"mbarrier|cp\.async\.bulk\.prefetch\.L2": "[a], 16", r"cp\.async\.bulk\.prefetch": "[a, #{b}]", r"mapa": "a, b, 1",
    r"cp\.(reduce\.)?async\.bulk\.tensor\..d\.global": "[a, #{b}], [c]", r"cp\.async\.bulk\.tensor": "[a], [b, #{c}], [d], e",
    r"cp\.async\.bulk.*bytes": "[a], [b], 16, [c], d", r"cp\.": "[a], [b], 16",
    r"(mov|cvta|not|abs|neg|cnot|clz|popc|brev|bfind|rcp|sqrt|rsqrt|sin|cos|lg2|ex2|tanh|cvt|movmatrix|getctarank)\.": "a, b",
    r"set\.\w+\.(and|or|xor)": "a, b, c, q", r"": "a, b, c",
}  # fmt: skip


def operands(opcode: str) -> str:
    """Operands that suit an opcode."""
    text = next(found for form, found in OPERANDS.items() if re.match(form, opcode))
    count = next((w.strip("vxd") for w in opcode.split(".") if re.fullmatch(r"[vx]\d|\dd", w)), "")
    text = re.sub(r"#\{(\w)\}", rf"{count}{{\1}}" if count else r"\1", text)
    return re.sub(r"(\d)\{(\w)\}", lambda m: "{" + ", ".join(f"{m[2]}{k}" for k in range(int(m[1]))) + "}", text)


# What is looked at when threads leave a barrier, not in the source: tests of barriers cover it.
LOOKED_AT_LATER = {"bar": ("or",), "barrier": ("or", "aligned")}


def translated(opcode: str, given: str | None = None) -> str:
    """The Python source of a kernel with this instruction. Raises NotModelled."""
    operands_ = operands(opcode) if given is None else given
    registers = ", ".join(f"%{letter}" for letter in "abcde") + "".join(f", %{letter}{k}" for letter in "abcd" for k in range(8))
    text = re.sub(r"(?<![\w.%])([a-e]\d?|[pq])(?!\w)", r"%\1", operands_)
    call = opcode.removeprefix("call.") if opcode.startswith("call.") else ""
    if call:
        names = operands_.split(", ")
        statement = f"call.uni ({names[0]}), {call}, ({', '.join(names[1:])})" if call == "vprintf" else f"call.uni {call}, ({operands_})"
    else:
        statement = f"{opcode} {text}"
    ptx = (
        ".version 8.7\n.target sm_90a\n.address_size 64\n.extern .func (.param .b32 r) vprintf (.param .b64 x, .param .b64 y);\n"
        ".extern .func __assertfail (.param .b64 x);\n.extern .func malloc (.param .b64 x);\n.extern .func free (.param .b64 x);\n"
        f".entry k() {{\n.reg .b64 {registers};\n.reg .pred %p, %q;\n.param .b32 result;\n.param .b64 text;\n"
        f"TABLE: .branchtargets END;\n{statement};\nEND: ret;\n}}\n"
    )
    translation = Translation(parse(ptx).kernels["k"])
    return "".join(translation.source(block) for block in translation.blocks)


def variations(form: Form):
    """(with the word, without it or with another, whether no difference is known) for each word of a form."""
    first = [("" if g.optional else g.words[0]) for g in form.groups]

    def opcode(words):
        return ".".join([form.name, *(w.replace("*", "8") for w in words if w)])

    for n, group in enumerate(form.groups):
        for word in group.words:
            if word != first[n]:
                yield opcode([*first[:n], word, *first[n + 1 :]]), opcode(first), word in group.same
    yield opcode(first), "", True


def test_the_page_is_up_to_date():
    assert PAGE.read_text() == page(), "run: uv run python -m turnout_cudasim.opcodes > docs/cudasim-opcodes.md"


@pytest.mark.parametrize("handler", TABLE, ids=lambda h: h.emit.__name__)
def test_every_row_is_described(handler):
    assert handler.summary


@pytest.mark.parametrize(("form", "handler"), FORMS, ids=[str(f) for f, _ in FORMS])
def test_a_modifier_means_something_or_is_known_not_to(form, handler):
    """Without `~`, a word changes the source that is generated: nothing is passed over in silence."""
    if handler.refused:
        with pytest.raises(NotModelled, match=rf"(opcode {form.name}|in a kernel)"):
            translated(form.text.removesuffix("...").replace("(", ".").replace(")", "").partition("|")[0], "a")
        return
    for opcode, without, same in variations(form):
        source = translated(opcode)
        if not without or same:
            continue
        changed = set(opcode.split(".")) - set(without.split("."))
        if changed <= {*dtypes.NUMPY, *LOOKED_AT_LATER.get(form.name, ())}:
            continue  # types: signed and unsigned sums are the same
        assert source != translated(without), f"{opcode} does what {without} does"


def pattern(form: Form) -> str:
    """A form as a regular expression: the same rules, written once more."""
    text = form.name
    for group in form.groups:
        words = "|".join(re.escape(w).replace(r"\*", r"\d+") for w in group.words)
        text += f"(?:\\.(?:{words})){'?' if group.optional else ''}"
    return text + (r"(?:\..*)?" if form.open else "")


PATTERNS: dict[str, list[re.Pattern[str]]] = {}
for listed, _ in FORMS:
    PATTERNS.setdefault(listed.name, []).append(re.compile(pattern(listed)))
WORDS = sorted({word.replace("*", "8") for form, _ in FORMS for group in form.groups for word in group.words} | {"bogus", "sp", "oob"})


@pytest.mark.parametrize("form", [f for f, h in FORMS if not h.refused], ids=str)
def test_a_word_out_of_place_is_refused_by_name(form):
    """Words of other opcodes put in anywhere: what no form allows is refused, and the message says which word of which opcode."""
    random = Random(form.text)
    base = next(form.opcodes()).split(".")
    refused = 0
    for _ in range(60):
        at = random.randint(1, len(base))
        word = random.choice(WORDS)
        parts = (*base[:at], word, *base[at + random.randint(0, 1) :])
        allowed = any(p.fullmatch(".".join(parts)) for p in PATTERNS[form.name])
        if allowed:
            opcodes.find(Instruction(".".join(parts), []))
            continue
        refused += 1
        with pytest.raises(NotModelled) as caught:
            opcodes.find(Instruction(".".join(parts), []))
        opcode, _, reason = caught.value.feature.removeprefix("opcode ").partition(" ")
        assert opcode == ".".join(parts)
        assert reason in ("(incomplete)", *(f"(for its .{part})" for part in parts[1:])), reason
    assert refused


def test_a_refusal_names_the_opcode_and_the_modifier():
    with pytest.raises(NotModelled, match=r"opcode fma\.rn\.oob\.f16 \(for its \.oob\)"):
        translated("fma.rn.oob.f16", "a, b, c, d")
    with pytest.raises(NotModelled, match=r"opcode mad\.lo \(incomplete\)"):
        translated("mad.lo", "a, b, c, d")


@pytest.mark.parametrize(
    "opcode", ["tex.2d.v4.f32.s32", "suld.b.2d.b32.trap", "sust.p.1d.b32.clamp", "txq.width.b32", "tld4.r.2d.v4.f32.f32"]
)
def test_textures_and_surfaces_are_refused_by_name(opcode):
    with pytest.raises(NotModelled, match=rf"opcode {re.escape(opcode)} \(textures and surfaces\)"):
        translated(opcode, "a, [b, {c}]")
