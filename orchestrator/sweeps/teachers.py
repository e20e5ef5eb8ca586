"""A study's teachers: how each is trained, or where it is."""

from collections.abc import Container, Iterator
from functools import cached_property

from search_spaces.roles import roles_of_trials
from search_spaces.spec import Study
from search_spaces.teacher import TeacherSpec
from trainables.config import TrialConfig
from trainables.data.dataset import Dataset
from trainables.errors import UserError, unknown
from trainables.methods.registry import OTHERS
from trainables.models.registry import canonical_name
from trainables.models.weights import Card
from trainables.recipes import Filed, Recipe, lineage, recipe
from trainables.teachers.classes import class_order
from trainables.teachers.teacher import find_teacher


class Teachers:
    """The teachers of a study's trials, and those above them.

    Args:
        study: with one teacher, or with pairs; with further ones beside them.
        results: where imported teachers are.
        data_dir: as ``--data``.

    Attributes:
        named: by the names that configs have for them. Further ones come last, of those that
            some trial reads.

    Raises:
        UserError: an imported teacher is missing, or an unknown network.
    """

    def __init__(self, study: Study, results: str, data_dir: str | None) -> None:
        self._study, self._results, self._data_dir = study, results, data_dir
        unread = {f"{OTHERS}{role}" for role in study.teachers}
        unread -= {f"{OTHERS}{role}" for role in roles_of_trials(study)}
        self.named = {
            spec.label: self._known(spec, key)
            for key, spec in study.all_teachers().items()
            if key not in unread
        }

    def of(self, config: TrialConfig) -> Recipe | Filed | None:
        """The teacher of a trial: how it is trained, or where it is.

        Raises:
            UserError: the config is of another study.
        """
        return None if config.teacher is None else self._named(config.teacher)

    def others(self, config: TrialConfig) -> dict[str, Recipe | Filed]:
        """The further teachers that a trial reads, by role.

        Raises:
            UserError: the config is of another study.
        """
        return {role: self._named(name) for role, name in config.teachers.items()}

    def _named(self, name: str) -> Recipe | Filed:
        if name not in self.named:
            raise unknown("teacher", name, self.named)
        return self.named[name]

    @property
    def first(self) -> list[Recipe | Filed]:
        """Those beside which students are small, without the further ones."""
        keys = self._study.all_teachers().items()
        return [self.named[spec.label] for key, spec in keys if not key.startswith(OTHERS)]

    @cached_property
    def recipes(self) -> list[Recipe]:
        """Those that are trained, each once, and none before its own teacher."""
        found = {one.key: one for one in self._all() if isinstance(one, Recipe)}
        return list(found.values())

    def missing(self, there: Container[str], config: TrialConfig | None = None) -> list[Recipe]:
        """The teachers to train now, none before its own: of one trial, or of all trials.

        What is above a teacher that exists is not needed.

        Args:
            there: files of those that exist.
            config: of the trial.
        """
        wanted: dict[str, Recipe] = {}
        for teacher in (
            [self.of(config), *self.others(config).values()] if config else self.named.values()
        ):
            chain: list[Recipe] = []
            while isinstance(teacher, Recipe) and teacher.key not in there:
                chain.insert(0, teacher)
                teacher = teacher.upper
            wanted |= {step.key: step for step in chain}
        return list(wanted.values())

    def cards(self, dataset: Dataset) -> dict[str, Card]:
        """The cards of those that exist by now, by file.

        Raises:
            UserError: an imported teacher is missing, or one was made for other data.
        """
        found = {}
        for teacher in self._all():
            card = (
                teacher.find(self._results)
                if isinstance(teacher, Recipe)
                else find_teacher(self._results, teacher.file)
            )
            if card is not None:
                found[teacher.file] = card
                class_order(card, dataset)
        return found

    def _all(self) -> Iterator[Recipe | Filed]:
        return (step for top in self.named.values() for step in lineage(top))

    def _known(self, spec: TeacherSpec, key: str) -> Recipe | Filed:
        """A teacher by what the study says of it at a key."""
        config = self._study.teacher_config(spec, key)
        if config is None:
            return _filed(self._results, str(spec.name), key)
        upper = self._known(spec.teacher, f"{key}.teacher") if spec.teacher else None
        try:
            canonical_name(config.student)
        except UserError as error:
            raise UserError(f"{key}.model: {error}") from error
        return recipe(config, self._data_dir, upper)


def _filed(results: str, name: str, key: str) -> Filed:
    card = find_teacher(results, name)
    if card is None:
        raise UserError(
            f"{key}.name: there is no teacher '{name}' in {results}; "
            f"import it with `kdsweep teacher import MODEL FILE --name {name}`"
        )
    return Filed(name, card)
