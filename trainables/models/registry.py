"""Models by name."""

import re
from typing import NamedTuple

from trainables.errors import UserError, unknown
from trainables.models import external, mobilenetv2, resnet, resnet18, vgg, wrn
from trainables.models.family import Design, Family, ImageShape, number
from trainables.models.outputs import Network
from trainables.registry import Registry

_OWN = (
    resnet.FAMILY,
    *resnet.ECA_FAMILIES,
    resnet18.FAMILY,
    *resnet18.ECA_FAMILIES,
    wrn.FAMILY,
    mobilenetv2.FAMILY,
    mobilenetv2.FAMILY_S2,
    vgg.FAMILY,
)
FAMILIES: Registry[Family] = Registry(
    "model family", "kdsweep.families", {family.name: family for family in _OWN}
)
"""Every family by name: ours, and those of other packages."""

_WIDTH_SUFFIX = re.compile(r"(.+)_x(\d+(?:\.\d+)?)")


class ModelDescription(NamedTuple):
    """What help texts say about one kind of name.

    Attributes:
        pattern: how the names are made.
        description: one line.
        paper: the source.
        example: one such name.
    """

    pattern: str
    description: str
    paper: str
    example: str


def describe_models() -> list[ModelDescription]:
    """A record for every kind of model name, own families first."""
    own = [
        ModelDescription(f"{f.pattern}[_x{{width}}]", f.description, f.paper, f.example)
        for f in FAMILIES.values()
    ]
    others = [
        ModelDescription(
            f"{library}:{{name}}",
            f"any classifier of {library} that ends in a linear layer, random initialisation",
            source,
            f"{library}:resnet18",
        )
        for library, source in external.LIBRARIES.items()
    ]
    return own + others


def split_width(name: str) -> tuple[str, float]:
    """Base name and width multiplier; repeated suffixes multiply: ``a_x0.5_x0.5`` is ``a, 0.25``.

    Raises:
        UserError: the multiplier is 0.
    """
    base, width = name, 1.0
    while match := _WIDTH_SUFFIX.fullmatch(base):
        base, width = match[1], width * float(match[2])
    if float(number(width)) == 0:
        raise UserError(f"model '{name}': width multiplier must be above 0")
    return base, width


def family_of(name: str) -> Family | None:
    """The family that a model name belongs to, None for timm and torchvision.

    Raises:
        UserError: there is no such model.
    """
    return _find(name)[0]


def canonical_name(name: str) -> str:
    """The one name of an architecture that several names reach.

    ``wrn_16_2_x0.25`` is ``wrn_16_0.5``, ``resnet20_x1.0`` is ``resnet20``. Names of timm and
    torchvision stay as they are and are checked when the model is built, which knows one name of
    each network alone: no tags, no old names.

    Raises:
        UserError: there is no such model, or it names weights (``timm:NAME.TAG``).
    """
    return _find(name)[1].name


def create_model(name: str, classes: int, image_shape: ImageShape) -> Network:
    """Build a model with fresh weights, drawn from torch's global random generator.

    Under ``torch.device("meta")`` it takes no memory and no computation.

    Args:
        name: a name that `describe_models` explains.
        classes: number of logits, at least 1.
        image_shape: ``(C, H, W)`` of the images, in pixels.

    Raises:
        UserError: there is no such model, or it cannot be built for these images.
    """
    if classes < 1 or min(image_shape) < 1:
        raise UserError(f"model '{name}' cannot have {classes} classes and images {image_shape}")
    return _find(name)[1].build(classes, image_shape)


def _find(name: str) -> tuple[Family | None, Design]:
    other = external.parse(name)
    if other is not None:
        return None, other
    base, width = split_width(name)
    for family in FAMILIES.values():
        design = family.parse(base, width)
        if design is not None:
            return family, design
    members = [member for family in FAMILIES.values() for member in family.members]
    raise unknown("model", name, [*members, *(f"{library}:NAME" for library in external.LIBRARIES)])
