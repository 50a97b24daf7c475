"""The pages: every code block runs, and prints what the page says."""

from __future__ import annotations

import re

import pytest

import tensoradapt.algebra as algebra
from tensoradapt import structure

from .pages import (
    ROOT,
    ZOO,
    examples,
    is_as_shown,
    is_command_in_passing,
    run,
    written_anew,
    zoo_table,
)

PAGES = ("README.md", "docs/guide.md")
LINK = re.compile(r"\]\(([^)#:]+?\.md)(?:#[\w-]+)?\)")
LINKED = sorted(
    str(path.relative_to(ROOT)) for path in (ROOT / "README.md", *ROOT.glob("docs/**/*.md"))
)


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """An empty folder, and a registry that forgets the page's methods."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(structure, "_METHODS", dict(structure._METHODS))


def _text(page):
    return (ROOT / page).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES)
def test_every_block_of_a_page_prints_what_the_page_shows(page, fresh):
    namespace = {"__name__": "page"}
    for example in examples(_text(page)):
        if is_command_in_passing(example):
            continue
        printed = run(example, namespace)
        assert is_as_shown(example, printed), (
            f"{page}:{example.line} prints\n{printed}\ninstead of\n{example.shown or ''}\n"
            f"If the page should follow: python -m tests.pages {page}"
        )


def test_a_wrong_output_is_noticed_and_written_anew():
    page = "```python\nprint(6 * 7)\n```\n\n```text\n41\n```\n"
    (example,) = examples(page)
    assert not is_as_shown(example, run(example, {}))
    assert written_anew(page) == page.replace("41", "42")


@pytest.mark.parametrize("page", LINKED)
def test_links_between_pages_lead_somewhere(page):
    targets = LINK.findall(_text(page))
    assert [t for t in targets if not ((ROOT / page).parent / t).is_file()] == []


def test_the_readme_has_the_table_of_the_zoo():
    (shown,) = ZOO.findall(_text("README.md"))
    assert shown == zoo_table(), "README.md should follow: python -m tests.pages README.md"


def test_the_guide_names_every_word_of_the_algebra():
    codecs = {"Expr", "dumps", "loads", "to_data", "from_data", "exact", "scaling", "formula"}
    text = _text("docs/guide.md")
    missing = [n for n in algebra.__all__ if n not in codecs and not re.search(rf"\b{n}\b", text)]
    assert not missing
