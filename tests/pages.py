"""The code blocks of a Markdown page: running them, and what the page says they print.

``python -m tests.pages docs/guide.md README.md`` writes anew what the pages show wherever it is
no longer what the code prints, and the table of the zoo.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import os
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from typer.testing import CliRunner

from tensoradapt import structure, zoo
from tensoradapt.cli.app import app

ROOT = Path(__file__).parent.parent
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
MODELLED = re.compile(
    r"\b[\d.]+(?= (?:ns|µs|ms|s)\b)|[\d.]+(?= times the chosen)|(?<=from )\d+(?= tokens)"
)
"""Times and what follows from them: a new calibration of the rates changes no page."""

ZOO = re.compile(r"(?<=<!-- zoo -->\n).*?(?=<!-- /zoo -->)", re.DOTALL)
"""Where a page has the table of the zoo."""


@dataclass(frozen=True)
class Example:
    """A block that runs.

    Parameters
    ----------
    kind : {"python", "console"}
        Python code, or one command line.
    code : str
        What runs.
    shown : str or None
        What the page says it prints: the ``text`` block below, or the lines below ``$``.
    line : int
        Where the code begins in the page.
    place : tuple of int
        Where in the page's text ``shown`` begins and ends.
    """

    kind: str
    code: str
    shown: str | None
    line: int
    place: tuple[int, int] = (0, 0)


def examples(text: str) -> list[Example]:
    """The examples of a page's text, in order."""
    found: list[Example] = []
    for match in FENCE.finditer(text):
        kind, body = match.groups()
        line = text.count("\n", 0, match.start()) + 2
        if kind == "python":
            found.append(Example(kind, body, None, line))
        elif kind == "text":
            last = found.pop()
            above = text[: match.start()].rstrip()
            assert last.kind == "python", f"line {line} shows the output of no code"
            assert above.endswith(last.code + "```"), f"line {line} is not below its code"
            found.append(Example(last.kind, last.code, body, last.line, match.span(2)))
        elif kind == "console":
            for part in re.finditer(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", body, re.MULTILINE):
                place = (match.start(2) + part.start(2), match.start(2) + part.end(2))
                found.append(Example(kind, part[1], part[2] or None, line, place))
    return found


def run(example: Example, namespace: dict[str, object]) -> str:
    """Run an example; what it prints."""
    if example.kind == "console":
        _, *arguments = shlex.split(example.code)
        return CliRunner().invoke(app, arguments, terminal_width=100).output
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(example.code, f"line {example.line}", "exec"), namespace)
    return printed.getvalue()


def is_command_in_passing(example: Example) -> bool:
    """Whether it is a command without output, such as ``make demo``, which does not run."""
    return example.kind == "console" and example.shown is None


def is_as_shown(example: Example, printed: str) -> bool:
    """Whether what was printed is what the page says, but for modelled times and ``...``."""
    alike = [MODELLED.sub("…", text) for text in (example.shown or "", printed)]
    return doctest.OutputChecker().check_output(*alike, FLAGS)


def written_anew(text: str) -> str:
    """A page's text with everything that it shows as its code prints it."""
    namespace: dict[str, object] = {"__name__": "page"}
    result, end = "", 0
    for example in examples(text):
        if is_command_in_passing(example):
            continue
        printed = run(example, namespace)
        if example.shown is not None and not is_as_shown(example, printed):
            lines = [line.rstrip() + "\n" for line in printed.rstrip().split("\n")]
            result += text[end : example.place[0]] + "".join(lines)
            end = example.place[1]
    return ZOO.sub(lambda _: zoo_table(), result + text[end:])


def zoo_table() -> str:
    """The methods of the zoo, a line each."""
    known = structure.methods()
    rows = [("method", "update", "source"), ("---", "---", "---")]
    rows += [(f"`{name}`", known[name].summary, known[name].paper) for name in zoo.__all__]
    lines = [" | ".join(cell.replace("|", "\\|") for cell in row) for row in rows]
    return "".join(f"| {line} |\n" for line in lines)


if __name__ == "__main__":
    for page in [Path(argument).resolve() for argument in sys.argv[1:]]:
        with TemporaryDirectory() as folder:
            os.chdir(folder)
            changed = written_anew(page.read_text(encoding="utf-8"))
            os.chdir(page.parent)
        page.write_text(changed, encoding="utf-8")
