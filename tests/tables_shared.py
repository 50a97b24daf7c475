"""Rows and groups of the methods that share leaves: alone on one weight, and on several."""

from __future__ import annotations

from dataclasses import dataclass

from tensoradapt import zoo
from tensoradapt.structure import Structure
from tests.rows import CONV1, CONV2, MATRICES, PRIME, SQUARE, TALL, THIN, WIDE, Row, rows

ALONE = [
    *rows(zoo.lotr(rank=3, alpha=12), lambda o, i: 3 * (o + i) + 9, [*MATRICES, CONV1, CONV2]),
    *rows(zoo.lotr(rank=1, alpha=0.3), lambda o, i: o + i + 1, THIN),
    *rows(zoo.fact_tt(rank=3, alpha=2), lambda o, i: 3 * (o + i) + 9, [*MATRICES, CONV2]),
    *rows(zoo.fact_tt(rank=2, width=2), lambda o, i: 8 + o * i // 4 * 4, [SQUARE, WIDE, CONV1]),
    *rows(zoo.fact_tk(rank=3, alpha=2), lambda o, i: 3 * (o + i) + 30, [*MATRICES, CONV2]),
    *rows(zoo.fact_tk(rank=2, width=2), lambda o, i: 16 + o * i // 4 * 2, [TALL, CONV1]),
    *rows(zoo.aurora(rank=3, alpha=2), lambda o, i: 3 * (o + i) + 30, MATRICES),
    *rows(zoo.aurora(rank=1), lambda o, i: o + i + 2, THIN),
    *rows(
        zoo.lorta(rank=3, alpha=12, heads=2),
        lambda o, i: 3 * (o + i // 2 + 2 + 1 + 1),
        [SQUARE, WIDE, CONV2],
    ),
    Row(
        zoo.lorta(rank=3, alpha=12, heads=1, use_rslora=True, init_scale=1), PRIME, 3 * (7 + 13 + 3)
    ),
    Row(zoo.lorta(rank=2, alpha=3, heads=9, head_axis="out"), TALL, 2 * (8 + 2 + 9 + 2)),
    Row(zoo.lorta(rank=2, heads=3, head_axis="attention", projections=1), (4, 9), 2 * 12),
    *rows(zoo.cara(rank=3, alpha=2, heads=4), lambda o, i: 3 * (i + 6 + o // 4), [SQUARE, WIDE]),
    *rows(zoo.cara(rank=2, heads=1), lambda o, i: 2 * (i + o + 3), [PRIME]),
    Row(zoo.cara(rank=3, alpha=2, part="rest"), SQUARE, 3 * (1 + 24 + 1) + 12),
    Row(zoo.cara(rank=3, alpha=2, part="rest"), (4, 12), 3 * (3 + 8 + 1) + 4),
    Row(zoo.cara(rank=3, alpha=2, part="rest"), (12, 4), 3 * (3 + 8 + 1) + 12),
    *rows(
        zoo.vblora(rank=3, num_vectors=7, vector_length=2, topk=3),
        lambda o, i: 14 + 7 * 3 * (o + i) // 2,
        [SQUARE, WIDE, CONV2],
        starts_at_zero=False,
    ),
    Row(zoo.vblora(rank=2, num_vectors=3, vector_length=1), PRIME, 3 + 120, False, False),
    *rows(zoo.unilora(rank=3, theta_d_length=11), lambda o, i: 11, MATRICES, False, False),
    *rows(zoo.unilora(rank=1, theta_d_length=2), lambda o, i: 2, THIN, False, False),
    Row(zoo.unilora(rank=3, theta_d_length=78, proj_seed=5), TALL, 78, False, False),
    *rows(zoo.tinylora(rank=3, u=5), lambda o, i: 5, [*MATRICES, CONV2], True),
    *rows(zoo.tinylora(rank=2, u=1, weight_tying=1), lambda o, i: 1, THIN, True),
    *rows(zoo.shared_vera(rank=5), lambda o, i: o + 5, [*MATRICES, CONV1, CONV2]),
    *rows(zoo.shared_vera(rank=16, d_initial=0.7), lambda o, i: o + 16, [WIDE, *THIN]),
    *rows(zoo.shared_dvora(rank=5), lambda o, i: 2 * o + 5, [*MATRICES, CONV1], True),
    *rows(zoo.shared_dvora(rank=2, detach_norm=False), lambda o, i: 2 * o + 2, [WIDE], True),
    *rows(
        zoo.shared_randlora(rank=3, alpha=7),
        lambda o, i: -(-min(o, i) // 3) * (3 + min(o, i)),
        [*MATRICES, CONV1],
    ),
    Row(zoo.shared_randlora(rank=4, alpha=7, pairing="paper"), WIDE, 2 * 12),
    *rows(zoo.superlora(rank=3, alpha=5, fold="concat"), lambda o, i: 3 * (o + i), MATRICES),
    *rows(zoo.superlora(rank=1, fold="concat"), lambda o, i: o + i, [*THIN, CONV2]),
    *rows(zoo.superlora(rank=None, alpha=3, fold="concat"), lambda o, i: o * i, [PRIME, CONV1]),
    *rows(zoo.superlora(rank=3, alpha=5), lambda o, i: 6 * 12, [SQUARE, WIDE, TALL]),
    Row(zoo.superlora(rank=2, order=4, seed=3, shuffle="weight"), WIDE, 4 * 2 * 4 + 16),
    Row(zoo.superlora(rank=2, order=3, core=False), (4, 6), 3 * 2 * 3),
    Row(zoo.superlora(rank=2, alpha=7, ratio=0.3), SQUARE, 2 * 2 * 7),
    Row(zoo.superlora(rank=2, order=3, ratio=0.1, projection="dense"), CONV1, 3 * 2 * 2 + 8),
    Row(zoo.superlora(rank=2, ratio=0.3, projection="tile", seed=9), TALL, 2 * 2 * 7),
    Row(zoo.superlora(rank=2, splits=2, split_factor=3, fold="concat"), SQUARE, 9 + 2 * 8),
    Row(zoo.superlora(rank=2, splits=3, split_factor=2, leading="low_rank"), WIDE, 8 + 8 + 12),
]


@dataclass(frozen=True)
class Together:
    """A structure on the weights of a group, with the number of trained parameters in all."""

    structure: Structure
    shapes: tuple[tuple[int, ...], ...]
    count: int
    starts_at_zero: bool = True

    def __str__(self) -> str:
        return f"{self.structure} on {len(self.shapes)} of {self.shapes[-1]}"


EQUAL = ((12, 8),) * 4
MIXED = ((8, 6), (6, 8), (12, 6), (8, 12))
HEADED = ((8, 12), (8, 12), (8, 6), (6, 12))
MLP = ((4, 4), (16, 4), (4, 16), (4, 4))
ROWS_OF = ((8, 6), (8, 3), (8, 10))
COLUMNS_OF = ((6, 8), (3, 8), (10, 8))

GROUPS = [
    Together(zoo.lotr(rank=3, alpha=5), EQUAL, 3 * 20 + 4 * 9),
    Together(zoo.lotr(rank=3, alpha=5), MIXED, 3 * 24 + 4 * 9),
    Together(zoo.fact_tt(rank=2, alpha=5), MLP, 2 * 8 + 10 * 4),
    Together(zoo.fact_tt(rank=2, alpha=5, width=2), MIXED, 2 * 4 + (12 + 12 + 18 + 24) * 4),
    Together(zoo.fact_tk(rank=3, alpha=5), MLP, 3 * 8 + 27 + 10 * 3),
    Together(zoo.aurora(rank=2, alpha=5), EQUAL, 2 * 20 + 8 + 4 * 2),
    Together(zoo.lorta(rank=3, alpha=5, heads=4), HEADED, 3 * (8 + 3 + 4 + 4 + 1)),
    Together(
        zoo.lorta(rank=3, alpha=5, heads=4, projections=2, head_axis="out"),
        EQUAL,
        3 * (8 + 3 + 4 + 2 + 2),
    ),
    Together(
        zoo.lorta(rank=2, alpha=5, heads=2, head_axis="attention"),
        ((8, 10), (4, 10), (4, 10), (10, 8)),
        2 * (10 + 4 + 2 + 4 + 1),
    ),
    Together(zoo.cara(rank=3, alpha=5, heads=4), EQUAL, 3 * (4 + 8 + 4 + 3 + 1)),
    Together(zoo.cara(rank=3, alpha=5, heads=6), MIXED, 3 * (4 + 12 + 6 + 2 + 1)),
    Together(zoo.cara(rank=3, alpha=5, part="rest"), MLP, 3 * (10 + 8 + 1) + 4 + 16 + 4),
    Together(
        zoo.vblora(rank=2, num_vectors=5, vector_length=2),
        MIXED,
        10 + 5 * 2 * (14 + 14 + 18 + 20) // 2,
        False,
    ),
    Together(zoo.unilora(rank=2, theta_d_length=29), MIXED, 29, False),
    Together(zoo.tinylora(rank=2, u=3), MIXED, 12),
    Together(zoo.tinylora(rank=2, u=3, weight_tying=0.5), MIXED, 6),
    Together(zoo.tinylora(rank=2, u=3, weight_tying=1), MIXED, 3),
    Together(zoo.shared_vera(rank=5), MIXED, 34 + 20),
    Together(zoo.shared_dvora(rank=5), MIXED, 68 + 20),
    Together(zoo.shared_randlora(rank=4, alpha=5), MIXED, 3 * 2 * 10 + 2 * 12),
    Together(zoo.superlora(rank=2, alpha=5), MIXED, 2 * 2 * (7 + 7 + 9 + 10)),
    Together(zoo.superlora(rank=2, alpha=5, groups=3), MIXED, 3 * 4 * 10),
    Together(zoo.superlora(rank=2, alpha=5, groups=3, order=3), MIXED, 3 * (6 * 5 + 8)),
    Together(zoo.superlora(rank=2, alpha=5, groups=2, order=5), EQUAL, 2 * (10 * 3 + 32)),
    Together(zoo.superlora(rank=2, alpha=5, groups=1, fold="pair"), EQUAL, 2 * (16 + 24)),
    Together(
        zoo.superlora(rank=2, alpha=5, groups="shape", fold="stack", order=3, identity=(1,)),
        EQUAL,
        2 * 20 + 4 * 4,
    ),
    Together(
        zoo.superlora(rank=2, alpha=5, groups="projection", fold="stack", order=3),
        EQUAL,
        2 * (2 * 22 + 8),
    ),
    Together(zoo.superlora(rank=2, alpha=5, groups=1, fold="concat"), ROWS_OF, 2 * (8 + 19)),
    Together(zoo.superlora(rank=2, alpha=5, groups=1, fold="concat"), COLUMNS_OF, 2 * (19 + 8)),
    Together(
        zoo.superlora(rank=2, alpha=5, groups=2, fold="concat", splits=2, split_factor=2),
        EQUAL,
        2 * (4 + 2 * (6 + 8)),
    ),
    Together(
        zoo.superlora(rank=2, alpha=5, groups=1, splits=2, split_factor=3), MIXED, 9 + 2 * 2 * 6
    ),
    Together(
        zoo.superlora(rank=1, alpha=5, groups=2, splits=2, order=3, shuffle="weight"),
        MIXED,
        2 * (2**3 + 3 * 3 + 1),
    ),
    Together(zoo.superlora(rank=2, alpha=5, groups=3, ratio=0.3), MIXED, 3 * 4 * 6),
    Together(zoo.superlora(rank=2, ratio=0.3, groups=3, projection="dense"), MIXED, 3 * 4 * 6),
    Together(
        zoo.superlora(rank=2, ratio=0.3, groups="shape", projection="tile", seed=4),
        (*MIXED, (8, 6)),
        2 * 2 * (6 + 4 + 5 + 6),
    ),
    Together(
        zoo.superlora(rank=2, alpha=5, groups=2, ratio=0.3, order=3, shuffle="group", seed=8),
        MIXED,
        2 * (6 * 4 + 8),
    ),
]
