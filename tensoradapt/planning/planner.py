"""Plans: candidates for a computation, what each costs, which is chosen and why.

Modes: ``"materialize"`` is ΔW; ``"apply"`` is x ΔWᵀ; ``"forward"`` and ``"train"`` are a whole
layer x (W0 + ΔW)ᵀ + b without and with gradients.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

from ..algebra.expression import Expr
from ..errors import StructureError, TensorAdaptError, UnsupportedError
from .candidate import Candidate, Layer, layer
from .compose import Composer, inputs_of
from .rates import CPU, Rates, program_cost
from .show import show
from .steps import Program, Shape, Writer
from .training import FACTORED, FORMED, MIXED, training_program

SAMPLES = (1, 64, 1024, 16384)
"""Token counts at which programs are sought; costs are then compared at any count."""
MAX_THRESHOLDS = 3
CAUTION = 1.1
"""A program that forms a weight must be this much cheaper: the model errs by about as much, and
a formed weight costs memory."""


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
        Cheapest first, formed weights counted ``CAUTION`` times.
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
        return show(self)


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
        One of ``candidate.MODES``.
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
    pool = candidates(asked, delta.shape, mode, rates, merge_allowed, (*SAMPLES, tokens), training)
    ranked = sorted(
        (replace(c, cost=c.cost_at(tokens, rates, training)) for c in pool),
        key=lambda candidate: _rank(candidate, tokens, rates, training),
    )
    best = {candidate.name: candidate for candidate in reversed(ranked)}
    kept = tuple(sorted(best.values(), key=ranked.index))
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
    x_trains: bool = True,
) -> Schedule:
    """The cheapest program for every token count, with at most three thresholds."""
    asked = layer(delta, mode, bias, has_bias)
    training = mode == "train" if training is None else training
    pool = candidates(asked, delta.shape, mode, rates, merge_allowed, SAMPLES, training, x_trains)
    return _envelope(pool, rates, training)


@lru_cache(maxsize=1024)
def candidates(
    asked: Layer,
    shape: Shape,
    mode: str,
    rates: Rates,
    merge_allowed: bool,
    samples: tuple[int, ...],
    training: bool,
    x_trains: bool = True,
) -> tuple[Candidate, ...]:
    """The distinct programs found at some token counts.

    Parameters
    ----------
    asked : Layer
        What is computed.
    shape : tuple of int
        The weight's shape.
    mode : str
        One of ``MODES``.
    rates : Rates
        Of the device.
    merge_allowed : bool
        Whether W0 + ΔW may be formed.
    samples : tuple of int
        The token counts that orders are sought for.
    training, x_trains : bool
        Whether gradients are wanted, and whether of x too.

    Raises
    ------
    UnsupportedError
        If no program computes it.
    """
    ways = [FORMED] if mode == "materialize" else [FACTORED]
    if mode == "apply" or (mode in ("forward", "train") and merge_allowed):
        ways += [FORMED, MIXED] if training else [FORMED]
    found: dict[tuple[Program, Program | None], Candidate] = {}
    failure: TensorAdaptError | None = None
    for way in ways:
        for tokens in samples[:1] if way == FORMED else samples:
            try:
                made = _candidate(asked, shape, way, mode, rates, tokens, training, x_trains)
            except TensorAdaptError as error:
                failure = error
                continue
            found.setdefault((made.program, made.backward), made)
    if not found:
        assert failure is not None
        raise failure
    return tuple(found.values())


def _candidate(
    asked: Layer,
    shape: Shape,
    way: str,
    mode: str,
    rates: Rates,
    tokens: int,
    training: bool,
    x_trains: bool,
) -> Candidate:
    formed = "merged" if mode in ("forward", "train") else "materialized"
    name = way.replace(FORMED, formed)
    if training and mode != "materialize":
        try:
            made = training_program(asked, shape, way, tokens, rates, x_trains)
            return replace(made, name=name)
        except UnsupportedError:
            if way == MIXED:
                raise
    return _forward_candidate(asked, shape, name, mode, rates, tokens, training)


def _forward_candidate(
    asked: Layer, shape: Shape, name: str, mode: str, rates: Rates, tokens: int, training: bool
) -> Candidate:
    """A program without gradients of its own."""
    forms = [asked.weight] + ([asked.bias] if asked.bias is not None else [])
    writer = Writer(inputs_of(forms, shape, training))
    composer = Composer(writer, tokens, rates, training)
    bias = None
    if asked.bias is not None and mode != "materialize":
        bias = composer.materialize(asked.bias)
    if mode == "materialize":
        result = composer.materialize(asked.weight)
    elif name == FACTORED:
        result = composer.apply(asked.weight, bias)
    else:
        result = composer.merged(asked.weight, bias)
    program = writer.program(result)
    cost = program_cost(program, tokens, rates, training)
    return Candidate(name, program, cost, tuple(composer.notes))


def plain_candidate(asked: Layer, shape: Shape, mode: str, rates: Rates) -> Candidate:
    """The factored forward alone, for those who differentiate it themselves."""
    return _forward_candidate(asked, shape, FACTORED, mode, rates, SAMPLES[2], True)


def _envelope(pool: tuple[Candidate, ...], rates: Rates, training: bool) -> Schedule:
    """Where the cheapest program changes, scanning token counts by octaves."""
    scan = [2**k for k in range(18)]
    winners = [min(pool, key=lambda c: _rank(c, t, rates, training)) for t in scan]
    order, thresholds = [winners[0]], list[int]()
    for before, tokens, winner in zip(scan, scan[1:], winners[1:], strict=False):
        if winner is not order[-1] and len(thresholds) < MAX_THRESHOLDS:
            thresholds.append(_bisect(order[-1], winner, before, tokens, rates, training))
            order.append(winner)
    return Schedule(tuple(thresholds), tuple(order))


def _rank(candidate: Candidate, tokens: int, rates: Rates, training: bool) -> float:
    """Modelled seconds, with caution about formed weights."""
    seconds = candidate.cost_at(tokens, rates, training).seconds
    return seconds if candidate.name == FACTORED else CAUTION * seconds


def _bisect(
    first: Candidate, second: Candidate, low: int, high: int, rates: Rates, training: bool
) -> int:
    """The last token count at which the first is still the cheaper."""
    while high - low > 1:
        middle = (low + high) // 2
        a = _rank(first, middle, rates, training)
        b = _rank(second, middle, rates, training)
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
