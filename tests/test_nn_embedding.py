"""Embeddings: the rows looked up, never the table, for every structure."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import tensoradapt.nn as tnn
from tensoradapt import zoo
from tensoradapt.algebra.forms import kron
from tensoradapt.algebra.leaves import parameter
from tensoradapt.errors import StructureError, TargetError, UnsupportedError
from tensoradapt.planning.lookup import lookup
from tensoradapt.run.evaluate import evaluate
from tensoradapt.run.sample import sample
from tensoradapt.structure import method
from tests import nn_models
from tests.kind_laws import (
    assert_comes_and_goes,
    assert_compiles,
    assert_law,
    assert_merges,
    assert_round_trip,
    judged,
)
from tests.nn_models import difference, inputs, shuffle

VOCAB, DIM = 12, 6
LORA = zoo.lora(rank=3, alpha=5.0)

READ = [
    LORA,
    zoo.loha(rank=2, alpha=3.0),
    zoo.lokr(rank=1, alpha=3.0, decompose_factor=3),
    zoo.dora(within=zoo.lora(rank=2, alpha=5.0)),
    zoo.dora(within=zoo.loha(rank=1)),
    zoo.hira(rank=2),
    zoo.vera(rank=3),
    zoo.lora_xs(rank=2),
    zoo.sine_lora(rank=2),
    zoo.tt_lora(rank=2, alpha=2.0, order=4),
    zoo.tucker(rank=2, alpha=3.0),
    zoo.oft(oft_block_size=3),
    zoo.lora(rank=1) + zoo.hira(rank=1),
    nn_models.difference_to_start(),
]
"""Structures whose rows are read before anything is contracted."""


@method(paper="a test")
def split_rows(w):
    """ΔW = Sᵀ ⊙ (P ⊗ Q): the rows of S are its columns, and split into two digits."""
    first = parameter("P", 4, 2)
    second = parameter("Q", w.shape[0] // 4, w.shape[1] // 2)
    return parameter("S", w.shape[1], w.shape[0]).T * kron(first, second)


READ.append(split_rows())

FORMED = [zoo.circulant(), zoo.lora(rank=1) + zoo.circulant()]
"""Structures whose row index lies inside an index map."""


def plain(dtype=torch.float32, **options):
    torch.manual_seed(0)
    embedding = nn.Embedding(VOCAB, DIM, **options)
    return nn.Sequential(embedding, nn.Tanh(), nn.Linear(DIM, 3)).to(dtype)


def ids(*shape, seed=3):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, VOCAB, shape or (4, 9), generator=generator)


def adapted(structure=LORA, dtype=torch.float32, options=None, **more):
    more = {"strength": 0.7, **more}
    return shuffle(tnn.adapt(plain(dtype, **(options or {})), structure, where="0", **more))


every = pytest.mark.parametrize("structure", [*READ, *FORMED], ids=str)


@every
def test_every_structure_is_by_definition(structure):
    assert_law(adapted(structure), plain(), ids())
    assert_merges(adapted(structure), ids())


@every
def test_comes_and_goes(structure, tmp_path):
    assert_round_trip(adapted(structure), plain(), ids(), tmp_path)
    assert_comes_and_goes(adapted(structure), plain(), ids())


@pytest.mark.parametrize("structure", READ, ids=str)
def test_the_table_is_not_formed(structure, monkeypatch):
    model, wanted = adapted(structure), adapted(structure)(ids())
    monkeypatch.setattr(model[0].adapters["default"].operator, "materialize", None)
    assert torch.equal(model(ids()), wanted)
    sizes = []
    large = shuffle(tnn.adapt(nn.Sequential(nn.Embedding(1024, DIM)), structure, where="0"))
    with torch.no_grad(), _Seen(sizes):
        large(ids(2))
    assert sizes and max(sizes) < 1024


class _Seen(TorchDispatchMode):
    """Collects the size of every tensor that is computed, views excepted."""

    def __init__(self, sizes):
        super().__init__()
        self.sizes = sizes

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and made.numel():
            given = {a.untyped_storage().data_ptr() for a in args if isinstance(a, torch.Tensor)}
            if made.untyped_storage().data_ptr() not in given:
                self.sizes.append(made.numel())
        return made


@pytest.mark.parametrize("structure", FORMED, ids=str)
def test_the_report_says_when_the_table_is_formed(structure):
    site = tnn.report(adapted(structure)).sites[0]
    assert site.program == "ΔE formed"
    assert "cannot be read before it is formed" in site.plan
    assert "its row index is inside circulant" in site.plan


def test_the_report_says_what_is_read():
    site = tnn.report(adapted()).sites[0]
    assert (site.shape, site.program, site.rank_bound) == ((VOCAB, DIM), "rows looked up", 3)
    assert "reads B (12, 3), T rows on axis 0" in site.plan
    assert "reads A (3, 6), whole" in site.plan


@pytest.mark.parametrize("structure", [LORA, zoo.circulant(), zoo.hira(rank=2)], ids=str)
@pytest.mark.parametrize("row", [0, 5, VOCAB - 1, -1])
def test_the_padding_row_gets_no_update(structure, row):
    options = {"padding_idx": row}
    model = adapted(structure, options=options)
    row = model[0].padding_idx
    x = torch.cat([ids(), torch.full((4, 1), row)], 1)
    assert torch.equal(model[0](x)[:, -1], model[0].base_layer(x)[:, -1])
    assert float(tnn.delta_weight(model[0])[row].detach().abs().max()) == 0
    assert_law(model, plain(**options), x)
    assert_merges(model, x)
    before = model[0].weight[row].clone()
    tnn.merge(model)
    assert torch.equal(model[0].weight[row], before)


def test_gradients_of_every_order():
    model = adapted(zoo.loha(rank=1), torch.float64)
    leaves = [p for p in tnn.parameters(model)]
    names = [name for name, p in model.named_parameters() if p.requires_grad]

    def run(*values):
        replaced = dict(zip(names, values, strict=True))
        return torch.func.functional_call(model, replaced, (ids(3),))

    assert torch.autograd.gradcheck(run, leaves)
    assert torch.autograd.gradgradcheck(run, leaves)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("structure", [LORA, zoo.hira(rank=2), zoo.circulant()], ids=str)
def test_types(dtype, structure):
    model = adapted(structure, dtype)
    y = model[0](ids())
    assert y.dtype == dtype
    leaf = torch.float64 if dtype == torch.float64 else torch.float32
    assert {p.dtype for p in tnn.parameters(model)} == {leaf}
    wanted = judged(model, plain(dtype), ids())
    assert difference(model(ids()), wanted) < 20 * torch.finfo(dtype).eps


def test_autocast_changes_nothing_as_it_does_not_for_the_original():
    model = adapted()
    y = model[0](ids())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(model[0](ids()), y)


@pytest.mark.parametrize("structure", [LORA, zoo.circulant(), zoo.oft(oft_block_size=3)], ids=str)
@pytest.mark.filterwarnings("ignore")
def test_compile_without_a_graph_break(structure):
    assert_compiles(adapted(structure), ids())
    assert_compiles(adapted(structure, options={"padding_idx": 2}), ids())


def test_copies():
    model = adapted()
    y = model(ids())
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(copied(ids()), y)
        shuffle(copied, 8)
        assert not torch.equal(copied(ids()), y)
    assert torch.equal(model(ids()), y)


def test_ids_of_any_shape_and_type():
    model, x = adapted(), ids(4, 9)
    y = model(x)
    assert torch.equal(model(x[1, 2]), y[1, 2])
    assert model(x[:0]).shape == (0, 9, 3)
    assert torch.equal(model(x.int()), y)
    assert difference(model(x.mT), y.transpose(0, 1)) < 1e-6


def test_several_adapters_and_a_sparse_table():
    model = adapted(options={"sparse": True})
    tnn.adapt(model, zoo.hira(rank=2), where="0", name="second", strength=0.3)
    shuffle(model, 4, "second")
    assert difference(model(ids()), judged(model, plain(), ids())) < 1e-5
    assert_merges(model, ids())


def test_a_table_and_a_layer_of_one_shape():
    """Both use one operator, each in its own way."""
    torch.manual_seed(0)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.layer = nn.Embedding(VOCAB, DIM), nn.Linear(DIM, VOCAB, bias=False)

        def forward(self, x):
            return self.layer(self.table(x))

    original = Model()
    model = shuffle(tnn.adapt(copy.deepcopy(original), LORA, where="table | layer"))
    assert_law(model, original, ids())
    copied = pickle.loads(
        pickle.dumps(model[0] if isinstance(model, nn.Sequential) else model.table)
    )
    assert torch.equal(copied(ids()), model.table(ids()))


def test_bias_and_face():
    model = adapted(nn_models.biased())
    assert model[0].bias is None
    assert model[0].adapters["default"].update.bias is None
    assert (model[0].num_embeddings, model[0].embedding_dim) == (VOCAB, DIM)
    assert model[0].padding_idx is None


def test_what_is_refused():
    with pytest.raises(TargetError, match="'0' has a max_norm, by which each call rewrites W0"):
        adapted(options={"max_norm": 1.0})
    with pytest.raises(TargetError, match="'0' has scale_grad_by_freq"):
        adapted(options={"scale_grad_by_freq": True})
    with pytest.raises(StructureError, match=r"dropout=0.1(.|\n)*input cannot be dropped"):
        adapted(dropout=0.1)
    with pytest.raises(TargetError, match="'0' is a EmbeddingBag"):
        tnn.adapt(nn.Sequential(nn.EmbeddingBag(4, 3)), LORA, where="0")
    model = plain()
    model.add_module("head", nn.Linear(DIM, VOCAB))
    model.head.weight = model[0].weight
    with pytest.raises(TargetError, match=r"Its weight is tied to head\.weight"):
        tnn.adapt(model, LORA, where="0")
    assert [type(m) for m in model][:1] == [nn.Embedding]


def test_what_cannot_be_read_first_says_why():
    for update, reason in (
        (zoo.circulant().on((8, 8)), "its row index is inside circulant"),
        (zoo.lora(rank=1).on((1, 8)), "its rows lie on a diagonal, or there is only one"),
    ):
        with pytest.raises(UnsupportedError, match=reason):
            lookup(update)


@pytest.mark.parametrize("shape", [(12, 6), (15, 4), (7, 5)])
def test_rows_of_products_are_read_by_their_digits(shape):
    """Kronecker factors and trains whose rows split: every row, against the definition."""
    for structure in (zoo.lokr(rank=1), zoo.tt_lora(rank=2, order=4), zoo.tucker(rank=1)):
        model = shuffle(tnn.adapt(nn.Sequential(nn.Embedding(*shape)), structure, where="0"))
        every_row = torch.arange(shape[0])
        change = model[0](every_row) - model[0].base_layer(every_row)
        layer = model[0]
        update = layer.adapters["default"].update.weight
        values = {k: v.double() for k, v in layer.leaf_tensors("default").items()}
        assert layer.adapters["default"].operator.attached["rows"].planned is not None
        assert difference(change, evaluate(update, values)) < 1e-4


def test_as_in_peft():
    peft = pytest.importorskip("peft", reason="the extra hf is not installed")
    theirs = peft.get_peft_model(
        plain(torch.float64), peft.LoraConfig(r=3, lora_alpha=5.0, target_modules=["0"])
    ).double()
    layer, ours = theirs.base_model.model[0], adapted(dtype=torch.float64, strength=1.0)
    A, B = layer.lora_embedding_A["default"], layer.lora_embedding_B["default"]
    mine = ours[0].leaf_tensors("default")
    with torch.no_grad():
        A.copy_(mine["B"].mT)
        B.copy_(mine["A"].mT)
    y, wanted = ours(ids()), theirs(ids())
    assert difference(y, wanted) < 1e-12
    y.sin().sum().backward()
    wanted.sin().sum().backward()
    assert difference(mine["B"].grad, A.grad.mT) < 1e-10
    assert difference(mine["A"].grad, B.grad.mT) < 1e-10


def test_a_sampled_update_starts_as_its_structure_says():
    model = tnn.adapt(plain(), LORA, where="0", seed=4)
    expected = sample(LORA.on((VOCAB, DIM)), seed=4, like=inputs(1), path="0")
    found = model[0].leaf_tensors("default")
    assert all(torch.equal(found[name], value) for name, value in expected.items())
