"""What one of the teachers says to the students of a stream."""

from collections.abc import Iterable
from functools import partial

from torch import Tensor

from trainables.engine.precision import computing
from trainables.methods.method import Method
from trainables.methods.term import Batch, class_shares
from trainables.models.features import FIELDS
from trainables.models.outputs import Outputs
from trainables.teachers.remembering import RememberingTeacher
from trainables.teachers.teacher import Teacher
from trainables.training.answers import check_answers
from trainables.training.feeding import Feed


class Lesson:
    """What the teacher says to the views of a batch, for all students that read the same of it.

    Args:
        teacher: the frozen teacher.
        role: its own, by which terms call for it.
        labels: of all images that feeds may point to, on the device.
        needs: what is read of it: fields of `Outputs`, and keys of its ``features``.
        depth: how many of its stages are read; None: the whole teacher.
        precision: in which it computes.
        answers: its tables; None where there are none.
    """

    def __init__(
        self,
        teacher: Teacher,
        role: str,
        labels: Tensor,
        needs: frozenset[str],
        depth: int | None,
        precision: str,
        answers: RememberingTeacher | None,
    ) -> None:
        self.teacher, self.role, self.labels = teacher, role, labels
        self.needs, self.depth = needs, depth
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
        if not method.reads(batch.progress, self.role):
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
