"""Images in Parquet files, as the Hugging Face hub lays them out.

A folder with ``train*.parquet`` and ``test*.parquet``; a column ``image`` or ``img`` holds the
compressed image (as bytes, or as a struct with a field ``bytes``), ``label`` its class.
"""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from trainables.data.cache import content_of
from trainables.data.dataset import Content, Dataset
from trainables.data.decode import Allocate, EncodedSplit, decode_resized
from trainables.errors import UserError

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "fine_label")
_BATCH_ROWS = 1024
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})$")


def load_parquet(name: str, folder: Path, image_size: int | None) -> Dataset:
    """The data set of a folder with ``train*.parquet`` and ``test*.parquet``, in it or below.

    Images become RGB of ``image_size`` squared; without it they keep their size where all share
    one and become 224x224 otherwise. Class names come from the Hugging Face metadata of the
    files where they hold any, else they are the label numbers.

    Raises:
        UserError: a file is missing, not Parquet, or holds an image that does not decode.
    """
    folder = folder_with_shards(folder) or folder
    train = find_shards(folder, "train")
    test = find_shards(folder, "test")

    def decode(allocate: Allocate) -> Content:
        train_split, test_split = read_split(train, name), read_split(test, name)
        classes = _class_names(train, train_split, test_split)
        images = decode_resized((train_split, test_split), image_size, allocate)
        return Content.measure(classes, *images)

    content = content_of(name, [*train.files, *test.files], image_size, decode)
    height = content.train.images.shape[2]
    return content.dataset(name, crop_padding=height // 8, flip=True)


@dataclass(frozen=True)
class Shards:
    """The Parquet files of one split, in order.

    Attributes:
        split: ``"train"`` or ``"test"``.
        files: sorted by name.
        rows: row count of each file.
        schema: of the first file.
    """

    split: str
    files: tuple[Path, ...]
    rows: tuple[int, ...]
    schema: pa.Schema

    def locate(self, row: int) -> str:
        """File and row within it, for errors, of row ``row`` of the split."""
        (file,) = self.holding(row, row + 1)
        return f"{file} row {row - sum(self.rows[: self.files.index(file)])}"

    def holding(self, start: int, stop: int) -> list[Path]:
        """The files that hold any of the rows ``start .. stop - 1``."""
        ends = np.cumsum(self.rows)
        begins = ends - self.rows
        return [
            file
            for file, begin, end in zip(self.files, begins, ends, strict=True)
            if begin < stop and end > start
        ]


def folder_with_shards(folder: Path) -> Path | None:
    """The first folder, ``folder`` itself or below it, that holds ``train*.parquet``."""
    found = sorted(folder.glob("train*.parquet")) or sorted(folder.rglob("train*.parquet"))
    return found[0].parent if found else None


def find_shards(folder: Path, split: str) -> Shards:
    """The files ``<split>*.parquet`` of ``folder``, all there and readable.

    Raises:
        UserError: none is there, one of ``...-of-000NN`` is missing, or one is not Parquet.
    """
    files = tuple(sorted(folder.glob(f"{split}*.parquet")))
    if not files:
        raise UserError(f"{folder}: expected {split}*.parquet, found none")
    names = {file.name for file in files}
    for file in files:
        if match := _SHARD.search(file.stem):
            for number in range(int(match[2])):
                shard = f"{file.stem[: match.start()]}-{number:05d}-of-{match[2]}.parquet"
                if shard not in names:
                    raise UserError(f"{folder / shard}: missing, but {file.name} is there")
    opened = []
    for file in files:
        with _naming(file):
            opened.append(pq.ParquetFile(file))
    schemas = [parquet.schema_arrow for parquet in opened]
    for file, schema in zip(files, schemas, strict=True):
        if schema.names != schemas[0].names:
            raise UserError(
                f"{file}: expected the columns of {files[0].name} "
                f"({', '.join(schemas[0].names)}), found {', '.join(schema.names)}"
            )
    rows = tuple(parquet.metadata.num_rows for parquet in opened)
    if not sum(rows):
        raise UserError(f"{files[0]}: holds no rows")
    return Shards(split, files, rows, schemas[0])


def read_split(
    shards: Shards, name: str, label_columns: Sequence[str] = LABEL_COLUMNS
) -> EncodedSplit:
    """Labels now, images later.

    Args:
        shards: the files.
        name: of the data set, for progress.
        label_columns: the label column is the first of these that the files have.

    Raises:
        UserError: a column is missing, or a label is not an integer from 0.
    """
    label_column = _column(shards, label_columns)
    image_column = _column(shards, IMAGE_COLUMNS)
    labels = np.concatenate([_read_labels(file, label_column) for file in shards.files])
    return EncodedSplit(
        f"{name} {shards.split}", labels, lambda: _encoded(shards.files, image_column)
    )


def _encoded(files: Sequence[Path], column: str) -> Iterator[tuple[str, bytes]]:
    for file in files:
        row = 0
        with _naming(file):
            for batch in pq.ParquetFile(file).iter_batches(_BATCH_ROWS, columns=[column]):
                values = batch.column(0)
                if pa.types.is_struct(values.type) and values.type.get_field_index("bytes") >= 0:
                    values = values.field("bytes")
                for value in values:
                    data = value.as_py()
                    if not isinstance(data, bytes):
                        raise UserError(f"{file} row {row}: column '{column}' holds no image bytes")
                    yield f"{file} row {row}", data
                    row += 1


def _read_labels(file: Path, column: str) -> np.ndarray:
    with _naming(file):
        labels = pq.read_table(file, columns=[column]).column(0)
    if not pa.types.is_integer(labels.type) or labels.null_count:
        raise UserError(f"{file}: column '{column}' must hold integers, found {labels.type}")
    values = labels.to_numpy().astype(np.int64)
    if len(values) and values.min() < 0:
        row = int(values.argmin())
        raise UserError(f"{file} row {row}: label {values[row]}, expected 0 or more")
    return values


def _column(shards: Shards, candidates: Sequence[str]) -> str:
    for column in candidates:
        if column in shards.schema.names:
            return column
    raise UserError(
        f"{shards.files[0]}: expected a column {' or '.join(candidates)}, "
        f"found {', '.join(shards.schema.names)}"
    )


def _class_names(shards: Shards, *splits: EncodedSplit) -> tuple[str, ...]:
    highest = max(int(split.labels.max(initial=0)) for split in splits)
    metadata = json.loads((shards.schema.metadata or {}).get(b"huggingface", b"{}"))
    features = metadata.get("info", {}).get("features", {})
    names = features.get(_column(shards, LABEL_COLUMNS), {}).get("names")
    if names is None:
        if highest >= sum(shards.rows):
            raise UserError(
                f"{shards.files[0].parent}: label {highest} with {sum(shards.rows)} training "
                f"images; expected labels from 0 to classes - 1"
            )
        return tuple(str(label) for label in range(highest + 1))
    if highest >= len(names):
        raise UserError(
            f"{shards.files[0].parent}: label {highest}, but the files name {len(names)} classes"
        )
    return tuple(names)


@contextmanager
def _naming(file: Path) -> Iterator[None]:
    """Turns what pyarrow raises on a damaged file into an error that names the file."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{file}: not a readable Parquet file ({reason})") from error
