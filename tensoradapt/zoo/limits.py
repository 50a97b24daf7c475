"""What settings a weight allows: the checks that the methods share, each an error with numbers.

A check names what stands against a setting and a call that works; the structure that was
asked for and the weight's shape are put before it by ``structure.Call``.
"""

from __future__ import annotations

from math import isfinite, prod
from numbers import Real
from typing import Any

from ..algebra.expression import Expr, Factor
from ..algebra.indexing import IndexMap
from ..algebra.leaves import scaling
from ..algebra.nodes import Base
from ..errors import StructureError
from ..structure import Within


def check_count(method: str, name: str, value: Any, least: int = 1) -> None:
    """Refuse a setting that is not an integer of ``least`` or more."""
    if type(value) is not int or value < least:
        raise StructureError(
            f"{name}={value!r} was asked for.",
            f"{name} must be an integer of {least} or more.",
            f"Use {method}({name}={least}) or more.",
        )


def check_rank(method: str, rank: Any, w: Base) -> None:
    """Refuse a rank that is no positive integer, or more than the matrix of ``w`` can have."""
    check_count(method, "rank", rank)
    check_at_most(method, rank, min(w.matrix), f"a matrix of {w.matrix[0]} × {w.matrix[1]}")


def check_at_most(method: str, rank: int, limit: int, what: str) -> None:
    """Refuse a rank above the limit of ``what``."""
    if rank > limit:
        raise StructureError(
            f"rank={rank} was asked for.",
            f"The largest rank of {what} is {limit}.",
            f"Use {method}(rank={limit}) or less.",
        )


def check_choice(method: str, name: str, value: Any, known: tuple[str, ...]) -> None:
    """Refuse a word that is not one of the known ones."""
    if value not in known:
        raise StructureError(
            f"{name}={value!r} was asked for.",
            f"The known values of {name} are {', '.join(map(repr, known))}.",
            f"Use one of them, as in {method}({name}={known[0]!r}).",
        )


def check_number(method: str, name: str, value: Any, example: float) -> None:
    """Refuse a setting that is not a finite number other than zero."""
    if isinstance(value, bool) or not isinstance(value, Real) or not isfinite(value) or not value:
        raise StructureError(
            f"{name}={value!r} was asked for.",
            f"{name} must be a finite number other than zero.",
            f"Use a number, as in {method}({name}={example}).",
        )


def check_divides(method: str, rank: int, sizes: tuple[int, ...]) -> None:
    """Refuse a rank that does not divide every size."""
    bad = [size for size in sizes if size % rank]
    if bad:
        fitting = max(d for d in range(1, rank + 1) if not any(size % d for size in sizes))
        raise StructureError(
            f"rank={rank} was asked for.",
            f"The rank must divide {' and '.join(map(str, sizes))}, "
            f"but {', '.join(map(_divisors, bad))}.",
            f"Use {method}(rank={fitting}).",
        )


def check_parts(method: str, name: str, parts: int, sizes: dict[str, int]) -> None:
    """Refuse a number of parts that does not divide every named size."""
    check_count(method, name, parts)
    bad = [f"{what} is {size} = {factored(size)}" for what, size in sizes.items() if size % parts]
    if bad:
        fitting = max(d for d in range(1, parts + 1) if not any(n % d for n in sizes.values()))
        raise StructureError(
            f"{name}={parts} was asked for.",
            f"It must divide {' and '.join(sizes)}, but {', '.join(bad)}.",
            f"Use {method}({name}={fitting}).",
        )


def _divisors(size: int) -> str:
    primes = factored(size)
    return f"{size} = {primes}" if "·" in primes else f"{size} has no divisor but itself and 1"


def check_seed(method: str, name: str, seed: object) -> None:
    """Refuse a seed that is no integer from 0 to 2³² - 1."""
    if type(seed) is not int or not 0 <= seed < 2**32:
        raise StructureError(
            f"{name}={seed!r} was asked for.",
            "A seed is an integer from 0 to 2³² - 1.",
            f"Use {method}({name}=777).",
        )


