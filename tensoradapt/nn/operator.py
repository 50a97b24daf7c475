"""One update at one weight shape, ready to run on torch tensors.

Plans are made once per mode and strength, at the first call that needs them; afterwards a call
is one comparison of the token count and one emitted function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ..algebra.expression import Expr
from ..algebra.leaves import ones
from ..algebra.nodes import Parameter
from ..algebra.walk import leaves as leaves_of
from ..algebra.walk import snapshots
from ..planning.candidate import Candidate, layer
from ..planning.planner import Plan, Schedule, plain_candidate, plan_expression, schedule
from ..planning.rates import CPU, GPU, Rates
from ..structure import Update
from .emit import Emitted, emit
from .function import Pair, Planned

Key = tuple[str, bool, float, bool, bool, bool]
"""Mode, whether gradients are wanted, strength, whether on a GPU, whether x wants a gradient,
whether the type is wide: into a half-precision W0 + ΔW a small ΔW would be lost."""

_FORMED: Key = ("materialize", False, 1.0, False, False, True)
_SHIFT: Key = ("bias", *_FORMED[1:])

_FIXED = {("x", "x"): 0, ("base", "base"): 1, ("bias", "bias"): 2}


class Runner:
    """The programs of one schedule as functions of ``(x, weight, bias, *leaves)``."""

    __slots__ = ("always_plain", "arguments", "emitted", "pairs", "schedule", "stored", "typed")

    def __init__(self, made: Schedule, plain: Candidate, leaf_names: tuple[str, ...]) -> None:
        only = Schedule((), (plain,))
        self.always_plain = self if made == only else Runner(only, plain, leaf_names)
        places = _FIXED | {("leaf", name): 3 + k for k, name in enumerate(leaf_names)}
        self.schedule = made
        self.emitted: list[Emitted] = []
        self.arguments: list[tuple[int, ...]] = []
        self.pairs: list[Pair | None] = []
        for candidate in made.candidates:
            program = candidate.program if candidate.backward is None else plain.program
            self.emitted.append(emit(program))
            self.arguments.append(tuple(places[i.kind, i.name] for i in program.inputs))
            self.pairs.append(
                None
                if candidate.backward is None
                else Pair(candidate, self.emitted[-1], self.arguments[-1], places)
            )

        needed = [c for made in (*self.emitted, *self.pairs) if made for c in made.constants]
        self.stored = {c: torch.from_numpy(c.array().copy()) for c in dict.fromkeys(needed)}
        self.typed: dict[tuple[int, torch.device, torch.dtype], tuple[Tensor, ...]] = {}

    def constants(self, made: Emitted | Pair, like: Tensor) -> tuple[Tensor, ...]:
        """The constants of a program on the device and in the type of ``like``.

        They are kept, unless a compiler is tracing and the tensors are not real.
        """
        if not made.constants:
            return ()
        key = (id(made), like.device, like.dtype)
        if key in self.typed:
            return self.typed[key]
        found = tuple(
            self.stored[c].to(like.device) if c.kind == "positions" else self.stored[c].to(like)
            for c in made.constants
        )
        if not torch.compiler.is_compiling():
            self.typed[key] = found
        return found

    def pick(self, tokens: int) -> int:
        """The number of the program for a token count."""
        for k, threshold in enumerate(self.schedule.thresholds):
            if tokens <= threshold:
                return k
        return len(self.emitted) - 1


@lru_cache(maxsize=1024)
def _schedule(
    weight: Expr | None,
    bias: Expr | None,
    shape: tuple[int, ...],
    key: Key,
    has_bias: bool,
    rates: Rates,
) -> tuple[Schedule, Candidate]:
    mode, training, strength, _, x_trains, is_wide = key
    delta = strength * weight if weight is not None else 0 * ones(*shape)
    shift = None if bias is None else strength * bias
    made = schedule(delta, mode, rates, shift, has_bias, is_wide, training, x_trains)
    asked = layer(delta, mode, shift, has_bias)
    trained = any(candidate.backward is not None for candidate in made.candidates)
    plain = plain_candidate(asked, shape, mode, rates) if trained else made.candidates[0]
    return made, plain


class Operator:
    """An update with its plans, without tensors.

    Parameters
    ----------
    update : Update
        The expressions of ΔW and Δb.
    shape : tuple of int
        The weight's shape ``(out, in, *kernel)``.
    has_bias : bool
        Whether the layer has a bias.
    """

    def __init__(self, update: Update, shape: tuple[int, ...], *, has_bias: bool) -> None:
        self.update, self.shape, self.has_bias = update, tuple(shape), has_bias
        parts = [part for part in (update.weight, update.bias) if part is not None]
        found = {leaf.name: leaf for part in parts for leaf in leaves_of(part)}
        trained = [name for name, leaf in found.items() if isinstance(leaf, Parameter)]
        frozen = [name for name, leaf in found.items() if not isinstance(leaf, Parameter)]
        starts = dict.fromkeys(f"{leaf.name}@start" for part in parts for leaf in snapshots(part))
        self.leaf_names: tuple[str, ...] = (*trained, *frozen, *starts)
        self.attached: dict[str, Any] = {}
        self._clear()

    def prepare(self, *modes: str, strength: float = 1.0, is_wide: bool = True) -> None:
        """Plan now what will be called, so that no call (and no compiler) meets a planner.

        Parameters
        ----------
        *modes : str
            ``"train"`` for ``layer``, ``"apply"`` for ``delta``, with and without gradients;
            ``"materialize"`` for ``materialize``.
        strength : float
            The strength that ``layer`` will be called with.
        is_wide : bool
            Whether it will compute in float32 or wider.
        """
        for mode in modes:
            if mode == "materialize":
                for part, key in zip(("weight", "bias"), (_FORMED, _SHIFT), strict=True):
                    if getattr(self.update, part) is not None:
                        self._runner(key)
                continue
            used = 1.0 if mode == "apply" else strength
            quiet = "forward" if mode == "train" else mode
            self._runner((quiet, False, used, False, False, is_wide))
            for x_trains in (False, True):
                self._runner((mode, True, used, False, x_trains, is_wide))

    def attach(self, name: str, make: Callable[[Update, tuple[str, ...]], Any]) -> None:
        """Keep something that is planned from the update and the names of its leaves."""
        if name not in self.attached:
            self.attached[name] = make(self.update, self.leaf_names)

    def _clear(self) -> None:
        self._runners: dict[Key, Runner] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {
            "update": self.update,
            "shape": self.shape,
            "has_bias": self.has_bias,
            "leaf_names": self.leaf_names,
            "planned": tuple(self._runners),
            "attached": {name: type(made) for name, made in self.attached.items()},
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        planned: tuple[Key, ...] = state.pop("planned")
        attached: dict[str, Any] = state.pop("attached")
        self.__dict__.update(state)
        self.attached = {}
        for name, make in attached.items():
            self.attach(name, make)
        self._clear()
        for key in planned:
            self._runner(key)

    # --- what a layer calls --------------------------------------------------------------

    def layer(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        leaves: Sequence[Tensor],
        strength: float = 1.0,
    ) -> Tensor:
        """``x (W + strength ΔW)ᵀ + b + strength Δb`` for x of shape ``(..., in)``."""
        return self._rows("train", strength, x, weight, bias, leaves)

    def delta(
        self, x: Tensor, weight: Tensor | None, bias: Tensor | None, leaves: Sequence[Tensor]
    ) -> Tensor:
        """``x ΔWᵀ + Δb`` for x of shape ``(..., in)``."""
        return self._rows("apply", 1.0, x, weight, bias, leaves)

    def materialize(
        self, weight: Tensor | None, bias: Tensor | None, leaves: Sequence[Tensor]
    ) -> tuple[Tensor | None, Tensor | None]:
        """``(ΔW, Δb)``; either is None where the update has no such part."""
        like = next(v for v in (*leaves, weight, bias) if v is not None)
        whole = None
        if self.update.weight is not None:
            runner = self._formed("materialize", like)
            whole = self._call(runner, 0, (None, weight, bias, *leaves), like)
        shift = None
        if self.update.bias is not None:
            runner = self._formed("bias", like)
            shift = self._call(runner, 0, (None, weight, bias, *leaves), like)
        return whole, shift

    def plan(self, tokens: int, mode: str = "train") -> Plan:
        """The plan for a token count."""
        delta = self.update.weight if self.update.weight is not None else 0 * ones(*self.shape)
        return plan_expression(delta, tokens, mode, bias=self.update.bias, has_bias=self.has_bias)

    def source(self, tokens: int, mode: str = "train") -> str:
        """The emitted torch source for a token count."""
        training = mode == "train"
        runner = self._runner((mode, training, 1.0, False, training, True))
        number = runner.pick(tokens)
        pair = runner.pairs[number]
        if pair is None:
            return runner.emitted[number].source
        return f"# forward\n{pair.forward.source}\n# backward\n{pair.backward.source}"

    # --- how -----------------------------------------------------------------------------

    def _rows(
        self,
        mode: str,
        strength: float,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        leaves: Sequence[Tensor],
    ) -> Tensor:
        training = torch.is_grad_enabled()
        mode = "forward" if mode == "train" and not training else mode
        x_trains, is_wide = training and x.requires_grad, x.dtype.itemsize >= 4
        key = (mode, training, strength, x.is_cuda, x_trains, is_wide)
        flat = x.dim() == 2
        rows = x if flat else x.reshape(-1, x.shape[-1])
        runner = self._runners.get(key) or self._late(key)
        number = runner.pick(rows.shape[0]) if runner.schedule.thresholds else 0
        pair = runner.pairs[number]
        given = (rows, weight, bias, *leaves)
        if pair is None or _wants_plain(weight, bias):
            y = self._call(runner, number, given, rows)
        else:
            y = Planned.apply(pair, runner.constants(pair, rows), *given)
        return y if flat else y.reshape(*x.shape[:-1], y.shape[-1])

    def _call(
        self, runner: Runner, number: int, given: tuple[Tensor | None, ...], like: Tensor
    ) -> Tensor:
        emitted = runner.emitted[number]
        tensors = [given[k] for k in runner.arguments[number]]
        return emitted.function(*tensors, *runner.constants(emitted, like))

    def _formed(self, mode: str, like: Tensor) -> Runner:
        """The runner of ΔW or Δb; a compiler gets the prepared one on any device."""
        key = (mode, False, 1.0, like.is_cuda, False, True)
        if key not in self._runners and torch.compiler.is_compiling():
            return self._runners[_FORMED if mode == "materialize" else _SHIFT]
        return self._runner(key)

    def _late(self, key: Key) -> Runner:
        """A runner that was not prepared.

        A compiler must not meet a planner: it gets the runner of training, whose plain program
        serves any type and any token count.
        """
        if not torch.compiler.is_compiling():
            return self._runner(key)
        mode = "apply" if key[0] == "apply" else "train"
        return self._runners[mode, True, key[2], False, True, True].always_plain

    def _runner(self, key: Key) -> Runner:
        if key not in self._runners:
            weight, bias = self.update.weight, self.update.bias
            mode, rates = key[0], GPU if key[3] else CPU
            if mode == "bias":
                weight, bias, key_used = bias, None, ("materialize", *key[1:])
            else:
                key_used = key
            shift = bias if mode != "materialize" else None
            made, plain = _schedule(weight, shift, self.shape, key_used, self.has_bias, rates)
            self._runners[key] = Runner(made, plain, self.leaf_names)
        return self._runners[key]


def _wants_plain(weight: Tensor | None, bias: Tensor | None) -> bool:
    """Whether the forward must be plain operations: for compilers, transforms, a trained base."""
    return (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()  # pyright: ignore[reportPrivateUsage]
        or (weight is not None and weight.requires_grad)
        or (bias is not None and bias.requires_grad)
    )
