"""``tensoradapt explain``: all that can be said of a structure at a shape, without training it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .. import zoo as _published  # noqa: F401  (registers the published methods)
from ..algebra.expression import Expr
from ..algebra.nodes import Leaf, Parameter
from ..algebra.outline import start_text, tree
from ..algebra.render import formula, latex
from ..algebra.snapshot import distribute_snapshots
from ..algebra.walk import leaves, start_of
from ..analysis.bound import RankBound, Reason, rank_bound
from ..analysis.count import Count, count
from ..planning.door import plan
from ..planning.planner import Candidate, Plan
from ..planning.rates import Cost, step_cost
from ..planning.show import describe
from ..spelling import parse
from ..structure import Structure, Update
from .arguments import Import, Json, import_modules, print_json, read_shape


@dataclass(frozen=True, slots=True)
class Explanation:
    """What is said of a structure at one weight."""

    structure: Structure
    update: Update
    weight: Expr
    count: Count
    bound: RankBound
    plan: Plan


def explain(
    structure: Annotated[
        str, typer.Argument(help='As it prints: "dora(within=loha(rank=4))". Never run as code.')
    ],
    shape: Annotated[str, typer.Option(help="The weight: 768x3072, or 64x32x3x3.")],
    tokens: Annotated[int, typer.Option(help="Rows of x to plan for.")] = 256,
    mode: Annotated[str, typer.Option(help="train, forward, apply or materialize.")] = "train",
    modules: Import = None,
    with_latex: Annotated[
        bool, typer.Option("--latex", help="Print the formula in LaTeX.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Explain a structure: formula, factors, counts, rank bound, plan, crossover."""
    import_modules(modules)
    asked, sizes = parse(structure), read_shape(shape)
    weight = asked.on(sizes)
    planned = plan(asked, sizes, tokens=tokens, mode=mode)
    found = Explanation(
        asked, asked.update(sizes), weight, count(weight), rank_bound(weight), planned
    )
    if as_json:
        print_json(_data(found))
    else:
        _print(found, with_latex)


def _print(found: Explanation, with_latex: bool) -> None:
    console = Console(highlight=False, markup=False)
    sizes = "×".join(map(str, found.weight.shape))

    def say(text: str) -> None:
        console.print(text, soft_wrap=True)

    say(f"{found.structure} on a weight of {sizes}\n")
    say(f"ΔW = {formula(found.weight)}")
    if found.update.bias is not None:
        say(f"Δb = {formula(found.update.bias)}")
    if with_latex:
        say(rf"\Delta W = {latex(found.weight)}")
    say("")
    say(tree(found.weight))
    console.print(_factors(found.weight))
    say(f"{found.count}; the weight itself has {found.weight.size} elements\n")
    say(f"{found.bound}\n")
    say(str(found.plan))
    say(_crossover(found.plan))


def _factors(weight: Expr) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for title in ("factor", "shape", "elements", "", "starts at"):
        right = title == "elements"
        table.add_column(title, justify="right" if right else "left", overflow="fold")
    for leaf in _leaves(weight):
        row = _factor(leaf)
        sizes = "×".join(map(str, leaf.shape)) or "scalar"
        scope = "" if leaf.scope == "site" else f", one per {leaf.scope}"
        cells = (leaf.name, sizes, f"{leaf.size:,}", row["kind"] + scope, row["start"])
        table.add_row(*map(Text, cells))
    return table


def _leaves(weight: Expr) -> tuple[Leaf, ...]:
    """The leaves, and what is read of others as they were at the start."""
    return leaves(distribute_snapshots(weight))


def _factor(leaf: Leaf) -> dict[str, Any]:
    return {
        "name": leaf.name,
        "shape": list(leaf.shape),
        "elements": leaf.size,
        "kind": "trained" if isinstance(leaf, Parameter) else "frozen",
        "scope": leaf.scope,
        "start": start_text(start_of(leaf)),
    }


def _crossover(planned: Plan) -> str:
    if planned.mode == "materialize":
        return "Crossover: none; ΔW itself does not depend on the tokens."
    if not planned.crossovers:
        return f"Crossover: none; {planned.chosen.name} at every token count."
    changes = ", ".join(f"{name} from {tokens} tokens" for tokens, name in planned.crossovers)
    return f"Crossover: {changes}."


# --- the same as data --------------------------------------------------------------------


def _data(found: Explanation) -> dict[str, Any]:
    return {
        "structure": str(found.structure),
        "shape": list(found.weight.shape),
        "formula": formula(found.weight),
        "latex": latex(found.weight),
        "bias": None if found.update.bias is None else formula(found.update.bias),
        "factors": [_factor(leaf) for leaf in _leaves(found.weight)],
        "count": {
            "trained": found.count.trained,
            "frozen": found.count.frozen,
            "shared": found.count.shared,
            "weight": found.weight.size,
        },
        "rank_bound": {"value": found.bound.value, "why": _reason(found.bound.why)},
        "plan": _plan(found.plan),
    }


def _reason(reason: Reason) -> dict[str, Any]:
    parts = [_reason(part) for part in reason.parts]
    return {"rule": reason.rule, "value": reason.value, "parts": parts}


def _plan(planned: Plan) -> dict[str, Any]:
    program, training = planned.program, planned.mode == "train"
    return {
        "mode": planned.mode,
        "tokens": planned.tokens,
        "rates": planned.rates.name,
        "chosen": planned.chosen.name,
        "candidates": [{"name": c.name} | _cost(c.cost) for c in planned.candidates],
        "crossovers": [{"tokens": t, "name": name} for t, name in planned.crossovers],
        "why": _notes(planned.chosen),
        "steps": [
            {
                "value": f"v{number}",
                "operation": describe(program, step),
                "shape": [n if n >= 0 else f"{-n}T" for n in step.shape],
            }
            | _cost(step_cost(program, step, planned.tokens, planned.rates, training))
            for number, step in program.numbered()
        ],
    }


def _notes(candidate: Candidate) -> list[dict[str, str]]:
    return [
        {"network": n.network, "found_by": n.found_by, "materializes": n.materializes}
        for n in dict.fromkeys(candidate.notes)
    ]


def _cost(cost: Cost) -> dict[str, float]:
    return {
        "flops": cost.flops,
        "bytes": cost.bytes,
        "saved_bytes": cost.saved,
        "seconds": cost.seconds,
    }
