"""The file of a picture, checked before anything is loaded or computed for it."""

from pathlib import Path

from trainables.errors import UserError

SUFFIXES = (".png", ".svg", ".pdf")


def check_picture(path: Path) -> None:
    """Refuses a file that no picture can be written to, before anything is computed for it.

    Raises:
        UserError: another ending, or a folder that is not there.
    """
    if path.suffix not in SUFFIXES:
        raise UserError(f"-o {path}: expected a file that ends in {', '.join(SUFFIXES)}")
    if not path.parent.is_dir():
        raise UserError(f"-o {path}: there is no folder {path.parent}")