def given_positions(method: str, given: tuple[int, ...], size: int) -> IndexMap:
    """Flat positions of a matrix of ``size`` entries as the user gave them, all different."""
    fits = isinstance(given, tuple) and given and len(set(given)) == len(given)
    if not fits or any(type(p) is not int or not 0 <= p < size for p in given):
        raise StructureError(
            "A list of positions was asked for in indices.",
            f"They must be different integers from 0 to {size - 1}, row by row of the matrix.",
            f"Use {method}(indices=(0, 1, 2)), for instance.",
        )
    return IndexMap("table", (len(given),), size, given)


def scale(method: str, alpha: Any, rank: int = 1, root: bool = False) -> Factor:
    """``α/r``, ``α/√r`` with ``root``, and 1 without alpha; refuse an alpha that is no scale."""
    if alpha is not None:
        check_number(method, "alpha", alpha, 16)
    return scaling(alpha, rank, root)


def update_of(method: str, within: Any, w: Base) -> Expr:
    """The update that the structure in the setting ``within`` makes of ``w``."""
    return within_of(method, within)(w)


def within_of(method: str, within: Any) -> Within:
    """The structure in the setting ``within``, bound to that name; refuse anything else."""
    if not isinstance(within, Within):
        raise StructureError(
            f"within={within!r} was asked for.",
            f"within must be a structure, not a {type(within).__name__}.",
            f"Hand over a structure, as in {method}(within=lora(rank=8)).",
        )
    return within


# --- factoring ---------------------------------------------------------------------------


def factored(n: int) -> str:
    """A size as a product of primes, for instance ``2·5·7·11``."""
    primes: list[int] = []
    divisor = 2
    while divisor * divisor <= n:
        while n % divisor == 0:
            primes.append(divisor)
            n //= divisor
        divisor += 1
    if n > 1 or not primes:
        primes.append(n)
    return "·".join(map(str, primes))


def near_equal(n: int, count: int) -> tuple[int, ...]:
    """Split ``n`` into ``count`` factors, smallest first, as equal as its divisors allow.

    Each factor in turn is the largest divisor of what is left that is not above the root of
    it, so 768 gives ``(24, 32)`` or ``(8, 8, 12)`` and a prime gives ones and itself.
    """
    found: list[int] = []
    for left in range(count, 1, -1):
        divisor = 1
        while (divisor + 1) ** left <= n:
            divisor += 1
        while n % divisor:
            divisor -= 1
        found.append(divisor)
        n //= divisor
    return tuple(sorted((*found, n)))


def modes_of(
    method: str, w: Base, order: int | None, shape: tuple[int, ...] | None
) -> tuple[int, ...]:
    """The sizes of the tensor that ΔW is folded into.

    ``shape`` as it is given; else ``order`` modes, the first half (rounded up) near-equal
    factors of ``out`` and the rest of ``in · kernel``; with neither, the weight's own axes.
    """
    if shape is not None:
        return _checked_shape(method, w, shape)
    if order is None:
        return w.shape
    check_count(method, "order", order, least=2)
    out, inp = w.matrix
    return near_equal(out, (order + 1) // 2) + near_equal(inp, order // 2)


def _checked_shape(method: str, w: Base, shape: Any) -> tuple[int, ...]:
    out, inp = w.matrix
    sizes = shape if isinstance(shape, tuple) else (shape,)
    if len(sizes) < 2 or any(type(n) is not int or n < 1 for n in sizes):
        raise StructureError(
            f"shape={shape!r} was asked for.",
            "The shape of a fold is a tuple of two or more positive integers.",
            f"Use {method}(shape={near_equal(out, 2) + near_equal(inp, 2)}).",
        )
    if prod(sizes) != out * inp:
        raise StructureError(
            f"shape={sizes} was asked for.",
            f"It has {prod(sizes)} = {factored(prod(sizes))} elements; "
            f"the weight has {out} × {inp} = {factored(out * inp)}.",
            f"Use {method}(shape={near_equal(out, 2) + near_equal(inp, 2)}).",
        )
    return sizes
