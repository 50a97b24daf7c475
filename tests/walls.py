"""The walls of the house as functions of a source folder; each lists what breaches it.

They read imports with ``ast``, so nothing of the package is loaded by looking at it.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "tensoradapt"
FLOORS = {
    "errors": 1,
    "algebra": 2,
    "network": 3,
    "structure": 3,
    "spelling": 3,
    "documents": 3,
    "planning": 4,
    "zoo": 4,
    "run": 5,
    "analysis": 6,
    "nn": 7,
    "integrations": 8,
    "demo": 8,
    "cli": 9,
    "__init__": 10,
    "__main__": 10,
}
"""Every room of the package with its floor; imports go down."""

NEIGHBOURS = {
    ("spelling", "structure"),
    ("documents", "structure"),
    ("documents", "spelling"),
    ("integrations", "__init__"),
    ("demo", "__init__"),
    ("cli", "__init__"),
}
"""Rooms of which the first may import the second: on one floor, or the lazy public face."""

ZOO_READS = ("errors", "algebra", "structure", "zoo")
ZOO_READERS = ("zoo", "integrations", "demo", "cli", "__init__", "__main__")
ARRAY_LIBRARIES = ("numpy", "torch", "jax", "scipy", "array_api_compat", "networkx", "tensorly")
TORCH_ROOMS = ("nn", "integrations", "demo")
PLANNERS = ("opt_einsum", "cotengra")
FORBIDDEN_NAMES = ("utils", "util", "misc", "common", "helpers", "helper", "base", "manager")
REGISTRIES = {("structure", "_METHODS"), ("algebra.expression", "OPERATIONS")}
MAX_FILE, MAX_FUNCTION = 450, 45


@dataclass(frozen=True)
class Import:
    """One imported module, by whom, and where it stands."""

    importer: str
    target: str
    line: int
    inside: str = ""
    for_types: bool = False

    def __str__(self) -> str:
        where = f" in {self.inside}()" if self.inside else ""
        return f"{self.importer}:{self.line}{where} imports {self.target}"


def modules(root: Path) -> dict[str, Path]:
    """Every module of the package by its dotted name below the package."""
    found: dict[str, Path] = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if parts[-1] == "__init__" and len(parts) > 1:
            parts = parts[:-1]
        found[".".join(parts)] = path
    return found


def room(module: str) -> str:
    return module.split(".")[0]


def imports(root: Path) -> list[Import]:
    """Every import of the package; those of its own modules as ``tensoradapt.…``."""
    known = modules(root)
    found: list[Import] = []
    for name, path in known.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found += _imports(tree, name, path.name == "__init__.py", known, "", False)
    return found


def _imports(
    tree: ast.AST, name: str, is_package: bool, known: dict[str, Path], inside: str, typed: bool
) -> Iterator[Import]:
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(name, alias.name, child.lineno, inside, typed)
        elif isinstance(child, ast.ImportFrom):
            for target in _targets(child, name, is_package, known):
                yield Import(name, target, child.lineno, inside, typed)
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            here = getattr(child, "name", "lambda")
            yield from _imports(child, name, is_package, known, here, typed)
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            yield from _imports(child, name, is_package, known, inside, True)
        else:
            yield from _imports(child, name, is_package, known, inside, typed)


def _targets(
    node: ast.ImportFrom, name: str, is_package: bool, known: dict[str, Path]
) -> list[str]:
    if node.level == 0:
        start = node.module or ""
        if room(start) != PACKAGE:
            return [start]
        prefix = start.split(".")[1:]
    else:
        own = [] if name == "__init__" else name.split(".")
        above = node.level - (1 if is_package else 0)
        prefix = own[: len(own) - above] + (node.module.split(".") if node.module else [])
    base = ".".join(prefix)
    found: list[str] = []
    for alias in node.names:
        inner = f"{base}.{alias.name}" if base else alias.name
        chosen = inner if inner in known else base
        found.append(f"{PACKAGE}.{chosen}" if chosen else PACKAGE)
    return list(dict.fromkeys(found))


def _own(one: Import) -> str | None:
    """The module below the package that an import names, if it is our own."""
    if room(one.target) != PACKAGE:
        return None
    return one.target.removeprefix(PACKAGE).removeprefix(".") or "__init__"


# --- imports ------------------------------------------------------------------------------


def unknown_rooms(root: Path) -> list[str]:
    """Rooms that stand on no floor."""
    return sorted({room(name) for name in modules(root)} - set(FLOORS))


def upward_imports(root: Path) -> list[str]:
    """Imports that do not go down the floors."""
    found: list[str] = []
    for one in imports(root):
        target = _own(one)
        if target is None:
            continue
        here, there = room(one.importer), room(target)
        goes_down = FLOORS.get(there, 0) < FLOORS.get(here, 0)
        if here != there and not goes_down and (here, there) not in NEIGHBOURS:
            found.append(str(one))
    return found


def circles(root: Path) -> list[str]:
    """Modules that import each other in a circle, imports inside functions included."""
    graph: dict[str, set[str]] = {name: set() for name in modules(root)}
    for one in imports(root):
        target = _own(one)
        if target is not None and target != one.importer and not one.for_types:
            graph[one.importer].add(target)
    graph.pop("__init__", None)  # the face is lazy
    found: list[str] = []
    done: set[str] = set()
    for start in graph:
        _walk(start, graph, [], done, found)
    return found


def _walk(
    name: str, graph: dict[str, set[str]], way: list[str], done: set[str], found: list[str]
) -> None:
    if name in way:
        found.append(" → ".join([*way[way.index(name) :], name]))
    elif name not in done and name in graph:
        for other in sorted(graph[name]):
            _walk(other, graph, [*way, name], done, found)
        done.add(name)


def hidden_imports(root: Path) -> list[str]:
    """Imports of our own package inside functions; the lazy face has none but its loader."""
    own = (one for one in imports(root) if one.inside and _own(one) is not None)
    return [str(one) for one in own if one.importer != "__init__"]


def early_arrays(root: Path) -> list[str]:
    """Array libraries that are imported at load up to floor 4."""
    return [
        str(one)
        for one in imports(root)
        if FLOORS.get(room(one.importer), 0) in (1, 2, 3, 4, 10)
        and room(one.target) in (*ARRAY_LIBRARIES, *PLANNERS, "flint")
        and not one.for_types
        and not (room(one.target) in PLANNERS and one.importer == "planning.order" and one.inside)
    ]


def misplaced_libraries(root: Path) -> list[str]:
    """Torch, opt_einsum, cotengra and flint outside of their rooms."""
    found: list[str] = []
    for one in imports(root):
        library, here = room(one.target), room(one.importer)
        fits = one.importer == "analysis.fit" and bool(one.inside)
        if library == "torch" and here not in TORCH_ROOMS and not fits:
            found.append(str(one))
        if library in PLANNERS and not (one.importer == "planning.order" and one.inside):
            found.append(str(one))
        if library == "flint" and here != "analysis":
            found.append(str(one))
    return found


def zoo_walls(root: Path) -> list[str]:
    """What the zoo imports beyond the algebra, and who imports the zoo."""
    found: list[str] = []
    for one in imports(root):
        target, here = _own(one), room(one.importer)
        if target is None:
            continue
        if here == "zoo" and room(target) not in ZOO_READS:
            found.append(str(one))
        if room(target) == "zoo" and here not in ZOO_READERS:
            found.append(str(one))
    return found


def outside_imports(root: Path) -> list[str]:
    """Imports of what stands beside the house."""
    return [
        str(one)
        for one in imports(root)
        if room(one.target) in ("theory", "benchmarks", "tests", "docs")
    ]


# --- files and state ----------------------------------------------------------------------


def long_files(root: Path, limit: int = MAX_FILE) -> list[str]:
    counts = {path: len(path.read_text("utf-8").splitlines()) for path in root.rglob("*.py")}
    return [
        f"{path.relative_to(root)}: {n} lines" for path, n in sorted(counts.items()) if n > limit
    ]


def long_functions(root: Path, limit: int = MAX_FUNCTION) -> list[str]:
    """Functions of more than so many lines, without their docstrings."""
    found: list[str] = []
    for path in sorted(root.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                count = (node.end_lineno or 0) - node.lineno + 1 - _docstring_lines(node)
                if count > limit:
                    found.append(f"{path.relative_to(root)}: {node.name} has {count} lines")
    return found


def _docstring_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    first = node.body[0]
    if not isinstance(first, ast.Expr) or ast.get_docstring(node) is None:
        return 0
    return (first.end_lineno or 0) - first.lineno + 1


def forbidden_names(root: Path) -> list[str]:
    every = [*root.rglob("*.py"), *(path for path in root.rglob("*") if path.is_dir())]
    return sorted(str(p.relative_to(root)) for p in every if p.stem in FORBIDDEN_NAMES)


def setters(root: Path) -> list[str]:
    """Functions that set global options."""
    found: list[str] = []
    for path in sorted(root.rglob("*.py")):
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("set_"):
                found.append(f"{path.relative_to(root)}: {node.name}")
    return found


MUTATORS = ("append", "extend", "add", "update", "setdefault", "pop", "clear", "insert", "remove")


def mutable_state(root: Path) -> list[str]:
    """Module-level names that functions change; registries that imports fill are allowed."""
    found: list[str] = []
    for name, path in modules(root).items():
        tree = ast.parse(path.read_text("utf-8"))
        state = {n.id for node in tree.body for n in _assigned(node)}
        functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.Lambda)]
        for function in functions:
            local = {a.arg for a in function.args.args} | {
                n.id for node in ast.walk(function) for n in _assigned(node)
            }
            for node in ast.walk(function):
                changed = _changed(node)
                is_global = isinstance(node, ast.Global)
                if is_global or (changed in state - local and (name, changed) not in REGISTRIES):
                    found.append(f"{name}:{node.lineno} changes {changed or 'a global'}")
    return found


def _assigned(node: ast.AST) -> list[ast.Name]:
    if isinstance(node, ast.Assign):
        targets: list[ast.expr] = node.targets
    elif isinstance(node, ast.AnnAssign | ast.For):
        targets = [node.target]
    else:
        return []
    return [n for target in targets for n in ast.walk(target) if _is_stored(n)]  # type: ignore[misc]


def _is_stored(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)


def _changed(node: ast.AST) -> str | None:
    """The name whose object a statement changes in place."""
    match node:
        case ast.Subscript(value=ast.Name(id=name), ctx=ast.Store() | ast.Del()):
            return name
        case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr=attribute)):
            return name if attribute in MUTATORS else None
        case _:
            return None


WALLS = (
    unknown_rooms,
    upward_imports,
    circles,
    hidden_imports,
    early_arrays,
    misplaced_libraries,
    zoo_walls,
    outside_imports,
    long_files,
    long_functions,
    forbidden_names,
    setters,
    mutable_state,
)
"""Every wall that is read from the sources."""


# --- fresh interpreters -------------------------------------------------------------------

BLOCK = """
import sys
sys.path.insert(0, {!r})
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {!r}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Block())
"""
HEAVY = {"numpy", "torch", "jax", "scipy", "networkx", "opt_einsum", "flint", "tensorly", "rich"}


def fresh(code: str, root: Path, without: tuple[str, ...] = ()) -> str:
    """What code prints in a new interpreter in which some packages cannot be imported."""
    made = subprocess.run(
        [sys.executable, "-c", BLOCK.format(str(root.parent), without) + code],
        capture_output=True,
        text=True,
        cwd=root.parent,
        timeout=120,
    )
    assert made.returncode == 0, made.stderr[-2000:]
    return made.stdout


def loaded_early(code: str, root: Path) -> set[str]:
    """The heavy packages that a piece of code loads; it must load this package from here."""
    told = fresh(f"{code}\nimport tensoradapt\nprint(tensoradapt.__file__)\n{LOADED}", root)
    place, loaded = told.strip().split("\n")
    assert Path(place).parent.resolve() == root.resolve(), place
    return set(loaded.split()) & HEAVY


LOADED = "print(' '.join(sorted({name.split('.')[0] for name in sys.modules})))"
