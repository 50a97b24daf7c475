"""What a run writes: the machine, the rows as JSON, and tables for people."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markdown import Markdown

SCHEMA = 1
ROOT = Path(__file__).resolve().parent.parent

Document = dict[str, Any]
Rows = Sequence[Sequence[str]]


def environment() -> Document:
    """Where the numbers come from."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "HEAD"),
        "changed": bool(_git("status", "--porcelain")),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "peft": _version("peft"),
        "tensoradapt": _version("tensoradapt"),
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo")
    if lines.exists():
        for line in lines.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def described(machine: Document) -> str:
    """The environment in one line."""
    commit = (machine["commit"] or "unknown")[:12] + (" with changes" if machine["changed"] else "")
    peft = f"peft {machine['peft']}" if machine["peft"] else "no peft"
    return (
        f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads, "
        f"load {machine['load']:.1f} at the start; torch {machine['torch']}, {peft}, "
        f"Python {machine['python']}; commit {commit}; {machine['date']}."
    )


def table(heads: Sequence[str], rows: Rows) -> str:
    """A markdown table; the first column is left-aligned, the others right-aligned."""
    lines = [list(heads), ["---"] + ["---:"] * (len(heads) - 1), *map(list, rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def write(document: Document, text: str, json_path: Path, markdown_path: Path) -> None:
    """Write both files, each whole or not at all."""
    _replace(json_path, json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    _replace(markdown_path, text)


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def show(text: str) -> None:
    """Print markdown: as tables to a person, as it is to a pipe."""
    console = Console()
    if console.is_terminal:
        console.print(Markdown(text))
    else:
        print(text)
