"""Plans: candidates for a computation, what each costs, which is chosen and why.

Modes: ``"materialize"`` is ΔW; ``"apply"`` is x ΔWᵀ; ``"forward"`` and ``"train"`` are a whole
layer x (W0 + ΔW)ᵀ + b without and with gradients.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from ..algebra.expression import Expr
from ..algebra.nodes import Base, BaseBias
from ..errors import StructureError, TensorAdaptError
from ..network.form import NormalForm
from ..network.lower import lower
from .compose import Composer, Note, inputs_of
from .rates import CPU, Cost, Rates, program_cost
from .steps import Input, Program, Shape, Writer

MODES = ("forward", "train", "apply", "materialize")
SAMPLES = (1, 64, 1024, 16384)
"""Token counts at which programs are sought; costs are then compared at any count."""
MAX_THRESHOLDS = 3


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to compute, with its modelled cost.

    Parameters
    ----------
    name : {"factored", "merged", "materialized"}
        ``factored`` contracts every network with x; ``merged`` forms W0 + ΔW and multiplies
        once; ``materialized`` forms ΔW.
    program : Program
        Its steps.
    cost : Cost
        flops, bytes moved, bytes saved for the backward pass, seconds.
    notes : tuple of Note
        The contraction orders and barriers.
    """

    name: str
    program: Program
    cost: Cost
    notes: tuple[Note, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """A chosen program and its rivals; prints itself.

    Parameters
    ----------
    title : str
        What was planned.
    shape : tuple of int
        The weight's shape.
    mode : str
        One of ``MODES``.
    tokens : int
        The token count it is chosen for.
    rates : Rates
        The rates it is chosen by.
    candidates : tuple of Candidate
        Cheapest first.
    crossovers : tuple of (int, str)
        The token counts from which another candidate becomes the cheapest, with its name.
    """

    title: str
    shape: Shape
    mode: str
    tokens: int
    rates: Rates
    candidates: tuple[Candidate, ...]
    crossovers: tuple[tuple[int, str], ...]

    @property
    def chosen(self) -> Candidate:
        """The cheapest candidate."""
        return self.candidates[0]

    @property
    def program(self) -> Program:
        """The chosen program."""
        return self.chosen.program

    def __str__(self) -> str:
        from .show import show  # the printer reads plans, so it stands above them

        return show(self)


@dataclass(frozen=True, slots=True)
class Layer:
    """What a layer computes: W0 + ΔW and b0 + Δb as normal forms.

    Parameters
    ----------
    weight : NormalForm
        Of the whole weight in modes "forward" and "train", of ΔW in the others.
    bias : NormalForm or None
        Of the whole bias, if there is one.
    """

    weight: NormalForm
    bias: NormalForm | None


@dataclass(frozen=True, slots=True)
class Schedule:
    """Programs by token count: program k serves up to ``thresholds[k]`` tokens, the last any."""

    thresholds: tuple[int, ...]
    candidates: tuple[Candidate, ...]

    def at(self, tokens: int) -> Candidate:
        """The candidate for a token count."""
        for threshold, candidate in zip(self.thresholds, self.candidates, strict=False):
            if tokens <= threshold:
                return candidate
        return self.candidates[-1]


def layer(delta: Expr, mode: str, bias: Expr | None = None, has_bias: bool = False) -> Layer:
    """The normal forms that a mode computes for an update."""
    if mode not in MODES:
        raise StructureError(
            f"A plan in the mode {mode!r} was asked for.",
            f"Known modes: {', '.join(MODES)}.",
            "Use one of them.",
        )
    if mode in ("materialize", "apply"):
        return Layer(lower(delta), None if bias is None else lower(bias))
    total_bias = BaseBias(delta.shape[:1]) if has_bias else None
    if bias is not None:
        total_bias = bias if total_bias is None else total_bias + bias
    weight = lower(Base(delta.shape) + delta)
    return Layer(weight, None if total_bias is None else lower(total_bias))


def plan_expression(
    delta: Expr,
    tokens: int,
    mode: str = "train",
    rates: Rates = CPU,
    bias: Expr | None = None,
    has_bias: bool = False,
    merge_allowed: bool = True,
) -> Plan:
    """Plan an update at a token count.

    Parameters
    ----------
    delta : Expr
        ΔW, ``(out, in, *kernel)``.
    tokens : int
        T, the rows of x.
    mode : str
        One of ``MODES``.
    rates : Rates
        Of the device.
    bias : Expr, optional
        Δb, ``(out,)``.
    has_bias : bool
        Whether the layer has a bias b0.
    merge_allowed : bool
        Whether W0 + ΔW may be formed (not on half-precision weights, nor under dropout).
    """
    if not delta.shape:
        raise StructureError(
            "A plan for a scalar expression was asked for.",
            "ΔW has at least one axis.",
            "Plan the weight's update; evaluate a penalty with ta.evaluate.",
        )
    asked = layer(delta, mode, bias, has_bias)
    training = mode == "train"
    pool = _pool(asked, delta.shape, mode, rates, merge_allowed, (*SAMPLES, tokens), training)
    ranked = sorted(
        (
            Candidate(c.name, c.program, program_cost(c.program, tokens, rates, training), c.notes)
            for c in pool
        ),
        key=lambda candidate: candidate.cost.seconds,
    )
    best = {candidate.name: candidate for candidate in reversed(ranked)}
    kept = tuple(sorted(best.values(), key=lambda candidate: candidate.cost.seconds))
    crossings = _crossings(pool, rates, training) if mode != "materialize" else ()
    return Plan(repr(delta), delta.shape, mode, tokens, rates, kept, crossings)


def schedule(
    delta: Expr,
    mode: str,
    rates: Rates = CPU,
    bias: Expr | None = None,
    has_bias: bool = False,
    merge_allowed: bool = True,
    training: bool | None = None,
) -> Schedule:
    """The cheapest program for every token count, with at most three thresholds."""
    asked = layer(delta, mode, bias, has_bias)
    training = mode == "train" if training is None else training
    pool = _pool(asked, delta.shape, mode, rates, merge_allowed, SAMPLES, training)
    return _envelope(pool, rates, training)


@lru_cache(maxsize=1024)
def _pool(
    asked: Layer,
    shape: Shape,
    mode: str,
    rates: Rates,
    merge_allowed: bool,
    samples: tuple[int, ...],
    training: bool,
) -> tuple[Candidate, ...]:
    """The distinct programs found at some token counts."""
    names = ["materialized"] if mode == "materialize" else ["factored"]
    if mode in ("forward", "train") and merge_allowed:
        names.append("merged")
    if mode == "apply":
        names.append("materialized")
    found: dict[Program, Candidate] = {}
    failure: TensorAdaptError | None = None
    for name in names:
        for tokens in samples if name == "factored" else samples[:1]:
            try:
                candidate = _candidate(asked, shape, name, mode, rates, tokens, training)
            except TensorAdaptError as error:
                failure = error
                continue
            found.setdefault(candidate.program, candidate)
    if not found:
        assert failure is not None
        raise failure
    return tuple(found.values())


def _candidate(
    asked: Layer,
    shape: Shape,
    name: str,
    mode: str,
    rates: Rates,
    tokens: int,
    training: bool,
) -> Candidate:
    forms = [asked.weight] + ([asked.bias] if asked.bias is not None else [])
    inputs = inputs_of(forms, shape, training)
    if mode != "materialize" and name == "merged" and not any(i.kind == "base" for i in inputs):
        inputs = (*inputs, Input("base", "base", shape))
    writer = Writer(inputs)
    composer = Composer(writer, tokens, rates, training)
    bias = None
    if asked.bias is not None and mode != "materialize":
        bias = composer.materialize(asked.bias)
    if mode == "materialize":
        result = composer.materialize(asked.weight)
    elif name == "factored":
        result = composer.apply(asked.weight, bias)
    else:
        result = composer.merged(asked.weight, bias)
    program = writer.program(result)
    cost = program_cost(program, tokens, rates, training)
    return Candidate(name, program, cost, tuple(composer.notes))


def _envelope(pool: tuple[Candidate, ...], rates: Rates, training: bool) -> Schedule:
    """Where the cheapest program changes, scanning token counts by quarters of octaves."""
    scan = sorted({int(2 ** (k / 4)) for k in range(4 * 17 + 1)})
    winners = [
        min(pool, key=lambda c: program_cost(c.program, t, rates, training).seconds) for t in scan
    ]
    order, thresholds = [winners[0]], list[int]()
    for before, tokens, winner in zip(scan, scan[1:], winners[1:], strict=False):
        if winner is not order[-1] and len(thresholds) < MAX_THRESHOLDS:
            thresholds.append(_bisect(order[-1], winner, before, tokens, rates, training))
            order.append(winner)
    return Schedule(tuple(thresholds), tuple(order))


def _bisect(
    first: Candidate, second: Candidate, low: int, high: int, rates: Rates, training: bool
) -> int:
    """The last token count at which the first is still the cheaper."""
    while high - low > 1:
        middle = (low + high) // 2
        a = program_cost(first.program, middle, rates, training).seconds
        b = program_cost(second.program, middle, rates, training).seconds
        low, high = (middle, high) if a <= b else (low, middle)
    return low


def _crossings(
    pool: tuple[Candidate, ...], rates: Rates, training: bool
) -> tuple[tuple[int, str], ...]:
    found = _envelope(pool, rates, training)
    names = [candidate.name for candidate in found.candidates]
    return tuple(
        (threshold + 1, name)
        for threshold, before, name in zip(found.thresholds, names, names[1:], strict=False)
        if name != before
    )
