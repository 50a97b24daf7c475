"""Rows: rotations of the base weight, spectra, sparse updates, factors of the base weight."""

from __future__ import annotations

from tensoradapt import zoo
from tests.rows import (
    CONV1,
    CONV2,
    CONVOLUTIONS,
    EVERY,
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

SPARSE = [
    *rows(zoo.shira(rank=2), lambda o, i: 2 * (o + i), [*MATRICES, CONV2]),
    *rows(zoo.shira(indices=(0,)), lambda o, i: 1, THIN),
    Row(zoo.shira(indices=(5, 90, 3, 44)), PRIME, 4),
    Row(zoo.supertuning(indices=(5, 90, 3, 44)), PRIME, 4),
    Row(zoo.supertuning(indices=(0, 35), rank=3, alpha=7), CONV2, 2 + 3 * (8 + 36)),
]

AFFINE = [
    *rows(zoo.glora(rank=3), lambda o, i: 6 * (o + i) + 3 * (i + 1) + 2, [*MATRICES, CONV2], True),
    *rows(
        zoo.glora(rank=1, config_A_B="vector", config_C="vector", config_D_E="vector"),
        lambda o, i: 2 * o + i + 2 * o,
        [*THIN, WIDE, CONV1],
        base_needed=True,
    ),
    *rows(
        zoo.glora(rank=1, config_A_B="constant", config_C="none", config_D_E="none"),
        lambda o, i: 2,
        [WIDE],
        base_needed=True,
    ),
    *rows(zoo.glora(rank=2, config_A_B="none"), lambda o, i: 2 * (i + 1) + 2, [TALL], True),
    *rows(zoo.glora_lycoris(rank=3, alpha=7), lambda o, i: 3 * (o + 3 * i), MATRICES, True),
    Row(zoo.glora_lycoris(rank=2, alpha=7, use_rslora=True), CONV2, 2 * (8 + 36 + 2 * 6), True),
    *rows(zoo.glora_lycoris(rank=1), lambda o, i: o + 3 * i, THIN, True),
    *rows(zoo.beft(), lambda o, i: o, EVERY),
]

DECOMPOSED = [
    *rows(zoo.deft(rank=3, alpha=7), lambda o, i: 3 * (o + i), [*MATRICES, CONV2], True),
    *rows(
        zoo.deft(rank=3, alpha=7, decomposition_method="qr"),
        lambda o, i: 3 * (o + i),
        [WIDE, TALL, CONV1],
        base_needed=True,
    ),
    *rows(zoo.deft(rank=1), lambda o, i: o + i, THIN, True),
    *rows(zoo.deft(rank=2, para=True), lambda o, i: 2 * o, [WIDE, CONV1], True, False),
    *rows(
        zoo.deft(rank=2, decomposition_method="qr", para=True),
        lambda o, i: 2 * o,
        [TALL],
        base_needed=True,
        starts_at_zero=False,
    ),
    *rows(zoo.peanut(rank=3, scaling=0.5), lambda o, i: 6 * o, [*MATRICES, CONV2], True),
    *rows(
        zoo.peanut(rank=3, depth=2, act_fn="silu"),
        lambda o, i: 6 * o + 4 * 9,
        [WIDE, CONV1],
        base_needed=True,
    ),
    *rows(zoo.peanut(rank=1, depth=1, act_fn="tanh"), lambda o, i: 2 * o + 2, THIN, True),
    *rows(zoo.osf(effective_rank=2), lambda o, i: (min(o, i) - 2) * (o + i + 1), MATRICES, True),
    *rows(zoo.osf(), lambda o, i: -(-min(o, i) // 2) * (o + i + 1), [PRIME, CONV1, CONV2], True),
    *rows(
        zoo.frod(sparse_rate=0.05),
        lambda o, i: i + i * i // 20,
        [*MATRICES, CONV1],
        base_needed=True,
        starts_at_zero=None,
    ),
    Row(zoo.frod(sparse_rate=0), (1, 1), 1, True, None),
    Row(zoo.frod(), (9, 1), 1, True, None),
    Row(zoo.frod(), (1, 9), 10, True, None),
    Row(zoo.frod(indices=(0, 100, 33)), PRIME, 13 + 3, True, None),
    Row(zoo.adamss(rank=6, num_subspaces=3, subspace_rank=2), SQUARE, 3 * 2 * (6 + 4), True),
    Row(zoo.adamss(rank=99, num_subspaces=3, subspace_rank=2), PRIME, 6 * 7 + 2 * 7, True),
    Row(zoo.adamss(rank=4, num_subspaces=2, with_bias=False), CONV1, 2 * 4 + 6, True),
    Row(
        zoo.adamss(rank=4, subspace_rank=3, clusters=(1, 0, 1, 1, 2, 1, 1)),
        PRIME,
        1 * (4 + 1) + 3 * (4 + 5) + 1 * (4 + 1),
        base_needed=True,
    ),
]

CHAINS = [
    *rows(zoo.flora(rank=3, alpha=7), lambda o, i: 9 + 3 * (o + i), MATRICES),
    *rows(zoo.flora(rank=1, alpha=7), lambda o, i: 1 + o + i, THIN),
    Row(zoo.flora(rank=3, alpha=7), CONV2, 9 * 3 * 2 + 3 * (8 + 6) + 9 + 4),
    Row(zoo.flora(rank=4, kernel_rank=1), CONV1, 16 + 4 * (6 + 4) + 3),
    Row(zoo.loretta(rank=2, alpha=7, tensor_rank=3), WIDE, 60 + 48, starts_at_zero=False),
    Row(
        zoo.loretta(rank=4, alpha=7, tensor_rank=2, shape_in=(4, 13), shape_out=(7, 2, 2)),
        PRIME,
        2 * 17 + 14 + 8 + 4,
        starts_at_zero=False,
    ),
    Row(zoo.loretta(rank=1, tensor_rank=2, order=2), (9, 1), 2 * 2 + 2 * 6, starts_at_zero=False),
    Row(zoo.quanta(), SQUARE, 36 + 36 + 16),
    Row(zoo.quanta(axes=2), SQUARE, 144),
    Row(zoo.quanta(shape=(2, 3, 3)), WIDE, 36 + 36 + 81),
    Row(zoo.quanta(shape=(3, 3, 2)), TALL, 81 + 36 + 36),
    Row(zoo.quanta(), PRIME, 169 + 169 + 1),
    Row(zoo.quanta(axes=4), CONV1, 4 + 4 + 9 + 16 + 36 + 36),
    Row(zoo.quanta(), (1, 1), 3),
]

BEGINNINGS = [
    Row(zoo.since_start(within=zoo.c3a(block_size=2)), WIDE, 72),
    Row(zoo.since_start(within=zoo.loretta(rank=2, tensor_rank=3)), WIDE, 60 + 48),
    Row(zoo.since_start(within=zoo.ia3()), CONV1, 6, True),
    Row(zoo.since_start(within=zoo.loha(rank=2), leaves=("B1", "A2")), PRIME, 80),
    Row(zoo.since_start(within=zoo.adalora(rank=2, alpha=3), leaves=("A",)), TALL, 54),
]

ROWS_3 = [*ROTATIONS, *SPECTRAL, *SPARSE, *AFFINE, *DECOMPOSED, *CHAINS, *BEGINNINGS]
