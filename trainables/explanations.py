"""A trial's student explained: where its maps are, and whether they are still its teacher's.

Which images are explained follows from the data and the split alone: of every class its share, and
only such as have a mask, where some have. An image is explained for

- every class that its mask shows: localisation is scored by these;
- the class that the teacher says, as in Park et al., "Attribution Preservation in Network
  Compression for Reliable Network Interpretation", NeurIPS 2020, arXiv 2010.15054, section 3; of a
  multi-label set for every class that its labels say. Preservation is scored by these.

What the teacher says is computed once per process, since all trials of a sweep ask for the same.
"""

import json
import logging
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from trainables.attribution.answers import agreement, logits_of, says
from trainables.attribution.costs import Effort, in_words, passes_of
from trainables.attribution.explaining import explain
from trainables.attribution.scoring import Pairs, Said, headlines, means_of, pairs_for, scores_of
from trainables.columns import TrialRow
from trainables.config import TrialConfig
from trainables.data.dataset import Dataset, Images
from trainables.data.views import Normalisation, to_float
from trainables.errors import UserError
from trainables.models.blueprint import build
from trainables.models.outputs import Network
from trainables.randomness import Randomness
from trainables.tasks.registry import TASKS
from trainables.teachers.teacher import Teacher
from trainables.worker import kept

log = logging.getLogger(__name__)

Part = Literal["val", "test"]
Explainers = tuple[tuple[str, Any], ...]
"""Names and configs, in their order."""

SEED = 0
"""Of the choice of images and of the untrained network: the same for all trials."""


class Taught(NamedTuple):
    """What the teacher says to images that are explained.

    Attributes:
        logits: ``[M, classes]``.
        maps: by explainer, ``[P, H, W]``.
        untrained: by explainer and measure, how near to these are maps of the teacher's
            architecture without training.
        said: the scores of its maps by explainer.
        errors: by explainer that cannot explain it.
    """

    logits: Tensor
    maps: dict[str, Tensor]
    untrained: dict[str, dict[str, float]]
    said: dict[str, Said]
    errors: dict[str, str]


class Asked(NamedTuple):
    """Images that are explained.

    Attributes:
        pixels: uint8 ``[M, C, H, W]``, on the device of the trial.
        pairs: the classes that they are explained for, there as well.
        taught: what the teacher says; None without one.
    """

    pixels: Tensor
    pairs: Pairs
    taught: Taught | None


class Explained:
    """Fills in what is said of a trial's explanations.

    Args:
        config: of the trial; with no explainers there is nothing to do.
        dataset: its data; the test set is read for `test` alone.
        teacher: its teacher, or None.
        device: where the student is.
    """

    def __init__(
        self,
        config: TrialConfig,
        dataset: Dataset,
        teacher: Teacher | None,
        device: torch.device,
    ) -> None:
        self._config, self._dataset = config, dataset
        self._teacher, self._device = teacher, device

    def fill_in(
        self,
        row: TrialRow,
        student: Network,
        normalisation: Normalisation,
        validation: Tensor,
    ) -> None:
        """Adds the scores to the row of a trial that is over.

        Args:
            row: of the trial.
            student: as it was trained.
            normalisation: mean and deviation of its images, per channel.
            validation: the validation images, int64; none of a trial that has learned from all.
        """
        explainers = tuple(self._config.explainer_configs.items())
        if not explainers:
            return
        log.info("explaining the student by %s", in_words(dict(explainers)))
        everything: dict[str, Any] = {}
        parts: dict[Part, tuple[int, ...] | None] = {"val": (*validation.tolist(),), "test": None}
        count = self._config.explained_images
        rest = count, explainers, self._teacher, str(self._device)
        asked = {
            part: asked_of(self._dataset, part, positions, *rest)
            for part, positions in parts.items()
            if positions != ()
        }
        maps = sum(len(one.pairs.images) for one in asked.values())
        label = f"explaining the student by {self._config.explainers}"
        effort = Effort(label, maps * passes_of(dict(explainers)))
        for part, one in asked.items():
            said = self._scores(one, student, normalisation, explainers, effort)
            everything[part] = said
            for name, value in headlines(said["explainers"]).items():
                setattr(row, f"{part}_{name}", value)
            setattr(row, f"{part}_agreement", said.get("agreement"))
        effort.close()
        row.attributions = json.dumps(everything)

    def _scores(
        self,
        asked: Asked,
        student: Network,
        normalisation: Normalisation,
        explainers: Explainers,
        effort: Effort,
    ) -> Said:
        independent = TASKS[self._dataset.task].independent
        images = to_float(asked.pixels, *normalisation, channels_last=False)
        logits = logits_of(student, images)
        said: Said = {"images": len(images), "masks": asked.pairs.masks is not None}
        taught = asked.taught
        if taught:
            said["agreement"] = agreement(logits, taught.logits, independent)
        predicted = says(logits, independent)[asked.pairs.images, asked.pairs.classes]
        by_name: dict[str, Said] = {}
        for name, config in explainers:
            if taught and name in taught.errors:
                by_name[name] = {"error": taught.errors[name]}
                continue
            try:
                maps = maps_of(student, name, config, images, asked.pairs, normalisation, effort)
            except UserError as error:  # the training is worth its row
                log.warning("no maps by explainer %s: %s", name, error)
                by_name[name] = {"error": str(error)}
                continue
            beside = (taught.maps[name], taught.untrained[name]) if taught else ()
            by_name[name] = scores_of(maps, asked.pairs, predicted, *beside)
            if taught:
                by_name[name]["teacher"] = taught.said[name]
        return {**said, "explainers": by_name}


