"""The rows of the methods on one weight beyond the first: scalings, blocks, rotations, spectra."""

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

HADAMARD_2 = [
    *rows(zoo.loha(rank=2, alpha=5, use_tanh=True), lambda o, i: 4 * (o + i), [WIDE, CONV2]),
    *rows(zoo.loha(rank=2, alpha=5, personalized=True), lambda o, i: 4 * (o + i), [TALL, CONV1]),
    *rows(
        zoo.loha(rank=2, use_tanh=True, personalized=True, start="lycoris"),
        lambda o, i: 4 * (o + i),
        [PRIME],
    ),
    Row(
        zoo.loha(rank=2, alpha=5, use_effective_conv2d=True, personalized=True, use_tanh=True),
        CONV2,
        2 * (2 * (8 + 6) + 4 * 6),
    ),
    *rows(zoo.abba(rank=3, alpha=5), lambda o, i: 6 * (o + i), MATRICES + CONVOLUTIONS, True),
    *rows(zoo.abba(rank=1, first_rank=3), lambda o, i: 4 * (o + i), [WIDE, CONV1], True),
    *rows(zoo.abba(rank=1, alpha=0.3), lambda o, i: 2 * (o + i), THIN, True),
]

DIAGONAL = [
    *rows(zoo.ia3(), lambda o, i: o, EVERY, True),
    *rows(zoo.ia3(parametrization="offset"), lambda o, i: o, [WIDE, CONV2], True),
    *rows(zoo.ia3(is_feedforward=True), lambda o, i: i, MATRICES + THIN, True),
    Row(zoo.ia3(is_feedforward=True), CONV2, 6, True),
    Row(zoo.ia3(is_feedforward=True, parametrization="offset"), CONV1, 4, True),
    *rows(zoo.hadamard_adapter(), lambda o, i: 2 * o, EVERY, True),
    *rows(zoo.hadamard_adapter(side="input"), lambda o, i: 2 * i, MATRICES + THIN, True),
    Row(zoo.hadamard_adapter(side="input"), CONV2, 12, True),
    *rows(zoo.delora(rank=3), lambda o, i: 3 * (o + i) + 1, MATRICES + CONVOLUTIONS, True),
    *rows(zoo.delora(rank=1, delora_lambda=0.7), lambda o, i: o + i + 1, THIN, True),
    *rows(
        zoo.kasa(rank=3, alpha=12),
        lambda o, i: 3 * (o + i) + 3,
        MATRICES + CONVOLUTIONS,
        base_needed=True,
        starts_at_zero=False,
    ),
    *rows(zoo.kasa(rank=2, truncate_base=False), lambda o, i: 2 * (o + i) + 2, [WIDE, CONV1]),
]

