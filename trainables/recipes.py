"""Recipe: what decides a teacher before there is one, and under which names it goes then."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from trainables.config import TrialConfig
from trainables.data.sources import load_dataset
from trainables.errors import UserError
from trainables.experiment import config_key
from trainables.methods.registry import needs_teacher
from trainables.models.blueprint import Blueprint
from trainables.models.registry import canonical_name
from trainables.models.weights import Card
from trainables.teachers.pretrained import fingerprint_of, read_features
from trainables.teachers.teacher import find_teacher
from trainables.trial_settings import WEIGHTS


@dataclass(frozen=True)
class Filed:
    """A teacher that is there already: imported, or adopted from a sweep.

    Attributes:
        file: its file in the results folder, without suffix.
        card: its facts.
    """

    file: str
    card: Card

    @property
    def name(self) -> str:
        """Under which rows refer to it."""
        return self.card.name

    @property
    def blueprint(self) -> Blueprint:
        """What the network is."""
        return self.card.blueprint

    @property
    def key(self) -> str:
        """What decides its outputs."""
        return self.card.fingerprint


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a teacher is trained, and the name of the file it will have.

    Attributes:
        name: under which rows refer to the teacher: the network's name, and for an assistant
            also the method and the teacher that it comes from: ``resnet32(kd:resnet110)``.
        model: canonical name of the network.
        config: its training.
        key: file name without suffix; ends in a hash of everything that decides the weights,
            of those above it too.
        upper: the teacher that it is distilled from; None where it is trained plainly.
        weights: sha256 of the file whose features it begins with; None for fresh weights.
    """

    name: str
    model: str
    config: TrialConfig
    key: str
    upper: "Recipe | Filed | None" = None
    weights: str | None = None

    @property
    def file(self) -> str:
        """Its file in the results folder, without suffix."""
        return self.key

    @property
    def blueprint(self) -> Blueprint:
        """What the network is."""
        return Blueprint(self.model)

    def find(self, results: str) -> Card | None:
        """The card of the teacher where it is trained already.

        Raises:
            UserError: a teacher that came about otherwise has taken its name.
        """
        card = find_teacher(results, self.key)
        if card is None:
            return None
        if card.blueprint != self.blueprint or not card.origin.startswith("{"):
            raise UserError(
                f"teacher '{self.key}' in {results} is not the one that is trained under this "
                f"name, but {card.blueprint.label} from {card.origin}; "
                "`kdsweep teacher train --replace`"
            )
        return card


def recipe(
    config: TrialConfig, data_dir: str | None, upper: Recipe | Filed | None = None
) -> Recipe:
    """The recipe of a teacher.

    Args:
        config: dataset, network (``student``), method and training; nothing is compressed.
        data_dir: as ``--data``; the data set is read for its fingerprint.
        upper: the teacher that the method reads; None for the plain method.

    Raises:
        UserError: a method without ``upper`` or the reverse; an unknown network; unfit weights.
    """
    if config.compression != "explicit":
        raise UserError("teacher: is trained as it is named, without compression")
    if needs_teacher(config.method) != (upper is not None):
        expected = "needs a teacher of its own" if upper is None else "reads nothing of a teacher"
        raise UserError(f"teacher: method '{config.method}' {expected}")
    dataset = load_dataset(config.dataset, data_dir, image_size=config.image_size)
    model = canonical_name(config.student)
    weights = None
    if config.start.startswith(WEIGHTS):
        file = str(Path(config.start.removeprefix(WEIGHTS)).expanduser().absolute())
        weights = fingerprint_of(file)
        read_features(file, model, dataset)  # refused before anything is trained
        config = config.replace(start=WEIGHTS + file)
    key = config_key(
        config,
        student=model,
        data_fingerprint=dataset.fingerprint,
        teacher_fingerprint=upper.key if upper else None,
        start_fingerprint=weights,
    )
    slug = "".join(letter if letter.isalnum() or letter in "._" else "-" for letter in model)
    name = f"{model}({config.method}:{upper.name})" if upper else model
    key = f"{slug}-{key}"
    return Recipe(name=name, model=model, config=config, key=key, upper=upper, weights=weights)


def lineage(teacher: Recipe | Filed) -> Iterator[Recipe | Filed]:
    """The teachers above a teacher from the top down, and then itself."""
    if isinstance(teacher, Recipe) and teacher.upper is not None:
        yield from lineage(teacher.upper)
    yield teacher
