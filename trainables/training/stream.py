"""What the students of one repeat are shown: the order, the views, and what the teacher says."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from trainables.attribution.map_settings import MapSettings
from trainables.config import TrialConfig
from trainables.data.batches import epoch_order, train_batches
from trainables.data.dataset import Dataset
from trainables.data.resident import place_images
from trainables.data.views import ViewPlan
from trainables.engine.precision import choose_precision, computing
from trainables.errors import UserError
from trainables.methods.method import Method
from trainables.methods.term import Batch, class_shares
from trainables.models.features import FIELDS
from trainables.models.outputs import Outputs, Shapes
from trainables.models.shapes import output_shapes
from trainables.tasks.registry import TASKS
from trainables.teachers.maps import StoredMaps
from trainables.teachers.remembering import RememberingTeacher, remembering
from trainables.teachers.teacher import Teacher
from trainables.training.answers import check_answers
from trainables.training.feeding import Feed, Feeder
from trainables.training.shown_maps import PlacedMaps, ShownMaps, place_maps

SHOWN = (
    *("dataset", "image_size", "split_seed", "val_fraction", "train_fraction", "resample"),
    *("seed", "batch_size", "view_seed", "crop_padding", "resized_crops", "flip"),
)
"""Settings that decide what students are shown. Those of a stream agree in them."""


def _teaching(config: TrialConfig) -> tuple[str | None, ...]:
    """What decides what the teacher says to that."""
    return config.teacher, config.teacher_precision or config.precision, config.teacher_cache


class Lesson:
    """What the teacher says to the views of a batch, for all students that read the same of it.

    Args:
        teacher: the frozen teacher.
        labels: of all images that feeds may point to, on the device.
        needs: what is read of it: fields of `Outputs`, and keys of its ``features``.
        depth: how many of its stages are read; None: the whole teacher.
        precision: in which it computes.
        answers: its tables; None where there are none.
    """

    def __init__(
        self,
        teacher: Teacher,
        labels: Tensor,
        needs: frozenset[str],
        depth: int | None,
        precision: str,
        answers: RememberingTeacher | None,
    ) -> None:
        self.teacher, self.labels, self.needs, self.depth = teacher, labels, needs, depth
        self.keys = needs - FIELDS
        self.precision, self.answers = precision, answers
        self._last: tuple[Feed, Outputs] | None = None

    def __call__(self, feed: Feed) -> Outputs:
        """Its outputs for the views; asked once for a batch, however many students read them."""
        if self._last is None or self._last[0] is not feed:
            self._last = None  # its memory is free before the next is computed
            self._last = feed, self._said(feed)
        return self._last[1]

    def _said(self, feed: Feed) -> Outputs:
        if self.answers:
            return self.answers(feed.views, feed.indices, feed.known[self.answers])
        return self._live(feed.views, feed.there)

    def taught(self, feed: Feed, method: Method, batch: Batch) -> Outputs | None:
        """Its outputs for the very images that a student sees; None where nobody reads them now.

        Args:
            feed: the batch, from the stream.
            method, batch: the student's own: how the views are changed.
        """
        if not method.reads(batch.progress):
            return None
        if method.plain_teacher:
            return method.taught(self(feed), batch)
        card = self.teacher.card
        theirs = batch._replace(normalisation=(card.mean, card.std))
        change = partial(method.images, batch=theirs)
        with computing(self.precision, feed.views.device):
            return self.teacher(feed.views, change, self.depth, self.keys, batch.shares)

    def _live(self, views: Tensor, there: Tensor) -> Outputs:
        shares = partial(class_shares, self.labels[there])
        with computing(self.precision, views.device):
            return self.teacher(views, None, self.depth, self.keys, shares)

    @property
    def counts(self) -> tuple[int, int]:
        """How many answers were wanted of the tables, and how many of them were found."""
        return (self.answers.asked, self.answers.found) if self.answers else (0, 0)

    def check(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Asks the teacher for numbers.

        Args:
            batches: some views, and which images they are, on the device.

        Raises:
            TeacherBroken: an answer to some of the views holds none.
        """
        answers = (self._live(views, there) for views, there in batches)
        check_answers(self.teacher.card.name, self.needs, answers)


