"""Images in Parquet files, as the Hugging Face hub lays them out.

A folder with ``train*.parquet`` and ``test*.parquet``, or a folder for each; a column ``image`` or
``img`` holds the compressed image (as bytes, or as a struct with a field ``bytes``), ``label`` its
class, by number or by name.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from trainables.data.cache import content_of
from trainables.data.dataset import Content, Dataset
from trainables.data.decode import Allocate, EncodedSplit, decode_resized
from trainables.data.notes import listed, shortened
from trainables.data.parquet_files import (
    Parts,
    Shards,
    find_parts,
    folders_with_shards,
    naming,
    open_shards,
)
from trainables.data.parquet_labels import (
    columns_of_kind,
    is_unlabelled,
    label_column,
    read_labels,
)
from trainables.data.roles import TEST, TRAIN, VALIDATION, choose_test
from trainables.errors import UserError

IMAGE_COLUMNS = ("image", "img")
_BATCH_ROWS = 1024


def load_parquet(name: str, folder: Path, image_size: int | None) -> Dataset:
    """The data set of a folder with ``train*.parquet`` and ``test*.parquet``, in it or below.

    ``validation*``, ``valid*`` or ``val*`` serve where there is no ``test*``, or none with labels.
    Images become RGB of ``image_size`` squared; without it they keep their size where all share
    one and become 224x224 otherwise. Class names come from the Hugging Face metadata of the
    files, or are the labels where those are text, else the numbers. What was guessed, mapped or
    left out is in the `Dataset.notes`.

    Raises:
        UserError: a file is missing, unclear or not Parquet, the files disagree about the
            classes, or an image does not decode.
    """
    parts = _find(name, folder)
    train = open_shards(parts, TRAIN)
    column, column_notes = label_column(train)
    test, test_notes = _choose_test(parts, column)
    notes = (*test_notes, *column_notes)
    if parts.others:
        notes += (f"not read: {listed(parts.others)}",)
    pictures = image_column(train)
    for shards in (train, test):
        shards.check_columns((pictures, column))
        _check_images(shards, pictures)

    def decode(allocate: Allocate) -> Content:
        labelled = read_labels(train, test, column)
        splits = [
            encoded(shards, f"{name} {shards.split}", labels, pictures)
            for shards, labels in ((train, labelled.train), (test, labelled.test))
        ]
        images, remarks, sizes = decode_resized(splits, image_size, allocate)
        notes = (*labelled.notes, *remarks)
        return Content.measure(labelled.classes, *images, notes, sizes)

    reading = [column, pictures, len(train.files)]
    files = [*train.files, *test.files]
    content = content_of(name, files, image_size, decode, reading=reading)
    height = content.train.images.shape[2]
    return content.dataset(
        name,
        crop_padding=height // 8,
        flip=True,
        notes=notes,
        sources=(parts.named(train.split), parts.named(test.split)),
    )


def encoded(shards: Shards, name: str, labels: np.ndarray, column: str) -> EncodedSplit:
    """The images of a split, to be read later.

    Args:
        shards: the files.
        name: for progress.
        labels: int64 ``[N]``.
        column: of the images, which every file has.
    """
    return EncodedSplit(name, labels, lambda: _images(shards.files, column))


def _find(name: str, folder: Path) -> Parts:
    found = folders_with_shards(folder)
    if len(found) > 1:
        names = [str(each.relative_to(folder)) for each in found]
        raise UserError(
            f"{name}: holds several data sets, {listed(names)}; choose one, as in {name}/{names[0]}"
        )
    if not found:
        parts = find_parts(folder)
        there = [file.name for files in parts.files.values() for file in files] + [*parts.others]
        raise UserError(
            f"{folder}: expected train*.parquet and test*.parquet, in it or in folders train and "
            f"test, found {listed(there) or 'no Parquet files'}"
        )
    return find_parts(found[0])


def _choose_test(parts: Parts, column: str) -> tuple[Shards, tuple[str, ...]]:
    """The files of the test set, and what is to be said about that."""
    named = {role: [parts.named(role)] for role in (TEST, VALIDATION) if role in parts.files}
    if not named:
        raise UserError(
            f"{parts.folder}: expected test*.parquet or validation*.parquet beside "
            f"{parts.named(TRAIN)}, found none"
        )
    tests, validations = named.get(TEST, []), named.get(VALIDATION, [])
    test = open_shards(parts, TEST) if tests else None
    # Not asked without need: it reads a column.
    unlabelled = (
        f"{parts.named(TEST)} has no labels" if test and is_unlabelled(test, column) else None
    )
    _, notes = choose_test(parts.folder, tests, validations, unlabelled)
    if test and not unlabelled:
        return test, notes
    return open_shards(parts, VALIDATION), notes


def image_column(shards: Shards) -> str:
    """The column of the images.

    Raises:
        UserError: there is none.
    """
    if column := shards.column(IMAGE_COLUMNS):
        return column
    kinds = columns_of_kind(shards, "Image")
    if len(kinds) == 1:
        return kinds[0]
    raise UserError(
        f"{shards.files[0]}: expected a column {' or '.join(IMAGE_COLUMNS)}, "
        f"found {listed(shards.schemas[0].names, 4)}"
    )


def _check_images(shards: Shards, column: str) -> None:
    """The column can hold compressed images.

    Raises:
        UserError: naming the file, and why it cannot.
    """
    for file, schema in zip(shards.files, shards.schemas, strict=True):
        kind = schema.field(column).type
        if pa.types.is_struct(kind):
            position = kind.get_field_index("bytes")
            inner = kind.field(position).type if position >= 0 else kind
        else:
            inner = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not (_is_binary(inner) or pa.types.is_null(inner)):
            raise UserError(
                f"{file}: column '{column}' holds no image bytes but {shortened(str(kind), 60)}; "
                "expected binary values, or a struct with a field bytes"
            )


def _is_binary(kind: pa.DataType) -> bool:
    return (
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_fixed_size_binary(kind)
        or kind == pa.binary_view()
    )


def _images(files: Sequence[Path], column: str) -> Iterator[tuple[str, bytes]]:
    for file in files:
        row = 0
        with naming(file):
            for batch in pq.ParquetFile(file).iter_batches(_BATCH_ROWS, columns=[column]):
                values = whole = batch.column(0)
                if pa.types.is_struct(values.type):
                    values = values.field("bytes")
                for index, value in enumerate(values):
                    data = value.as_py()
                    if not isinstance(data, bytes):
                        raise UserError(
                            f"{file} row {row}: column '{column}' holds no image bytes"
                            f"{_instead(whole[index].as_py())}"
                        )
                    yield f"{file} row {row}", data
                    row += 1


def _instead(value: object) -> str:
    """What a row has in place of an image, where that is a path to one."""
    path = value.get("path") if isinstance(value, dict) else None
    return f", only the path {shortened(path)!r}; write the images into the file" if path else ""
