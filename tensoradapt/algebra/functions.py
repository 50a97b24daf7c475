"""Elementwise functions: a table of names with what is known of each.

A ``Function`` is a name and its numbers; what it computes is written once per arithmetic.
``1/0`` is 0 here, so that a zero row has the reciprocal norm 0 and nothing becomes NaN.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import StructureError, near


@dataclass(frozen=True, slots=True)
class FunctionFacts:
    """What is known of an elementwise function, whatever the arithmetic.

    Parameters
    ----------
    latex : str
        Its name in LaTeX.
    derivative : str
        The derivative as a formula in ``x``.
    parity : {"odd", "even", "none"}
        With respect to ``x → -x``.
    is_analytic : bool
        Analytic with infinitely many nonzero Taylor coefficients at 0.
    keeps_zero : bool
        Whether ``f(0) = 0``.
    exact_in : {"polynomial", "balls", "floats"}
        The strongest arithmetic in which it exists.
    numbers : int, optional
        How many settings it takes; None for one or more.
    """

    latex: str
    derivative: str
    parity: str = "none"
    is_analytic: bool = False
    keeps_zero: bool = False
    exact_in: str = "balls"
    numbers: int | None = 0


FUNCTIONS: dict[str, FunctionFacts] = {
    "sin": FunctionFacts(r"\sin", "cos(x)", "odd", True, True),
    "cos": FunctionFacts(r"\cos", "-sin(x)", "even", True, False),
    "tanh": FunctionFacts(r"\tanh", "1 - tanh(x)²", "odd", True, True),
    "exp": FunctionFacts(r"\exp", "exp(x)", "none", True, False),
    "sigmoid": FunctionFacts(r"\sigma", "σ(x)(1 - σ(x))", "none", True, False),
    "relu": FunctionFacts(r"\mathrm{relu}", "[x > 0]", "none", False, True),
    "abs": FunctionFacts(r"\mathrm{abs}", "sign(x)", "even", False, True),
    "sqrt": FunctionFacts(r"\mathrm{sqrt}", "1/(2 sqrt(x))", "none", False, True),
    "reciprocal": FunctionFacts(r"\mathrm{recip}", "-1/x²", "odd", False, True),
    "clip": FunctionFacts(r"\mathrm{clip}", "[low < x < high]", numbers=2),
    "polynomial": FunctionFacts("p", "p'(x)", exact_in="polynomial", numbers=None),
    "softmax_top": FunctionFacts(r"\mathrm{softmax}", "s_i(δ_ij - s_j)", numbers=1),
}


@dataclass(frozen=True, slots=True)
class Function:
    """A function of the table with its numbers, for instance polynomial coefficients.

    ``polynomial`` has its coefficients from degree 0 upwards, ``clip`` its two limits,
    ``softmax_top`` the number of largest entries kept along the last axis.
    """

    name: str
    settings: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.name not in FUNCTIONS:
            raise StructureError(
                f"The elementwise function {self.name!r} was asked for.",
                f"Known functions near it: {near(self.name, FUNCTIONS)}.",
                "Use one of them, or build it from polynomial, sin, exp and reciprocal.",
            )
        wanted, given = self.facts.numbers, len(self.settings)
        if given != wanted and not (wanted is None and given):
            raise StructureError(
                f"The elementwise function {self} was asked for with {given} numbers.",
                f"It takes {'one or more' if wanted is None else wanted}.",
                "Give clip its two limits, polynomial its coefficients, softmax_top its count.",
            )
        if any(number != number for number in self.settings):
            raise StructureError(
                f"The elementwise function {self} was asked for.",
                "One of its numbers is not a number (NaN).",
                "Check what it is computed from.",
            )
        if self.name == "softmax_top" and not (self.settings[0] >= 1 and self.settings[0] % 1 == 0):
            raise StructureError(
                f"The elementwise function {self} was asked for.",
                f"It keeps a whole number of entries, and {self.settings[0]:g} is none.",
                "Give a count of 1 or more.",
            )

    @property
    def facts(self) -> FunctionFacts:
        """What is known of the function."""
        return FUNCTIONS[self.name]

    def __str__(self) -> str:
        numbers = ", ".join(f"{number:g}" for number in self.settings)
        return f"{self.name}[{numbers}]" if numbers else self.name
