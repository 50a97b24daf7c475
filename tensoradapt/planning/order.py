"""Contraction orders: trees over a graph, by exact search and by opt_einsum.

A tree is ranked by what training costs: every product is paid once forward and once for each
operand that a gradient flows into, plus a price per byte kept. Up to ``EXACT`` values the
search over subsets is exhaustive; opt_einsum's tree is always one more candidate. Beyond, it is
the only one, and where it joins two maps a greedy search takes its place.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from operator import itemgetter

from .graph import Graph, Move, dense_allowed
from .rates import BYTE_PRICE, Rates, product_seconds

EXACT = 9
OPTIMAL = 6
"""Above this many operands opt_einsum's exhaustive path takes seconds; our own search does not."""
FOREVER = float("inf")


@dataclass(frozen=True, slots=True)
class Leaf:
    """One tensor vertex."""

    vertex: int


@dataclass(frozen=True, slots=True)
class Join:
    """The contraction of two values."""

    left: Tree
    right: Tree


@dataclass(frozen=True, slots=True)
class Apply:
    """A map applied to a value by one of its moves."""

    vertex: int
    move: Move
    operand: Tree


Tree = Leaf | Join | Apply


@dataclass(frozen=True, slots=True)
class Order:
    """A tree with its modelled seconds and who found it."""

    tree: Tree
    seconds: float
    found_by: str


class Search:
    """Subsets of vertices as bit masks: open indices, costs of joining them."""

    __slots__ = ("_carriers", "_open", "graph", "rates", "tokens", "trained", "training")

    def __init__(self, graph: Graph, tokens: int, rates: Rates, training: bool) -> None:
        self.graph, self.tokens, self.rates, self.training = graph, max(tokens, 1), rates, training
        self._carriers: dict[int, int] = {}
        for k, vertex in enumerate(graph.vertices):
            for i in vertex.indices:
                self._carriers[i] = self._carriers.get(i, 0) | 1 << k
        self._open: dict[int, frozenset[int]] = {}
        self.trained = sum(1 << k for k, v in enumerate(graph.vertices) if v.trains)

    @property
    def full(self) -> int:
        """The mask of all vertices."""
        return (1 << len(self.graph.vertices)) - 1

    def open(self, mask: int) -> frozenset[int]:
        """The indices of a subset that the result or an outside vertex still needs."""
        if mask not in self._open:
            self._open[mask] = frozenset(
                i
                for i, carriers in self._carriers.items()
                if carriers & mask and (i in self.graph.output or carriers & ~mask)
            )
        return self._open[mask]

    def join_seconds(self, a: int, b: int) -> float:
        """Seconds to contract the values of two subsets."""
        left, right, kept = self.open(a), self.open(b), self.open(a | b)
        summed = (left | right) - kept
        mixed = self.graph.is_complex(left) != self.graph.is_complex(right)
        seconds = self.elementwise_seconds(left | right, bool(summed))
        if summed and summed <= left & right and not mixed:
            seconds = min(seconds, self.product_seconds(left, right, summed))
        repeats = 1
        if self.training:
            repeats += bool(a & self.trained) + bool(b & self.trained)
            seconds += BYTE_PRICE * self._kept_bytes(a, b)
        return repeats * seconds

    def product_seconds(
        self, left: frozenset[int], right: frozenset[int], summed: frozenset[int]
    ) -> float:
        """Seconds of a product of (stacked) matrices that sums these indices."""
        size = self.graph.size
        batch = (left & right) - summed
        factor = 4 if self.graph.is_complex(left) else 1
        return factor * product_seconds(
            self.rates,
            size(batch, self.tokens),
            size(left - right, self.tokens),
            size(summed, self.tokens),
            size(right - left, self.tokens),
        )

    def elementwise_seconds(self, indices: frozenset[int], sums: bool) -> float:
        """Seconds of an elementwise product over these indices, and of a sum after it."""
        moved = 4.0 * (3 if sums else 2) * self.graph.size(indices, self.tokens)
        return moved / self.rates.bandwidth + self.rates.overhead * (2 if sums else 1)

    def _kept_bytes(self, a: int, b: int) -> float:
        kept = 0.0
        for this, other in ((a, b), (b, a)):
            if other & self.trained and this.bit_count() > 1:
                kept += 4.0 * self.graph.size(self.open(this), self.tokens)
        return kept

    def moves(self, vertex: int, mask: int) -> list[tuple[Move, float]]:
        """The moves by which a map can be applied to a subset's value, with their seconds."""
        before, after = self.open(mask), self.open(mask | 1 << vertex)
        found: list[tuple[Move, float]] = []
        for move in self.graph.vertices[vertex].moves:
            consumes, produces = set(move.consumes), set(move.produces)
            fits = consumes <= before and not consumes & after and not produces & before
            # Fourier transforms and constant matrices act on real values, in every other index.
            is_real = move.kernel in ("gather", "scatter") or not self.graph.is_complex(
                before - consumes
            )
            if fits and is_real:
                found.append((move, self._move_seconds(move, before, produces, mask)))
        return found

    def _move_seconds(
        self, move: Move, before: frozenset[int], produces: set[int], mask: int
    ) -> float:
        size = self.graph.size
        rest = before - set(move.consumes)
        result, operand = size(rest | produces, self.tokens), size(before, self.tokens)
        seconds = 8.0 * (result + operand) / self.rates.bandwidth + 2 * self.rates.overhead
        if move.kernel in ("source", "enter", "leave"):
            length = move.settings[0].length
            lines = size(rest, self.tokens)
            seconds += 2.5 * lines * length * length.bit_length() / self.rates.fourier
        elif move.kernel == "dense":
            inner = size(move.consumes, self.tokens)
            seconds = product_seconds(self.rates, 1, size(rest, self.tokens), inner, inner)
        return seconds * (2 if self.training and mask & self.trained else 1)


