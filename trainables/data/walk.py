"""Image files in and below a folder, and an account of every other file that lies there."""

import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from trainables.data.image_formats import ending_of, is_image_name
from trainables.data.notes import counted, plural
from trainables.errors import UserError

# What systems and programs leave everywhere; nobody means it as data.
_RUBBISH = {
    *("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", ".ds_store"),
    *("__macosx", "$recycle.bin", "system volume information", "@eadir", "lost+found"),
    *(".ipynb_checkpoints", ".git", ".svn", ".cache", ".thumbnails", ".appledouble", ".trashes"),
}


def is_rubbish(name: str) -> bool:
    """Whether a file or folder that is called so is surely no data."""
    return name.startswith("._") or name.lower() in _RUBBISH


@dataclass
class LeftOut:
    """The files of a data set that are passed over.

    Attributes:
        endings: how many of each ending.
        hidden: how many images whose name, or whose folder's, begins with a dot.
        outside: how many images that lie beside the folders of the classes.
        loops: links to a folder that they lie in.
    """

    endings: Counter[str] = field(default_factory=Counter)
    hidden: int = 0
    outside: int = 0
    loops: int = 0
    first: dict[str, str] = field(default_factory=dict)

    def add(self, path: str, *, hidden: bool = False) -> None:
        """Counts a file."""
        name = os.path.basename(path)
        if is_image_name(name) and hidden:
            self.hidden += 1
            self.first.setdefault("hidden", path)
        elif not hidden and not name.startswith("."):
            self.endings[ending_of(name) or "without ending"] += 1
            self.first.setdefault("ending", path)

    def add_outside(self, path: str) -> None:
        """Counts a file beside the folders of the classes."""
        if is_image_name(os.path.basename(path)) and not os.path.basename(path).startswith("."):
            self.outside += 1
            self.first.setdefault("outside", path)
        else:
            self.add(path, hidden=os.path.basename(path).startswith("."))

    def merge(self, other: "LeftOut") -> None:
        """Counts what another one has counted."""
        self.endings += other.endings
        self.hidden += other.hidden
        self.outside += other.outside
        self.loops += other.loops
        self.first = {**other.first, **self.first}

    def notes(self, folder: Path) -> Iterator[str]:
        """A line for each kind; none where nothing was left out."""
        endings = sum(self.endings.values())
        parts = [
            (
                "ending",
                endings,
                f"{plural(endings, 'file')} not read as images ({counted(self.endings)})",
            ),
            ("hidden", self.hidden, f"{plural(self.hidden, 'image')} hidden by a dot in the name"),
            ("outside", self.outside, f"{plural(self.outside, 'image')} in no class's folder"),
            ("loop", self.loops, f"{plural(self.loops, 'link')} to a folder above"),
        ]
        for key, count, words in parts:
            if count:
                yield f"left out: {words}; first: {os.path.relpath(self.first[key], folder)}"


def scan(folder: str | Path) -> list[os.DirEntry[str]]:
    """What lies in a folder, sorted by name, without rubbish.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            return sorted(
                (entry for entry in entries if not is_rubbish(entry.name)),
                key=lambda entry: entry.name,
            )
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror})") from error


def identity(folder: str | Path) -> tuple[int, int]:
    """What two names of one folder have in common.

    Raises:
        UserError: it cannot be read.
    """
    try:
        state = os.stat(folder)
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror})") from error
    return state.st_dev, state.st_ino


def image_files(folder: str | Path, left_out: LeftOut) -> list[str]:
    """The image files in and below a folder, links followed, sorted by the parts of their paths.

    Args:
        folder: where to look.
        left_out: counts every other file.

    Raises:
        UserError: a folder cannot be read, or a link that is called like an image leads nowhere.
    """
    above = frozenset(identity(parent) for parent in Path(folder).absolute().parents)
    return list(_images(os.fspath(folder), left_out, above))


def _images(folder: str, left_out: LeftOut, above: frozenset[tuple[int, int]]) -> Iterator[str]:
    inside = above | {identity(folder)}
    for entry in scan(folder):
        if entry.is_dir():
            if entry.is_symlink() and identity(entry.path) in inside:
                left_out.loops += 1
                left_out.first.setdefault("loop", entry.path)
            elif entry.name.startswith("."):
                count_hidden(entry.path, left_out)
            else:
                yield from _images(entry.path, left_out, inside)
        elif entry.name.startswith("."):
            left_out.add(entry.path, hidden=True)
        elif not is_image_name(entry.name):
            left_out.add(entry.path)
        elif entry.is_file():
            yield entry.path
        else:
            raise UserError(f"{entry.path}: {_oddity(entry)}, expected an image file")


def count_hidden(folder: str | Path, left_out: LeftOut) -> None:
    """Counts the images in and below a hidden folder. Links are not followed."""
    for where, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not is_rubbish(name))
        for name in sorted(files):
            if not is_rubbish(name):
                left_out.add(os.path.join(where, name), hidden=True)


def _oddity(entry: os.DirEntry[str]) -> str:
    try:
        mode = entry.stat().st_mode
    except OSError:
        return "a link that leads nowhere"
    return "a pipe" if stat.S_ISFIFO(mode) else "no ordinary file"
