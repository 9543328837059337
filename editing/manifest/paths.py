"""Resolution of a manifest's file names, confined to its root unless the owner's links lead out of it."""

from __future__ import annotations

import os
import stat
import unicodedata
from pathlib import Path

from editing.task import TaskError

SWITCH = "if the links are yours, set data.follow_links to true (in other commands: --follow-links)"


class Root:
    """The folder that a manifest's paths are relative to and must stay in.

    A name that is not there as it is written is looked for in every Unicode normal form: "é" is one letter or an "e"
    with an accent, depending on the system that wrote it, and both look alike.

    Attributes:
        folder: resolved.
        follow_links: whether links may lead out of the folder; a path as it is written (`../x`) may not.
    """

    def __init__(self, folder: Path, follow_links: bool = False, note: str = "") -> None:
        """`note` is added to the message about a missing file."""
        self.folder, self.follow_links, self._note = folder.resolve(), follow_links, note
        self._listings: dict[Path, dict[str, list[str]]] = {}
        self._folders: dict[str, Path] = {}

    @classmethod
    def of(cls, manifest: Path, stated: str | None, argument: Path | None, follow_links: bool) -> Root:
        """The root of a manifest: the argument; else what its header has `stated`, below the folder that it lies in.

        Where the manifest itself is a link, it lies where the link does.

        Raises:
            TaskError: when there is no such folder, or the stated one is not below the manifest's.
        """
        folder = manifest.parent.resolve()
        root = folder
        if argument is not None:
            root = argument.resolve()
        elif stated is not None:
            name = os.path.normpath(stated)
            if os.path.isabs(stated) or _leads_out(name):
                raise TaskError(
                    f"the header's root: expected a folder inside the manifest's folder {folder}, got {stated!r}. "
                    "Move the manifest into the folder that holds its images, and leave root out."
                )
            try:
                cls(folder, follow_links).refuse_link("the header's root", name)
                root = (folder / name).resolve()
            except (OSError, RuntimeError) as error:
                raise TaskError(f"the header's root must be a usable path; {stated!r:.120} is not: {error}.") from error
        if not root.is_dir():
            raise TaskError(f"the root {root} must be a folder; there is none.")
        target = f" (the manifest is a link to {manifest.resolve()})" if manifest.is_symlink() else ""
        return cls(root, follow_links, target)

    def file(self, key: str, text: str) -> Path:
        """The path of the file that `text` names, the value of a line's `key`; resolved unless links are followed.

        Raises:
            TaskError: absolute, out of the root (through a link, too), no file, or no usable path.
        """
        if Path(text).is_absolute():
            raise TaskError(
                f"{key}: expected a path relative to the root {self.folder}, got the absolute {text!r:.120}."
            )
        try:
            name = os.path.normpath(text)  # lexically, so that `link/..` is the folder of the link
            if _leads_out(name):
                raise TaskError(f"{key} must stay inside the root {self.folder}; {text!r:.120} leads out of it.")
            if (plain := self._plain(name)) is not None:
                return plain
            if not (self.folder / name).exists():
                name = self._in_another_form(key, name)
            self.refuse_link(key, name)
            path = self.folder / name
            if not path.is_file():
                raise TaskError(f"{key} must be a file; {text!r:.120} {self._missing(path, name)}")
            return path if self.follow_links else path.resolve()
        except (OSError, ValueError, RuntimeError) as error:  # too long, a null byte, a loop of links
            if isinstance(error, TaskError):
                raise
            raise TaskError(f"{key} must be a usable path; {text!r:.120} is not: {error}.") from error

    def _plain(self, name: str) -> Path | None:
        """The path of a file that is not a link and whose folder is already known to be inside the root; else None."""
        parent, leaf = os.path.split(name)
        folder = self._folders.get(parent)
        if folder is None:
            folder = (self.folder / parent).resolve()
            if not folder.is_relative_to(self.folder):
                return None
            self._folders[parent] = folder
        path = os.path.join(folder, leaf)
        try:
            regular = stat.S_ISREG(os.lstat(path).st_mode)
        except FileNotFoundError:
            return None
        return Path(path) if regular else None

    def refuse_link(self, key: str, name: str) -> None:
        """Raise TaskError if a link on the way to `name` leads out of the folder and links are not followed."""
        if self.follow_links or (self.folder / name).resolve().is_relative_to(self.folder):
            return
        path = self.folder
        for part in Path(name).parts:
            path = path / part
            if not path.resolve().is_relative_to(self.folder):
                break
        link = str(path.relative_to(self.folder))
        raise TaskError(
            f"{key} must stay inside the root {self.folder}; {link!r:.120} is a link to {path.resolve()}; {SWITCH}."
        )

    def _missing(self, path: Path, name: str) -> str:
        """Why a path is not a file."""
        if path.is_symlink():
            return f"is a link to {path.resolve()}, and there is no file (not fetched yet?)."
        hint = self._hint(name)
        return f"is none under {self.folder}{self._note}{hint or '.'}"

    def _in_another_form(self, key: str, text: str) -> str:
        """The path with each missing name replaced by the one that differs only in Unicode normalisation."""
        path = self.folder
        for part in Path(text).parts:
            found = [part] if os.path.lexists(path / part) else self._alike(path, part)
            if len(found) > 1:
                raise TaskError(
                    f"{key} must be one file; {text!r:.120} looks like {len(found)} names in {path} that "
                    "differ in their Unicode normal form only. Rename them."
                )
            path = path / (found[0] if found else part)
        return str(path.relative_to(self.folder))

    def _alike(self, folder: Path, name: str) -> list[str]:
        return [other for other in self._listing(folder).get(_folded(name), []) if _composed(other) == _composed(name)]

    def _hint(self, text: str) -> str:
        """The name probably meant: with different case or slashes, or without surrounding spaces."""
        meant = Path(text.replace("\\", "/").strip())
        found = self._listing(self.folder / meant.parent).get(_folded(meant.name), [])
        return f"; did you mean {str(meant.parent / found[0])!r:.120}?" if found else ""

    def _listing(self, folder: Path) -> dict[str, list[str]]:
        """The names in a folder, grouped by a key that lookalikes share; read once per folder."""
        if folder not in self._listings:
            listing: dict[str, list[str]] = {}
            # Only inside the root: a manifest must not reveal other files of this machine.
            inside = self.follow_links or folder.resolve().is_relative_to(self.folder)
            if inside and folder.is_dir():
                for name in sorted(entry.name for entry in folder.iterdir()):
                    listing.setdefault(_folded(name), []).append(name)
            self._listings[folder] = listing
        return self._listings[folder]


def _leads_out(name: str) -> bool:
    return Path(name).parts[:1] == ("..",)


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _folded(name: str) -> str:
    return _composed(name).casefold()
