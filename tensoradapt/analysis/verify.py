"""Verification: re-check a certificate against its expression, without trusting it.

The bound is derived again, the point drawn again, one minor computed again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import numpy as np

from ..algebra.expression import Expr, Shape
from ..errors import TensorAdaptError
from ..run.arrays import Array
from ..structure import Structure
from .ball_witness import minor_by_balls
from .bound import rank_bound
from .certificate import fingerprint, matrix_at, status_of
from .family import Family, family_of
from .minors import is_regular
from .modular import UnluckyPoint
from .points import Given
from .primes import LARGEST, is_prime
from .records import RankCertificate
from .sizes import check_size, expression_of


@dataclass(frozen=True, slots=True)
class Verification:
    """Whether a certificate holds, and why not."""

    valid: bool
    reason: str

    def __bool__(self) -> bool:
        return self.valid


def verify_certificate(
    certificate: RankCertificate,
    update: Structure | Expr,
    shape: Shape | None = None,
    *,
    base: Array | None = None,
    bias: Array | None = None,
    values: Mapping[str, Array] | None = None,
) -> Verification:
    """Check that a certificate holds for an expression.

    Parameters
    ----------
    certificate : RankCertificate
        From anywhere; nothing in it is believed.
    update : Structure or Expr
        What it is said to be about.
    shape : tuple of int, optional
        The weight's shape; needed with a structure.
    base, bias, values
        What the certificate was made with.

    Returns
    -------
    Verification
        True or false, with the reason in a sentence.

    Notes
    -----
    One evaluation, one determinant modulo p. What the assumptions say is not checked but derived
    again and compared.

    Examples
    --------
    >>> from tensoradapt import zoo
    >>> from tensoradapt.analysis.certificate import certify_rank
    >>> certificate = certify_rank(zoo.lora(rank=2), (6, 5))
    >>> bool(verify_certificate(certificate, zoo.lora(rank=2), (6, 5)))
    True
    >>> verify_certificate(certificate, zoo.lora(rank=3), (6, 5)).reason
    'The certificate is about another expression.'
    """
    expr = expression_of(update, shape, "A verification")
    try:
        reason = _objection(certificate, expr, Given(base, bias, values or {}, certificate.frozen))
    except UnluckyPoint as unlucky:
        reason = f"The point is not defined modulo {certificate.witness.prime}: {unlucky}."
    except TensorAdaptError as error:
        reason = str(error)
    return Verification(not reason, reason or "The bound and the minor hold.")


def _objection(certificate: RankCertificate, expr: Expr, given: Given) -> str:
    """What stands against a certificate, or nothing."""
    witness = certificate.witness
    plain = _plain_objection(certificate, expr, given)
    if plain:
        return plain
    check_size(expr)
    bound = rank_bound(expr).value
    if bound > certificate.upper:
        return f"The structure bounds the rank by {bound}, not by {certificate.upper}."
    given = Given(given.base, given.bias, given.values, given.frozen, witness.seed)
    family = family_of(expr, given, witness.seed)
    if not set(family.assumptions) <= set(certificate.assumptions):
        return "An assumption of the proof is not written in the certificate."
    regular = _is_regular(family, certificate)
    if not regular:
        return f"The minor of {len(witness.rows)} rows is 0 or not certified."
    status = status_of(family, certificate.lower, certificate.upper, witness.kind)
    return "" if certificate.status == status else f"Its status should be {status!r}."


def _plain_objection(certificate: RankCertificate, expr: Expr, given: Given) -> str:
    witness = certificate.witness
    rows, columns = expr.shape[0] if expr.ndim else 0, prod(expr.shape[1:])
    if certificate.digest != expr.digest.hex() or certificate.shape != expr.shape:
        return "The certificate is about another expression."
    if certificate.base != fingerprint(given.base):
        return "The certificate is about another base weight W0."
    if witness.kind == "residues" and not (2**30 < witness.prime < LARGEST):
        return f"The modulus {witness.prime} is not of 31 bits."
    if witness.kind == "residues" and not is_prime(witness.prime):
        return f"The modulus {witness.prime} is not prime."
    square = len(witness.rows) == len(witness.columns) == certificate.lower
    if not square or not _inside(witness.rows, rows) or not _inside(witness.columns, columns):
        return "Its rows and columns are not those of a minor of the size of its lower bound."
    if not 0 <= witness.seed < 2**63:
        return "Its seed is not a number of 63 bits."
    return ""


def _inside(chosen: tuple[int, ...], size: int) -> bool:
    return len(set(chosen)) == len(chosen) and all(0 <= k < size for k in chosen)


def _is_regular(family: Family, certificate: RankCertificate) -> bool:
    witness = certificate.witness
    if witness.kind == "balls":
        return minor_by_balls(family, witness)
    if family.obstacles:
        return False
    matrix = matrix_at(family, witness.prime, witness.seed)
    return is_regular(matrix[np.ix_(witness.rows, witness.columns)], witness.prime)
