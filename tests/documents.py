"""The pages that users and contributors read and type from."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = (
    README,
    *(ROOT / f"{name}.md" for name in ("ARCHITECTURE", "CONTRIBUTING", "SECURITY")),
    *(ROOT / "docs").glob("*.md"),
)


def text_of(*pages: Path) -> str:
    """The text of some pages, one after the other."""
    return "\n".join(page.read_text(encoding="utf-8") for page in pages)


def page(name: str) -> str:
    """The text of the page `name`, such as `docs/rewards.md`."""
    return text_of(ROOT / name)
