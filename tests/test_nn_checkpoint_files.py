"""Files of checkpoints that are missing, damaged, foreign or hostile: a sentence, no change."""

from __future__ import annotations

import json
import shutil
from hashlib import blake2b

import pytest
import torch
from safetensors.torch import load, save

import tensoradapt.nn as tnn
from tensoradapt import zoo
from tensoradapt.errors import CheckpointError
from tensoradapt.nn import documents
from tests.nn_models import make, shuffle


def adapted(structure, **options):
    return shuffle(tnn.adapt(make(), structure, where="*_proj", strength=0.7, seed=3, **options))


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def folder(tmp_path):
    model = adapted(zoo.vera(rank=2), also_train="classifier")
    tnn.save(model, tmp_path / "adapter")
    return tmp_path / "adapter"


def refused(folder, words):
    model = make()
    before = state(model)
    kinds = [type(module) for module in model.modules()]
    with pytest.raises(CheckpointError, match=words) as caught:
        tnn.load(model, folder)
    assert str(caught.value).count("\n") == 2
    assert same(state(model), before) and kinds == [type(module) for module in model.modules()]
    assert all(p.requires_grad for p in model.parameters())


def rewrite(folder, new=None, **changes):
    """Change a checkpoint and its digest, as someone who knows the format would."""
    document = json.loads((folder / "adapter.json").read_text())
    document |= changes
    if new is not None:
        content = save(new)
        (folder / "adapter.safetensors").write_bytes(content)
        digest = blake2b(content, digest_size=16).hexdigest()
        document["tensors"] = {"digest": digest, "n_bytes": len(content)}
    (folder / "adapter.json").write_text(json.dumps(document))
    return document


def tensors_of(folder):
    return load((folder / "adapter.safetensors").read_bytes())


def test_missing_truncated_and_foreign_files(folder, tmp_path):
    refused(tmp_path / "nowhere", "no file adapter.json. It is no folder")
    (tmp_path / "peft").mkdir()
    (tmp_path / "peft" / "adapter_config.json").write_text("{}")
    refused(tmp_path / "peft", "Its peft_type is ''; known here are")
    content = (folder / "adapter.safetensors").read_bytes()
    (folder / "adapter.safetensors").write_bytes(content[:-10])
    refused(folder, rf"it has {len(content) - 10} bytes where {len(content)} were written")
    (folder / "adapter.safetensors").write_bytes(b"x" * len(content))
    refused(folder, "is not the file that adapter.json was saved with")
    (folder / "adapter.safetensors").unlink()
    refused(folder, r"no file adapter.safetensors. It holds: adapter.json")


def test_the_tensors_of_another_checkpoint(folder, tmp_path):
    tnn.save(adapted(zoo.lora(rank=2)), tmp_path / "other")
    shutil.copy(tmp_path / "other" / "adapter.safetensors", folder / "adapter.safetensors")
    refused(folder, "is not the file that adapter.json was saved with")


def test_broken_tensors_with_a_right_digest(folder):
    content = (folder / "adapter.safetensors").read_bytes()[:40]
    (folder / "adapter.safetensors").write_bytes(content)
    stamp = {"digest": blake2b(content, digest_size=16).hexdigest(), "n_bytes": 40}
    rewrite(folder, tensors=stamp)
    refused(folder, "adapter.safetensors cannot be read")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("key", ["blocks.1.v_proj:d", "whole:classifier.weight"])
def test_values_that_are_not_finite(folder, value, key):
    tensors = tensors_of(folder)
    tensors[key].view(-1)[0] = value
    rewrite(folder, tensors)
    refused(folder, rf"1 of \d+ values of '{key}' are not finite")


def test_missing_extra_and_misshapen_values(folder):
    tensors = tensors_of(folder)
    rewrite(folder, {k: v for k, v in tensors.items() if k != "blocks.0.q_proj:d"})
    refused(folder, "It has no value of 'blocks.0.q_proj:d'")
    rewrite(folder, {k: v for k, v in tensors.items() if k != "whole:classifier.bias"})
    refused(folder, "It has no value of 'whole:classifier.bias'")
    rewrite(folder, {**tensors, "more": torch.zeros(1)})
    refused(folder, "Its tensor 'more' belongs to no leaf")
    rewrite(folder, {**tensors, "blocks.0.q_proj:d": torch.zeros(3)})
    refused(folder, r"is torch.float32 and \(3,\), not floating and \(2,\)")
    rewrite(folder, {**tensors, "blocks.0.q_proj:d": torch.zeros(2, dtype=torch.int64)})
    refused(folder, "is torch.int64")
    rewrite(folder, {**tensors, "whole:classifier.bias": torch.zeros(4)})
    refused(folder, r"'whole:classifier.bias' is \(4,\), not \(3,\)")


