"""Parts of chains in a package of somebody else, `their_steps`."""

THEIRS = '''
"""Trim: what another package may do to a network."""

from dataclasses import dataclass

import torch

from trainables.compression.step import Choice, Step
from trainables.errors import UserError
from trainables.models.registry import canonical_name
from trainables.settings import setting


@dataclass(frozen=True, kw_only=True, slots=True)
class TrimConfig:
    amount: float = setting(None, "share of the weights", above=0, at_most=1, search=(0.1, 0.9))
    criterion: str = setting("l1", "what is small", choices=("l1", "l2"))
    stages: int = setting(3, "how many", at_least=1)


class Trim(Step):
    Config = TrimConfig
    moments = (1.0,)

    def check(self, network, image_shape):
        if network.blueprint.model.startswith("resnet"):
            raise UserError("trim: cannot work on a ResNet")

    def at(self, moment, scene):
        for weight in scene.network.parameters():
            smallest = int(self.config.amount * weight.numel())
            weight.flatten()[weight.abs().flatten().argsort()[:smallest]] = 0
        return ()


@dataclass(frozen=True, kw_only=True, slots=True)
class GridConfig:
    amount: int = setting(8, "bits", at_least=1)
    criterion: str = setting("mse", "what is near")


class Grid(Step):
    Config = GridConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class HalfConfig:
    spare: bool = setting(False, "not at all")


class Half(Choice):
    Config = HalfConfig

    def named(self, student):
        return canonical_name(student if self.config.spare else student + "_x0.5")


class Lr(Step):
    Config = GridConfig
'''
POINTS = """
[kdsweep.steps]
trim = their_steps:Trim
grid = their_steps:Grid
half = their_steps:Half
lr = their_steps:Lr
factor = their_steps:Half
"""
