"""Whether the trials of a plan can be explained, and their maps be scored as its study wants."""

from typing import Any

import torch
from torch import nn

from orchestrator.sweeps.plan import Plan
from search_spaces.spec import Study
from trainables.attribution.explaining import check_explainers
from trainables.compression.chain import Chain
from trainables.config import TrialConfig
from trainables.data.dataset import Dataset
from trainables.data.views import Normalisation
from trainables.errors import UserError
from trainables.models.blueprint import Blueprint, build
from trainables.models.fake_quantised import CLASSES, FakeQuantised, Widths
from trainables.models.family import ImageShape
from trainables.models.outputs import Network
from trainables.objectives import check_objective
from trainables.randomness import Randomness
from trainables.worker import kept

_QUANTISED = ("qat", "int8")
"""Steps that leave layers of another kind than a network has as it is built."""

_WIDTHS = Widths(weight_bits=8, input_bits=8, input_signed=True, per_channel=True)


def check_explained(plan: Plan, config: TrialConfig, student: Blueprint) -> None:
    """Asks every explainer of a trial whether it can explain its networks, before any is trained.

    Args:
        plan: of the sweep.
        config: of the trial.
        student: what it is before the first step of its chain.

    Raises:
        UserError: an explainer cannot explain the student, or the teacher that it is compared
            with; or there is neither a teacher nor a mask.
    """
    teacher, data = plan.teachers.of(config), plan.dataset
    if teacher is None and data.train.masks is None and data.read_test().masks is None:
        raise UserError(
            f"explainers: {config.explainers}: nothing to score: there is no teacher to compare "
            f"with, and no image of '{data.name}' has a mask"
        )
    _check(plan, config, student, f"student {student.label}")
    steps = [step.name for step in Chain(config.compression, config.chain).steps]
    if found := [name for name in steps if name in _QUANTISED]:
        _check(plan, config, student, f"student {student.label} behind {found[0]}", quantised=True)
    if teacher:
        _check(plan, config, teacher.blueprint, f"teacher {config.teacher}")


def _check(
    plan: Plan, config: TrialConfig, blueprint: Blueprint, where: str, quantised: bool = False
) -> None:
    data, explainers = plan.dataset, tuple(config.explainer_configs.items())
    try:
        _check_network(
            blueprint,
            data.num_classes,
            data.image_shape,
            (data.mean, data.std),
            explainers,
            quantised,
        )
    except UserError as error:
        raise UserError(f"explainers: {where}: {error}"[:290]) from error


@kept("explainers that networks can have", entries=1024)
def _check_network(
    blueprint: Blueprint,
    classes: int,
    image_shape: ImageShape,
    normalisation: Normalisation,
    explainers: tuple[tuple[str, Any], ...],
    quantised: bool,
) -> None:
    """Once per process: trials share their teachers, and often their students."""
    with Randomness(0, torch.device("cpu")):
        network = build(blueprint, classes, image_shape)
    if quantised:
        _quantise(network)
    check_explainers(network, dict(explainers), image_shape, normalisation)


def _quantise(network: Network) -> None:
    kinds = nn.Conv2d, nn.Linear
    layers = [name for name, one in network.named_modules() if isinstance(one, kinds)]
    known = [name for name in layers if type(network.get_submodule(name)) in CLASSES]
    FakeQuantised.of(dict.fromkeys(known, _WIDTHS)).apply(network)


def check_masks(study: Study, dataset: Dataset) -> None:
    """Whether there are masks where trials are judged by localisation.

    Raises:
        UserError: no training image has one, from which validation images are taken; by the key.
    """
    masks = dataset.train.masks
    for key, name in study.judged.items():
        if "masks" in check_objective(name).needs and (masks is None or not len(masks)):
            raise UserError(
                f"{key}: needs masks, and no training image of '{dataset.name}' has one"
            )
