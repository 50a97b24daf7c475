"""From a structure and the sites to one update per site, every refusal included.

Nothing here changes the model: what comes out is what ``installing`` puts in, whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..algebra.builders import einsum
from ..algebra.expression import Expr
from ..algebra.nodes import AtStart, Base, BaseBias, Leaf, Parameter
from ..algebra.snapshot import SUFFIX, distribute_snapshots
from ..algebra.walk import leaves, snapshots, topological, uses_base
from ..errors import StateError, StructureError, TargetError, TensorAdaptError
from ..run.sample import sample
from ..structure import Call, Structure, Total, Update
from .kinds import bias_of, weight_of, weight_shape
from .layer import Adapted
from .operator import Operator
from .sites import Site


@dataclass(slots=True)
class Laid:
    """One update at one site, and the values of the leaves that are the site's own."""

    site: Site
    text: str
    update: Update
    operator: Operator
    trained: dict[str, Tensor] = field(default_factory=dict)
    frozen: dict[str, Tensor] = field(default_factory=dict)

    @property
    def leaves(self) -> dict[str, Leaf]:
        """Every leaf of every part by name; what ``at_start`` reads is a leaf ``B@start``."""
        return leaves_of(self.update)

    @property
    def places(self) -> dict[str, bool]:
        """Every leaf's name, and whether the leaf is shared."""
        found = {name: leaf.scope != "site" for name, leaf in self.leaves.items()}
        scopes = {leaf.name: leaf.scope for part in parts_of(self.update) for leaf in _all(part)}
        for name in self.operator.leaf_names:
            found.setdefault(name, scopes[name.removesuffix(SUFFIX)] != "site")
        return found


def parts_of(update: Update) -> list[Expr]:
    """The parts that an update has."""
    return [part for part in (update.weight, update.bias, update.penalty) if part is not None]


def leaves_of(update: Update) -> dict[str, Leaf]:
    """Every leaf of every part by name; what ``at_start`` reads is a leaf ``B@start``."""
    found = (leaf for part in parts_of(update) for leaf in leaves(distribute_snapshots(part)))
    return {leaf.name: leaf for leaf in found}


def _all(part: Expr) -> list[Leaf]:
    return [*leaves(part), *snapshots(part)]


# --- structures at sites -----------------------------------------------------------------


def is_grouped(structure: Structure) -> bool:
    """Whether a method in the structure receives all weights at once."""
    if isinstance(structure, Total):
        return any(map(is_grouped, structure.terms))
    if isinstance(structure, Call):
        nested = [v for _, v in structure.settings if isinstance(v, Structure)]
        return structure.method.scope == "group" or any(map(is_grouped, nested))
    return False


def lay(
    structure: Structure, sites: Sequence[Site], settings: Mapping[str, Mapping[str, object]]
) -> list[Laid]:
    """The update of every site, with one operator per distinct update.

    Parameters
    ----------
    structure : Structure
        What to lay.
    sites : sequence of Site
        Where.
    settings : mapping of path to settings
        Changed settings of single sites.

    Raises
    ------
    StructureError
        If the structure does not fit a site; the error names its path.
    """
    if is_grouped(structure):
        if settings:
            raise StructureError(
                f"{structure} was to be adapted with settings for single patterns.",
                "It lays one structure over all weights together, so they cannot differ.",
                "Leave settings out, or adapt twice under two names.",
            )
        weights = [Base(weight_shape(original(site))) for site in sites]
        updates = structure.updates(weights)
        texts = [str(structure)] * len(sites)
    else:
        chosen = [_changed(structure, settings.get(site.path), site) for site in sites]
        texts = [str(one) for one in chosen]
        updates = _one_by_one(chosen, sites)
    kept = [
        fitting(text, update, site)
        for text, update, site in zip(texts, updates, sites, strict=True)
    ]
    operators: dict[object, Operator] = {}
    return [
        Laid(site, text, update, operator_of(update, site, operators))
        for text, update, site in zip(texts, kept, sites, strict=True)
    ]


