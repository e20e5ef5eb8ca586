"""Keys of small teacher tables, what to fill them with, and their records in the file."""

from typing import Any

import torch
from torch import Tensor

from trainables.teachers.orbit_file import HEADER_BYTES, TableKey
from trainables.teachers.table import TeacherTable


def key(**changes: Any) -> TableKey:
    """20 images of 18 views, 5 logits, unless ``changes`` say otherwise."""
    facts: dict[str, Any] = {
        "teacher": "a" * 64,
        "data": "b" * 64,
        "padding": 1,
        "flip": True,
        "what": "logits",
        "precision": "fp32",
        "images": 20,
        "width": 5,
    }
    return TableKey(**(facts | changes))


def every_entry(table: TeacherTable) -> tuple[Tensor, Tensor]:
    """Images and views, int64 ``[entries]`` each."""
    numbers = torch.arange(table.key.entries)
    return numbers // table.key.views, numbers % table.key.views


def outputs(rows: int, width: int = 5, seed: int = 0) -> Tensor:
    """What a teacher may say: float32 ``[rows, width]``."""
    return 5 * torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


def one(number: int) -> Tensor:
    """A batch of this one number."""
    return torch.tensor([number])


def record(table: TeacherTable, image: int, view: int) -> tuple[int, int]:
    """Offset and size of a record in the file."""
    size = 4 * table.key.record_words
    return HEADER_BYTES + (image * table.key.views + view) * size, size
