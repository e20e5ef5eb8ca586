"""Parquet files of small images of cats, dogs and eels, and what is read of them."""

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from trainables.data.dataset import Dataset

NAMES = ("cat", "dog", "eel")
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_random = np.random.RandomState(0)


def picture(**options: Any) -> bytes:
    """A PNG of 8x8 pixels like no other; ``options`` are Pillow's."""
    buffer = io.BytesIO()
    pixels = _random.randint(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG", **options)
    return buffer.getvalue()


def write(
    file: Path,
    labels: Any,
    names: Sequence[str] | dict[str, str] | None = None,
    *,
    column: str = "label",
    images: pa.Array | None = None,
    metadata: str | None = None,
    **others: Any,
) -> None:
    """A file of images like no other; ``column`` is left out where it is empty."""
    values = labels if isinstance(labels, pa.Array) else pa.array(labels)
    if images is None:
        images = pa.array([{"bytes": picture(), "path": None} for _ in values], STRUCT)
    table = pa.table({"image": images, **({column: values} if column else {}), **others})
    if names:
        features = {column: {"names": names, "_type": "ClassLabel"}}
        metadata = json.dumps({"info": {"features": features}})
    if metadata:
        table = table.replace_schema_metadata({"huggingface": metadata})
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, file)


def both(root: Path, labels: Any, names: Any = NAMES, **options: Any) -> None:
    """``train.parquet`` and ``test.parquet`` with these labels."""
    for split in ("train", "test"):
        write(root / f"{split}.parquet", labels, names, **options)


def loading(load_again: Callable[..., Dataset]) -> Callable[..., Dataset]:
    """Loads a folder twice, the second time from the cache: its notes are short, and the same."""

    def load(root: Path) -> Dataset:
        first, again = (load_again(f"parquet:{root}") for _ in range(2))
        assert (again.notes, again.classes) == (first.notes, first.classes)
        assert all(len(note) < 300 and "\n" not in note for note in first.notes)
        return first

    return load


def labels(found: Dataset) -> tuple[list[int], list[int]]:
    """Of its training and its test set."""
    return found.train.labels.tolist(), found.read_test().labels.tolist()
