"""A teacher that looks up what it has answered before."""

import logging
from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from trainables.data.dataset import Dataset
from trainables.data.transfer import sent
from trainables.data.views import ViewPlan
from trainables.engine.precision import computing
from trainables.models.outputs import Outputs
from trainables.models.shapes import output_shapes
from trainables.teachers.orbit_file import TableKey
from trainables.teachers.table import TeacherTable
from trainables.teachers.table_folder import TableUnavailable, table_folder
from trainables.teachers.teacher import Teacher
from trainables.worker import kept

log = logging.getLogger(__name__)

TABLED = frozenset({"logits", "embedding"})
"""The outputs that are small enough to keep for every view of every image."""

FLUSH_BATCHES = 64
"""How many batches of a GPU's answers are gathered before they are brought to the host."""


class Known(NamedTuple):
    """What was found of the answers to a batch.

    Attributes:
        view_ids: int64 ``[B]``, which views were asked for, on the CPU.
        values: by output, float32 ``[B, width]``, on the device; only those found count.
        found: bool ``[B]``, on the CPU.
    """

    view_ids: Tensor
    values: Mapping[str, Tensor]
    found: Tensor


class RememberingTeacher:
    """Gives outputs from tables where they have them all, from the live teacher otherwise.

    A live answer is rounded as the table would round it, so that a trial gets the same answers
    whether it is the first to ask or not.

    Args:
        teacher: answers what no table knows.
        tables: by output: ``logits``, ``embedding``.
        precision: in which the teacher computes.

    Attributes:
        asked, found: how many answers were wanted, and how many of them were looked up.
    """

    def __init__(
        self, teacher: Teacher, tables: Mapping[str, TeacherTable], precision: str
    ) -> None:
        self.teacher, self.tables, self.precision = teacher, tables, precision
        self.asked = self.found = 0
        self._fresh: list[tuple[Tensor, Tensor, Mapping[str, Tensor]]] = []

    def look_up(
        self, batches: Sequence[Tensor], view_ids: Sequence[Tensor], device: torch.device
    ) -> list[Known]:
        """What the tables say to some batches, on its way to the device.

        Args:
            batches: int64 ``[B]`` each, which images, on the CPU.
            view_ids: likewise, which views of them.
            device: where the answers are wanted.
        """
        sizes = [len(batch) for batch in batches]
        images, views = torch.cat([*batches]), torch.cat([*view_ids])
        known = torch.ones(len(images), dtype=torch.bool)
        values: dict[str, Sequence[Tensor]] = {}
        for what, table in self.tables.items():
            # From pinned memory a GPU copies while the host goes on.
            out = torch.empty(len(images), table.key.width, pin_memory=device.type == "cuda")
            answers, found = table.lookup(images, views, out)
            known &= found
            values[what] = sent(answers, device).split(sizes)
        return [
            Known(ids, {what: parts[place] for what, parts in values.items()}, there)
            for place, (ids, there) in enumerate(zip(view_ids, known.split(sizes), strict=True))
        ]

    def __call__(self, views: Tensor, indices: Tensor, known: Known) -> Outputs:
        """Outputs for uint8 views ``[B, C, H, W]``; None for what has no table.

        Args:
            views: the images, on the teacher's device.
            indices: int64 ``[B]``, which images they are, on the CPU.
            known: what `look_up` found of them.
        """
        values = dict(known.values)
        missing = (~known.found).nonzero().squeeze(1)
        self.asked += len(indices)
        self.found += len(indices) - len(missing)
        if len(missing):
            places = sent(missing, views.device)
            answers = self._live(views[places])
            self._remember(indices[missing], known.view_ids[missing], answers)
            for what, answer in answers.items():
                values[what] = values[what].index_copy(0, places, answer)
        return Outputs(values.get("logits"), values.get("embedding"), ())  # type: ignore[arg-type]

    def flush(self) -> None:
        """Stores the answers that are not in the tables yet."""
        if not self._fresh:
            return
        indices, view_ids, answers = zip(*self._fresh, strict=True)
        self._fresh.clear()
        for what in self.tables:
            together = torch.cat([answer[what] for answer in answers]).cpu()
            self._store(what, torch.cat(indices), torch.cat(view_ids), together)

    def _live(self, views: Tensor) -> dict[str, Tensor]:
        with computing(self.precision, views.device):
            outputs = self.teacher(views)
        answers = {what: getattr(outputs, what).float() for what in self.tables}
        return {what: self._rounded(what, answer) for what, answer in answers.items()}

    def _rounded(self, what: str, answer: Tensor) -> Tensor:
        """As the table gives it back; as it is where the table's dtype cannot hold it."""
        rounded = answer.to(getattr(torch, self.tables[what].key.dtype)).float()
        return torch.where(rounded.isfinite().all(dim=1, keepdim=True), rounded, answer)

    def _remember(
        self, indices: Tensor, view_ids: Tensor, answers: MutableMapping[str, Tensor]
    ) -> None:
        """Stores answers, or keeps them for `flush`.

        Another process may have been faster. Its answer can differ in the last bit, because it
        was computed in other company; from then on it is the answer for everybody, and takes the
        place of ours in ``answers``.
        """
        if next(iter(answers.values())).device.type == "cpu":
            for what, answer in answers.items():
                answers[what] = self._store(what, indices, view_ids, answer)
            return
        # From a GPU in few, large transfers: each makes the host wait for the device.
        self._fresh.append((indices, view_ids, answers))
        if len(self._fresh) >= FLUSH_BATCHES:
            self.flush()

    def _store(self, what: str, indices: Tensor, view_ids: Tensor, answer: Tensor) -> Tensor:
        """Fills what is still empty; returns what the table says now."""
        table = self.tables[what]
        there, found = table.lookup(indices, view_ids)
        if not found.all():
            empty = ~found
            table.fill(indices[empty], view_ids[empty], answer[empty])
        return torch.where(found.unsqueeze(1), there, answer)


