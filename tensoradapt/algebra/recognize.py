"""Recognize what an einsum pattern says in the notation of papers.

``"o k, k i -> o i"`` is the product ``A B``, ``"o, o i -> o i"`` is ``diag(a) B``, two paths from o
to i are a Hadamard product of products. Only the shape of the pattern counts, never the names of
its indices. A matrix is read as an edge between its two indices and a vector as a mark on one, so
every chain of products with diagonals between is one path.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from .notation import Axes, Pattern, parse_pattern

PLAIN, TRANSPOSED, DIAGONAL = "plain", "transposed", "diagonal"


@dataclass(frozen=True, slots=True)
class Use:
    """One operand, by its position, as it is or transposed or as a diagonal matrix."""

    position: int
    mode: str = PLAIN


@dataclass(frozen=True, slots=True)
class Form:
    """A product of parts: ``product``, ``hadamard``, ``kron``, or a named format."""

    kind: str
    parts: tuple[Use | Form, ...]


Found = Use | Form | None
Operands = dict[int, Axes]


@lru_cache(maxsize=4096)
def recognize(pattern: Pattern) -> Found:
    """What the pattern says, or None if it has no name."""
    operands = {k: axes for k, axes in enumerate(pattern.operands) if axes}
    scalars = [Use(k) for k, axes in enumerate(pattern.operands) if not axes]
    rest = _recognize(operands, pattern.output) if operands else None
    if not scalars:
        return rest
    if operands and rest is None:
        return None
    more = rest.parts if isinstance(rest, Form) and rest.kind == "product" else (rest,)
    return _product([*scalars, *(part for part in more if part is not None)])


def _recognize(operands: Operands, output: Axes) -> Found:
    for rule in (_elementwise, _outer, _chains, _kron, _unary, _named):
        found = rule(operands, output)
        if found is not None:
            return found
    return None


def _product(parts: list[Use | Form]) -> Use | Form:
    return parts[0] if len(parts) == 1 else Form("product", tuple(parts))


def _names(axes: Axes) -> tuple[str, ...] | None:
    """The index of each axis, if each axis has one index and no index occurs twice."""
    names = tuple(group[0] for group in axes if len(group) == 1)
    return names if len(names) == len(axes) == len(set(names)) else None


def _elementwise(operands: Operands, output: Axes) -> Found:
    if len(operands) < 2 or _names(output) is None or set(operands.values()) != {output}:
        return None
    return Form("hadamard", tuple(map(Use, operands)))


def _outer(operands: Operands, output: Axes) -> Found:
    """``"o, i -> o i"``: u vᵀ."""
    names = _names(output) or ()
    owners = {axes: k for k, axes in operands.items()}
    if len(names) != 2 or len(operands) != 2 or len(owners) != 2:
        return None
    first, second = owners.get(((names[0],),)), owners.get(((names[1],),))
    if first is None or second is None:
        return None
    return _product([Use(first), Use(second, TRANSPOSED)])


def _unary(operands: Operands, output: Axes) -> Found:
    """``"i j -> j i"``: the transpose."""
    position, axes = next(iter(operands.items()))
    if len(operands) == 1 and len(axes) > 1 and _names(axes) is not None and output == axes[::-1]:
        return Use(position, TRANSPOSED)
    return None


# --- chains ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Graph:
    """Matrices as edges (position, from, to), vectors as marks on an index."""

    edges: list[tuple[int, str, str]]
    marks: dict[str, list[int]]

    def degree(self, index: str) -> int:
        return sum(index in edge[1:] for edge in self.edges)

    def paths(self, start: str, stop: str) -> list[list[tuple[Use, str]]] | None:
        """All paths from start to stop, if they use every edge and meet nowhere between."""
        free = dict.fromkeys(self.edges)
        found: list[list[tuple[Use, str]]] = []
        while any(start in edge[1:] for edge in free):
            here, path = start, list[tuple[Use, str]]()
            while here != stop:
                edge = next((edge for edge in free if here in edge[1:]), None)
                if edge is None or (here != start and self.degree(here) != 2):
                    return None
                del free[edge]
                forward = edge[1] == here
                here = edge[2] if forward else edge[1]
                path.append((Use(edge[0], PLAIN if forward else TRANSPOSED), here))
                if here == start:
                    return None
            found.append(path)
        return None if free else found


def _graph(operands: Operands) -> _Graph | None:
    graph = _Graph([], {})
    for position, axes in operands.items():
        match _names(axes):
            case (row, column):
                graph.edges.append((position, row, column))
            case (index,):
                graph.marks.setdefault(index, []).append(position)
            case _:
                return None
    return graph


def _chains(operands: Operands, output: Axes) -> Found:
    graph, ends = _graph(operands), _names(output)
    if graph is None or ends is None or len(ends) > 2:
        return None
    indices = {name for edge in graph.edges for name in edge[1:]}
    if not set(graph.marks) <= indices and (graph.edges or len(graph.marks) != 1):
        return None
    if len(ends) == 2:
        return _matrix(graph, ends)
    lone = [i for i in (*indices, *graph.marks) if graph.degree(i) == (1 if graph.edges else 0)]
    order = list(graph.marks)
    stops = sorted({i for i in lone if i not in ends and i in graph.marks}, key=order.index)
    start = ends[0] if ends else (stops[0] if stops else "")
    stop = stops[-1] if stops else ""
    return _vector(graph, start, stop, bool(ends)) if start and stop else None


def _matrix(graph: _Graph, ends: tuple[str, ...]) -> Found:
    start, stop = ends
    paths = graph.paths(start, stop)
    if not paths:
        return None
    chains = [_product(_between(graph, path)) for path in paths]
    middle = chains[0] if len(chains) == 1 else Form("hadamard", tuple(chains))
    flat = middle.parts if isinstance(middle, Form) and middle.kind == "product" else (middle,)
    return _product([*_diagonals(graph, start), *flat, *_diagonals(graph, stop)])


def _vector(graph: _Graph, start: str, stop: str, keeps: bool) -> Found:
    """A chain that ends in a vector, and begins with one where nothing is kept."""
    if not graph.edges:
        marks = graph.marks[start]
        if keeps or len(marks) < 2:
            return None
        inner = [Use(k, DIAGONAL) for k in marks[1:-1]]
        return _product([Use(marks[0], TRANSPOSED), *inner, Use(marks[-1])])
    paths = graph.paths(start, stop) if start != stop else None
    if not paths or len(paths) != 1:
        return None
    before: list[Use | Form] = _diagonals(graph, start)
    if not keeps:
        before[0] = Use(graph.marks[start][0], TRANSPOSED)
    after = [*_diagonals(graph, stop)[:-1], Use(graph.marks[stop][-1])]
    return _product([*before, *_between(graph, paths[0]), *after])


def _between(graph: _Graph, path: list[tuple[Use, str]]) -> list[Use | Form]:
    parts: list[Use | Form] = []
    for use, index in path[:-1]:
        parts += [use, *_diagonals(graph, index)]
    return [*parts, path[-1][0]]


def _diagonals(graph: _Graph, index: str) -> list[Use | Form]:
    return [Use(k, DIAGONAL) for k in graph.marks.get(index, ())]


# --- Kronecker products and named formats ------------------------------------------------


def _kron(operands: Operands, output: Axes) -> Found:
    """``"a b, c d -> (a c) (b d)"`` in the order of the groups."""
    owner = {group: (k, a) for k, axes in operands.items() for a, group in enumerate(axes)}
    total = sum(len(axes) for axes in operands.values())
    if len(operands) < 2 or len(owner) != total or any(len(group) != 1 for group in owner):
        return None
    where = [[owner.get((name,), (-1, -1)) for name in group] for group in output]
    order = [k for k, _ in where[0]] if where else []
    wanted = [[(k, a) for k in order] for a in range(len(output))]
    if where != wanted or sorted(order) != sorted(operands):
        return None
    return Form("kron", tuple(map(Use, order)))


def _named(operands: Operands, output: Axes) -> Found:
    pattern = canonical(Pattern(tuple(operands.values()), output))
    for name, (least, write) in _FORMATS.items():
        if len(operands) >= least and pattern == _format(write, len(operands)):
            return Form(name, tuple(map(Use, operands)))
    return None


def canonical(pattern: Pattern) -> Pattern:
    """The same pattern with its indices named in the order of first use."""
    names = {name: f"i{k}" for k, name in enumerate(pattern.names)}

    def rename(axes: Axes) -> Axes:
        return tuple(tuple(names[name] for name in group) for group in axes)

    return Pattern(tuple(map(rename, pattern.operands)), rename(pattern.output))


@lru_cache(maxsize=256)
def _format(write: Callable[[int], str], count: int) -> Pattern:
    return canonical(parse_pattern(write(count)))


def _modes(prefix: str, count: int) -> str:
    return " ".join(f"{prefix}{m}" for m in range(count)) + " "


def _cp(count: int) -> str:
    return ", ".join(f"n{m} r" for m in range(count)) + f" -> {_modes('n', count)}"


def _weighted_cp(count: int) -> str:
    return _cp(count - 1).replace(" ->", ", r ->")


def _tucker(count: int) -> str:
    factors = "".join(f", n{m} r{m}" for m in range(count - 1))
    return f"{_modes('r', count - 1)}{factors} -> {_modes('n', count - 1)}"


def _train(count: int) -> str:
    cores = [f"r{k} n{k} r{k + 1}" for k in range(count)]
    cores[0], cores[-1] = cores[0].removeprefix("r0 "), cores[-1].removesuffix(f" r{count}")
    return f"{', '.join(cores)} -> {_modes('n', count)}"


def _ring(count: int) -> str:
    cores = ", ".join(f"r{k} n{k} r{(k + 1) % count}" for k in range(count))
    return f"{cores} -> {_modes('n', count)}"


_FORMATS: dict[str, tuple[int, Callable[[int], str]]] = {
    "khatri_rao": (2, lambda count: "o1 r, o2 r -> (o1 o2) r"),
    "block_diag": (1, lambda count: "j o i -> (j o) (j i)"),
    "monarch": (2, lambda count: "a b d, a c d -> (a b) (c d)"),
    "trace": (1, lambda count: "i i -> "),
    "tucker": (3, _tucker),
    "tensor_train": (3, _train),
    "tensor_ring": (2, _ring),
    "cp": (3, _cp),
    "weighted_cp": (3, _weighted_cp),
}
"""Named formats: the fewest operands they have, and their pattern for a number of operands."""