def original(site: Site) -> torch.nn.Module:
    """The module that is adapted, or was before."""
    return site.module.base_layer if isinstance(site.module, Adapted) else site.module


def operator_of(update: Update, site: Site, known: dict[object, Operator]) -> Operator:
    """The operator of an update at a site; one for all sites with equal update and shape."""
    shape, has_bias = (
        weight_shape(original(site)),
        bias_of(original(site)) is not None,
    )
    key = (update.weight, update.bias, shape, has_bias)
    if key not in known:
        try:
            known[key] = Operator(update, shape, has_bias=has_bias)
        except TensorAdaptError as error:
            raise error.at(f"'{site.path}'") from None
    return known[key]


def _one_by_one(chosen: Sequence[Structure], sites: Sequence[Site]) -> list[Update]:
    known: dict[object, Update] = {}
    updates: list[Update] = []
    for structure, site in zip(chosen, sites, strict=True):
        key = (structure, weight_shape(original(site)))
        if key not in known:
            try:
                known[key] = structure.update(Base(key[1]))
            except TensorAdaptError as error:
                raise error.at(f"'{site.path}'") from None
        updates.append(known[key])
    return updates


def _changed(structure: Structure, changes: Mapping[str, object] | None, site: Site) -> Structure:
    if not changes:
        return structure
    if not isinstance(structure, Call):
        raise StructureError(
            f"'{site.path}': the settings {dict(changes)} were asked for with {structure}.",
            "Only a method with settings can change them; this is a sum or an expression.",
            "Adapt these sites under another name with a structure of their own.",
        )
    try:
        return structure.with_settings(**changes)
    except TensorAdaptError as error:
        raise error.at(f"'{site.path}'") from None


def fitting(text: str, update: Update, site: Site) -> Update:
    """The update without what the site lacks, or a refusal."""
    module = original(site)
    if bias_of(module) is None:
        update = _without_bias(update)
        below = (s for part in parts_of(update) for s in topological(part, with_starts=True))
        reads_bias = any(isinstance(s, BaseBias) for s in below)
        if update.weight is None or reads_bias:
            raise StructureError(
                f"'{site.path}': {text} was asked for.",
                "It " + ("reads" if reads_bias else "changes only") + " the bias, and this "
                "layer has none.",
                f"Leave the layer out: exclude={site.path!r}.",
            )
    if update.weight is None and update.bias is None:
        raise StructureError(
            f"'{site.path}': {text} was asked for.",
            "It has neither a weight nor a bias part.",
            "Return Update(weight=...) from the method.",
        )
    weight = weight_of(module)
    reads = any(uses_base(part, with_starts=True) for part in parts_of(update)) or any(
        leaf.scope == "site" and uses_base(leaf, with_starts=True)
        for leaf in leaves_of(update).values()
    )
    if reads and not weight.is_floating_point():
        raise TargetError(
            f"'{site.path}': {text} was asked for.",
            f"It reads the base weight, which is stored as {weight.dtype} and not as numbers.",
            "Use a structure that does not read it, such as a low rank, or dequantize the layer.",
        )
    return update


def _without_bias(update: Update) -> Update:
    """The update of a layer without bias; a penalty on leaves of the bias alone goes with it."""
    if update.weight is None or update.penalty is None:
        return Update(update.weight)
    weight, penalty = Update(update.weight), Update(penalty=update.penalty)
    kept = leaves_of(penalty).keys() <= leaves_of(weight).keys()
    return Update(update.weight, None, update.penalty if kept else None)


# --- first values ------------------------------------------------------------------------


def leaf_type(site: Site, dtype: torch.dtype | None) -> torch.dtype:
    """The type of the leaves: the one asked for, else the weight's but at least float32."""
    weight = weight_of(original(site)).dtype
    if dtype is not None:
        return dtype
    return torch.float64 if weight == torch.float64 else torch.float32


