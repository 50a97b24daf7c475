"""Report: what the adapters of a model are, weigh and cost, per layer."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import prod
from typing import Any

from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from ..algebra.builders import reshape
from ..algebra.expression import Expr
from ..analysis.bound import rank_bound
from .adapt import adapted_or_refuse
from .installing import leaf_parameters, whole
from .layer import Adapted, Adapter
from .leaves import Leaves


@dataclass(frozen=True, slots=True)
class SiteReport:
    """One adapter at one layer.

    Parameters
    ----------
    path, name, structure : str
        The layer, the adapter, the structure as it prints.
    shape : tuple of int
        ``(out, in, *kernel)`` of the weight.
    trained, frozen, shared : int
        Numbers in the leaves: trained and frozen ones of this layer, and those that it reads
        from leaves shared with other layers.
    rank_bound : int or None
        At most this is the rank of ΔW, whatever the values; None without a weight part.
    strength : float
        The factor of ΔW.
    program : str
        How a training step runs for the number of tokens asked about, in a few words.
    plan : str
        The whole plan as text.
    n_bytes : int
        Memory of this layer's own leaves.
    is_merged : bool
        Whether the weight holds the sum now.
    kept_bytes : int
        Memory of the original weight that a merge keeps.
    rounding_loss : float or None
        The fraction of the updates that the merge lost by rounding; None while not merged.
    """

    path: str
    name: str
    structure: str
    shape: tuple[int, ...]
    trained: int
    frozen: int
    shared: int
    rank_bound: int | None
    strength: float
    program: str
    plan: str
    n_bytes: int
    is_merged: bool
    kept_bytes: int
    rounding_loss: float | None


@dataclass(frozen=True, slots=True)
class Report:
    """All adapters of a model; prints as a table.

    Parameters
    ----------
    sites : tuple of SiteReport
        One per layer and adapter.
    tokens : int
        The number of rows of x that the plans are for.
    trained : int
        Trained numbers in leaves, shared ones once.
    trained_whole : int
        Trained numbers elsewhere, in modules named by also_train.
    total : int
        All parameters of the model.
    """

    sites: tuple[SiteReport, ...]
    tokens: int
    trained: int
    trained_whole: int
    total: int

    def to_data(self) -> dict[str, Any]:
        """Everything as plain data for JSON."""
        data = asdict(self)
        data["sites"] = [{**site, "shape": list(site["shape"])} for site in data["sites"]]
        return data

    def __rich__(self) -> Table:
        trains = f"{self.trained:,} numbers train in leaves"
        if self.trained_whole:
            trains += f", {self.trained_whole:,} in modules trained whole"
        table = Table(title=f"{trains}, of {self.total:,}", caption=self._caption())
        for heading in ("layer", "structure", "weight"):
            table.add_column(heading, overflow="fold")
        for heading in ("trained", "frozen", "shared", "rank ≤", "bytes"):
            table.add_column(heading, justify="right")
        table.add_column(f"plan at {self.tokens} tokens", overflow="fold")
        for site in self.sites:
            table.add_row(*_row(site))
        return table

    def __str__(self) -> str:
        console = Console(width=120, color_system=None)
        with console.capture() as captured:
            console.print(self)
        return captured.get()

    def _caption(self) -> str | None:
        kept = {site.path: site.kept_bytes for site in self.sites if site.is_merged}
        if not kept:
            return None
        lost = max(site.rounding_loss or 0.0 for site in self.sites)
        return f"merged; {sum(kept.values()):,} bytes of W0 kept; rounding took at most {lost:.2g}"


def _row(site: SiteReport) -> list[str]:
    strength = "" if site.strength == 1 else f"{site.strength:g} · "
    named = "" if site.name == "default" else f"{site.name}: "
    return [
        site.path,
        f"{named}{strength}{site.structure}",
        "×".join(map(str, site.shape)),
        f"{site.trained:,}",
        f"{site.frozen:,}",
        f"{site.shared:,}",
        "–" if site.rank_bound is None else str(site.rank_bound),
        f"{site.n_bytes:,}",
        site.program,
    ]


def report(model: nn.Module, tokens: int = 256) -> Report:
    """Describe the adapters of a model, layer by layer.

    Parameters
    ----------
    model : nn.Module
        An adapted model.
    tokens : int
        The number of rows of x to plan for.

    Returns
    -------
    Report
        Printable with ``print`` or rich; ``.to_data()`` for JSON.

    Raises
    ------
    StateError
        If the model has no adapters.

    Examples
    --------
    >>> from torch import nn
    >>> from tensoradapt import zoo
    >>> from tensoradapt.nn import adapt
    >>> model = adapt(nn.Sequential(nn.Linear(8, 4)), zoo.lora(rank=2), where="0")
    >>> found = report(model)
    >>> found.trained, found.sites[0].rank_bound
    (24, 2)
    """
    inner = whole(model)
    bounds: dict[Expr, int | None] = {}
    sites = tuple(
        _site(path, module, name, adapter, tokens, bounds)
        for path, module in adapted_or_refuse(inner, "report(model)")
        for name, adapter in module.adapters.items()
    )
    leaves = leaf_parameters(inner)
    rest = {p for p in inner.parameters() if p.requires_grad} - set(leaves)
    return Report(
        sites,
        tokens,
        _count(leaf for leaf in leaves if leaf.requires_grad),
        _count(rest),
        _count(inner.parameters()),
    )


def _site(
    path: str,
    module: Adapted,
    name: str,
    adapter: Adapter,
    tokens: int,
    bounds: dict[Expr, int | None],
) -> SiteReport:
    own = module.leaves[name]
    assert isinstance(own, Leaves)
    everything = module.leaf_tensors(name)
    shared = [leaf for leaf, is_shared in adapter.places.items() if is_shared]
    kept = module.original
    program, plan = module.kind.describe(module, adapter, tokens)
    return SiteReport(
        path=path,
        name=name,
        structure=adapter.text,
        shape=module.shape,
        trained=_count(own.parameters()),
        frozen=_count(own.buffers()),
        shared=_count(everything[leaf] for leaf in shared),
        rank_bound=_bound(adapter.update.weight, bounds),
        strength=adapter.strength,
        program=program,
        plan=plan,
        n_bytes=sum(t.numel() * t.element_size() for t in own.tensors().values()),
        is_merged=module.is_merged,
        kept_bytes=0 if kept is None else kept.n_bytes,
        rounding_loss=None if kept is None else kept.lost,
    )


def _bound(weight: Expr | None, bounds: dict[Expr, int | None]) -> int | None:
    if weight is None:
        return None
    if weight not in bounds:
        matrix = weight.shape[0], prod(weight.shape[1:])
        bounds[weight] = int(rank_bound(reshape(weight, *matrix)))
    return bounds[weight]


def _count(tensors: Any) -> int:
    found: list[Tensor] = list(tensors)
    return sum(tensor.numel() for tensor in found)
