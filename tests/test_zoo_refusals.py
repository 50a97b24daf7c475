"""What the methods of the zoo refuse: with the setting, the shape, the numbers and a way out."""

from __future__ import annotations

import pytest

from tensoradapt import zoo
from tensoradapt.errors import StructureError


@pytest.mark.parametrize(
    ("structure", "shape", "against", "remedy"),
    [
        (zoo.lora(rank=3, start="orthogonal"), (9, 9), "must be even", "lora(rank=4, start="),
        (zoo.lora(start="svd"), (9, 9), "'kaiming', 'gaussian'", "lora(start='kaiming')"),
        (
            zoo.lora(rank=2, start="pissa", use_effective_conv2d=True),
            (4, 4, 3),
            "three factors",
            "lora(use_effective_conv2d=True)",
        ),
        (zoo.abba(rank=2, first_rank=9), (4, 6), "of 4 × 6, 4", "abba(first_rank=4)"),
        (zoo.kasa(rank=4), (4, 6), "a part of a matrix of 4 × 6 is 3", "kasa(rank=3)"),
        (zoo.ia3(parametrization="log"), (4, 6), "'multiplier', 'offset'", "ia3(parametrization="),
        (zoo.hadamard_adapter(side="both"), (4, 6), "'output', 'input'", "hadamard_adapter(side="),
        (zoo.delora(delora_lambda=0), (9, 9), "other than zero", "delora(delora_lambda=15.0)"),
        (zoo.adalora(rank=3, alpha="x"), (4, 6), "finite number", "adalora(alpha=16)"),
        (zoo.adalora(rank=3, orth_reg_weight="x"), (4, 6), "finite number", "adalora(orth_reg"),
        (zoo.tlora(rank=2, sig_type="first"), (4, 6), "'principal', 'last'", "tlora(sig_type="),
        (zoo.lora_mini(a=0), (4, 6), "a must be an integer", "lora_mini(a=1)"),
        (zoo.randlora(pairing="ideal"), (4, 6), "'peft', 'paper'", "randlora(pairing='peft')"),
        (
            zoo.qa_lora(qalora_group_size=4),
            (8, 6),
            "divide the columns of the weight, 6 = 2·3",
            "qa_lora(qalora_group_size=3)",
        ),
        (zoo.melora(blocks=4), (12, 6), "in is 6 = 2·3", "melora(blocks=3)"),
        (zoo.gralora(rank=3), (12, 6), "rank is 3 = 3", "gralora(gralora_k=1)"),
        (zoo.bd_lora(nblocks=5, block_diagonal="b"), (12, 6), "out is 12 = 2·2·3", "bd_lora("),
        (zoo.monarch(blocks=4), (12, 6), "in is 6 = 2·3", "monarch(blocks=3)"),
        (zoo.btt(row_sizes=(3, 3)), (12, 6), "product is 12 = 2·2·3", "btt(row_sizes=(3, 4))"),
        (zoo.btt(cores=1), (12, 6), "an integer of 2 or more", "btt(cores=2)"),
        (zoo.miss(rank=7), (12, 6), "matrix is 12 × 6", "miss(rank=6)"),
        (zoo.miss(rank=4, variant="bat"), (12, 6), "in is 6 = 2·3", "miss(rank=3)"),
        (zoo.miss(rank=4, variant="mini", mini_r=5), (12, 6), "out is 12", "miss(mini_r=4)"),
        (zoo.krona(start="A"), (12, 6), "'right', 'left'", "krona(start='right')"),
        (zoo.krona(decompose_factor=0), (12, 6), "or -1", "krona(decompose_factor=-1)"),
        (zoo.oft(oft_block_size=4), (12, 6), "in is 6 = 2·3", "oft(oft_block_size=3)"),
        (zoo.oft(oft_block_size=1), (12, 6), "an integer of 2 or more", "oft(oft_block_size=2)"),
        (zoo.oft(oft_block_size=2, coft=True, eps=0), (12, 6), "other than zero", "oft(eps="),
        (
            zoo.boft(boft_block_size=2, boft_n_butterfly_factor=3),
            (12, 12),
            "2^2 blocks of 2 must fit a whole number of times into 12",
            "boft(boft_block_size=2",
        ),
        (zoo.hra(rank=7), (12, 6), "the space of 6 inputs is 6", "hra(rank=6)"),
        (zoo.psoft(rank=1), (12, 6), "an integer of 2 or more", "psoft(rank=2)"),
        (zoo.road(group_size=8), (12, 6), "out is 12", "road(group_size=6)"),
        (zoo.road(group_size=3), (12, 6), "even", "road(group_size=2)"),
        (zoo.road(variant="road_3"), (64, 6), "'road_1', 'road_2'", "road(variant='road_1')"),
        (
            zoo.fourierft(n_frequency=99),
            (12, 6),
            "12 × 6 = 72 entries",
            "fourierft(n_frequency=72)",
        ),
        (zoo.fourierft(random_loc_seed=-1), (64, 64), "from 0 to 2³² - 1", "(random_loc_seed=777)"),
        (zoo.fourierft(indices=(3, 3)), (12, 6), "different integers from 0 to 71", "indices="),
        (zoo.waveft(wavelet_family="db4"), (64, 64), "are 'db1'", "waveft(wavelet_family='db1')"),
        (zoo.c3a(block_size=4), (12, 6), "in is 6 = 2·3", "c3a(block_size=3)"),
        (zoo.shira(rank=9), (12, 6), "the weight has 12 × 6 = 72", "shira(rank=4)"),
        (zoo.shira(indices=(72,)), (12, 6), "from 0 to 71", "shira(indices="),
        (zoo.supertuning(), (12, 6), "depends on its values", "largest_entries(weight"),
        (zoo.glora(config_C="constant"), (12, 9), "'lora', 'vector', 'none'", "glora(config_C="),
        (zoo.deft(rank=13), (12, 6), "the space of 12 outputs is 12", "deft(rank=12)"),
        (zoo.peanut(rank=2, act_fn="gelu"), (12, 6), "'relu', 'tanh'", "peanut(act_fn='relu')"),
        (zoo.osf(effective_rank=6), (12, 6), "keeps 1 to 5 of its 6", "osf(effective_rank=0.5)"),
        (zoo.frod(sparse_rate=1), (12, 6), "from 0 to less than 1", "frod(sparse_rate=0.01)"),
        (zoo.adamss(clusters=(0, 1)), (12, 6), "12 integers", "adamss(clusters="),
        (zoo.flora(rank=13), (12, 6), "a mode of the weight (12, 6) is 12", "flora(rank=12)"),
        (zoo.loretta(rank=2, shape_in=(3, 3)), (12, 6), "6 × 2 = 2·2·3", "loretta(shape_in="),
        (zoo.quanta(shape=(5, 5)), (12, 6), "max(out, in) = 12 = 2·2·3", "quanta(shape="),
        (zoo.since_start(within=3), (12, 6), "must be a structure", "since_start(within=lora("),
        (
            zoo.since_start(within=zoo.lora(rank=2), leaves=("C",)),
            (12, 6),
            "nearest: ",
            "Name some of: B, A.",
        ),
    ],
    ids=str,
)
def test_settings_that_do_not_fit_are_refused_with_numbers(structure, shape, against, remedy):
    with pytest.raises(StructureError) as refusal:
        structure.update(shape)
    error = refusal.value
    assert str(structure) in error.asked and str(shape) in error.asked
    assert against in error.against
    assert remedy in error.remedy
