"""The table of methods × shapes that the laws run over: add a row, not a file.

A row is a structure on a weight's shape with the number of trained parameters that the paper
counts. Scales differ from 1 wherever the method has one.
"""

from __future__ import annotations

from tensoradapt import zoo
from tests.rows import (
    CONV1,
    CONV2,
    CONVOLUTIONS,
    EVERY,
    MATRICES,
    ONE,
    POINTWISE,
    PRIME,
    SQUARE,
    TALL,
    THIN,
    WIDE,
    Row,
    rows,
)
from tests.tables_2 import ROWS_2
from tests.tables_3 import ROWS_3
from tests.tables_shared import ALONE

__all__ = ["ROWS", "Row"]

LOW_RANK = [
    *rows(zoo.lora(rank=3, alpha=12), lambda o, i: 3 * (o + i), MATRICES + CONVOLUTIONS),
    *rows(zoo.lora(rank=3, alpha=12, use_rslora=True), lambda o, i: 3 * (o + i), [WIDE, CONV2]),
    *rows(zoo.lora(rank=7), lambda o, i: 7 * (o + i), [PRIME]),
    *rows(zoo.lora(rank=1, alpha=0.3), lambda o, i: o + i, THIN),
    *rows(zoo.vera(rank=5), lambda o, i: o + 5, EVERY),
    *rows(zoo.vera(rank=16, d_initial=0.7), lambda o, i: o + 16, [WIDE, ONE]),
    *rows(zoo.lora_xs(rank=3, alpha=12), lambda o, i: 9, MATRICES + CONVOLUTIONS, True, False),
    *rows(zoo.lora_xs(rank=1, alpha=5, start_std=0), lambda o, i: 1, [*THIN, PRIME], True),
    *rows(zoo.lora_xs(rank=2, singular_values="right"), lambda o, i: 4, [TALL], True, False),
    *rows(zoo.lora_xs(rank=2, singular_values="split", start_std=0), lambda o, i: 4, [WIDE], True),
]

DORA = [
    *rows(
        zoo.dora(within=zoo.lora(rank=3, alpha=12)),
        lambda o, i: 3 * (o + i) + o,
        MATRICES + CONVOLUTIONS,
        base_needed=True,
    ),
    *rows(
        zoo.dora(within=zoo.lora(rank=1, alpha=2), detach_norm=False),
        lambda o, i: 2 * o + i,
        [*THIN, WIDE],
        base_needed=True,
    ),
    *rows(zoo.dora(within=zoo.loha(rank=2, alpha=5)), lambda o, i: 5 * o + 4 * i, [TALL], True),
    *rows(zoo.dora(within=zoo.vera(rank=6)), lambda o, i: 2 * o + 6, [PRIME], True),
    *rows(
        zoo.dora(within=zoo.sine_lora(rank=2, alpha=3, frequency=20)),
        lambda o, i: 3 * o + 2 * i,
        [WIDE],
        base_needed=True,
    ),
]

HADAMARD = [
    *rows(zoo.loha(rank=3, alpha=12), lambda o, i: 6 * (o + i), MATRICES + CONVOLUTIONS),
    *rows(zoo.loha(rank=2, alpha=5, start="lycoris"), lambda o, i: 4 * (o + i), [WIDE, CONV2]),
    *rows(zoo.loha(rank=1, alpha=0.3), lambda o, i: 2 * (o + i), THIN),
    *rows(
        zoo.loha(rank=3, alpha=12, use_effective_conv2d=True),
        lambda o, i: 2 * (3 * (8 + 6) + 9 * 3 * 2),
        [CONV2],
    ),
    *rows(
        zoo.loha(rank=2, alpha=5, use_effective_conv2d=True, start="lycoris"),
        lambda o, i: 2 * (2 * (6 + 4) + 4 * 3),
        [CONV1],
    ),
    *rows(
        zoo.loha(rank=2, alpha=5, use_effective_conv2d=True),
        lambda o, i: 4 * (o + i),
        [POINTWISE, TALL],
    ),
    *rows(zoo.hira(rank=3), lambda o, i: 3 * (o + i), MATRICES + CONVOLUTIONS, True),
    *rows(zoo.hira(rank=1), lambda o, i: o + i, THIN, True),
    *rows(zoo.hut(rank=3), lambda o, i: 3 * (o + i), [*MATRICES, CONV2], True),
    *rows(
        zoo.hut(rank=3, reading="multiply"),
        lambda o, i: 3 * (o + i),
        MATRICES + CONVOLUTIONS,
        base_needed=True,
    ),
    *rows(zoo.hut(rank=1, reading="multiply"), lambda o, i: o + i, [*THIN, WIDE], True),
]

