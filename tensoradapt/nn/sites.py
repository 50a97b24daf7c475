"""Which modules of a model an adapter is laid on.

A target is a pattern over module paths (``"*.q_proj"``, as fnmatch reads it), a plain name that
matches the last components of a path as in PEFT (``"q_proj"``), alternatives joined by ``|``, a
list of those, a module class, or a predicate ``(path, module) -> bool``.

A pattern with a colon names parameters that a module reads itself: ``"*.experts:weight"``.

A plain name must match modules that can be adapted, all of them; a wildcard, a class and a
predicate pass over what cannot be, as long as something is left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TypeAlias

from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from ..errors import StructureError, TargetError, near
from .bare import PARAMETRIZATIONS, bare_parameters, parametrized
from .kinds import SUPPORTED, find_kind, kind_of
from .layer import Adapted
from .leaves import SharedLeaves

Predicate: TypeAlias = Callable[[str, nn.Module], bool]
Where: TypeAlias = str | type[nn.Module] | Predicate | Sequence["str | type[nn.Module]"]


@dataclass(frozen=True, slots=True)
class Site:
    """A module with its path, and every place of the model that holds it."""

    path: str
    module: nn.Module
    places: tuple[tuple[nn.Module, str], ...]


@dataclass(frozen=True, slots=True)
class Selector:
    """One alternative of a target: how it was written, what it matches, whether it is plain.

    A pattern with a colon names parameters (``path:name``), every other one modules.
    """

    text: str
    matches: Predicate
    is_plain: bool
    names_parameters: bool = False


def selectors(where: Where, option: str = "where") -> list[Selector]:
    """Read a target into its alternatives."""
    if isinstance(where, str):
        return [_pattern(part.strip(), option) for part in where.split("|")]
    if isinstance(where, type):
        return [Selector(where.__name__, lambda _, module: isinstance(module, where), False)]
    if isinstance(where, Sequence):
        if not where:
            raise _unreadable(where, option, "The list is empty.")
        return [one for part in where for one in selectors(part, option)]
    if callable(where):
        name = getattr(where, "__name__", type(where).__name__)
        return [Selector(name, lambda path, module: bool(where(path, module)), False)]
    raise _unreadable(where, option, f"A {type(where).__name__} is no target.")


def _pattern(text: str, option: str) -> Selector:
    if not text:
        raise _unreadable(text, option, "An alternative of the pattern is empty.")
    if any(mark in text for mark in "*?["):
        return Selector(text, lambda path, _: fnmatchcase(path, text), False, ":" in text)
    found = Selector(text, lambda path, _: path == text or path.endswith(f".{text}"), True)
    return replace(found, names_parameters=":" in text)


def _unreadable(where: object, option: str, reason: str) -> TargetError:
    return TargetError(
        f"{option}={where!r} was asked for.",
        reason,
        'Give a pattern such as "*.q_proj | *.v_proj", a list of them, a module class, or a '
        "predicate (path, module) -> bool.",
    )


# --- the modules of a model ---------------------------------------------------------------


def candidates(model: nn.Module) -> dict[str, nn.Module]:
    """Every module below the model by path, without what lies inside adapted ones."""
    found: dict[str, nn.Module] = {}
    stack: list[tuple[str, nn.Module]] = [("", model)]
    while stack:
        path, module = stack.pop()
        if path:
            found[path] = module
        if not isinstance(module, Adapted):
            below = [(n, m) for n, m in module._modules.items() if m is not None]
            kept = [(n, m) for n, m in below if not _is_inner(n, m)]
            stack.extend((f"{path}.{n}" if path else n, m) for n, m in reversed(kept))
    return found


def _is_inner(name: str, module: nn.Module) -> bool:
    """Whether a child is machinery of ours, or of torch's parametrizations, and no layer."""
    return isinstance(module, SharedLeaves) or name == PARAMETRIZATIONS


def reason_against(path: str, modules: Mapping[str, nn.Module]) -> str | None:
    """Why the module at a path cannot be adapted, or None if it can."""
    module = modules[path]
    if isinstance(module, Adapted):
        return None
    parent = modules.get(path.rpartition(".")[0])
    if isinstance(parent, nn.MultiheadAttention) and ":" not in path:
        return (
            f"'{path}' is the {path.rpartition('.')[2]} of an nn.MultiheadAttention, which reads "
            f"its weight and never calls it; where='{path}:weight' adapts the weight itself"
        )
    kind = find_kind(module)
    if kind is None:
        return f"'{path}' is a {type(module).__name__}"
    if any(ours is not None for _, ours in parametrized(module)):
        return f"'{path}' has a parameter that is adapted by itself"
    reason = kind.reason_against(module)
    return None if reason is None else f"'{path}' {reason}"


def select(model: nn.Module, where: Where, exclude: Where | None = None) -> list[Site]:
    """The sites that a target names, in the model's order.

    Raises
    ------
    TargetError
        If nothing matched, if what matched cannot be adapted, or if one of several patterns
        (or one of ``exclude``) matched nothing.
    """
    modules = candidates(model)
    if any(one.names_parameters for one in selectors(where)):
        modules |= bare_parameters(model, modules)
    reasons = {path: reason_against(path, modules) for path in modules}
    chosen: set[str] = set()
    for one in _matched("where", where, modules):
        fits = [path for path in one.paths if reasons[path] is None]
        misfits = [path for path in one.paths if reasons[path] is not None]
        if misfits and (one.selector.is_plain or not fits):
            raise _unsupported(one.selector, [str(reasons[path]) for path in misfits])
        chosen.update(fits)
    if exclude is not None:
        here = {path: modules[path] for path in modules if path in chosen}
        for one in _matched("exclude", exclude, here):
            chosen.difference_update(one.paths)
        if not chosen:
            raise TargetError(
                f"adapt(where={where!r}, exclude={exclude!r}) was asked for.",
                f"exclude takes away all {len(here)} modules that where matches.",
                "Narrow exclude.",
            )
    return sites_at(model, modules, [path for path in modules if path in chosen])


