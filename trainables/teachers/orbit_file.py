"""The file of a teacher table: what it is for, its header, its records.

A file is a page of header and then ``images * views`` records of one size; the record of view
``v`` of image ``i`` is number ``i * views + v``. A record is the values, zeros up to a multiple of
4 bytes, and a mark of 4 bytes. Records that were never written are holes of the file and cost no
disk.

A mark of 0 says "empty", any other is a checksum of the values, of the record's number and of the
table's key; a record counts as filled only if its mark fits. The mark therefore need not become
visible after the values, or at all together with them: a record of which a reader, a killed
writer or a power cut left one part old and one part new, or of which two writers wrote one part
each, does not fit its mark (but for one in 2^32) and is computed anew. A flag set after the values
would need ordered stores between processes, a sync before every mark to survive a power cut, and
would pass off a mix of two writers as valid. Against a bare gather of the records the check costs
some 5 us per batch of 64.
"""

import errno
import hashlib
import json
import os
import struct
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from trainables.data.orbit import number_of_views
from trainables.errors import UserError

HEADER_BYTES = 4096
SUFFIX = ".table"
DTYPES = {"float16": 2, "bfloat16": 2, "float32": 4}
"""What values are stored as: torch's name and bytes."""

# Raise it whenever the layout changes, or the same teacher would give other outputs.
_FORMAT = 1
_LATER = frozenset({"resized_crops"})
_MAGIC = b"kdsTable"
_PREFIX = struct.Struct("<8sII32s")
_SCAN_RECORDS = 1 << 16


