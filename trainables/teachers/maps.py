"""A teacher's attribution maps of a whole training set, kept beside its tables.

M = Σ_c |IG_c|, integrated gradients of every image as it is, by its position in the training set,
each map divided by its largest value and stored as float16: IG maps have long tails, so that in 8
bits most of a map would be a few grey levels. They are computed once per teacher, data and
`MapSettings`, part by part (`trainables.teachers.map_file`), and go on where a process was killed.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from trainables.attribution.map_settings import MapSettings
from trainables.data.dataset import Dataset
from trainables.data.progress_line import ProgressLine
from trainables.data.resident import ImagesOnHost, stays_on_host
from trainables.data.sources import load_dataset
from trainables.errors import UserError
from trainables.teachers.attributing import Attributing
from trainables.teachers.map_file import MapFile, MapKey
from trainables.teachers.table_folder import cache_limit, check_room, table_folder
from trainables.teachers.teacher import Teacher, load_teacher
from trainables.worker import Store

log = logging.getLogger(__name__)

ENTRIES = 4
"""Sets of maps that a process keeps between trials."""

POLL_SECONDS = 0.5


class StoredMaps(NamedTuple):
    """Maps of all training images, on the device where they are read, or on the host.

    Attributes:
        values: float16 ``[N, H, W]``, from 0 to 1, of the images as they are (without crop or
            flip), by the image's position in the training set; each divided by its largest value.
            0 everywhere where nothing speaks for or against the class. Treat it as read-only.
        facts: what they are, for the row: ``explainer``, ``target``, ``baseline``, ``steps``,
            ``quadrature``, and ``completeness_error``: the mean over all images of
            `completeness_errors`.
        on_host: whether they stay on the host, which sends those of a batch.
    """

    values: Tensor
    facts: Mapping[str, Any]
    on_host: bool = False

    def of(self, there: Tensor, here: Tensor | None = None) -> Tensor:
        """The maps of images: ``[B, 1, H, W]``, on the device.

        Args:
            there: positions in the training set, int64 ``[B]``, on the device.
            here: the same on the CPU, so that nobody waits for the device where maps are on the
                host; None: copied from there.
        """
        if not self.on_host:
            return self.values.index_select(0, there).unsqueeze(1)
        placed = ImagesOnHost(self.values.unsqueeze(1), there.device)
        return placed.batch(there.cpu() if here is None else here, there)


class Moment(NamedTuple):
    """How far the computing of maps is.

    Attributes:
        text: in words, one line.
        done: images that have a map; None for a line that is no count.
        share: how much of all that is.
    """

    text: str
    done: int | None = None
    share: float = 0.0


_KEPT: Store[StoredMaps] = Store("attribution maps")


def stored_maps(
    teacher: Teacher,
    dataset: Dataset,
    settings: MapSettings,
    device: torch.device,
    where: str = "auto",
) -> StoredMaps:
    """A teacher's maps of a training set; what is missing is computed now.

    A process keeps them between trials. Where another process computes them, it is waited for.

    Args:
        teacher: on ``device``, its classes in the order of the data set's.
        dataset: its training images are explained.
        settings: what the maps are.
        device: where they are computed and then read.
        where: they are meanwhile, as for `place_images`.

    Raises:
        UserError: there is no room for them, or the file is damaged beyond use.
        TeacherBroken: a map is not finite.
    """
    key = map_key(teacher.card.fingerprint, dataset, settings)
    known = (map_path(key), key, str(device), where)
    if known not in _KEPT:
        label = _label(teacher.card.name)
        line = ProgressLine(label, key.images)
        for moment in computing(teacher, dataset, settings, device):
            if moment.done is None:
                log.warning(moment.text)
            else:
                line.show(moment.done)
        line.close()
        _KEPT[known] = _loaded(key, device, where)
    found = _KEPT[known] = _KEPT.pop(known)  # the last one
    while len(_KEPT) > ENTRIES:
        del _KEPT[next(iter(_KEPT))]
    return found


def map_key(teacher: str, dataset: Dataset, settings: MapSettings) -> MapKey:
    """What the file of some maps is known by.

    Args:
        teacher: its fingerprint.
        dataset, settings: as for `stored_maps`.
    """
    _, height, width = dataset.image_shape
    return MapKey.of(teacher, dataset.fingerprint, settings, (len(dataset.train), height, width))


def map_path(key: MapKey) -> Path:
    """The file, which need not exist.

    Raises:
        UserError: neither ``KDSWEEP_CACHE`` nor a home directory is known.
    """
    try:
        return table_folder() / key.file_name
    except RuntimeError as error:
        raise UserError(
            "no attribution maps: KDSWEEP_CACHE is not set, and there is no home directory"
        ) from error


def check_map_room(key: MapKey) -> None:
    """Refuses maps for which there is no room.

    Raises:
        UserError: they do not fit into the cap or on the disk, or the folder cannot be written.
    """
    path = map_path(key)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        check_room(path, key, cache_limit())
    except OSError as error:
        raise _unwritable(path, error) from error


def computing(
    teacher: Teacher, dataset: Dataset, settings: MapSettings, device: torch.device
) -> Iterator[Moment]:
    """Computes the maps that are missing, and says how far it is after every part.

    Args and raises are those of `stored_maps`. Whoever leaves the loop early closes the iterator,
    for the sake of other processes; what is done stays.
    """
    key = map_key(teacher.card.fingerprint, dataset, settings)
    path, label = map_path(key), _label(teacher.card.name)
    check_map_room(key)
    try:
        with MapFile(path, key) as file:
            file.touch()
            if not file.missing()[0]:
                return
        lock = FileLock(path.with_name(f".{path.name}.lock"))
        said = False
        while True:
            try:
                lock.acquire(timeout=0)
                break
            except Timeout:
                if not said:
                    yield Moment(f"{label} are being computed by another process: waiting for it")
                said = True
                time.sleep(POLL_SECONDS)
        try:
            yield from _fill(teacher, dataset, key, path, device)
        finally:
            lock.release()
    except OSError as error:
        raise _unwritable(path, error) from error


def _fill(
    teacher: Teacher, dataset: Dataset, key: MapKey, path: Path, device: torch.device
) -> Iterator[Moment]:
    """Computes the missing parts of a file; the caller holds the lock."""
    label = _label(teacher.card.name)
    with MapFile(path, key) as file:
        missing, damaged = file.missing()
        if damaged:
            yield Moment(
                f"{path}: {len(damaged)} of {key.parts} parts are damaged and computed again"
            )
        if not missing:
            return
        yield Moment(
            f"{label}: {key.images:,} maps of {key.height}x{key.width}, {key.what}: "
            f"{key.map_bytes / 1e6:.0f} MB"
        )
        done = key.images - sum(len(file.images(part)) for part in missing)
        attributing = Attributing(teacher, dataset, key.settings, device)
        for part in missing:
            images = file.images(part)
            maps, errors = attributing(images)
            file.write(part, maps.numpy(), errors.numpy())
            done += len(images)
            text = f"{label}: {done:,} of {key.images:,}"
            yield Moment(text, done, done / key.images)


class MapComputing:
    """The computing of maps step by step, as an actor of a sweep.

    Args:
        results, teacher, fingerprint: of the teacher, as for `load_teacher`.
        dataset, data_dir, image_size: as for `load_dataset`.
        settings, device: as for `stored_maps`.
        chosen: makes of the data set the one whose images are explained.
    """

    def __init__(
        self,
        results: str,
        teacher: str,
        fingerprint: str,
        dataset: str,
        data_dir: str | None,
        image_size: int | None,
        settings: MapSettings,
        device: torch.device,
        chosen: Callable[[Dataset], Dataset],
    ) -> None:
        self._teacher, self._chosen = (results, teacher, fingerprint), chosen
        self._dataset = (dataset, data_dir, image_size)
        self._settings, self._device = settings, device
        self._moments: Iterator[Moment] | None = None

    def advance(self) -> Moment | None:
        """Computes a part, or waits for who does; None where all are there.

        Raises:
            UserError, TeacherBroken: as `stored_maps`.
        """
        if self._moments is None:
            name, data_dir, size = self._dataset
            dataset = load_dataset(name, data_dir, image_size=size)
            results, file, fingerprint = self._teacher
            teacher = load_teacher(results, file, str(self._device), dataset, fingerprint)
            mapped = self._chosen(dataset)
            self._moments = computing(teacher, mapped, self._settings, self._device)
        return next(self._moments, None)


def maps_are_there(key: MapKey) -> bool:
    """Whether all maps of a key were written on this machine; a damaged file is none."""
    path = map_path(key)
    if not path.exists():
        return False
    try:
        with MapFile(path, key) as file:
            return file.complete()
    except UserError:
        return False


def _loaded(key: MapKey, device: torch.device, where: str) -> StoredMaps:
    on_host = stays_on_host("attribution maps", key.map_bytes, device, where)
    with MapFile(map_path(key), key) as file:
        values = torch.from_numpy(file.values())
        error = float(file.errors().mean(dtype="float64"))
    facts = key.settings.facts | {"completeness_error": error}
    return StoredMaps(values if on_host else values.to(device), facts, on_host)


def _label(teacher: str) -> str:
    return f"attribution maps of {teacher}"


def _unwritable(path: Path, error: OSError) -> UserError:
    return UserError(
        f"attribution maps cannot be kept in {path.parent} ({error}); set KDSWEEP_CACHE to a "
        "writable folder"
    )