def best_order(graph: Graph, tokens: int, rates: Rates, training: bool) -> Order | None:
    """The cheapest tree of a graph, or None if no sequence of kernels contracts it."""
    search = Search(graph, tokens, rates, training)
    exact = _exhaustive(search)
    theirs = _opt_einsum(search)
    if exact is None and theirs is None:
        return _greedy(search)
    if exact is None or (theirs is not None and theirs.seconds <= exact.seconds * (1 + 1e-9)):
        return theirs or exact
    return exact


@dataclass(frozen=True, slots=True)
class Unit:
    """What the search starts from: a tensor with the maps that only it can meet, or a map."""

    mask: int
    tree: Tree
    seconds: float
    is_map: bool


def units(search: Search) -> list[Unit]:
    """The vertices, with every map applied at once that reads one tensor and nothing else."""
    vertices = search.graph.vertices
    found = [Unit(1 << k, Leaf(k), 0.0, vertex.is_map) for k, vertex in enumerate(vertices)]
    absorbed = True
    while absorbed:
        absorbed = False
        for unit in [u for u in found if u.is_map]:
            reader = _only_reader(search, unit, found)
            if reader is not None:
                found = [u for u in found if u not in (unit, reader[0])] + [reader[1]]
                absorbed = True
                break
    return found


def _only_reader(search: Search, unit: Unit, found: list[Unit]) -> tuple[Unit, Unit] | None:
    """The tensor that a Fourier map's source is, with the map applied."""
    vertex = unit.mask.bit_length() - 1
    if not any(move.kernel == "source" for move in search.graph.vertices[vertex].moves):
        return None
    for other in found:
        if other.is_map:
            continue
        for move, seconds in search.moves(vertex, other.mask):
            tree = Apply(vertex, move, other.tree)
            made = Unit(other.mask | unit.mask, tree, other.seconds + seconds, False)
            return other, made
    return None


def _exhaustive(search: Search) -> Order | None:
    """Dynamic programming over subsets of units."""
    start = units(search)
    if len(start) > EXACT:
        return None
    best: dict[int, tuple[float, Tree]] = {}
    for unit in start:
        vertex = search.graph.vertices[unit.mask.bit_length() - 1]
        if not unit.is_map or dense_allowed(search.graph, vertex):
            best[unit.mask] = (unit.seconds, unit.tree)
    maps = {unit.mask for unit in start if unit.is_map}
    for mask in _subsets([unit.mask for unit in start]):
        found = _best_split(search, best, maps, [u.mask for u in start if u.mask & mask])
        if found is not None:
            best[mask] = found
    if search.full not in best:
        return None
    seconds, tree = best[search.full]
    return Order(tree, seconds, "exhaustive search")


def _subsets(parts: list[int]) -> list[int]:
    """The unions of two parts or more, smaller ones first."""
    sums = [0]
    for part in parts:
        sums += [known | part for known in sums]
    single = {0, *parts}
    count = {mask: sum(1 for part in parts if part & mask) for mask in sums}
    return sorted((mask for mask in sums if mask not in single), key=lambda mask: count[mask])


def _best_split(
    search: Search, best: dict[int, tuple[float, Tree]], maps: set[int], parts: list[int]
) -> tuple[float, Tree] | None:
    """The cheapest way to make a subset from two."""
    cost, make = FOREVER, None
    full = sum(parts)
    for part in (0, *parts, *_subsets(parts)):
        rest = full ^ part
        if part not in best or not rest:
            continue
        if part > rest and rest in best:
            base = best[part][0] + best[rest][0]
            total = base + search.join_seconds(part, rest) if base < cost else FOREVER
            if total < cost:
                cost, make = total, Join(best[part][1], best[rest][1])
        if rest in maps:
            vertex = rest.bit_length() - 1
            for move, seconds in search.moves(vertex, part):
                if best[part][0] + seconds < cost:
                    cost, make = best[part][0] + seconds, Apply(vertex, move, best[part][1])
    return None if make is None else (cost, make)