@kept("explained images", entries=4)
def asked_of(
    dataset: Dataset,
    part: Part,
    positions: tuple[int, ...] | None,
    count: int,
    explainers: Explainers,
    teacher: Teacher | None,
    device: str,
) -> Asked:
    """What is explained of a part of a data set, and what the teacher says to it.

    Args:
        dataset: of the images.
        part: ``val``, of the training set, or ``test``.
        positions: of that part in its set, one at least; None: all.
        count: how many of them.
        explainers: whose maps.
        teacher: whose; None for none.
        device: where to.
    """
    images = dataset.train if part == "val" else dataset.read_test()
    among = torch.arange(len(images)) if positions is None else torch.tensor(positions)
    chosen = choose(images, among, count, dataset.task)
    where = torch.device(device)
    pixels = images.images[chosen].to(where)
    said = torch.zeros(len(chosen), dataset.num_classes, dtype=torch.bool, device=where)
    if TASKS[dataset.task].independent:
        said = (images.labels[chosen] == 1).to(where)
    elif teacher:
        said = says(logits_of(teacher.network, _as_taught(teacher, pixels)), False)
    pairs = pairs_for(said, _masks(images, chosen, where))
    taught = _taught(teacher, pixels, pairs, dataset, explainers) if teacher else None
    return Asked(pixels, pairs, taught)


def _as_taught(teacher: Teacher, pixels: Tensor) -> Tensor:
    return to_float(pixels, teacher.card.mean, teacher.card.std, channels_last=False)


def _taught(
    teacher: Teacher, pixels: Tensor, pairs: Pairs, dataset: Dataset, explainers: Explainers
) -> Taught:
    images, network = _as_taught(teacher, pixels), teacher.network
    theirs = teacher.card.mean, teacher.card.std
    logits = logits_of(network, images)
    predicted = says(logits, TASKS[dataset.task].independent)[pairs.images, pairs.classes]
    with Randomness(SEED, torch.device("cpu")):
        fresh = build(network.blueprint, dataset.num_classes, dataset.image_shape)
    fresh = fresh.to(pixels.device).eval()
    taught = Taught(logits, {}, {}, {}, {})
    passes = 2 * len(pairs.images) * passes_of(dict(explainers))
    effort = Effort(f"explaining the teacher {teacher.card.name} and an untrained one", passes)
    for name, config in explainers:
        try:
            rest = name, config, images, pairs, theirs, effort
            maps = maps_of(network, *rest)
            chance = means_of(maps_of(fresh, *rest), maps, pairs)
        except UserError as error:
            taught.errors[name] = f"teacher {teacher.card.name}: {error}"
            log.warning("no maps by explainer %s: %s", name, taught.errors[name])
            continue
        taught.maps[name], taught.untrained[name] = maps, chance
        taught.said[name] = scores_of(maps, pairs, predicted)
    effort.close()
    return taught


def choose(images: Images, positions: Tensor, count: int, task: str) -> Tensor:
    """Which images are explained: of every class its share, and those with masks if there are any.

    Args:
        images: a set.
        positions: those of it that may be, int64.
        count: how many, about.
        task: name of the set's task.
    """
    if images.masks is not None:
        masked = positions[torch.isin(positions, images.masks.positions)]
        positions = masked if len(masked) else positions
    share = count / len(positions)
    if share >= 1:
        return positions
    return TASKS[task].subset(images.labels, positions, share, SEED)


def _masks(images: Images, chosen: Tensor, device: torch.device) -> Tensor | None:
    """Of images that all have one; None where they have not."""
    masks = images.masks
    if masks is None or not torch.isin(chosen, masks.positions).all():
        return None
    return masks.values[torch.searchsorted(masks.positions, chosen)].to(device)


def maps_of(
    network: Network,
    name: str,
    config: Any,
    images: Tensor,
    pairs: Pairs,
    normalisation: Normalisation,
    effort: Effort,
) -> Tensor:
    """Maps of all pairs by one explainer, ``[P, H, W]``.

    Raises:
        UserError: the network cannot be explained by it.
    """
    what = network, {name: config}, images[pairs.images], pairs.classes
    return explain(*what, normalisation=normalisation, effort=effort)[name]
