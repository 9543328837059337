"""Every relative link of every Markdown file leads to a file, and to a heading, that exists."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.documents import ROOT
from tests.test_import_direction import MAY_IMPORT

# What is ours: model folders that were downloaded into the clone have cards with links of their own.
FOLDERS = (*MAY_IMPORT, ".github", "docs", "examples", "tests")
FILES = sorted({*ROOT.glob("*.md"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.md"))})

FENCED = re.compile(r"^ *(```|~~~).*?^ *\1", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`[^`\n]+`")
LINK = re.compile(r"\[[^\]]*\]\(\s*([^)\s]+)[^)]*\)|^ *\[[^\]]+\]:\s*(\S+)", re.MULTILINE)


def links(text: str) -> list[str]:
    """The targets of all links and images outside of code."""
    prose = CODE.sub("", FENCED.sub("", text))
    return [inline or reference for inline, reference in LINK.findall(prose)]


def anchors(text: str) -> Iterator[str]:
    """The anchors of all headings, as GitHub makes them.

    ## Stop and resume            ->  stop-and-resume
    ## FLUX.1, `--dry-run`        ->  flux1---dry-run
    the second heading of a name  ->  name-1
    """
    seen: dict[str, int] = {}
    for heading in re.findall(r"^#{1,6} +(.+?) *#*$", FENCED.sub("", text), re.MULTILINE):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        anchor = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        count = seen[anchor] = seen.get(anchor, -1) + 1
        yield f"{anchor}-{count}" if count else anchor


def faults(page: Path, text: str) -> list[str]:
    """What is wrong with the relative links of a page with this text."""
    found = []
    for link in links(text):
        if re.match(r"[a-z][a-z+.-]*:", link):  # another site
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.is_relative_to(ROOT):
            found.append(f"{link} leads out of the repository")
        elif not target.exists():
            found.append(f"{link}: there is no {target.relative_to(ROOT)}")
        elif anchor:
            headings = text if target == page else target.read_text(encoding="utf-8") if target.suffix == ".md" else ""
            if anchor not in anchors(headings):
                found.append(f"{link}: {target.relative_to(ROOT)} has no such heading")
    return found


def test_there_are_pages_and_links_to_check():
    assert len(FILES) > 15
    assert "docs/rewards.md#judges" in links((ROOT / "README.md").read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", FILES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path):
    assert faults(page, page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "text",
    [
        "[a](docs/no_such_page.md)",
        "[`a`](docs/no_such_page.md)",
        "![a](no_such_image.png)",
        "[a]: no_such_page.md",
        "[a\nb](no_such_page.md)",
        "[a](docs/rewards.md#no-such-heading)",
        "[a](Makefile#install)",
        "[a](#no-such-heading)",
        "[a](#in-code)\n\n```text\n# In code\n```",
        "# Twice\n\n# Twice\n\n[a](#twice-2)",
        "[a](../README.md)",
    ],
)
def test_a_link_that_leads_nowhere_is_seen(text: str):
    assert len(faults(ROOT / "README.md", text)) == 1


@pytest.mark.parametrize(
    "text",
    [
        "[a](docs/rewards.md#judges), [b](https://example.com/no_such_page), [c](docs)",
        "# Twice\n\n# Twice\n\n[a](#twice-1)",
        "## FLUX.1, `--dry-run`\n\n[a](#flux1---dry-run)",
        "`[a](no_such_page.md)`\n\n```text\n[a](no_such_page.md)\n```",
    ],
)
def test_a_link_that_leads_somewhere_is_none(text: str):
    assert faults(ROOT / "README.md", text) == []
