"""Blueprint: what a network is: a model of the zoo, and what was done to it since."""

import functools
import hashlib
import json
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import nn

from trainables.errors import UserError
from trainables.models.family import ImageShape
from trainables.models.outputs import Network, Shapes
from trainables.models.registry import create_model
from trainables.models.shapes import output_shapes
from trainables.registry import Registry
from trainables.worker import kept


class Edit:
    """A change of a network that is part of what it is from then on.

    A subclass is a frozen dataclass of hashable fields. It is registered, so that files that hold
    it can be read: ours below, those of other packages as an entry point.

    Attributes:
        kind: the name under which it is registered.
        settles: whether it says something of weights that training would make untrue. A network
            with such an edit is no start of another training.
    """

    kind: ClassVar[str]
    settles: ClassVar[bool] = False

    def apply(self, network: Network) -> None:
        """Changes the network in place. Weights that stay keep their values; of a network on the
        ``meta`` device it costs nothing. Whoever has an edit calls `edit`, which checks it.

        Raises:
            UserError: it does not fit; the message names the module.
        """
        raise NotImplementedError

    @property
    def structure(self) -> Hashable:
        """What edits have in common behind which networks of one model run the same code; None
        where an edit changes none. By default the edit itself."""
        return self

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold, and `from_dict` reads back; without the kind."""
        raise NotImplementedError

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The edit that `to_dict` wrote.

        Raises:
            ValueError, KeyError, TypeError: it did not.
        """
        raise NotImplementedError


EDITS: Registry[type[Edit]] = Registry(
    "edit",
    "kdsweep.edits",
    {
        "channels": "trainables.models.edits:Channels",
        "bits": "trainables.models.edits:Bits",
        "int8": "trainables.models.int8:Int8",
        "masked": "trainables.models.masks:Masked",
        "fake_quantised": "trainables.models.fake_quantised:FakeQuantised",
    },
)
"""Every kind of edit by name: ours, and those of other packages."""


@dataclass(frozen=True)
class Blueprint:
    """A network without its weights.

    Attributes:
        model: canonical name, as `create_model` builds it.
        edits: what was done to it, in this order.
    """

    model: str
    edits: tuple[Edit, ...] = ()

    @functools.cached_property
    def digest(self) -> str:
        """sha256 of the canonical JSON, 64 hexadecimal digits."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @functools.cached_property
    def label(self) -> str:
        """The model's name; with edits, ``NAME~`` and 12 digits that tell one from another."""
        return f"{self.model}~{self.digest[:12]}" if self.edits else self.model

    @functools.cached_property
    def structure(self) -> Hashable:
        """What networks have in common that run the same code."""
        found = [change.structure for change in self.edits]
        return self.model, *(one for one in found if one is not None)

    def edited(self, change: Edit) -> "Blueprint":
        """The blueprint with one more edit."""
        return replace(self, edits=(*self.edits, change))

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no white space."""
        content = {"model": self.model, "edits": edit_records(self.edits)}
        return json.dumps(content, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "Blueprint":
        """The blueprint that `to_json` wrote.

        Raises:
            UserError: an edit of a package that is not installed here.
            ValueError, KeyError, TypeError: it is none.
        """
        content = json.loads(text)
        return cls(str(content["model"]), read_edits(content["edits"]))


def edit_records(edits: Iterable[Edit]) -> list[dict[str, Any]]:
    """Edits as JSON can hold them."""
    return [{"kind": one.kind, **one.to_dict()} for one in edits]


def read_edits(records: Iterable[Mapping[str, Any]]) -> tuple[Edit, ...]:
    """The edits that `edit_records` wrote.

    Raises:
        UserError: an edit of a package that is not installed here.
        ValueError, KeyError, TypeError: a record is none of an edit.
    """
    found = []
    for record in records:
        values = dict(record)
        found.append(EDITS[values.pop("kind")].from_dict(values))
    return tuple(found)


def build(blueprint: Blueprint, classes: int, image_shape: ImageShape) -> Network:
    """The network of a blueprint, with fresh weights from torch's global random generator.

    Under ``torch.device("meta")`` it takes no memory and no computation.

    Args:
        blueprint: what to build; the network keeps it as ``network.blueprint``.
        classes: number of logits, at least 1.
        image_shape: ``(C, H, W)`` of the images, in pixels.

    Raises:
        UserError: there is no such model, it cannot be built for these images, or an edit does
            not fit.
    """
    network = create_model(blueprint.model, classes, image_shape)
    network.blueprint = Blueprint(blueprint.model)
    for change in blueprint.edits:
        edit(network, change, image_shape)
    return network


def edit(network: Network, change: Edit, image_shape: ImageShape) -> None:
    """Applies an edit to a network that `build` made, trained or not, and records it.

    Parameters that change their shape are other objects afterwards: what holds the old ones (an
    optimizer, compiled code) has to be made anew. A network that an edit did not fit is spoilt.

    Args:
        network: changed in place; its mode and its other weights stay as they are.
        change: what to do.
        image_shape: ``(C, H, W)`` of its images.

    Raises:
        UserError: the edit does not fit: it names a module that there is not, or shapes do not
            meet any more behind it.
    """
    classes = network.classifier.out_features
    change.apply(network)
    network.blueprint = network.blueprint.edited(change)
    where = f"edit '{change.kind}' of {network.blueprint.model}"
    try:
        shapes = output_shapes(network, image_shape)
    except (RuntimeError, ValueError, AssertionError) as error:
        line = str(error).partition("\n")[0]
        raise UserError(f"{where}: its shapes do not meet any more: {line}"[:290]) from error
    if shapes.classes != classes:
        raise UserError(f"{where}: leaves {shapes.classes} of its {classes} logits")


@kept("output shapes", entries=1024)
def shapes_of(blueprint: Blueprint, classes: int, image_shape: ImageShape) -> Shapes:
    """`output_shapes` of the network of a blueprint, once per process and without memory."""
    with torch.device("meta"):
        return output_shapes(build(blueprint, classes, image_shape), image_shape)


def module_of(network: nn.Module, name: str, *kinds: type[nn.Module]) -> nn.Module:
    """A module of a network by its name, for an edit.

    Raises:
        UserError: there is none, or it is of none of these kinds.
    """
    found = dict(network.named_modules()).get(name)
    if found is None:
        raise UserError(f"edit: the network has no module '{name}'")
    if kinds and not isinstance(found, kinds):
        expected = " or ".join(kind.__name__ for kind in kinds)
        raise UserError(f"edit: module '{name}' is {type(found).__name__}, expected {expected}")
    return found