def test_frozen_leaves_that_do_not_come_out_as_saved(folder):
    document = json.loads((folder / "adapter.json").read_text())
    rewrite(folder, seed=document["seed"] + 1)
    refused(folder, "drawn from the seed 4, and does not come out as it was saved")
    redrawn = {key: {**entry, "dtype": "torch.int8"} for key, entry in document["redrawn"].items()}
    rewrite(folder, seed=document["seed"], redrawn=redrawn)
    refused(folder, "is to be drawn again in no known type")
    moved = {"blocks.0.q_proj:d": next(iter(document["redrawn"].values())), **document["redrawn"]}
    rewrite(folder, redrawn=moved)
    refused(folder, "'blocks.0.q_proj:d' is drawn from the seed")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": "peft"}, 'does not say "format": "tensoradapt-adapter"'),
        ({"version": 99}, "has version 99; this library reads 1"),
        ({"seed": "a"}, "'seed' of adapter.json is a str"),
        ({"seed": True}, "'seed' of adapter.json is a bool"),
        ({"strength": None}, "'strength' of adapter.json is a NoneType"),
        ({"dropout": 2}, "Its dtype or dropout is none"),
        ({"dtype": "torch.int8"}, "Its dtype or dropout is none"),
        ({"sites": []}, "It has no site"),
        ({"sites": [3]}, r"'sites\[0\]' of adapter.json is no object"),
        ({"structure": 3}, "'structure' of adapter.json is a int"),
        ({"sites": [{"path": "classifier"}]}, r"has no 'sites\[0\].update'"),
        ({"updates": {}}, "'updates' of adapter.json is a dict"),
        ({"updates": [{}]}, r"has no 'updates\[0\].weight'"),
        ({"also_train": [1]}, "also_train is not a list of paths"),
        ({"also_train": ["head"]}, "trained 'head' whole, which this model does not have"),
        ({"tensors": 3}, "does not say which tensors belong to it"),
    ],
)
def test_fields_of_the_wrong_kind(folder, changes, words):
    rewrite(folder, **changes)
    refused(folder, words)


def test_sites_that_make_no_sense(folder):
    document = json.loads((folder / "adapter.json").read_text())
    sites = document["sites"]
    rewrite(folder, sites=[{**sites[0], "update": 7}, *sites[1:]])
    refused(folder, "'blocks.0.q_proj' has the update 7 of 1")
    rewrite(folder, sites=[*sites, sites[0]])
    refused(folder, "It has no site, or one twice")
    rewrite(folder, sites=[{**sites[0], "path": "classifier", "shape": [3, 6]}])
    refused(folder, r"its update is \(6, 6\) and not \(3, 6\)")


def test_hostile_documents(folder):
    path = folder / "adapter.json"
    text = path.read_text()
    path.write_text("[" * 1_000_000)
    refused(folder, "nests too deep|is not JSON")
    path.write_text('{"format": ' + '{"a": ' * 1_000_000)
    refused(folder, "nests too deep|is not JSON")
    path.write_text(text.replace('"seed": 3', '"seed": NaN'))
    refused(folder, "NaN is not a number of JSON")
    path.write_text(text.replace('"seed": 3', '"seed": 3, "seed": 4'))
    refused(folder, "a key stands twice")
    path.write_text("")
    refused(folder, "is not JSON")
    path.write_bytes(b"\xff\xfe\x00")
    refused(folder, "is not JSON")
    with path.open("wb") as file:
        file.truncate(documents.MAX_DOCUMENT + 1)
    refused(folder, "the limit is")


@pytest.mark.parametrize("size", [2**20, 2**33, 2**60])
def test_an_expression_that_asks_for_a_terabyte(folder, size):
    document = json.loads((folder / "adapter.json").read_text())
    expression = document["updates"][0]["weight"]
    for node in expression["nodes"]:
        if node["node"] == "Frozen":
            node["shape"] = [size, *node["shape"][1:]]
    rewrite(folder, updates=document["updates"])
    refused(folder, "(?i)the limit is|does not fit|times as large|shape|asks for")


def test_a_large_frozen_leaf_beside_the_weight_is_refused(folder):
    from tensoradapt.algebra.builders import einsum
    from tensoradapt.algebra.codec import to_data
    from tensoradapt.algebra.leaves import frozen, ones

    large = frozen("L", 2**16, 2**14)
    update = einsum("a b, a, b, o, i -> o i", large, ones(2**16), ones(2**14), ones(6), ones(6))
    rewrite(folder, updates=[{"weight": to_data(update), "bias": None, "penalty": None}])
    refused(folder, r"a part of shape \(65536, 16384\), more than 256 times")
