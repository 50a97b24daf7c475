"""Rows: rotations of the base weight, spectra, sparse updates, factors of the base weight."""

from __future__ import annotations

from tensoradapt import zoo
from tests.rows import (
    CONV1,
    CONV2,
    CONVOLUTIONS,
    MATRICES,
    PRIME,
    SQUARE,
    TALL,
    THIN,
    WIDE,
    Row,
    rows,
)

ROTATIONS = [
    *rows(zoo.oft(oft_block_size=4), lambda o, i: i * 3 // 2, [SQUARE, TALL, CONV1, CONV2], True),
    *rows(
        zoo.oft(oft_block_size=3, use_cayley_neumann=False),
        lambda o, i: i,
        [SQUARE, WIDE, CONV1],
        base_needed=True,
    ),
    Row(zoo.oft(oft_block_size=13, num_cayley_neumann_terms=3), PRIME, 13 * 6, True),
    Row(zoo.oft(oft_block_size=2, num_cayley_neumann_terms=2), (3, 2), 1, True),
    Row(zoo.oft(oft_block_size=6, block_share=True, coft=True, eps=0.5), WIDE, 15, True),
    Row(zoo.oft(oft_block_size=6, coft=True, eps=0.5), WIDE, 45, True),
    Row(zoo.oft(oft_block_size=6, coft=True, eps=100), WIDE, 45, True),
    Row(zoo.oft(oft_block_size=9, side="output"), (18, 5), 2 * 36, True),
    Row(zoo.oft(oft_block_size=9, side="output", block_share=True), (18, 5), 36, True),
    *rows(
        zoo.oft(
            oft_block_size=2,
            side="output",
            stored="square",
            use_cayley_neumann=False,
            constraint=0.3,
            rescaled=True,
        ),
        lambda o, i: 2 * o + o,
        [SQUARE, WIDE, TALL, CONV2],
        base_needed=True,
    ),
    *rows(zoo.boft(boft_block_size=4), lambda o, i: 4 * i + o, [SQUARE, TALL, CONV1], True),
    Row(zoo.boft(boft_block_size=13), PRIME, 13 * 13 + 7, True),
    Row(zoo.boft(boft_block_size=2, boft_n_butterfly_factor=2), SQUARE, 2 * 12 * 2 + 12, True),
    Row(zoo.boft(boft_block_size=2, boft_n_butterfly_factor=3), (5, 16), 3 * 16 * 2 + 5, True),
    Row(zoo.boft(boft_block_size=6, boft_n_butterfly_factor=2), (5, 3, 4), 2 * 12 * 6 + 5, True),
    Row(
        zoo.boft(
            boft_block_size=4, boft_n_butterfly_factor=3, convention="lycoris", rescaled=False
        ),
        (16, 5),
        3 * 16 * 4,
        base_needed=True,
    ),
    Row(
        zoo.boft(
            boft_block_size=2, boft_n_butterfly_factor=2, convention="lycoris", constraint=0.4
        ),
        (12, 3, 2),
        2 * 12 * 2 + 12,
        base_needed=True,
    ),
    *rows(zoo.hra(rank=3), lambda o, i: 3 * i, [SQUARE, WIDE, TALL, CONV1], True, False),
    *rows(zoo.hra(rank=4), lambda o, i: 4 * i, [PRIME, CONV2], True, None),
    *rows(zoo.hra(rank=1), lambda o, i: i, [*THIN], True, False),
    *rows(
        zoo.hra(rank=3, apply_GS=True), lambda o, i: 3 * i, [SQUARE, WIDE, TALL, CONV1], True, False
    ),
    *rows(zoo.psoft(rank=4), lambda o, i: 6 + 8, [SQUARE, WIDE, TALL, PRIME, CONV2], True),
    Row(zoo.psoft(rank=3, psoft_mag_a=False, psoft_mag_b=False), WIDE, 3, True),
    Row(zoo.psoft(rank=3, psoft_orth=False, psoft_mag_a=False), TALL, 9 + 3, True),
    Row(zoo.psoft(rank=3, psoft_orth=False, psoft_mag_b=False), CONV1, 9 + 3, True),
    Row(zoo.psoft(rank=3, use_cayley_neumann=True), WIDE, 3 + 6, True),
    Row(
        zoo.psoft(
            rank=4,
            use_cayley_neumann=True,
            num_cayley_neumann_terms=7,
            cayley_neumann_eps=0.9,
        ),
        TALL,
        6 + 8,
        base_needed=True,
    ),
    *rows(zoo.road(group_size=2), lambda o, i: o, [SQUARE, WIDE, CONV1, CONV2], True),
    *rows(zoo.road(group_size=6), lambda o, i: o, [SQUARE, TALL], True),
    *rows(zoo.road(variant="road_2", group_size=4), lambda o, i: 2 * o, [SQUARE, WIDE], True),
    *rows(zoo.road(variant="road_4", group_size=6), lambda o, i: 4 * o, [TALL, CONV1], True),
]

SPECTRAL = [
    *rows(zoo.fourierft(n_frequency=5), lambda o, i: 5, [*MATRICES, CONV2], False, False),
    *rows(zoo.fourierft(n_frequency=1, scaling=3, start="zeros"), lambda o, i: 1, THIN),
    Row(zoo.fourierft(indices=(0, 7, 90), start="zeros"), PRIME, 3),
    *rows(zoo.waveft(n_frequency=9), lambda o, i: 9, [*MATRICES, *CONVOLUTIONS]),
    *rows(zoo.waveft(n_frequency=1, scaling=3), lambda o, i: 1, THIN),
    Row(zoo.waveft(indices=(0, 3, 90, 55), start="normal"), PRIME, 4, False, False),
    *rows(zoo.waveft(n_frequency=9, scaling=3, use_idwt=False), lambda o, i: 9, [WIDE, CONV1]),
    *rows(zoo.c3a(block_size=2), lambda o, i: o * i // 2, [SQUARE, WIDE, CONV1], False, False),
    *rows(zoo.c3a(block_size=6, start="zeros"), lambda o, i: o * i // 6, [SQUARE, CONV1]),
    *rows(zoo.c3a(block_size=1, start="gaussian"), lambda o, i: o * i, THIN, False, False),
    Row(zoo.c3a(block_size=12, start="kaiming_uniform"), SQUARE, 12, False, False),
]

ROWS_3 = [*ROTATIONS, *SPECTRAL]
