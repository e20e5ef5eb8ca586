"""What the students of a study begin with: fresh weights, their teacher's, or those of a file."""

from collections.abc import Iterable, Mapping

from search_spaces.spec import Study
from trainables.config import TrialConfig
from trainables.data.dataset import Dataset
from trainables.errors import UserError, unknown
from trainables.models.weights import Card
from trainables.recipes import Filed, Recipe
from trainables.teachers.start import check_card, remark
from trainables.teachers.teacher import find_teacher, list_teachers
from trainables.trial_settings import SCRATCH, TEACHER, WEIGHTS

_START = "start"


class Starts:
    """The networks of a study with which its students begin.

    Args:
        study: its settings and dimensions say ``start``.
        results: where the networks are.

    Attributes:
        named: those besides the trials' teachers, by name.

    Raises:
        UserError: one is missing.
    """

    def __init__(self, study: Study, results: str) -> None:
        self._given = _given(study)
        self.named = _named(self._given, results)

    def of(self, config: TrialConfig, teacher: Recipe | Filed | None) -> Recipe | Filed | None:
        """The network with whose weights a trial's student begins; None for fresh ones.

        Args:
            config: of the trial.
            teacher: of the trial.

        Raises:
            UserError: the config is of another study.
        """
        if config.start == SCRATCH:
            return None
        if config.start == TEACHER:
            return teacher
        if config.start not in self.named:
            raise unknown(_START, config.start, [SCRATCH, TEACHER, *self.named])
        return self.named[config.start]

    def cards(self, dataset: Dataset) -> dict[str, Card]:
        """The cards of ``named`` by file.

        Raises:
            UserError: one was made for other classes or images.
        """
        for name, start in self.named.items():
            check_card(name, start.card, dataset)
        return {start.file: start.card for start in self.named.values()}

    def remarks(self, taught: Mapping[str, Card], dataset: Dataset) -> list[str]:
        """What a user should know of them, a line each.

        Args:
            taught: the cards of the trials' teachers that are there, by file.
            dataset: of the study.
        """
        cards = self.cards(dataset) | (dict(taught) if TEACHER in self._given else {})
        lines = (remark(card, dataset) for card in cards.values())
        return [line for line in lines if line]


def _named(given: Iterable[str], results: str) -> dict[str, Filed]:
    found = {}
    for name in given:
        if name in (SCRATCH, TEACHER):
            continue
        if name.startswith(WEIGHTS):
            raise UserError(
                f"start: {name}: a file of weights is for a teacher: `weights: FILE` below teacher"
            )
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