LOW_RANK_2 = [
    *rows(
        zoo.dora(within=zoo.lora(rank=2, alpha=5), wd_on_out=False),
        lambda o, i: 2 * (o + i) + i,
        [WIDE, TALL],
        base_needed=True,
    ),
    Row(zoo.dora(within=zoo.loha(rank=2), wd_on_out=False, detach_norm=False), CONV2, 182, True),
    *rows(zoo.lora(rank=2, alpha=7, start="gaussian"), lambda o, i: 2 * (o + i), [WIDE, CONV1]),
    *rows(zoo.lora(rank=2, start="normal"), lambda o, i: 2 * (o + i), [TALL]),
    *rows(
        zoo.lora(rank=3, alpha=7, start="pissa"), lambda o, i: 3 * (o + i), [*MATRICES, CONV2], True
    ),
    *rows(zoo.lora(rank=1, alpha=-2, start="pissa"), lambda o, i: o + i, THIN, True),
    *rows(
        zoo.lora(rank=3, alpha=7, start="olora"), lambda o, i: 3 * (o + i), [*MATRICES, CONV2], True
    ),
    *rows(zoo.lora(rank=3, alpha=7, start="mica"), lambda o, i: 3 * i, [*MATRICES, CONV2], True),
    *rows(
        zoo.lora(rank=4, alpha=7, start="orthogonal"),
        lambda o, i: 4 * (o + i),
        [*MATRICES, CONV2],
        starts_at_zero=None,
    ),
    *rows(zoo.lora(rank=2, alpha=7, start="given"), lambda o, i: 2 * (o + i), [WIDE, CONV1]),
    *rows(
        zoo.lora(rank=3, alpha=7, use_effective_conv2d=True),
        lambda o, i: 3 * (8 + 6) + 9 * 6,
        [CONV2],
    ),
    *rows(
        zoo.lora(rank=2, alpha=7, use_rslora=True, use_effective_conv2d=True),
        lambda o, i: 2 * (6 + 4) + 4 * (i // 4) * (i > 4),
        [CONV1, POINTWISE],
    ),
    *rows(zoo.dvora(rank=5), lambda o, i: 2 * o + 5, EVERY, True),
    *rows(
        zoo.dvora(rank=9, d_initial=0.3, detach_norm=False), lambda o, i: 2 * o + 9, [WIDE], True
    ),
]

MASKED = [
    *rows(zoo.adalora(rank=3, alpha=7), lambda o, i: 3 * (o + i) + 3, MATRICES + CONVOLUTIONS),
    *rows(zoo.adalora(rank=1, orth_reg_weight=0), lambda o, i: o + i + 1, THIN),
    *rows(
        zoo.lora_squared(rank=3, alpha=7, width=4),
        lambda o, i: 4 * (o + i) + 2 * 4 * 3 + 3,
        EVERY,
    ),
    *rows(
        zoo.lora_squared(rank=9, width=2, orth_reg_weight=0),
        lambda o, i: 2 * (o + i) + 2 * 2 * 9 + 9,
        [WIDE],
    ),
    *rows(
        zoo.dora_dynamic(rank=3, alpha=7),
        lambda o, i: 3 * (o + i) + 3,
        MATRICES + CONVOLUTIONS,
    ),
    *rows(zoo.dora_dynamic(rank=1, variance_weight=0), lambda o, i: o + i + 1, THIN),
    *rows(zoo.tlora(rank=3, alpha=7), lambda o, i: 3 * (o + i) + 3, MATRICES + CONVOLUTIONS, True),
    *rows(zoo.tlora(rank=1, alpha=7, sig_type="last"), lambda o, i: o + i + 1, THIN, True),
    *rows(zoo.tlora(rank=2, sig_type="middle"), lambda o, i: 2 * (o + i) + 2, [WIDE], True),
    *rows(zoo.dylora(rank=3, alpha=7), lambda o, i: 3 * (o + i), MATRICES + CONVOLUTIONS),
    *rows(zoo.dylora(rank=1, alpha=7), lambda o, i: o + i, THIN),
    *rows(zoo.dylora(rank=4, alpha=7, frozen_below=True), lambda o, i: 4 * (o + i), [TALL, CONV1]),
]

PROJECTED = [
    *rows(zoo.lora_mini(rank=3, alpha=7, a=5, b=4), lambda o, i: 3 * (5 + 4), EVERY),
    *rows(zoo.lora_mini(rank=2, a=6), lambda o, i: 24, [WIDE]),
    *rows(zoo.pvera(rank=5), lambda o, i: o + 10, EVERY),
    *rows(zoo.pvera(rank=16, d_initial=0.7), lambda o, i: o + 32, [WIDE, ONE]),
    *rows(
        zoo.randlora(rank=3, alpha=7),
        lambda o, i: -(-min(o, i) // 3) * (3 + min(o, i)),
        EVERY,
    ),
    *rows(
        zoo.randlora(rank=4, alpha=7, pairing="paper"),
        lambda o, i: -(-min(o, i) // 4) * (4 + min(o, i)),
        EVERY,
    ),
    *rows(
        zoo.qa_lora(rank=3, alpha=7, qalora_group_size=2),
        lambda o, i: 3 * (o + i // 2),
        [SQUARE, WIDE, TALL, *CONVOLUTIONS],
    ),
    *rows(zoo.qa_lora(rank=2, qalora_group_size=13), lambda o, i: 2 * (o + 1), [PRIME]),
    *rows(zoo.qa_lora(rank=2, qalora_group_size=1), lambda o, i: 2 * (o + i), [ONE]),
]

BLOCKS = [
    *rows(
        zoo.melora(rank=2, alpha=7), lambda o, i: 2 * (o + i), [SQUARE, WIDE, TALL, CONV1, CONV2]
    ),
    *rows(zoo.melora(rank=2, alpha=7, blocks=1), lambda o, i: 2 * (o + i), [PRIME, *THIN]),
    *rows(zoo.melora(rank=3, alpha=7, blocks=4), lambda o, i: 3 * (o + i), [SQUARE]),
    *rows(
        zoo.gralora(rank=4, alpha=7), lambda o, i: 4 * (o + i), [SQUARE, WIDE, TALL, CONV1, CONV2]
    ),
    *rows(zoo.gralora(rank=3, alpha=7, gralora_k=1), lambda o, i: 3 * (o + i), [PRIME, *THIN]),
    *rows(
        zoo.gralora(rank=6, alpha=7, gralora_k=3, hybrid_r=2), lambda o, i: 8 * (o + i), [SQUARE]
    ),
    *rows(
        zoo.bd_lora(rank=4, alpha=7, nblocks=2),
        lambda o, i: 4 * (o + i // 2),
        [SQUARE, WIDE, TALL, CONV1, CONV2],
    ),
    *rows(
        zoo.bd_lora(rank=4, alpha=7, nblocks=2, block_diagonal="b"),
        lambda o, i: 4 * (o // 2 + i),
        [SQUARE, WIDE, TALL, CONV1],
    ),
    *rows(zoo.bd_lora(rank=2, alpha=7), lambda o, i: 2 * (o + i), [PRIME, *THIN]),
    *rows(
        zoo.monarch(rank=4, blocks=2), lambda o, i: 4 * (o + i), [SQUARE, WIDE, TALL, CONV1, CONV2]
    ),
    *rows(zoo.monarch(rank=3, blocks=2), lambda o, i: 3 * (o + i), [WIDE, TALL]),
    *rows(zoo.monarch(rank=1, blocks=4), lambda o, i: o + i, [SQUARE]),
    *rows(zoo.monarch(rank=2, blocks=1), lambda o, i: 2 * (o + i), [PRIME, *THIN]),
    Row(zoo.btt(rank=2, alpha=7), (12, 18), 2 * 3 * 6 * (3 + 4)),
    Row(zoo.btt(alpha=7), (18, 8), 3 * 4 * (2 + 6)),
    Row(zoo.btt(rank=2, alpha=7), PRIME, 2 * 13 * (1 + 7)),
    Row(zoo.btt(rank=3), (1, 1), 6),
    Row(zoo.btt(rank=2, alpha=7, row_sizes=(4, 2), column_sizes=(6, 3)), WIDE, 2 * 4 * 3 * (6 + 2)),
    Row(
        zoo.btt(rank=2, alpha=7, cores=3),
        (12, 18),
        2 * 2 * (2 * 3 * 3) + 4 * (2 * 2) * (3 * 3) + 2 * (2 * 2 * 3) * 3,
    ),
    Row(zoo.btt(rank=2, alpha=7), CONV2, 2 * 2 * 6 * (6 + 4)),
    *rows(zoo.miss(rank=3), lambda o, i: 3 * o, MATRICES + CONVOLUTIONS),
    *rows(zoo.miss(rank=1), lambda o, i: o, THIN),
    *rows(zoo.miss(rank=5, variant="mini", mini_r=2), lambda o, i: 10, [SQUARE, WIDE, TALL, CONV1]),
    *rows(zoo.miss(rank=2, variant="bat"), lambda o, i: 2 * o, [SQUARE, WIDE, TALL, CONV2], True),
    *rows(zoo.miss(rank=1, variant="bat"), lambda o, i: o, [PRIME, *THIN], True),
    Row(zoo.krona(alpha=7), (12, 18), 3 * 3 + 4 * 6),
    Row(zoo.krona(alpha=7, start="left", decompose_factor=4), (24, 16), 4 * 4 + 6 * 4),
    Row(zoo.krona(alpha=7), PRIME, 1 + 7 * 13),
    Row(zoo.krona(), (9, 1), 3 + 3),
    Row(zoo.krona(), CONV2, 2 * 6 + 4 * 6),
]

ROWS_2 = [*HADAMARD_2, *DIAGONAL, *LOW_RANK_2, *MASKED, *PROJECTED, *BLOCKS]