def draw_values(
    laid: Sequence[Laid],
    seed: int,
    dtype: torch.dtype | None,
    data: Mapping[str, object] | None,
) -> dict[str, Tensor]:
    """Give every site its first values; return those of the shared leaves.

    Parameters
    ----------
    laid : sequence of Laid
        The sites, whose ``trained`` and ``frozen`` are filled.
    seed : int
        Chooses the random numbers, together with each site's path.
    dtype : torch.dtype, optional
        Of the leaves.
    data : mapping, optional
        Arrays for leaves that start as ``given()``, by leaf name, or by path and leaf name.
    """
    shared: dict[str, Tensor] = {}
    check_shared(laid)
    for one in laid:
        refuse_meta(one.site)
        wanted = {n: leaf for n, leaf in _declared(one).items() if _is_new(n, leaf, shared)}
        if not wanted:
            continue
        try:
            values = _sample(one, wanted, seed, dtype, data)
        except TensorAdaptError as error:
            raise error.at(f"'{one.site.path}'") from None
        for name, is_shared in one.places.items():
            if is_shared:
                if name in values:
                    shared.setdefault(name, values[name])
            elif isinstance(one.leaves.get(name), Parameter):
                one.trained[name] = values[name]
            else:
                one.frozen[name] = values[name]
    return shared


def _is_new(name: str, leaf: Expr, shared: Mapping[str, Tensor]) -> bool:
    stored = name if not isinstance(leaf, AtStart) else name + SUFFIX
    return stored not in shared


def _declared(one: Laid) -> dict[str, Expr]:
    """The leaves to draw: by name, and wrapped in ``AtStart`` where only their start is read."""
    found: dict[str, Expr] = {}
    for part in parts_of(one.update):
        found.update((leaf.name, leaf) for leaf in leaves(part))
        found.update((leaf.name + SUFFIX, AtStart(leaf)) for leaf in snapshots(part))
    return found


def _sample(
    one: Laid,
    wanted: Mapping[str, Expr],
    seed: int,
    dtype: torch.dtype | None,
    data: Mapping[str, object] | None,
) -> dict[str, Tensor]:
    module = original(one.site)
    layer = one.site.module if isinstance(one.site.module, Adapted) else Adapted(module)
    like = torch.empty((), dtype=leaf_type(one.site, dtype), device=layer.weight.device)
    reads = any(uses_base(leaf, with_starts=True) for leaf in wanted.values())
    weight, bias = layer.base_tensors() if reads else (None, None)
    own = (data or {}).get(one.site.path)
    given = {**(data or {}), **(own if isinstance(own, Mapping) else {})}
    return sample(
        _bundle(list(wanted.values())),
        seed=seed,
        base=weight,
        bias=bias,
        like=like,
        data={name: value for name, value in given.items() if not isinstance(value, Mapping)},
        path=one.site.path,
    )


def _bundle(operands: Sequence[Expr]) -> Expr:
    """An expression that reads just these leaves, so that one call draws them together."""
    counts = [operand.ndim for operand in operands]
    names = [[f"i{k}n{j}" for j in range(count)] for k, count in enumerate(counts)]
    return einsum(", ".join(" ".join(axes) for axes in names) + " -> ", *operands)


def refuse_meta(site: Site) -> None:
    """Refuse a layer without values."""
    if weight_of(original(site)).device.type == "meta":
        raise StateError(
            f"'{site.path}' was to be adapted.",
            "Its weight is on the meta device, so it has no values to start from or to keep.",
            "Load the base model first: model.to_empty(device=...), then load_state_dict.",
        )


def check_shared(laid: Sequence[Laid]) -> None:
    """Refuse a shared name that is two different leaves.

    Raises
    ------
    StructureError
        If two sites declare a shared leaf of one name with other shapes or starts.
    """
    first: dict[str, tuple[str, Leaf]] = {}
    for one in laid:
        for name, leaf in one.leaves.items():
            if leaf.scope == "site":
                continue
            path, known = first.setdefault(name, (one.site.path, leaf))
            if known != leaf:
                raise StructureError(
                    f"{one.text} was to be adapted with the shared leaf {name!r}.",
                    f"At '{path}' it has the shape {known.shape}, at '{one.site.path}' "
                    f"{leaf.shape}, or it starts differently there.",
                    "Share it among weights of one shape, or let the method cut a larger leaf.",
                )