class Stream:
    """The order, the views and what the teacher says to them.

    It follows from the repeat alone and from no student, so that several may learn from one.

    Args:
        config: of one of the trials of the repeat.
        dataset: its data.
        teacher: the frozen teacher; None where no method reads one.
        device: where everything lives.
        maps: attribution maps to read; None: the teacher's, computed where they are not stored.

    Attributes:
        train_indices, val_indices: positions of the training images that are trained on, and of
            those that are held out.
        labels: of all of them, on the device.
        task: of the data set.
        views: which view of which image is shown when.

    Raises:
        UserError: the split leaves nothing to train on.
    """

    def __init__(
        self,
        config: TrialConfig,
        dataset: Dataset,
        teacher: Teacher | None,
        device: torch.device,
        maps: StoredMaps | None = None,
    ) -> None:
        self.config, self.dataset, self.device = config, dataset, device
        self.teacher, self.task = teacher, TASKS[dataset.task]
        labels, seed = dataset.train.labels, config.split_seed
        indices, self.val_indices = self.task.split(labels, config.val_fraction, seed)
        seed = config.seed if config.resample else seed
        self.train_indices = self.task.subset(labels, indices, config.train_fraction, seed)
        if not len(self.train_indices):
            raise UserError(
                f"val_fraction: {config.val_fraction:g} of {len(dataset.train)} training images "
                "leaves none to train on; expected less, or more images"
            )
        self.labels = labels.to(device)
        self.views = ViewPlan.of(
            dataset,
            config.view_seed,
            padding=config.crop_padding,
            resized_crops=config.resized_crops,
            flip=config.flip,
        )
        images = place_images(dataset.train.images, device, config.images)
        self.feeder = Feeder(images, self.views, device)
        self._lessons: dict[object, Lesson] = {}
        self._given, self._maps = maps, dict[object, ShownMaps]()

    def method(self, config: TrialConfig, student: Shapes) -> Method:
        """What a student learns by, with fresh adaptors, attached to the teacher.

        Args:
            config: of its trial.
            student: shapes of its outputs.

        Raises:
            UserError: as for `Method`.
            ValueError: the config differs in what is shown or taught: it is of another repeat,
                and the student would learn something else than it says.
        """
        teacher = self.teacher.network if self.teacher else None
        shapes = output_shapes(teacher, self.dataset.image_shape) if teacher else None
        made = Method(config.method, config.terms, student, shapes, self.task)
        differ = [key for key in SHOWN if getattr(config, key) != getattr(self.config, key)]
        if (made.needs or made.map_settings) and _teaching(config) != _teaching(self.config):
            differ.append("teacher, its precision or cache")
        if differ:
            raise ValueError(f"a student of another repeat: its {', '.join(differ)} differ")
        if made.needs and teacher:
            made.attach(teacher, self.dataset.train.labels, self.train_indices)
        return made.to(self.device)

    def plan(self, epoch: int) -> tuple[Tensor, ...]:
        """The batches of an epoch, positions of images in their order; each ``[B]``."""
        order = epoch_order(self.config.seed, epoch, self.train_indices)
        return train_batches(order, self.config.batch_size)

    def __call__(self, epoch: int, batches: Sequence[Tensor]) -> Iterator[Feed]:
        """Batches with the views of ``epoch``.

        Args:
            epoch: the epoch, from 0.
            batches: as `plan` gives them, or some of them.
        """
        return self.feeder(epoch, batches, self._remembering)

    def lesson(self, method: Method) -> Lesson | None:
        """What the teacher says to students of a method; None for one that reads nothing of it."""
        if not method.needs:
            return None
        assert self.teacher is not None
        asked = (method.needs, method.depth, method.plain_teacher)
        if asked not in self._lessons:
            config, data = self.config, self.dataset
            precision = choose_precision(
                config.teacher_precision or config.precision,
                "infer",
                self.teacher.card.blueprint,
                data.num_classes,
                data.image_shape,
                config.batch_size,
                self.device,
            )
            remembers = method.plain_teacher and config.teacher_cache != "off"
            answers = self._tables(method.needs, precision) if remembers else None
            self._lessons[asked] = Lesson(
                self.teacher, self.labels, method.needs, method.depth, precision, answers
            )
        return self._lessons[asked]

    def maps(self, method: Method) -> ShownMaps | None:
        """The attribution maps that a method reads; None for one that reads none."""
        if not method.map_settings:
            return None
        asked = tuple(sorted(method.map_settings.items()))
        if asked not in self._maps:
            settings = {**method.map_settings}
            alignment = settings.pop("alignment")
            placed = self._placed(MapSettings(**settings))
            self._maps[asked] = ShownMaps(placed, self.train_indices, self.views, alignment)
        return self._maps[asked]

    def _placed(self, settings: MapSettings) -> PlacedMaps:
        if self._given:
            rows = torch.arange(len(self.dataset.train), device=self.device)
            return PlacedMaps(self._given, rows)
        assert self.teacher is not None
        what = self.teacher, self.dataset, settings, self.train_indices
        return place_maps(*what, self.device, self.config.images)

    def _tables(self, needs: frozenset[str], precision: str) -> RememberingTeacher | None:
        assert self.teacher is not None
        cache = self.config.teacher_cache
        return remembering(self.teacher, needs, self.dataset, self.views, cache, precision)

    @property
    def _remembering(self) -> list[RememberingTeacher]:
        return [lesson.answers for lesson in self._lessons.values() if lesson.answers]

    def flush(self) -> None:
        """Stores what the teacher has said and its tables do not hold yet."""
        for answers in self._remembering:
            answers.flush()

    def state_dict(self) -> list[tuple[str, int, int]]:
        """Of every lesson the teacher's precision, and how many answers were looked up."""
        return [(lesson.precision, *lesson.counts) for lesson in self._lessons.values()]

    def load_state_dict(self, state: list[tuple[str, int, int]]) -> None:
        """Goes on as another stream, which has the same lessons."""
        for lesson, (precision, asked, found) in zip(self._lessons.values(), state, strict=True):
            if precision != lesson.precision:  # another machine's
                lesson.precision = precision
                lesson.answers = lesson.answers and self._tables(lesson.needs, precision)
            if lesson.answers:
                lesson.answers.asked, lesson.answers.found = asked, found
