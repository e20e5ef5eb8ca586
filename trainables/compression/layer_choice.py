"""Which layers a step may work on, as a setting says it."""

import fnmatch

from torch import nn

from trainables.compression.lockstep import layers
from trainables.errors import UserError, unknown
from trainables.models.outputs import Network
from trainables.models.vgg import VGG, AveragedVGG

ALL, VGG2020 = "all", "vgg2020"


def chosen_layers(network: Network, text: str, key: str) -> frozenset[str]:
    """Names of the convolutions and linear layers that a setting is about.

    Args:
        network: whose layers they are.
        text: ``all``; ``vgg2020``: of a VGG the first convolution and those of its last two blocks
            (conv1_1, conv4_x, conv5_x), which Park et al. cut; or patterns of names joined by
            commas, of which ``*`` stands for anything: ``layer1.*.conv1,layer2.*``.
        key: of the setting, for errors.

    Raises:
        UserError: a network without these layers, or a pattern that none has.
    """
    names = [*layers(network)]
    if text == ALL:
        return frozenset(names)
    if text == VGG2020:
        return frozenset(_vgg2020(network, key))
    found: set[str] = set()
    for pattern in (part.strip() for part in text.split(",")):
        fitting = fnmatch.filter(names, pattern)
        if not fitting:
            error = unknown(f"layer of {network.blueprint.model}", pattern, [ALL, VGG2020, *names])
            raise UserError(f"{key}: {error}")
        found |= {*fitting}
    return frozenset(found)


def _vgg2020(network: Network, key: str) -> list[str]:
    names = [*layers(network)]
    blocks: list[list[str]] = [[]]
    if isinstance(network, AveragedVGG):
        blocks = [[one for one in names if one.startswith(f"block{at}.")] for at in range(5)]
    elif isinstance(network, VGG):
        for at, layer in network.features.named_children():
            if isinstance(layer, nn.MaxPool2d):
                blocks.append([])
            elif isinstance(layer, nn.Conv2d):
                blocks[-1].append(f"features.{at}")
    else:
        raise UserError(
            f"{key}: {VGG2020} is about conv1, conv4_x and conv5_x of a VGG (vgg11, vgg13, vgg16, "
            f"vgg19, each also as _gap); {network.blueprint.model} has no such layers"
        )
    return [blocks[0][0], *blocks[3], *blocks[4]]
