"""Two ways to set the same formula: one line of text, and LaTeX.

A style is a table of templates and three small functions; ``render.py`` decides what is written
and where parentheses stand, and knows neither style.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

from .expression import Factor

LONGEST_NAME = 60


@dataclass(frozen=True, slots=True)
class Style:
    """How each piece of notation is written; ``{}`` stands for its operand."""

    name: Callable[[str], str]
    number: Callable[[Factor], str]
    call: Callable[[str, str], str]
    parentheses: str = "({})"
    product: str = " "
    hadamard: str = " ⊙ "
    kron: str = " ⊗ "
    divide: str = " / "
    transposed: str = "{}ᵀ"
    diagonal: str = "diag({})"
    norm: str = "‖{}‖{}"
    subscript: str = "_{}"
    brackets: str = "[{}]"
    at_start: str = "{}@start"
    ones: str = "𝟏"
    base: str = "W0"
    bias: str = "b0"
    times: str = "×"
    ellipsis: str = "…"


def _shorten(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"


def _number(factor: Factor) -> str:
    if isinstance(factor, float):
        return f"{factor:.6g}"
    if 64 < factor.denominator <= 10**6 and Fraction(f"{float(factor):.6g}") == factor:
        return f"{float(factor):.6g}"
    if max(abs(factor.numerator), factor.denominator) < 10**12:
        return str(factor)
    return f"{Decimal(factor.numerator) / Decimal(factor.denominator):.6g}"


def _call(name: str, inside: str) -> str:
    return f"{name}({inside})"


TEXT = Style(name=_shorten, number=_number, call=_call)

_ESCAPES = {
    "\\": r"\backslash{}",
    "{": r"\{",
    "}": r"\}",
    "_": r"\_",
    "^": r"\char94{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "~": r"\char126{}",
    "…": r"\dots{}",
    "ᵀ": r"^{\top}",
    "⁻": r"^{-1}",
    "¹": "",
    "×": r"$\times$",
}
_FUNCTIONS = ("sin", "cos", "tanh", "exp")


def _escape(text: str) -> str:
    return "".join(_ESCAPES.get(character, character) for character in text)


def _latex_name(name: str) -> str:
    *before, last = _shorten(name).split(".")
    letters = last.rstrip("0123456789")
    if len(letters) == 1 and letters.isalpha():
        symbol = letters if letters == last else f"{letters}_{{{last[1:]}}}"
    else:
        symbol = rf"\mathrm{{{_escape(last)}}}"
    inside = _escape(".".join(before))
    return rf"{symbol}^{{(\mathrm{{{inside}}})}}" if inside else symbol


def _latex_number(factor: Factor) -> str:
    text = _number(factor).replace("E", "e").replace("+", "")
    if "/" in text:
        return r"\tfrac{{{}}}{{{}}}".format(*text.split("/"))
    mantissa, _, exponent = text.partition("e")
    return rf"{mantissa} \cdot 10^{{{int(exponent)}}}" if exponent else text


def _latex_call(name: str, inside: str) -> str:
    plain = name in _FUNCTIONS
    head = f"\\{name}" if plain else rf"\operatorname{{{_escape(name)}}}"
    return rf"{head}\left({inside}\right)"


LATEX = Style(
    name=_latex_name,
    number=_latex_number,
    call=_latex_call,
    parentheses=r"\left({}\right)",
    product=r"\,",
    hadamard=r" \odot ",
    kron=r" \otimes ",
    divide=r" \oslash ",
    transposed=r"{{{}}}^{{\top}}",
    diagonal=r"\operatorname{{diag}}\left({}\right)",
    norm=r"\left\lVert {} \right\rVert{}",
    subscript=r"_{{\mathrm{{{}}}}}",
    brackets=r"\left[{}\right]",
    at_start=r"{{{}}}^{{(0)}}",
    ones=r"\mathbf{1}",
    base="W_{0}",
    bias="b_{0}",
    times=r" \times ",
    ellipsis=r"\dots",
)


def in_text_mode(style: Style, text: str) -> str:
    """A pattern or a word inside a formula."""
    if style is LATEX and not text.strip("0123456789.-×"):
        return text.replace("×", LATEX.times)
    if style is LATEX:
        escaped = _escape(text).replace("->", r"$\to$")
        return rf"\text{{{escaped}}}"
    return text
