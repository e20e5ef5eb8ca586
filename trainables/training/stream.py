"""What the students of one repeat are shown: the order, the views, and what the teacher says."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from trainables.attribution.map_settings import MapSettings
from trainables.config import TrialConfig
from trainables.data.batches import epoch_order, train_batches
from trainables.data.dataset import Dataset
from trainables.data.resident import place_images
from trainables.data.views import ViewPlan
from trainables.engine.precision import choose_precision
from trainables.methods.method import Method
from trainables.methods.registry import TEACHER
from trainables.methods.term import NO_OTHERS
from trainables.models.outputs import Shapes
from trainables.models.shapes import output_shapes
from trainables.tasks.registry import TASKS
from trainables.teachers.maps import StoredMaps
from trainables.teachers.remembering import RememberingTeacher, remembering
from trainables.teachers.teacher import Teacher
from trainables.training.feeding import Feed, Feeder
from trainables.training.lesson import Lesson
from trainables.training.shown_images import split_images
from trainables.training.shown_maps import PlacedMaps, ShownMaps, place_maps

SHOWN = (
    *("dataset", "image_size", "split_seed", "val_fraction", "train_fraction", "resample"),
    *("seed", "batch_size", "view_seed", "crop_padding", "resized_crops", "flip"),
)
"""Settings that decide what students are shown. Those of a stream agree in them."""


def _teaching(config: TrialConfig) -> tuple[str | None, ...]:
    """What decides what the teachers say to that, beside who the further ones are."""
    return config.teacher, config.teacher_precision or config.precision, config.teacher_cache


class Stream:
    """The order, the views and what the teachers say to them.

    It follows from the repeat alone and from no student, so that several may learn from one.

    Args:
        config: of one of the trials of the repeat.
        dataset: its data.
        teacher: the frozen teacher; None where no method reads one.
        device: where everything lives.
        maps: attribution maps to read; None: the teacher's, computed where they are not stored.
        others: further teachers, by role.

    Attributes:
        teachers: all of them by role, the first one as `TEACHER`.
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
        others: Mapping[str, Teacher] = NO_OTHERS,
    ) -> None:
        self.config, self.dataset, self.device = config, dataset, device
        self.teachers = {TEACHER: teacher, **others} if teacher else {}
        self.task = TASKS[dataset.task]
        self.train_indices, self.val_indices = split_images(config, dataset)
        self.labels = dataset.train.labels.to(device)
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
        """What a student learns by, with fresh adaptors, attached to the teachers.

        Args:
            config: of its trial.
            student: shapes of its outputs.

        Raises:
            UserError: as for `Method`.
            ValueError: the config differs in what is shown or taught: it is of another repeat,
                and the student would learn something else than it says.
        """
        networks = {role: teacher.network for role, teacher in self.teachers.items()}
        shape = self.dataset.image_shape
        shapes = {role: output_shapes(network, shape) for role, network in networks.items()}
        others = {role: shapes[role] for role in config.teachers if role in shapes}
        theirs = shapes.get(TEACHER)
        made = Method(config.method, config.terms, student, theirs, self.task, others)
        differ = [key for key in SHOWN if getattr(config, key) != getattr(self.config, key)]
        if (made.needs or made.map_settings) and _teaching(config) != _teaching(self.config):
            differ.append("teacher, its precision or cache")
        differ += [role for role in config.teachers if not self._has(role, config.teachers[role])]
        if differ:
            raise ValueError(f"a student of another repeat: its {', '.join(differ)} differ")
        if made.needs:
            labels = self.dataset.train.labels
            made.attach(networks[TEACHER], labels, self.train_indices, networks)
        return made.to(self.device)

    def _has(self, role: str, label: str) -> bool:
        """Whether a further teacher is that of the stream, as far as its config says whose."""
        return role in self.teachers and self.config.teachers.get(role, label) == label

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

    def lessons(self, method: Method) -> dict[str, Lesson]:
        """What the teachers say to students of a method, by role, of those that it reads."""
        return {role: self._lesson(role, method) for role in method.roles}

    def _lesson(self, role: str, method: Method) -> Lesson:
        needs, depth, plain = method.needs_of(role), method.depth(role), method.plain_teacher
        asked = (role, needs, depth, plain)
        if asked not in self._lessons:
            teacher, precision = self.teachers[role], self._teacher_precision()
            remembers = plain and self.config.teacher_cache != "off"
            answers = self._tables(teacher, needs, precision) if remembers else None
            self._lessons[asked] = Lesson(
                teacher, role, self.labels, needs, depth, precision, answers
            )
        return self._lessons[asked]

    def _teacher_precision(self) -> str:
        """In which all teachers compute: that of the first, so that a row can say it."""
        config, data = self.config, self.dataset
        return choose_precision(
            config.teacher_precision or config.precision,
            "infer",
            self.teachers[TEACHER].card.blueprint,
            data.num_classes,
            data.image_shape,
            config.batch_size,
            self.device,
        )

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
        what = self.teachers[TEACHER], self.dataset, settings, self.train_indices
        return place_maps(*what, self.device, self.config.images)

    def _tables(
        self, teacher: Teacher, needs: frozenset[str], precision: str
    ) -> RememberingTeacher | None:
        cache = self.config.teacher_cache
        return remembering(teacher, needs, self.dataset, self.views, cache, precision)

    @property
    def _remembering(self) -> list[RememberingTeacher]:
        return [lesson.answers for lesson in self._lessons.values() if lesson.answers]

    def flush(self) -> None:
        """Stores what the teachers have said and their tables do not hold yet."""
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
                words = lesson.teacher, lesson.needs, precision
                lesson.answers = lesson.answers and self._tables(*words)
            if lesson.answers:
                lesson.answers.asked, lesson.answers.found = asked, found
