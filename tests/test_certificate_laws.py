"""Laws of certificates on random expressions, judged over the real numbers."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings

from tensoradapt.algebra.expression import Expr
from tensoradapt.analysis.ball_minors import certify_square
from tensoradapt.analysis.certificate import certify_rank
from tensoradapt.analysis.dimension import family_dimension
from tensoradapt.analysis.family import family_of
from tensoradapt.analysis.points import Given
from tensoradapt.analysis.real_points import real_point
from tensoradapt.analysis.records import RankCertificate
from tensoradapt.analysis.verify import verify_certificate
from tensoradapt.errors import UnsupportedError
from tests.strategies import expressions

EXAMPLES = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
JUDGED = ("proved", "bounded", "proved on an open set", "bounded on an open set")
"""What is said of the update itself, with none of its constants or norms replaced."""


def is_regular_somewhere(expr: Expr, found: RankCertificate) -> bool:
    """Whether the minor of a certificate is regular at a random real point, by balls.

    A minor that is not 0 for almost all leaves is not 0 at a random point; this asks the real
    numbers, where certificates ask integers modulo a prime. The certificate's own seed comes
    first, because a piecewise update is certified on the open set around that real point.
    """
    for seed in (found.witness.seed, 1, 2):
        family = family_of(expr, Given(seed=seed), seed)
        for size in (1.0, 1e-3, 1e3):
            point = real_point(expr, family.plain, family.given, seed, size)
            rows, columns = found.witness.rows, found.witness.columns
            if certify_square(family.plain, point, rows, columns, 4096).regular:
                return True
    return False


@given(expressions())
@EXAMPLES
def test_certified_minors_are_regular_over_the_real_numbers(expr: Expr) -> None:
    found = certify_rank(expr)
    assert found.lower <= found.upper
    assert verify_certificate(found, expr)
    assert RankCertificate.from_json(found.to_json()) == found
    if found.status in JUDGED:
        assert is_regular_somewhere(expr, found)


@given(expressions(smooth=False))
@EXAMPLES
def test_piecewise_updates_are_certified_or_refused(expr: Expr) -> None:
    found = certify_rank(expr)
    assert found.lower <= found.upper and verify_certificate(found, expr)
    if found.status in JUDGED:
        assert is_regular_somewhere(expr, found)


@given(expressions())
@EXAMPLES
def test_dimensions_lie_between_their_bounds(expr: Expr) -> None:
    try:
        found = family_dimension(expr)
    except UnsupportedError:
        return
    assert 0 <= found.value <= found.expected <= min(found.n_parameters, expr.size)
    assert found.fills_space == (found.value == expr.size)
    assert found.value <= family_dimension(expr, seed=7).expected