def remembering(
    teacher: Teacher,
    needs: frozenset[str],
    dataset: Dataset,
    views: ViewPlan,
    dtype: str,
    precision: str,
) -> RememberingTeacher | None:
    """The teacher with its tables; None where they cannot serve, and the teacher must run live.

    Args:
        teacher: whose answers are kept.
        needs: what a method reads of them. Where one forward pass is needed anyway, for feature
            maps, tables save nothing.
        dataset: its training images are what is asked about.
        views: their augmentation; its seed does not matter.
        dtype: of the tables: a name of `orbit_file.DTYPES`.
        precision: in which the teacher computes.
    """
    if not needs or needs - TABLED:
        return None
    shapes = output_shapes(teacher.network, dataset.image_shape)
    widths = {"logits": shapes.classes, "embedding": shapes.embedding}
    tables = {}
    for what in sorted(needs):
        key = TableKey(
            teacher=teacher.card.fingerprint,
            data=dataset.fingerprint,
            padding=views.padding,
            flip=views.flip,
            resized_crops=views.resized_crops,
            what=what,
            precision=precision,
            images=len(dataset.train),
            width=widths[what],
            dtype=dtype,
        )
        table = _opened(_folder(), key)
        if table is None:
            return None
        tables[what] = table
    return RememberingTeacher(teacher, tables, precision)


def _folder() -> Path | None:
    """Where tables are; None where neither ``KDSWEEP_CACHE`` nor a home directory is known."""
    try:
        return table_folder()
    except RuntimeError:
        return None


@kept("teacher tables", entries=8)
def _opened(folder: Path | None, key: TableKey) -> TeacherTable | None:
    """Kept per process between trials; so is the warning that there is no room for one."""
    if folder is None:
        log.warning("KDSWEEP_CACHE is not set, and there is no home directory: no teacher tables")
        return None
    try:
        return TeacherTable.open(folder, key)
    except TableUnavailable as error:
        log.warning("%s; the teacher runs live", error)
        return None
