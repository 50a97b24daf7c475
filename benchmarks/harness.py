"""Interleaved timing in one process: every sample is a ratio to the floor measured around it.

The floor is the frozen layer. A round runs every contender once, in an order that is rotated from
round to round and reversed in every other one; the floor runs again after at most four of them,
and a sample is divided by the mean of the floor before it and the floor after it. What slows the
machine for longer than a few slots slows both and drops out; what is shorter shows in the
quartiles, and in the control, a second copy of the floor that every table carries.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil
from statistics import median, quantiles
from time import perf_counter

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

FLOOR = "frozen"
CONTROL = "frozen again"
SLOTS_PER_FLOOR = 4
MOST_CALLS = 2000

Call = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Summary:
    """The samples of one contender: median and quartiles of the ratio to the floor.

    ``microseconds`` is the median time of one call itself, not divided by anything.
    """

    ratio: float
    low: float
    high: float
    microseconds: float

    @classmethod
    def of(cls, ratios: Sequence[float], seconds: Sequence[float]) -> Summary:
        low, middle, high = quartiles(ratios)
        return cls(middle, low, high, 1e6 * median(seconds))


def quartiles(samples: Sequence[float]) -> tuple[float, float, float]:
    """The first quartile, the median and the third quartile."""
    if len(samples) < 2:
        return samples[0], samples[0], samples[0]
    low, _, high = quantiles(samples, n=4, method="inclusive")
    return low, median(samples), high


def order(names: Sequence[str], number: int, rounds: int) -> list[str]:
    """The order of round ``number``: rotated, and reversed in odd rounds.

    >>> order("abcd", 0, 2), order("abcd", 1, 2)
    (['a', 'b', 'c', 'd'], ['b', 'a', 'd', 'c'])
    """
    turn = number * ceil(len(names) / rounds) % len(names)
    rotated = [*names[turn:], *names[:turn]]
    return rotated[::-1] if number % 2 else rotated


def calls_for(call: Call, seconds: float) -> int:
    """How many calls make a sample of about ``seconds``; warms the call up on the way."""
    call()
    start = perf_counter()
    call()
    once = perf_counter() - start
    return max(1, min(MOST_CALLS, round(seconds / max(once, 1e-9))))


def sample(call: Call, count: int) -> float:
    """Seconds per call, over ``count`` calls in a row."""
    start = perf_counter()
    for _ in range(count):
        call()
    return (perf_counter() - start) / count


@contextmanager
def no_collection() -> Iterator[None]:
    """A block that Python's garbage collector does not interrupt."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextmanager
def few_objects() -> Iterator[None]:
    """A block in which a collection looks at new objects only, and so takes no time."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def time_against_floor(
    floor: Call,
    contenders: Mapping[str, Call],
    rounds: int,
    seconds: float,
    tick: Call = lambda: None,
) -> dict[str, Summary]:
    """Time every contender against the floor; the result has the control's row first.

    Parameters
    ----------
    floor : callable
        What everything is divided by.
    contenders : mapping of str to callable
        What is timed.
    rounds : int
        How often each contender is sampled.
    seconds : float
        The least length of a sample; a longer call makes a sample of one call.
    tick : callable
        Called after every round.
    """
    calls = {CONTROL: floor, **contenders}
    counts = {name: calls_for(call, seconds) for name, call in calls.items()}
    ratios: dict[str, list[float]] = {name: [] for name in calls}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds):
        gc.collect()
        with no_collection():
            before = sample(floor, counts[CONTROL])
            names = order(list(calls), number, rounds)
            for begin in range(0, len(names), SLOTS_PER_FLOOR):
                slots = names[begin : begin + SLOTS_PER_FLOOR]
                taken = {name: sample(calls[name], counts[name]) for name in slots}
                after = sample(floor, counts[CONTROL])
                for name, value in taken.items():
                    ratios[name].append(2 * value / (before + after))
                    times[name].append(value)
                before = after
        tick()
    return {name: Summary.of(ratios[name], times[name]) for name in calls}


def time_in_turn(
    calls: Mapping[str, Call], rounds: int, count: int, tick: Call = lambda: None
) -> dict[str, list[float]]:
    """Seconds per call, one sample of ``count`` calls per round, for costs of microseconds.

    The samples of one round stand at one place of all lists, so that their differences can be
    taken round by round.
    """
    for call in calls.values():
        sample(call, min(count, 20))
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds):
        gc.collect()
        with no_collection():
            for name in order(list(calls), number, rounds):
                times[name].append(sample(calls[name], count))
        tick()
    return times


@contextmanager
def progress(total: int, label: str) -> Iterator[Call]:
    """A bar on standard error that the yielded function moves; silent where no person looks."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(label, total=total)
        yield lambda: bar.advance(task)