@dataclass(frozen=True, kw_only=True)
class TableKey:
    """What decides the content of a table. Tables with different keys are different files.

    Attributes:
        teacher: `Card.fingerprint`; covers the teacher's input normalisation.
        data: fingerprint of the training pixels.
        padding, flip, resized_crops: of the `ViewPlan`; its seed does not matter, for a view is a
            view.
        what: which output, ``"logits"`` or ``"embedding"``.
        precision: in which the teacher computed, for example ``"fp32"`` or ``"bf16"``.
        images: size of the training set.
        width: classes, or the length of the embedding.
        dtype: of the stored values, a name of `DTYPES`.
    """

    teacher: str
    data: str
    padding: int
    flip: bool
    what: str
    precision: str
    images: int
    width: int
    dtype: str = "float16"
    resized_crops: int = 0

    def __post_init__(self) -> None:
        if self.what not in ("logits", "embedding"):
            raise ValueError(f"a table holds 'logits' or 'embedding', not '{self.what}'")
        if self.dtype not in DTYPES:
            raise ValueError(f"a table's dtype is one of {', '.join(DTYPES)}, not '{self.dtype}'")
        if self.images < 1 or self.width < 1 or self.padding < 0:
            raise ValueError("a table needs images, a width and a padding that is not negative")

    @property
    def views(self) -> int:
        """Of each image."""
        return number_of_views(self.padding, self.flip, self.resized_crops)

    @property
    def entries(self) -> int:
        """How many the table can hold."""
        return self.images * self.views

    @property
    def record_words(self) -> int:
        """4-byte words of a record, with its mark."""
        return -(-self.width * DTYPES[self.dtype] // 4) + 1

    @property
    def file_bytes(self) -> int:
        """Length of the file, and about what a full table takes on the disk."""
        return HEADER_BYTES + self.entries * self.record_words * 4

    @property
    def facts(self) -> dict[str, str | int | bool]:
        """The attributes; those that came later only where they say something, so that tables of
        before are still found."""
        return {name: value for name, value in asdict(self).items() if name not in _LATER or value}

    @property
    def digest(self) -> str:
        """sha256 (hex) over the key and the version of the format."""
        record = json.dumps([_FORMAT, self.facts], sort_keys=True)
        return hashlib.sha256(record.encode()).hexdigest()

    @property
    def file_name(self) -> str:
        return f"{self.what}-{self.digest[:24]}{SUFFIX}"


class Records:
    """Whether records are filled, for the tables of one key. What is in them, torch knows."""

    def __init__(self, key: TableKey) -> None:
        self.words = key.record_words
        self.bytes = 4 * self.words
        # Multilinear hashing (Lemire and Kaser, "Strongly universal string hashing is fast",
        # 2014): the high half of a sum of words times random 64-bit numbers. It needs no loop
        # over bytes, so NumPy computes a batch in one product. The numbers come from the key, so
        # that a record of another table does not fit.
        seed = hashlib.shake_256(key.digest.encode()).digest(8 * (self.words + 1))
        numbers = np.frombuffer(seed, dtype="<u8").astype(np.uint64)
        self._start, self._position, self._weights = numbers[0], numbers[1], numbers[2:]

    def filled(self, entries: np.ndarray, records: np.ndarray) -> np.ndarray:
        """Whether each record's mark fits: bool ``[B]``."""
        return self.marks(entries, records) == records[:, -1]

    def marks(self, entries: np.ndarray, records: np.ndarray) -> np.ndarray:
        """uint32 ``[B]``, never 0."""
        sums = records[:, :-1].astype(np.uint64) @ self._weights
        sums += entries.view(np.uint64) * self._position + self._start
        return np.maximum(sums >> 32, 1).astype(np.uint32)


def open_file(path: Path, key: TableKey) -> int:
    """A descriptor of the table at ``path``, which is made if it does not exist.

    Raises:
        UserError: the file is damaged, or not the table of ``key``.
        OSError: it cannot be made or opened.
    """
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        _create(path, key)
        descriptor = os.open(path, os.O_RDWR)
    try:
        if read_key(path, descriptor) != key:
            raise _refusal(path, "it is the table of other outputs than its name says")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def read_key(path: Path, descriptor: int) -> TableKey:
    """The key in the header of a table.

    Raises:
        UserError: header or length are not those of a whole table.
    """
    page = os.pread(descriptor, HEADER_BYTES, 0)
    if page[: len(_MAGIC)] != _MAGIC or len(page) < HEADER_BYTES:
        raise _refusal(path, "it is no teacher table")
    _, version, length, _ = _PREFIX.unpack_from(page)
    if version != _FORMAT:
        raise _refusal(path, f"its format is {version}, expected {_FORMAT}")
    try:
        facts = json.loads(page[_PREFIX.size : _PREFIX.size + length])
        known = {field.name for field in fields(TableKey)}
        key = TableKey(**{name: facts[name] for name in known - (_LATER - facts.keys())})
        whole = page == _header(key)
    except (ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        raise _refusal(path, "its header is damaged")
    found = os.fstat(descriptor).st_size
    if found != key.file_bytes:
        raise _refusal(path, f"it has {found} bytes, expected {key.file_bytes}")
    return key


def count_filled(descriptor: int, key: TableKey) -> int:
    """How many records are filled. Reads what is on the disk and skips the holes."""
    records = Records(key)
    filled = held = 0
    numbers: list[np.ndarray] = []
    blocks: list[bytes] = []
    for first, last in [*_written(descriptor, key.file_bytes, records.bytes), (0, 0)]:
        # A sparse table has its records in many short runs: checked together.
        if held + last - first > _SCAN_RECORDS or (last == 0 and held):
            table = np.frombuffer(b"".join(blocks), dtype=np.uint32).reshape(-1, records.words)
            filled += int(records.filled(np.concatenate(numbers), table).sum())
            numbers, blocks, held = [], [], 0
        size = (last - first) * records.bytes
        data = os.pread(descriptor, size, HEADER_BYTES + first * records.bytes)
        blocks.append(data.ljust(size, b"\0"))
        numbers.append(np.arange(first, last))
        held += last - first
    return filled


def _written(descriptor: int, length: int, size: int) -> Iterator[tuple[int, int]]:
    """Records of ``size`` bytes for which the file has data, in runs (first, last + 1)."""
    end = HEADER_BYTES
    first = 0
    while end < length:
        try:
            start = os.lseek(descriptor, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # Nothing but a hole up to the end.
                return
            raise
        end = os.lseek(descriptor, start, os.SEEK_HOLE)
        # Data may end within a record, which must not be counted again.
        first = max(first, (start - HEADER_BYTES) // size)
        last = -(-(end - HEADER_BYTES) // size)
        while first < last:
            stop = min(first + _SCAN_RECORDS, last)
            yield first, stop
            first = stop


def _create(path: Path, key: TableKey) -> None:
    """An empty table under another name, then linked: of several processes one succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    hidden = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with open(hidden, "xb") as file:
            file.write(_header(key))
            file.truncate(key.file_bytes)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(hidden, path)
        except FileExistsError:
            return
    finally:
        hidden.unlink(missing_ok=True)


def _header(key: TableKey) -> bytes:
    facts = json.dumps(key.facts, sort_keys=True).encode()
    digest = hashlib.sha256(facts).digest()
    page = _PREFIX.pack(_MAGIC, _FORMAT, len(facts), digest) + facts
    if len(page) > HEADER_BYTES:
        raise ValueError(f"a table's key takes at most {HEADER_BYTES - _PREFIX.size} bytes")
    return page.ljust(HEADER_BYTES, b"\0")


def _refusal(path: Path, reason: str) -> UserError:
    return UserError(f"{path} cannot be used: {reason}; delete it with 'kdsweep cache clear'")
