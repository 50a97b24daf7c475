"""The walls between the floors: what the sources import, and what a fresh interpreter loads."""

from __future__ import annotations

from pathlib import Path

import pytest

import tensoradapt
from tests import walls
from tests.walls import fresh

ROOT = Path(tensoradapt.__file__).parent


@pytest.mark.parametrize("wall", walls.WALLS, ids=lambda wall: wall.__name__)
def test_wall_stands(wall) -> None:
    breaches = wall(ROOT)
    assert not breaches, "\n".join(breaches)


def test_the_walls_read_every_module_and_see_its_imports() -> None:
    known = walls.modules(ROOT)
    assert {"__init__", "algebra", "algebra.nodes", "nn.operator", "zoo.low_rank"} <= set(known)
    seen = {(one.importer, one.target) for one in walls.imports(ROOT)}
    assert ("algebra.nodes", "tensoradapt.algebra.expression") in seen
    assert ("planning.order", "opt_einsum") in seen
    assert ("nn.operator", "torch") in seen
    assert ("zoo.low_rank", "tensoradapt.structure") in seen


# --- fresh interpreters -------------------------------------------------------------------


LIGHT = {
    "the face": "import tensoradapt",
    "the zoo": "from tensoradapt import zoo; zoo.lora(rank=2)",
    "parsing": "import tensoradapt as ta; ta.parse('dora(within=loha(rank=4))')",
    "an expression": "from tensoradapt import zoo; repr(zoo.lora(rank=2).on((6, 5)))",
    "JSON": "import tensoradapt as ta; from tensoradapt import zoo; "
    "ta.from_json(ta.to_json(zoo.lora(rank=2).on((6, 5))))",
    "the normal form": "import tensoradapt as ta; from tensoradapt import zoo; "
    "str(ta.lower(zoo.loha(rank=2).on((6, 5))))",
}


@pytest.mark.parametrize("what", LIGHT)
def test_the_light_floors_load_no_array_library(what: str) -> None:
    assert not walls.loaded_early(LIGHT[what], ROOT)


def test_nn_does_not_load_the_zoo() -> None:
    found = fresh("import tensoradapt.nn; print([m for m in sys.modules if 'zoo' in m])", ROOT)
    assert "tensoradapt.zoo" not in found


def test_numpy_readings_need_no_torch() -> None:
    code = """
import numpy as np, tensoradapt as ta
from tensoradapt import zoo
for s in (zoo.lora(rank=2), zoo.circulant(), zoo.dora(within=zoo.lora(rank=1))):
    e = s.on((6, 5))
    W = np.ones((6, 5))
    v = ta.sample(e, start="random")
    d = ta.evaluate(e, v, base=W)
    assert np.allclose(ta.materialize(e, v, base=W), d)
    assert np.allclose(ta.apply(e, v, np.eye(5), base=W), d.T)
    assert int(ta.rank_bound(e)) and ta.count(e).trained and str(ta.plan(s, (6, 5)))
print("fine")
"""
    assert fresh(code, ROOT, without=("torch", "jax", "flint")).strip() == "fine"


def test_the_first_plan_loads_opt_einsum_and_not_before() -> None:
    code = """
import sys, tensoradapt as ta
from tensoradapt import zoo
from tensoradapt.planning import planner
assert "opt_einsum" not in sys.modules
ta.plan(zoo.lora(rank=2), (8, 8))
print("opt_einsum" in sys.modules)
"""
    assert fresh(code, ROOT).strip() == "True"


def test_importing_nn_loads_no_certificates() -> None:
    assert "flint" not in walls.loaded_early("import tensoradapt.nn", ROOT)