KRONECKER = [
    Row(zoo.lokr(rank=1, alpha=3), (12, 12), 3 * 3 + 1 * (4 + 4)),
    Row(zoo.lokr(rank=2, alpha=3), (12, 12), 3 * 3 + 4 * 4),
    Row(zoo.lokr(rank=3, alpha=5), (12, 18), 3 * 3 + 4 * 6),
    Row(zoo.lokr(rank=2, alpha=3, convention="lycoris"), (12, 12), 3 * 3 + 4 * 4),
    Row(zoo.lokr(rank=2, alpha=3, convention="lycoris"), (8, 18), 2 * 3 + 2 * (4 + 6)),
    Row(zoo.lokr(rank=2, alpha=3), (18, 8), 3 * 2 + 2 * (6 + 4)),
    Row(zoo.lokr(rank=2, alpha=7), (7, 13), 1 + 2 * (7 + 13)),
    Row(zoo.lokr(rank=3, alpha=12), (1, 1), 1 + 1),
    Row(zoo.lokr(rank=1, alpha=12), (9, 1), 3 * 1 + 1 * (3 + 1)),
    Row(
        zoo.lokr(rank=2, alpha=5, decompose_both=True, decompose_factor=6),
        (24, 36),
        2 * (6 + 6) + 2 * (4 + 6),
    ),
    Row(
        zoo.lokr(rank=1, alpha=5, decompose_both=True, decompose_factor=6, convention="lycoris"),
        (24, 36),
        1 * (4 + 6) + 1 * (6 + 6),
    ),
    Row(zoo.lokr(rank=1, alpha=5, full_matrix=True), (12, 18), 3 * 3 + 4 * 6),
    Row(zoo.lokr(rank=1, alpha=5, full_matrix=True, convention="lycoris"), (12, 18), 3 * 3 + 4 * 6),
    Row(zoo.lokr(rank=1, alpha=5, unbalanced_factorization=True), (12, 18), 4 * 3 + 1 * (3 + 6)),
    Row(zoo.lokr(rank=1, alpha=3), CONV2, 2 * 2 + 1 * (4 + 3 * 6)),
    Row(zoo.lokr(rank=8, alpha=3), CONV2, 2 * 2 + 4 * 3 * 6),
    Row(zoo.lokr(rank=1, alpha=3), CONV1, 2 * 2 + 1 * (3 + 2 * 3)),
    Row(zoo.lokr(rank=1, alpha=3), POINTWISE, 2 * 2 + 1 * (3 + 2)),
    Row(
        zoo.lokr(rank=2, alpha=3, use_effective_conv2d=True),
        (12, 10, 3, 2),
        3 * 2 + 2 * (4 + 5) + 4 * 6,
    ),
    Row(
        zoo.lokr(rank=2, alpha=3, use_effective_conv2d=True, convention="lycoris"),
        (12, 10, 3),
        3 * 2 + 2 * (4 + 5) + 4 * 3,
    ),
    *rows(zoo.kronecker(rank=2, alpha=5), lambda o, i: o + i, [SQUARE, WIDE, TALL, CONV1, CONV2]),
    *rows(zoo.kronecker(rank=4, alpha=6), lambda o, i: o + i, [SQUARE]),
    *rows(zoo.kronecker(rank=1, alpha=6), lambda o, i: o + i, [PRIME, *THIN]),
]

STRUCTURED = [
    *rows(zoo.circulant(alpha=3), lambda o, i: 2 * max(o, i), EVERY),
    *rows(zoo.circulant(alpha=3, form="product"), lambda o, i: 2 * max(o, i), (*MATRICES, CONV2)),
    *rows(zoo.circulant(alpha=3, form="single"), lambda o, i: max(o, i), [WIDE, TALL]),
    *rows(zoo.circulant(alpha=3, form="gated"), lambda o, i: max(o, i) + 1, [WIDE, TALL]),
    *rows(zoo.symmetric_toeplitz(alpha=3), lambda o, i: 2 * max(o, i), EVERY),
    *rows(
        zoo.symmetric_toeplitz(alpha=3, form="elementwise"),
        lambda o, i: 2 * max(o, i),
        MATRICES,
    ),
    *rows(zoo.symmetric_toeplitz(form="single"), lambda o, i: max(o, i), [PRIME]),
    *rows(zoo.toeplitz(alpha=3), lambda o, i: 2 * (o + i - 1), EVERY),
    *rows(
        zoo.toeplitz(alpha=3, form="product"),
        lambda o, i: o + i + 2 * max(o, i) - 2,
        MATRICES,
    ),
    *rows(zoo.toeplitz(alpha=3, form="gated"), lambda o, i: o + i, [PRIME]),
    *rows(zoo.ldr(rank=1, alpha=3), lambda o, i: 2 * max(o, i), EVERY),
    *rows(zoo.ldr(rank=3, alpha=0.5), lambda o, i: 6 * max(o, i), [*MATRICES, CONV2]),
]

