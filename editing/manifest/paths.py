"""Names of files in a manifest, found below its root and nowhere else."""

import unicodedata
from pathlib import Path

from editing.task import TaskError


class Root:
    """The folder that a manifest's paths start from and must stay in.

    A name that is not there as it is written is looked for in every Unicode normal form: "é" is one letter or an "e"
    with an accent, depending on the system that wrote it, and both look alike.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self._listings: dict[Path, dict[str, list[str]]] = {}

    def file(self, key: str, text: str) -> Path:
        """The resolved path of the file that `text` names, the value of a line's `key`.

        Raises:
            TaskError: absolute, out of the root (through a link, too), no file, or no usable path.
        """
        if Path(text).is_absolute():
            raise TaskError(
                f"{key} must be a path relative to the root {self.folder}; seen the absolute {text!r:.120}.")
        try:
            path = (self.folder / text).resolve()
            if not path.exists():
                path = self._in_another_form(key, text).resolve()
            if not path.is_relative_to(self.folder):
                raise TaskError(f"{key} must stay inside the root {self.folder}; {text!r:.120} leads out of it.")
            if not path.is_file():
                raise TaskError(
                    f"{key} must be a file; {text!r:.120} is none under {self.folder}{self._hint(text) or '.'}")
        except (OSError, ValueError, RuntimeError) as error:  # too long, a null byte, a loop of links
            if isinstance(error, TaskError):
                raise
            raise TaskError(f"{key} must be a usable path; {text!r:.120} is not: {error}.") from error
        return path

    def _in_another_form(self, key: str, text: str) -> Path:
        """The path with each name that is not there replaced by the one that differs in normal form only."""
        path = self.folder
        for part in Path(text).parts:
            found = [part] if part == ".." or (path / part).exists() else self._alike(path, part)
            if len(found) > 1:
                raise TaskError(f"{key} must be one file; {text!r:.120} looks like {len(found)} names in {path} that "
                                "differ in their Unicode normal form only. Rename them.")
            path = path / (found[0] if found else part)
        return path

    def _alike(self, folder: Path, name: str) -> list[str]:
        return [other for other in self._listing(folder).get(_folded(name), []) if _composed(other) == _composed(name)]

    def _hint(self, text: str) -> str:
        """What was probably meant: the same name in other case, with other slashes, or without blanks around it."""
        meant = Path(text.replace("\\", "/").strip())
        found = self._listing(self.folder / meant.parent).get(_folded(meant.name), [])
        return f"; did you mean {str(meant.parent / found[0])!r:.120}?" if found else ""

    def _listing(self, folder: Path) -> dict[str, list[str]]:
        """The names in a folder, by what they have in common with those that look alike; read once per folder."""
        if folder not in self._listings:
            listing: dict[str, list[str]] = {}
            # Only below the root: what else there is on this machine is no manifest's business.
            if folder.is_dir() and folder.resolve().is_relative_to(self.folder):
                for name in sorted(entry.name for entry in folder.iterdir()):
                    listing.setdefault(_folded(name), []).append(name)
            self._listings[folder] = listing
        return self._listings[folder]


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _folded(name: str) -> str:
    return _composed(name).casefold()
