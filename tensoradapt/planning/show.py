"""Printing plans and programs so that a person can read and check them."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any

from ..algebra.indexing import IndexMap
from ..network.form import Selection, TransformMatrix
from .fourier import Convolution
from .rates import step_cost
from .steps import Input, Program, Shape, Step

if TYPE_CHECKING:
    from .planner import Plan

UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def show(plan: Plan) -> str:
    """The whole plan as text."""
    chosen = plan.chosen
    lines = [
        f"plan of ΔW = {plan.title}",
        f"  weight {_sizes(plan.shape)}, mode {plan.mode}, {plan.tokens} tokens, "
        f"rates of {plan.rates.name}",
        f"  chosen: {chosen.name}  ({quantity(chosen.cost.flops)}flop, "
        f"{quantity(chosen.cost.bytes)}B moved, {quantity(chosen.cost.saved)}B saved, "
        f"{seconds(chosen.cost.seconds)})",
    ]
    for rival in plan.candidates[1:]:
        ratio = rival.cost.seconds / chosen.cost.seconds
        lines.append(
            f"  not {rival.name}: {seconds(rival.cost.seconds)}, {ratio:.2f} times the chosen "
            f"({quantity(rival.cost.flops)}flop, {quantity(rival.cost.saved)}B saved"
            f"{_caution(ratio)})"
        )
    for tokens, name in plan.crossovers:
        lines.append(f"  from {tokens} tokens: {name}")
    for note in dict.fromkeys(chosen.notes):
        if note.materializes:
            lines.append(f"  materialized: {note.network} ({note.materializes})")
        else:
            lines.append(f"  order of {note.network}: {note.found_by}")
    lines.append(f"  {'step':<44} {'shape':<20} {'flop':>9} {'bytes':>9} {'time':>9}")
    if chosen.backward is None:
        return "\n".join([*lines, *_rows(plan, chosen.program, plan.mode == "train")])
    saved = ", ".join(value_name(chosen.program, k) for k in chosen.program.more) or "nothing"
    lines.extend(_rows(plan, chosen.program, False))
    lines.append(f"  saved for the backward: {saved}")
    lines.extend(_rows(plan, chosen.backward, False))
    return "\n".join(lines)


def _caution(ratio: float) -> str:
    """Why a rival that is modelled cheaper is not taken."""
    return "; a formed weight must be 1.1 times cheaper" if ratio < 1 else ""


def _rows(plan: Plan, program: Program, training: bool) -> list[str]:
    rows: list[str] = []
    for number, step in program.numbered():
        cost = step_cost(program, step, plan.tokens, plan.rates, training)
        text = f"v{number} = {describe(program, step)}"
        rows.append(
            f"  {text:<44} {_sizes(step.shape):<20} {quantity(cost.flops):>9} "
            f"{quantity(cost.bytes):>9} {seconds(cost.seconds):>9}"
        )
    results = [value_name(program, program.result)]
    if any(entry.kind == "gradient" for entry in program.inputs) and program is not plan.program:
        results += [value_name(program, k) for k in program.more]
        names = [entry.name for entry in plan.chosen.wanted]
        pairs = zip(names, results, strict=True)
        return [*rows, "  gradients " + ", ".join(f"{n}: {v}" for n, v in pairs)]
    return [*rows, f"  result {results[0]}"]


def describe(program: Program, step: Step) -> str:
    """One step as text."""
    operands = [value_name(program, k) for k in step.operands]
    match step.operation:
        case "matmul":
            scale = _number(step.settings[0]) if step.settings else ""
            return scale + " @ ".join(operands)
        case "multiply":
            return " * ".join(operands)
        case "addmm":
            return f"{operands[0]} + {_number(step.settings[0])}{operands[1]} @ {operands[2]}"
        case "add":
            return f"{operands[0]} + {_number(step.settings[0])}{operands[1]}"
        case "linear":
            bias = f" + {operands[2]}" if len(operands) > 2 else ""
            return f"{operands[0]} @ {operands[1]}.T{bias}"
        case "reshape":
            return f"reshape {operands[0]}"
        case _:
            words = ", ".join([*operands, *(_setting(s) for s in step.settings)])
            return f"{step.operation}({words})"


def value_name(program: Program, number: int) -> str:
    """How a value is called in print."""
    value = program.value(number)
    if isinstance(value, Input):
        return {"base": "W0", "bias": "b0", "gradient": "g"}.get(value.kind, value.name)
    return f"v{number}"


def _number(scale: Any) -> str:
    return "" if scale == 1 else f"{float(scale):.6g} · "


def _setting(setting: Any) -> str:
    match setting:
        case IndexMap():
            return setting.kind
        case Selection(index):
            return index.kind
        case TransformMatrix(kind, _):
            return kind
        case Convolution():
            return setting.kind
        case Fraction():
            return str(setting)
        case _:
            return str(setting)


def _sizes(shape: Shape) -> str:
    return "×".join(_size(n) for n in shape) or "scalar"


def _size(n: int) -> str:
    return str(n) if n >= 0 else ("T" if n == -1 else f"{-n}T")


def quantity(number: float) -> str:
    """A count with a unit prefix."""
    for limit, unit in UNITS:
        if abs(number) >= limit:
            return f"{number / limit:.3g} {unit}"
    return f"{number:.3g} "


def seconds(number: float) -> str:
    """A duration with its unit."""
    for limit, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if number >= limit:
            return f"{number / limit:.3g} {unit}"
    return f"{number / 1e-9:.3g} ns"
