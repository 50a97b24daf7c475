"""Primes: the moduli of certificates, checked and drawn at random.

A composite modulus has numbers without an inverse, so that no rank is defined, and libraries
that are given one may end the process. Every modulus passes through ``check_prime``.
"""

from __future__ import annotations

from math import gcd, prod
from operator import index

from ..errors import StructureError, UnsupportedError
from ..run.draw import stream

BITS = 31
LARGEST = 2**BITS
_BASES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)


def is_prime(n: int) -> bool:
    """Whether an integer below 2⁶⁴ is prime (Miller and Rabin with bases that decide it).

    Examples
    --------
    >>> [n for n in range(2, 30) if is_prime(n)]
    [2, 3, 5, 7, 11, 13, 17, 19, 23, 29]
    """
    if n < 2:
        return False
    if any(n % q == 0 for q in _BASES):
        return n in _BASES
    odd, twos = n - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    return all(_passes(n, b, odd, twos) for b in _BASES)


def _passes(n: int, b: int, odd: int, twos: int) -> bool:
    x = pow(b, odd, n)
    if x in (1, n - 1):
        return True
    for _ in range(twos - 1):
        x = x * x % n
        if x == n - 1:
            return True
    return False


def check_prime(p: object) -> int:
    """The modulus as a Python integer, if it is an odd prime below 2³¹.

    Raises
    ------
    StructureError
        If it is not: a composite number, a number too large, or no integer.
    """
    try:
        modulus = index(p)  # type: ignore[arg-type]
    except TypeError:
        modulus = 0
    if not (2 < modulus < LARGEST and is_prime(modulus)):
        raise StructureError(
            f"Arithmetic modulo {p!r} was asked for.",
            f"A modulus must be an odd prime below 2^{BITS}, so that every number but 0 has an "
            "inverse and products fit 64 bits.",
            "Use 2147483647, or leave the modulus out: it is drawn from the seed.",
        )
    return modulus


def draw_prime(seed: int, trial: int = 0, step: int = 1) -> int:
    """Draw a prime of 31 bits that is 1 modulo ``step``.

    Parameters
    ----------
    seed, trial : int
        Choose the prime, the same one everywhere.
    step : int
        The order that roots of unity modulo the prime must have.

    Returns
    -------
    int
        Between 2³⁰ and 2³¹.

    Raises
    ------
    UnsupportedError
        If the step is so large that there may be no such prime.

    Examples
    --------
    >>> draw_prime(0) == draw_prime(0) != draw_prime(1)
    True
    >>> draw_prime(0, step=1024) % 1024
    1
    """
    if step >= 2**24:
        raise UnsupportedError(
            f"Roots of unity of order {step} modulo a prime were asked for.",
            f"Primes below 2^{BITS} that have them are too few to draw from.",
            "Use axes whose sizes have small common multiples, or ta.rank_at at given values.",
        )
    source = stream(seed, "prime", f"{trial}:{step}")
    low, high = 2 ** (BITS - 1) // step + 1, (LARGEST - 2) // step
    while True:
        p = 1 + step * int(source.randint(low, high))
        if is_prime(p):
            return p


def root_of_unity(p: int, order: int) -> int:
    """An element of multiplicative order exactly ``order`` modulo p; order divides p - 1."""
    parts = _prime_factors(order)
    for g in range(2, p):
        root = pow(g, (p - 1) // order, p)
        if all(pow(root, order // q, p) != 1 for q in parts):
            return root
    raise AssertionError("the multiplicative group of a prime field is cyclic")


def _prime_factors(n: int) -> list[int]:
    found: list[int] = []
    q = 2
    while q * q <= n:
        if n % q == 0:
            found.append(q)
            while n % q == 0:
                n //= q
        q += 1
    return [*found, n] if n > 1 else found


def squarefree_part(n: int) -> tuple[int, int]:
    """``(s, q)`` with ``n = s² q`` and q without a square factor."""
    odd = [q for q in _prime_factors(n) if _exponent(n, q) % 2]
    rest = prod(odd)
    square = n // rest
    root = 1
    for q in _prime_factors(square):
        root *= q ** (_exponent(square, q) // 2)
    return root, rest


def _exponent(n: int, q: int) -> int:
    count = 0
    while n % q == 0:
        n, count = n // q, count + 1
    return count


def least_common_multiple(numbers: list[int]) -> int:
    """The least common multiple, 1 of none."""
    result = 1
    for n in numbers:
        result = result * n // gcd(result, n)
    return result


def square_root(a: int, p: int) -> int | None:
    """A square root of a modulo p (Tonelli and Shanks), or None where there is none.

    Examples
    --------
    >>> square_root(2, 7), square_root(3, 7)
    (4, None)
    """
    a %= p
    if a == 0:
        return 0
    if pow(a, (p - 1) // 2, p) != 1:
        return None
    odd, twos = p - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    other = next(z for z in range(2, p) if pow(z, (p - 1) // 2, p) == p - 1)
    c, x, t = pow(other, odd, p), pow(a, (odd + 1) // 2, p), pow(a, odd, p)
    while t != 1:
        k, power = 0, t
        while power != 1:
            power, k = power * power % p, k + 1
        b = pow(c, 1 << (twos - k - 1), p)
        x, c = x * b % p, b * b % p
        t, twos = t * c % p, k
    return x
