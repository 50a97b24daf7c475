"""Each law and each wall is shown to notice a fault that is planted on purpose."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tensoradapt
from tensoradapt import documents, zoo
from tensoradapt.algebra.leaves import parameter
from tensoradapt.algebra.starts import normal, zeros
from tensoradapt.analysis import bound
from tensoradapt.network import lower
from tensoradapt.network.form import Factor
from tensoradapt.nn import emit, function, layer, operator
from tensoradapt.nn.operator import Operator
from tensoradapt.planning import adjoint, compose, kernels
from tensoradapt.run import arrays, elementwise, floats, sample
from tensoradapt.structure import method
from tests import laws, torch_laws, walls
from tests.rows import Row
from tests.sites import index_matrices

Patch = pytest.MonkeyPatch
LORA = Row(zoo.lora(rank=3, alpha=12), (7, 13), 60)
DORA = Row(zoo.dora(within=zoo.lora(rank=3, alpha=12)), (8, 6), 50, True)
LDR = Row(zoo.ldr(rank=2, alpha=3), (8, 8), 32)
FOURIER = Row(zoo.fourierft(n_frequency=5), (8, 6), 5)
SINE = Row(zoo.sine_lora(rank=2, alpha=3, frequency=5), (7, 6), 26)


def forget() -> None:
    """Empty every cache of the library, so that a fault is planned in and planned out again."""
    for name, module in list(sys.modules.items()):
        if name.startswith(("tensoradapt.", "tests.")):
            for value in list(vars(module).values()):
                if callable(getattr(value, "cache_clear", None)):
                    value.cache_clear()


@pytest.fixture(autouse=True)
def without_caches() -> Iterator[None]:
    forget()
    yield
    forget()


@dataclass(frozen=True)
class Fault:
    """A fault by name, the law that must notice it, and how it is planted."""

    name: str
    law: int
    check: Callable[[], Any]
    plant: Callable[[Patch], Any]

    def __str__(self) -> str:
        return f"law {self.law}: {self.name}"


# --- faulty methods -----------------------------------------------------------------------


@method(paper="a planted fault")
def starts_away(w, *, rank=2):
    """ΔW = B A, with both factors random at the start."""
    out, inp = w.matrix
    return parameter("B", out, rank, start=normal()) @ parameter("A", rank, inp, start=normal())


@method(paper="a planted fault")
def never_moves(w, *, rank=2):
    """ΔW = B A, with both factors zero at the start."""
    out, inp = w.matrix
    return parameter("B", out, rank, start=zeros()) @ parameter("A", rank, inp, start=zeros())


def of_method(structure, count: int) -> Row:
    return Row(structure, (7, 6), count)


# --- how the faults are planted -----------------------------------------------------------


def lose_a_scale(patch: Patch) -> None:
    patch.setattr(compose.Composer, "_scaled", lambda self, value, scale: value)


def forget_a_conjugate(patch: Patch) -> None:
    whole = kernels._source

    def source(writer, number, axis, c):
        return whole(writer, number, axis, replace(c, transposed=c.flipped))

    patch.setattr(kernels, "_source", source)


def merge_twice(patch: Patch) -> None:
    whole = Operator.materialize

    def materialize(self, *given):
        weight, bias = whole(self, *given)
        return 2 * weight, bias

    patch.setattr(Operator, "materialize", materialize)


def overwrite_what_is_read_again(patch: Patch) -> None:
    def every(program):
        return frozenset(k for k, step in program.numbered() if step.operation in emit._IN_PLACE)

    patch.setattr(emit, "overwritable", every)


def cut_too_deep(patch: Patch) -> None:
    whole = bound.minimum_cut

    def minimum_cut(*given):
        found = whole(*given)
        return replace(found, value=found.value - 1)

    patch.setattr(bound, "minimum_cut", minimum_cut)


def let_gradients_through(patch: Patch) -> None:
    patch.setattr(lower, "_held", lambda factor: Factor(factor.source, factor.axes))


def lose_a_scale_on_the_way_back(patch: Patch) -> None:
    patch.setattr(adjoint.Adjoint, "scaled", lambda self, value, factor: value)


def differentiate_what_was_saved(patch: Patch) -> None:
    whole = function._plain
    patch.setattr(
        function,
        "_plain",
        lambda *given: [None if g is None else g.detach() for g in whole(*given)],
    )


def widen_constants(patch: Patch) -> None:
    def array_like(values, like, dtype=None):
        return arrays.namespace(like).asarray(values.copy(), dtype=np.float64)

    patch.setattr(floats, "array_like", array_like)


def merge_in_half(patch: Patch) -> None:
    whole = operator.schedule

    def schedule(delta, mode, rates, shift, has_bias, merge_allowed, training, x_trains):
        return whole(delta, mode, rates, shift, has_bias, True, training, x_trains)

    patch.setattr(operator, "schedule", schedule)


def leave_constants_behind(patch: Patch) -> None:
    def constants(self, made, like):
        return tuple(self.stored[c] for c in made.constants)

    patch.setattr(operator.Runner, "constants", constants)


def lose_a_setting(patch: Patch) -> None:
    def structure_to_data(structure):
        return {"method": structure.method.name, "settings": {}}

    patch.setattr(documents, "structure_to_data", structure_to_data)


def save_half_the_digits(patch: Patch) -> None:
    whole = torch.nn.Module.state_dict

    def state_dict(self, *given, **more):
        found = whole(self, *given, **more)
        return {k: v.half().to(v.dtype) if torch.is_tensor(v) else v for k, v in found.items()}

    patch.setattr(torch.nn.Module, "state_dict", state_dict)


def break_the_graph(patch: Patch) -> None:
    whole = layer.Adapted.forward

    def forward(self, x):
        torch._dynamo.graph_break()
        return whole(self, x)

    patch.setattr(layer.Adapted, "forward", forward)


def compile_for_every_count(patch: Patch) -> None:
    whole = layer.Adapted.forward

    def forward(self, x):
        y = whole(self, x)
        for _ in range(x.shape[0]):
            y = y + 0.0
        return y

    patch.setattr(layer.Adapted, "forward", forward)


def draw_by_library(patch: Patch) -> None:
    whole = sample.array_like

    def array_like(values, like, dtype=None):
        return whole(values + 1 if isinstance(like, torch.Tensor) else values, like, dtype)

    patch.setattr(sample, "array_like", array_like)


def have_a_sine_of_its_own(patch: Patch) -> None:
    def sine(xp, a, settings):
        return xp.sin(a) * (1 + 1e-6 * isinstance(a, torch.Tensor))

    patch.setitem(elementwise.DEFINITIONS, "sin", sine)


def programs(name: str, mode: str) -> Callable[[], Any]:
    expr = index_matrices(8)[name]
    return lambda: laws.programs_agree(laws.site(expr, name), mode, (laws.FREE_TRANSFORMS,))


def row(check: Callable[..., Any], subject: Row, *more: Any) -> Callable[[], Any]:
    return lambda: check(subject, *more)


def readings(subject: Row, kind: str) -> Callable[[], Any]:
    return lambda: laws.readings_agree(laws.site_of(subject), kind)


def trained(subject: Row) -> Callable[[], Any]:
    return lambda: laws.programs_agree(laws.site_of(subject), "train", laws.RATES)


FAULTS = [
    Fault("a plan loses a scale", 1, readings(LORA, "numpy float64"), lose_a_scale),
    Fault("a convolution forgets a conjugate", 1, programs("circulant, transposed", "apply"),
          forget_a_conjugate),
    Fault("a merge adds ΔW twice", 1, row(torch_laws.merged_is_adapted, LORA), merge_twice),
    Fault("a value is overwritten too early", 1, trained(SINE), overwrite_what_is_read_again),
    Fault("a cut pays one too little", 3, lambda: laws.rank_is_within_bound(
          LORA.structure.on(LORA.shape)), cut_too_deep),
    Fault("a held norm passes gradients", 4, row(torch_laws.layer_gradients_agree, DORA),
          let_gradients_through),
    Fault("an adjoint loses a scale", 4, row(torch_laws.layer_gradients_agree, LORA),
          lose_a_scale_on_the_way_back),
    Fault("second derivatives of saved values", 4,
          row(torch_laws.second_derivatives_agree, LORA), differentiate_what_was_saved),
    Fault("constants in a type of their own", 5, readings(LDR, "numpy float32"), widen_constants),
    Fault("a weight formed in half precision", 5,
          row(torch_laws.half_layers_form_no_weight, LORA, torch.bfloat16), merge_in_half),
    Fault("constants left on the processor", 5, row(torch_laws.layer_stays_on_device, FOURIER),
          leave_constants_behind),
    Fault("JSON loses a setting", 6, row(laws.reads_back_equal, LORA), lose_a_setting),
    Fault("a graph breaks", 7, row(torch_laws.compiles_whole, LORA), break_the_graph),
    Fault("a graph for every token count", 7, row(torch_laws.compiles_whole, LORA),
          compile_for_every_count),
    Fault("torch draws other numbers", 8, row(laws.libraries_agree, LORA), draw_by_library),
    Fault("torch has a sine of its own", 8, row(laws.libraries_agree, SINE),
          have_a_sine_of_its_own),
]  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_the_law_notices_a_fault_that_it_does_not_see_without(
    fault: Fault, monkeypatch: Patch
) -> None:
    fault.check()
    forget()
    with monkeypatch.context() as patch:
        fault.plant(patch)
        with pytest.raises((AssertionError, RuntimeError, torch._dynamo.exc.Unsupported)):
            fault.check()


STARTS = {
    "a start away from zero": of_method(starts_away(), 26),
    "a start without a gradient": of_method(never_moves(), 26),
}


@pytest.mark.parametrize("name", STARTS)
def test_law_2_notices(name: str) -> None:
    with pytest.raises(AssertionError, match="at the start"):
        torch_laws.starts_as_said(STARTS[name])
    torch_laws.starts_as_said(replace(STARTS["a start away from zero"], starts_at_zero=False))


def test_law_3_notices_a_count_that_is_one_off() -> None:
    laws.counted_as_the_paper(LORA)
    with pytest.raises(AssertionError):
        laws.counted_as_the_paper(replace(LORA, count=LORA.count + 1))


def test_law_6_notices_a_state_that_loses_digits(monkeypatch: Patch, tmp_path: Path) -> None:
    torch_laws.model_round_trips(LORA, tmp_path / "whole")
    save_half_the_digits(monkeypatch)
    with pytest.raises(AssertionError, match="the state dict changes the output"):
        torch_laws.model_round_trips(LORA, tmp_path / "halved")


def test_every_law_has_a_fault() -> None:
    assert {fault.law for fault in FAULTS} | {2, 3, 6} == set(range(1, 9))


# --- walls --------------------------------------------------------------------------------

BREACHES = {
    "unknown_rooms": {"attic/things.py": "X = 1\n"},
    "upward_imports": {"algebra/breach.py": "from ..run.evaluate import evaluate\n"},
    "circles": {
        "algebra/first.py": "from .second import y\n",
        "algebra/second.py": "def f():\n    from .first import x\n",
    },
    "hidden_imports": {"network/breach.py": "def f():\n    from ..algebra.nodes import Base\n"},
    "early_arrays": {"zoo/breach.py": "import numpy as np\n"},
    "misplaced_libraries": {
        "run/breach.py": "def f():\n    import torch\n",
        "planning/breach.py": "def f():\n    import opt_einsum\n",
        "planning/order.py": "import opt_einsum\n",
        "nn/breach.py": "import flint\n",
    },
    "zoo_walls": {
        "nn/breach.py": "from ..zoo import lora\n",
        "zoo/breach.py": "from ..network.lower import lower\n",
    },
    "outside_imports": {"nn/breach.py": "import benchmarks.harness\n"},
    "long_files": {"run/breach.py": "X = 1\n" * 451},
    "long_functions": {"run/breach.py": "def f():\n" + "    x = 1\n" * 45},
    "forbidden_names": {"run/utils.py": "X = 1\n", "algebra/misc/__init__.py": ""},
    "setters": {"run/breach.py": "def set_device(device):\n    pass\n"},
    "mutable_state": {
        "run/breach.py": "SEEN = {}\ndef f(x):\n    SEEN[x] = 1\n",
        "run/breach_2.py": "SEEN = []\ndef f(x):\n    SEEN.append(x)\n",
        "run/breach_3.py": "N = 0\ndef f():\n    global N\n    N = 1\n",
    },
}


@pytest.mark.parametrize("wall", walls.WALLS, ids=lambda wall: wall.__name__)
def test_the_wall_notices_every_breach(wall, tmp_path: Path) -> None:
    (tmp_path / "__init__.py").write_text("", encoding="utf-8")
    assert wall(tmp_path) == []
    for name, text in BREACHES[wall.__name__].items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        if wall is not walls.circles:
            assert wall(tmp_path), f"{name} is not noticed"
            path.unlink()
    if wall is walls.circles:
        assert wall(tmp_path) == ["algebra.first → algebra.second → algebra.first"]


def test_every_wall_has_a_breach_and_lets_good_neighbours_pass(tmp_path: Path) -> None:
    assert set(BREACHES) == {wall.__name__ for wall in walls.WALLS}
    good = {
        "__init__.py": "from .algebra import nodes\n",
        "algebra/nodes.py": "from ..errors import ShapeError\n",
        "zoo/lora.py": "from ..algebra.nodes import Base\nfrom ..structure import method\n",
        "planning/order.py": "def f():\n    import opt_einsum\n",
        "nn/layer.py": "import torch\nfrom ..run.evaluate import evaluate\n",
        "run/evaluate.py": "RULES = {}\ndef f():\n    known = {}\n    known[1] = 2\n",
        "cli/app.py": "import tensoradapt as ta\nfrom ..zoo.lora import f\n",
    }
    for name, text in good.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert [breach for wall in walls.WALLS for breach in wall(tmp_path)] == []


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A copy of the sources, to plant breaches in."""
    source = Path(tensoradapt.__file__).parent
    target = tmp_path / "tensoradapt"
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    return target


def test_a_fresh_interpreter_notices_an_array_library_in_the_zoo(house: Path) -> None:
    assert not walls.loaded_early("from tensoradapt import zoo", house)
    path = house / "zoo" / "low_rank.py"
    path.write_text(path.read_text("utf-8") + "\nimport numpy\n", encoding="utf-8")
    assert "numpy" in walls.loaded_early("from tensoradapt import zoo", house)


def test_a_fresh_interpreter_notices_an_nn_that_loads_the_zoo(house: Path) -> None:
    code = "import sys, tensoradapt.nn; print('tensoradapt.zoo' in sys.modules)"
    assert walls.fresh(code, house).strip() == "False"
    path = house / "nn" / "adapt.py"
    path.write_text(path.read_text("utf-8") + "\nfrom .. import zoo\n", encoding="utf-8")
    assert walls.fresh(code, house).strip() == "True"