def _opt_einsum(search: Search) -> Order | None:
    """opt_einsum's path over the same vertices, with maps counted as tensors of their indices."""
    import opt_einsum  # loads numpy, so only here

    graph = search.graph
    terms = [frozenset(v.indices) for v in graph.vertices]
    sizes = {i: search.tokens if n < 0 else n for i, n in graph.sizes.items()}
    symbol = {i: opt_einsum.get_symbol(k) for k, i in enumerate(sizes)}
    text = ",".join("".join(symbol[i] for i in sorted(term)) for term in terms)
    text += "->" + "".join(symbol[i] for i in graph.output)
    shapes = [tuple(sizes[i] for i in sorted(term)) for term in terms]
    optimize = "optimal" if len(terms) <= OPTIMAL else "auto"
    path, _ = opt_einsum.contract_path(text, *shapes, shapes=True, optimize=optimize)
    stack: list[tuple[int, Tree, float]] = [
        (1 << k, Leaf(k), 0.0) for k in range(len(graph.vertices))
    ]
    for positions in path:
        picked = [stack[p] for p in positions]
        stack = [entry for p, entry in enumerate(stack) if p not in positions]
        joined = _join_all(search, picked)
        if joined is None:
            return None
        stack.append(joined)
    mask, tree, seconds = stack[0]
    legal = mask == search.full and not _is_lone_map(search, tree)
    return Order(tree, seconds, f"opt_einsum {optimize}") if legal else None


def _greedy(search: Search) -> Order | None:
    """The best step that is possible, again and again, where no path of the others is."""
    stack: list[tuple[int, Tree, float]] = [
        (1 << k, Leaf(k), 0.0) for k in range(len(search.graph.vertices))
    ]
    while len(stack) > 1:
        made = [
            (_regret(search, a, b, step[0]), step[1], (a, b), step[0])
            for a, b in combinations(stack, 2)
            if (step := _join_two(search, a[:2], b[:2])) is not None
        ]
        if not made:
            return None
        _, seconds, (a, b), tree = min(made, key=itemgetter(0, 1))
        stack = [entry for entry in stack if entry not in (a, b)]
        stack.append((a[0] | b[0], tree, a[2] + b[2] + seconds))
    _, tree, seconds = stack[0]
    return None if _is_lone_map(search, tree) else Order(tree, seconds, "greedy search")


def _regret(
    search: Search, a: tuple[int, Tree, float], b: tuple[int, Tree, float], step: Tree
) -> int:
    """How a step may end in one that is not possible: 0 for one to take without a thought.

    1 where it writes a map out, which then acts on nothing; 2 where no index is in common.
    """
    if not search.open(a[0]) & search.open(b[0]):
        return 2
    vertices = search.graph.vertices
    trees = (a[1], b[1]) if isinstance(step, Join) else ()
    return int(any(isinstance(t, Leaf) and vertices[t.vertex].is_map for t in trees))


def _join_all(
    search: Search, picked: list[tuple[int, Tree, float]]
) -> tuple[int, Tree, float] | None:
    mask, tree, seconds = picked[0]
    for other, subtree, cost in picked[1:]:
        made = _join_two(search, (mask, tree), (other, subtree))
        if made is None:
            return None
        mask, tree, seconds = mask | other, made[0], seconds + cost + made[1]
    return mask, tree, seconds


def _join_two(
    search: Search, a: tuple[int, Tree], b: tuple[int, Tree]
) -> tuple[Tree, float] | None:
    for (mask, tree), (_, subtree) in ((a, b), (b, a)):
        if isinstance(subtree, Leaf) and search.graph.vertices[subtree.vertex].is_map:
            if _is_lone_map(search, tree):
                return None
            moves = search.moves(subtree.vertex, mask)
            if moves:
                move, seconds = min(moves, key=itemgetter(1))
                return Apply(subtree.vertex, move, tree), seconds
            if not dense_allowed(search.graph, search.graph.vertices[subtree.vertex]):
                return None
    return Join(a[1], b[1]), search.join_seconds(a[0], b[0])


def _is_lone_map(search: Search, tree: Tree) -> bool:
    return (
        isinstance(tree, Leaf)
        and search.graph.vertices[tree.vertex].is_map
        and not dense_allowed(search.graph, search.graph.vertices[tree.vertex])
    )
