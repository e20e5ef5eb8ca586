"""The file of a teacher's attribution maps: what it is for, its layout, which parts are there.

A file is a page of header, the maps, an error per image, and a mark per part: 32 bytes, zero as
long as the part was never written, else the sha256 of the file's key, the part's number, its maps
and errors. The images of a part are computed together, in the same batches whoever does it, and
its mark is written last. What a killed process or a power cut left half does not fit its mark (or
has none) and is computed again; a flipped bit is found when the file is opened.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from trainables.attribution.map_settings import MapSettings
from trainables.teachers.file_header import HEADER_BYTES, Format

SUFFIX = ".maps"
PART_PIXELS, PART_IMAGES = 1 << 15, 256
"""The most of a part: 32 images of 32x32, one of 227x227. No more is lost with a process."""

_FORMAT = 1
_MARK = 32


@dataclass(frozen=True, kw_only=True)
class MapKey:
    """What decides the maps of a file. Those with different keys are in different files.

    Attributes:
        teacher: `Card.fingerprint`; covers the teacher's input normalisation.
        data: fingerprint of the data set: pixels, labels and the order of classes.
        target, baseline, steps, quadrature: of the `MapSettings`.
        images, height, width: of the training set.
    """

    teacher: str
    data: str
    target: str
    baseline: str
    steps: int
    quadrature: str
    images: int
    height: int
    width: int

    @classmethod
    def of(
        cls, teacher: str, data: str, settings: MapSettings, size: tuple[int, int, int]
    ) -> "MapKey":
        """From ``(images, height, width)``."""
        images, height, width = size
        return cls(
            teacher=teacher,
            data=data,
            **asdict(settings),
            images=images,
            height=height,
            width=width,
        )

    @property
    def settings(self) -> MapSettings:
        """What the maps are."""
        return MapSettings.of(self)

    @property
    def what(self) -> str:
        """What the file holds, in words."""
        return str(self.settings)

    @property
    def title(self) -> str:
        """What the file is, in words."""
        return "file of attribution maps"

    @property
    def dtype(self) -> str:
        """Of the maps, which are at most 1."""
        return "float16"

    @property
    def entries(self) -> int:
        """How many maps the file can hold."""
        return self.images

    @property
    def part(self) -> int:
        """Images of a part; the last may have fewer."""
        return max(1, min(PART_IMAGES, PART_PIXELS // (self.height * self.width)))

    @property
    def parts(self) -> int:
        return -(-self.images // self.part)

    @property
    def map_bytes(self) -> int:
        """Of all maps."""
        return 2 * self.images * self.height * self.width

    @property
    def file_bytes(self) -> int:
        return HEADER_BYTES + self.map_bytes + 4 * self.images + _MARK * self.parts

    @property
    def facts(self) -> dict[str, str | int]:
        """The attributes by name."""
        return asdict(self)

    @property
    def digest(self) -> str:
        """sha256 (hex) over the key and the version of the format."""
        record = json.dumps([_FORMAT, self.facts], sort_keys=True)
        return hashlib.sha256(record.encode()).hexdigest()

    @property
    def file_name(self) -> str:
        return f"maps-{self.digest[:24]}{SUFFIX}"


_FILE = Format(b"kds_Maps", _FORMAT, "file of attribution maps", MapKey)


def read_key(path: Path, descriptor: int) -> MapKey:
    """The key in the header of a file.

    Raises:
        UserError: header or length are not those of a whole file.
    """
    found: MapKey = _FILE.read_key(path, descriptor)
    return found


class MapFile:
    """Maps on the disk, made as an empty file where there is none; a context manager.

    Args:
        path: of the file.
        key: what it holds.

    Raises:
        UserError: the file is damaged, or holds other maps.
        OSError: it cannot be made or opened.
    """

    def __init__(self, path: Path, key: MapKey) -> None:
        self.path, self.key = path, key
        self._descriptor = _FILE.open(path, key)

    def __enter__(self) -> "MapFile":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file; once."""
        with suppress(OSError):
            os.close(self._descriptor)

    def touch(self) -> None:
        """Notes that the file was used now."""
        os.utime(self._descriptor)

    def images(self, part: int) -> range:
        """The images of a part."""
        start = part * self.key.part
        return range(start, min(start + self.key.part, self.key.images))

    def missing(self) -> tuple[list[int], list[int]]:
        """Parts to compute, and those of them that are there and damaged. Reads the whole file."""
        written = [*self._written()]
        damaged = [part for part in written if not self._fits(part)]
        whole = set(written) - set(damaged)
        return [part for part in range(self.key.parts) if part not in whole], damaged

    def complete(self) -> bool:
        """Whether every part was written; damage is not looked for."""
        return len([*self._written()]) == self.key.parts

    def write(self, part: int, maps: np.ndarray, errors: np.ndarray) -> None:
        """Stores a part: its mark last.

        Args:
            part: its number.
            maps: float16 ``[n, H, W]``.
            errors: float32 ``[n]``.

        Raises:
            OSError: the disk is full, or cannot be written.
        """
        places = self._places(part)
        for place, data in zip(places, (maps.tobytes(), errors.tobytes()), strict=True):
            _write(self._descriptor, data, place[0])
        mark = self._mark(part, maps.tobytes(), errors.tobytes())
        _write(self._descriptor, mark, self._mark_place(part))

    def values(self) -> np.ndarray:
        """The maps, float16 ``[N, H, W]``: a private view of the file, which processes share."""
        key = self.key
        shape = (key.images, key.height, key.width)
        return np.memmap(self.path, np.float16, mode="c", offset=HEADER_BYTES, shape=shape)

    def errors(self) -> np.ndarray:
        """The error of every image, float32 ``[N]``."""
        start = HEADER_BYTES + self.key.map_bytes
        return np.frombuffer(os.pread(self._descriptor, 4 * self.key.images, start), np.float32)

    def _written(self) -> Iterator[int]:
        marks = os.pread(self._descriptor, _MARK * self.key.parts, self._mark_place(0))
        for part in range(self.key.parts):
            if any(marks[part * _MARK : (part + 1) * _MARK]):
                yield part

    def _fits(self, part: int) -> bool:
        data = [os.pread(self._descriptor, size, start) for start, size in self._places(part)]
        found = os.pread(self._descriptor, _MARK, self._mark_place(part))
        return found == self._mark(part, *data)

    def _places(self, part: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Where the maps of a part and their errors are: start and bytes of each."""
        images = self.images(part)
        size = 2 * self.key.height * self.key.width
        behind = HEADER_BYTES + self.key.map_bytes
        return (
            (HEADER_BYTES + images.start * size, len(images) * size),
            (behind + 4 * images.start, 4 * len(images)),
        )

    def _mark_place(self, part: int) -> int:
        return HEADER_BYTES + self.key.map_bytes + 4 * self.key.images + _MARK * part

    def _mark(self, part: int, maps: bytes, errors: bytes) -> bytes:
        digested = hashlib.sha256(f"{self.key.digest} {part}".encode())
        digested.update(maps)
        digested.update(errors)
        return digested.digest()


def count_maps(path: Path, key: MapKey) -> int:
    """How many maps of a file are there, and whole. Reads the whole file."""
    if not path.exists():
        return 0  # cleared since
    with MapFile(path, key) as file:
        gone = sum(len(file.images(part)) for part in file.missing()[0])
    return key.images - gone


def _write(descriptor: int, data: bytes, place: int) -> None:
    while data:
        done = os.pwrite(descriptor, data, place)
        data, place = data[done:], place + done
