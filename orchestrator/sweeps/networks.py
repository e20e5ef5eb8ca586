"""Whether the networks of a plan can be built, and joined by its methods."""

from typing import Any

import torch

from orchestrator.sweeps.explaining import check_explained
from orchestrator.sweeps.plan import Plan, checkpoint_seconds, naming
from search_spaces.dimension import role_keys
from trainables.compression.chain import Chain, check_steps
from trainables.config import TrialConfig
from trainables.errors import UserError
from trainables.methods.method import Method
from trainables.methods.registry import peer_models
from trainables.models.blueprint import Blueprint, build, shapes_of
from trainables.models.outputs import Shapes
from trainables.recipes import Filed, Recipe
from trainables.trial_settings import NO_EXPLAINERS


def check_networks(plan: Plan) -> None:
    """Builds every kind of student and every method for it, without memory or training.

    Raises:
        UserError: a network that cannot be built for these images, or a pair of networks
            that a method cannot join, a student on which a step cannot work, or a network that
            an explainer cannot explain.
    """
    checkpoint_seconds()
    for step in plan.teachers.recipes:
        _check_method(plan, step.config, step.blueprint, step.upper, f"teacher {step.name}")
    built: set[tuple[Any, ...]] = set()
    checked: set[tuple[Any, ...]] = set()
    for pair, config in plan.corners():
        with naming(pair):
            student = plan.blueprint(config)
            done = (student, config.compression, *config.chain.items())
            if done not in built:
                built.add(done)
                _check_steps(plan, config, student, checked)
            explained = (pair, student, config.compression, config.explainers)
            if config.explainers != NO_EXPLAINERS and explained not in built:
                built.add(explained)
                check_explained(plan, config, student)
            peers = frozenset(peer_models(config.method, config.terms).values())
            read = frozenset((key, config.terms.get(key)) for key in role_keys(config.method))
            networks = (pair, student, config.method, peers, read)
            if networks in built:
                continue
            built.add(networks)
            where = f"student {student.label}, method {config.method}"
            _check_method(plan, config, student, plan.teachers.of(config), where)


def _check_steps(
    plan: Plan, config: TrialConfig, student: Blueprint, checked: set[tuple[Any, ...]]
) -> None:
    steps, data = Chain(config.compression, config.chain).steps, plan.dataset
    if steps:
        with torch.device("meta"):
            network = build(student, data.num_classes, data.image_shape)
        check_steps(steps, network, data.image_shape, checked)


def _check_method(
    plan: Plan, config: TrialConfig, student: Blueprint, teacher: Recipe | Filed | None, where: str
) -> None:
    further = plan.teachers.others(config)
    try:
        above = _shapes(plan, teacher.blueprint) if teacher else None
        others = {role: _shapes(plan, one.blueprint) for role, one in further.items()}
        shapes = _shapes(plan, student)
        with torch.device("meta"):
            Method(config.method, config.terms, shapes, above, plan.task, others)
        for peer in set(peer_models(config.method, config.terms).values()):
            _shapes(plan, Blueprint(peer or student.model))
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def _shapes(plan: Plan, blueprint: Blueprint) -> Shapes:
    return shapes_of(blueprint, plan.dataset.num_classes, plan.dataset.image_shape)
