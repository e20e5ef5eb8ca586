"""What the students of a study begin with: fresh weights, their teacher's, or those of a file."""

from collections.abc import Mapping
from functools import cached_property

from search_spaces.spec import Study
from trainables.config import SCRATCH, TEACHER, TrialConfig
from trainables.data.dataset import Dataset
from trainables.errors import UserError, unknown
from trainables.models.blueprint import Blueprint
from trainables.models.weights import Card
from trainables.teacher_training import Filed, Recipe
from trainables.teachers.start import check_card, check_start, remark
from trainables.teachers.teacher import find_teacher, list_teachers

_START = "start"


class Starts:
    """The starts of a `Plan`, which is one of these.

    Attributes:
        study, results, cards, dataset, teachers: of the plan.
    """

    study: Study
    results: str
    cards: Mapping[str, Card]

    @property
    def teachers(self) -> Mapping[str, Recipe | Filed]:
        raise NotImplementedError

    @property
    def dataset(self) -> Dataset:
        raise NotImplementedError

    def teacher(self, config: TrialConfig) -> Recipe | Filed | None:
        """The teacher of a trial."""
        raise NotImplementedError

    def student(self, config: TrialConfig) -> str:
        """The canonical name of the network that a config asks for."""
        raise NotImplementedError

    @cached_property
    def starts(self) -> dict[str, Filed]:
        """The networks by name with which students begin, besides their teachers.

        Raises:
            UserError: one is missing.
        """
        return starts_of(self.study, self.results)

    def start(self, config: TrialConfig) -> Recipe | Filed | None:
        """The network with whose weights a trial's student begins; None for fresh ones.

        Raises:
            UserError: the config is of another study.
        """
        if config.start == SCRATCH:
            return None
        if config.start == TEACHER:
            return self.teacher(config)
        if config.start not in self.starts:
            raise unknown(_START, config.start, [SCRATCH, TEACHER, *self.starts])
        return self.starts[config.start]

    def check_start(self, config: TrialConfig, student: str) -> None:
        """Refuses a student that is not what the trial begins with: see `check_start`."""
        start = self.start(config)
        if start is not None:
            check_start(config.start, student, start.blueprint)

    def blueprint(self, config: TrialConfig) -> Blueprint:
        """What a trial's student is before the first step of its chain.

        Raises:
            UserError: there is no such network, or it is not the one that the trial begins with.
        """
        name, start = self.student(config), self.start(config)
        return start.blueprint if start else Blueprint(name)

    @property
    def begun(self) -> dict[str, Card]:
        """The cards of `starts` by file.

        Raises:
            UserError: one was made for other classes or images.
        """
        for name, start in self.starts.items():
            check_card(name, start.card, self.dataset)
        return {start.file: start.card for start in self.starts.values()}

    @property
    def remarks_on_starts(self) -> list[str]:
        """What a user should know of them, a line each."""
        cards = dict(self.begun)
        if TEACHER in _given(self.study):
            files = (teacher.file for teacher in self.teachers.values())
            cards |= {file: self.cards[file] for file in files if file in self.cards}
        lines = (remark(card, self.dataset) for card in cards.values())
        return [line for line in lines if line]


def starts_of(study: Study, results: str) -> dict[str, Filed]:
    """The networks by name with which a study's students begin, besides their teachers.

    Args:
        study: its settings and dimensions say ``start``.
        results: where the networks are.

    Raises:
        UserError: one is missing.
    """
    found = {}
    for name in _given(study):
        if name in (SCRATCH, TEACHER):
            continue
        card = find_teacher(results, name)
        if card is None:
            known = [SCRATCH, TEACHER, *list_teachers(results)]
            raise UserError(f"start: {unknown('network', name, known)} (of {results})")
        found[name] = Filed(name, card)
    return found


def _given(study: Study) -> list[str]:
    """Every start that the study says, each once."""
    given = [study.fixed.get(_START), *(pair.settings.get(_START) for pair in study.pairs.values())]
    if _START in study.dimensions:
        given += study.dimensions[_START].ends()
    return [*dict.fromkeys(str(one) for one in given if one is not None)]