TENSORS = [
    Row(zoo.tt_lora(rank=2, alpha=3), (12, 12), 2 * (2 + 2 * 2 + 2 * 3 + 2 * 2 + 2 * 2 + 3)),
    Row(zoo.tt_lora(rank=3, alpha=3, order=4), (8, 18), 2 * 2 + 2 * 4 * 3 + 3 * 3 * 3 + 3 * 6),
    Row(zoo.tt_lora(rank=3, alpha=3, order=4), (18, 8), 3 * 3 + 3 * 6 * 3 + 3 * 2 * 3 + 3 * 4),
    Row(zoo.tt_lora(rank=3, alpha=3, order=2), (7, 13), 3 * (7 + 13)),
    Row(zoo.tt_lora(rank=3, alpha=3, order=5), (7, 13), 1 + 1 + 7 * 3 + 3 * 3 + 3 * 13),
    Row(zoo.tt_lora(rank=1, alpha=3), (1, 1), 6),
    Row(zoo.tt_lora(rank=1, alpha=3), (9, 1), 1 + 3 + 3 + 1 + 1 + 1),
    Row(zoo.tt_lora(rank=2, alpha=3, order=4), CONV2, 2 * (2 + 2 * 4 + 2 * 6 + 6)),
    Row(zoo.tt_lora(rank=3, alpha=3, shape=(9, 4, 4)), (12, 12), 3 * (9 + 3 * 4 + 4)),
    Row(zoo.tucker(rank=2, alpha=3), (12, 12), 16 + 2 * (3 + 4 + 3 + 4)),
    Row(zoo.tucker(rank=3, alpha=4, order=2), (8, 18), 9 + 3 * (8 + 18)),
    Row(zoo.tucker(rank=3, alpha=4, order=3), (18, 8), 27 + 3 * (3 + 6 + 8)),
    Row(zoo.tucker(rank=3, alpha=4), (7, 13), 9 + 1 + 3 * 7 + 1 + 3 * 13),
    Row(zoo.tucker(rank=4, alpha=5, order=None), CONV2, 4 * 4 * 3 * 2 + 4 * (8 + 6) + 9 + 4),
    Row(zoo.tucker(rank=2, alpha=5, shape=(3, 6, 8)), (12, 12), 8 + 2 * 17),
    Row(zoo.tucker(rank=1, alpha=5), (1, 1), 5),
    Row(zoo.cp(rank=3, alpha=4), (12, 12), 3 * (3 + 4 + 3 + 4)),
    Row(zoo.cp(rank=3, alpha=4, order=2), (8, 18), 3 * (8 + 18)),
    Row(zoo.cp(rank=3, alpha=4, order=3), (18, 8), 3 * (3 + 6 + 8)),
    Row(zoo.cp(rank=3, alpha=4), (7, 13), 3 * (1 + 7 + 1 + 13)),
    Row(zoo.cp(rank=3, alpha=4, order=None), CONV2, 3 * (8 + 6 + 3 + 2)),
    Row(zoo.cp(rank=2, alpha=4, shape=(16, 9)), (12, 12), 2 * (16 + 9)),
    Row(zoo.cp(rank=1, alpha=4), (1, 9), 1 + 1 + 3 + 3),
]

NONLINEAR = [
    *rows(
        zoo.sine_lora(rank=3, alpha=12, frequency=20),
        lambda o, i: 3 * (o + i),
        MATRICES + CONVOLUTIONS,
    ),
    *rows(zoo.sine_lora(rank=1, alpha=2, gain=0.5), lambda o, i: o + i, THIN),
    *rows(
        zoo.sine_lora(alpha=2, frequency=5, within=zoo.loha(rank=2, alpha=3)),
        lambda o, i: 4 * (o + i),
        [WIDE],
    ),
]

ROWS = [
    *LOW_RANK,
    *DORA,
    *HADAMARD,
    *KRONECKER,
    *STRUCTURED,
    *TENSORS,
    *NONLINEAR,
    *ROWS_2,
    *ROWS_3,
    *ALONE,
]