@dataclass(frozen=True, slots=True)
class _Match:
    selector: Selector
    paths: list[str]


def _matched(option: str, where: Where, modules: Mapping[str, nn.Module]) -> list[_Match]:
    """What each alternative matches; every one must match something."""
    found = [
        _Match(one, [p for p in modules if _is_named(one, p) and one.matches(p, modules[p])])
        for one in selectors(where, option)
    ]
    for match in found:
        if not match.paths:
            several = len(found) > 1 or option != "where"
            raise _nothing(option, match.selector, modules, found if several else [])
    return found


def _is_named(selector: Selector, path: str) -> bool:
    return selector.names_parameters == (":" in path)


def select_any(model: nn.Module, where: Where, option: str) -> list[str]:
    """The paths of the modules, of any kind, that a target names."""
    found = {path for match in _matched(option, where, candidates(model)) for path in match.paths}
    return [path for path in candidates(model) if path in found]


def settings_by_path(
    settings: Mapping[str, Mapping[str, object]], sites: Sequence[Site]
) -> dict[str, dict[str, object]]:
    """The settings of every site: those of all patterns that match it, later ones first in rank.

    Raises
    ------
    TargetError
        If a pattern matches no site.
    """
    modules = {site.path: site.module for site in sites}
    found: dict[str, dict[str, object]] = {}
    for pattern, changes in settings.items():
        if not isinstance(changes, Mapping):
            raise StructureError(
                f"settings={{{pattern!r}: {changes!r}}} was asked for.",
                f"The settings of a pattern are a mapping, not a {type(changes).__name__}.",
                f'Write settings={{{pattern!r}: {{"rank": 4}}}}.',
            )
        for match in _matched("settings", pattern, modules):
            for path in match.paths:
                found.setdefault(path, {}).update(changes)
    return found


def sites_at(
    model: nn.Module, modules: Mapping[str, nn.Module], paths: Iterable[str]
) -> list[Site]:
    """The sites at some paths, each with every place that holds its module."""
    places: dict[nn.Module, list[tuple[nn.Module, str]]] = {}
    for path, module in modules.items():
        if ":" in path:
            places[module] = []
            continue
        parent, _, name = path.rpartition(".")
        place = (modules[parent] if parent else model, name)
        places.setdefault(module, []).append(place)
    first: dict[nn.Module, str] = {}
    for path in paths:
        first.setdefault(modules[path], path)
    return [Site(path, module, tuple(places[module])) for module, path in first.items()]


# --- errors -------------------------------------------------------------------------------


def _nothing(
    option: str, selector: Selector, modules: Mapping[str, nn.Module], all_of: list[_Match]
) -> TargetError:
    names = {name for path in modules for name in (path, path.rpartition(".")[2])}
    wanted = selector.text.strip("*?.").rpartition(".")[2] or selector.text
    nearest = f"nearest: {near(wanted, names)}"
    if not all_of:
        return TargetError(
            f"adapt(where={selector.text!r}) was asked for.",
            f"No module below this one matches it; {nearest}.",
            "Choose among the paths of model.named_modules(); a model that is itself the layer "
            "goes into nn.Sequential(layer) first.",
        )
    others = sum(len(match.paths) for match in all_of)
    rest = f", while the others matched {others} modules" if len(all_of) > 1 else ""
    return TargetError(
        f"The pattern {selector.text!r} of {option} was asked for.",
        f"This pattern matched nothing{rest}; {nearest}.",
        "Correct it, or leave it out.",
    )


def _unsupported(selector: Selector, reasons: list[str]) -> TargetError:
    shown = "; ".join(reasons[:3]) + (f"; and {len(reasons) - 3} more" if len(reasons) > 3 else "")
    return TargetError(
        f"adapt(where={selector.text!r}) was asked for.",
        f"It matches what cannot be adapted: {shown}.",
        f"What can be: {SUPPORTED}. Name those, as in where=nn.Linear.",
    )


# --- tied weights -------------------------------------------------------------------------


def refuse_tied(model: nn.Module, sites: Sequence[Site]) -> None:
    """Refuse sites whose weight or bias belongs to another module as well.

    Raises
    ------
    TargetError
        If a parameter of a site is also another module's, or shares its memory.
    """
    owners: dict[object, list[tuple[str, nn.Module, str]]] = {}
    for path, module in model.named_modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                owners.setdefault(_identity(parameter), []).append((f"{path}.{name}", module, name))
    for site in sites:
        layer = site.module.base_layer if isinstance(site.module, Adapted) else site.module
        for holder, name, parameter in kind_of(layer).parameters(layer):
            places = owners[_identity(parameter)]
            shared = [p for p, module, key in places if (module, key) != (holder, name)]
            if shared:
                raise TargetError(
                    f"'{site.path}' was to be adapted.",
                    f"Its {name} is tied to {', '.join(shared)}, which would change with it at a "
                    "merge but not before.",
                    f"Leave it out with exclude={site.path!r}, or untie it first: module.{name} = "
                    f"nn.Parameter(module.{name}.detach().clone()).",
                )


def _identity(parameter: Tensor) -> object:
    if isinstance(parameter, UninitializedParameter) or parameter.device.type == "meta":
        return id(parameter)
    address = parameter.data_ptr() if parameter.numel() else 0
    return (parameter.device, address) if address else id(parameter)
