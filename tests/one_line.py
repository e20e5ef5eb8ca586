"""What a user is told of a folder of images that cannot be read: one line."""

from collections.abc import Callable
from pathlib import Path

import pytest

from trainables.data.dataset import Dataset
from trainables.errors import UserError


def refused(load: Callable[[Path], Dataset], root: Path) -> str:
    """The one line that the user is told."""
    with pytest.raises(UserError) as caught:
        load(root)
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)
    return str(caught.value)
