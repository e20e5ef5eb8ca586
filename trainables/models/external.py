"""Networks of timm and torchvision, wrapped so that they return `Outputs`.

Most networks of timm say by themselves what they compute on the way (``forward_intermediates``)
and from what they classify (``forward_head``). Of any other network, which returns logits alone,
`trainables.models.tracing` finds once which modules give its stages and its embedding; hooks read
them in every forward pass.
"""

import difflib
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from trainables.errors import UserError, unknown
from trainables.models.family import Design, ImageShape
from trainables.models.outputs import Network, Outputs
from trainables.models.tracing import find_features, told_stages

LIBRARIES = {
    "timm": "Wightman, PyTorch Image Models",
    "torchvision": "torchvision.models",
}

# Auxiliary heads return tuples in training mode and would never be trained here.
_WITHOUT_AUXILIARY_HEADS = ("googlenet", "inception_v3")
# What a library raises where an architecture cannot be had for these images.
_REFUSALS = (RuntimeError, ValueError, TypeError, AssertionError)


class External(Network):
    """A network of another library.

    Args:
        backbone: images ``[B, C, H, W]`` to logits ``[B, classes]``.
        image_shape: ``(C, H, W)`` of the images it will see.

    Attributes:
        told: which of the features that the backbone tells are stages; empty where it is traced.

    Raises:
        UserError: the network does not end in one linear layer.
    """

    def __init__(self, backbone: nn.Module, image_shape: ImageShape) -> None:
        super().__init__()
        self.backbone = backbone
        self.stage_names, self.classifier_name = find_features(backbone, image_shape)
        self.told = told_stages(backbone, self.classifier, image_shape)

    @property
    def classifier(self) -> nn.Linear:  # type: ignore[override]
        """The last linear layer; it lives inside the backbone."""
        return cast(nn.Linear, self.backbone.get_submodule(self.classifier_name))

    def forward(self, images: Tensor, depth: int | None = None) -> Outputs:
        if not self.told:
            return self._traced(images)  # from end to end, whatever the depth
        network: Any = self.backbone
        if depth is not None and depth <= len(self.told):
            return Outputs.early(
                network.forward_intermediates(
                    images, indices=self.told[:depth], stop_early=True, intermediates_only=True
                )
            )
        features, stages = network.forward_intermediates(images, indices=self.told)
        embedding = network.forward_head(features, pre_logits=True)
        return Outputs(self.classifier(embedding), embedding, tuple(stages))

    def _traced(self, images: Tensor) -> Outputs:
        # The hooks live for one pass: a deep copy would keep hooks that report to the original.
        seen: dict[str, Tensor] = {}

        def keep_output(name: str, _: nn.Module, __: Any, output: Tensor) -> None:
            seen[name] = output

        def keep_input(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            seen["embedding"] = inputs[0]

        handles = [self.classifier.register_forward_pre_hook(keep_input)]
        for name in self.stage_names:
            module = self.backbone.get_submodule(name)
            handles.append(module.register_forward_hook(partial(keep_output, name)))
        try:
            logits = self.backbone(images)
        finally:
            for handle in handles:
                handle.remove()
        stages = tuple(seen[name] for name in self.stage_names)
        return Outputs(logits, seen["embedding"], stages)


def parse(name: str) -> Design | None:
    """The design behind ``timm:NAME`` or ``torchvision:NAME``; None for other names.

    The library itself is imported only when the network is built.

    Raises:
        UserError: the name says which weights it wants, as ``timm:NAME.TAG`` does: nothing is ever
            downloaded, and a network has one name.
    """
    library, separator, model = name.partition(":")
    if not separator or library not in LIBRARIES:
        return None
    plain = without_tag(name)
    if plain != name:
        raise UserError(
            f"model '{name}': its weights are not there, and none are downloaded; write {plain}, "
            f"or import them: kdsweep teacher import {name} FILE"
        )

    def build(classes: int, image_shape: ImageShape) -> Network:
        make = _make_timm if library == "timm" else _make_torchvision
        try:
            backbone = _on_default_device(lambda: make(model, classes, image_shape))
            return External(backbone, image_shape)
        except UserError as error:
            raise UserError(f"model '{name}': {error}") from None
        except _REFUSALS as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"model '{name}' cannot be built for images {image_shape}: {reason}"
            ) from error

    return Design(name, build)


def without_tag(name: str) -> str:
    """The network's name without the weights that ``timm:NAME.TAG`` names; others as they are.

    Raises:
        UserError: it is a repository of a hub instead of a name.
    """
    if not name.startswith("timm:"):
        return name
    plain = name.partition(".")[0]
    model = plain.removeprefix("timm:")
    if not re.fullmatch(r"\w+", model):  # hf_hub:timm/resnet18.a1_in1k
        known = re.split(r"[:/]", model)[-1] or "NAME"
        raise UserError(f"model '{name}': expected a name of timm; write timm:{known}")
    return plain


def published_statistics(name: str) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and deviation of the images on which a library's own weights were trained.

    Args:
        name: ``timm:NAME``, ``timm:NAME.TAG`` or ``torchvision:NAME``; nothing is downloaded.

    Returns:
        In units of [0, 1]; None for other names, and where the library has no such weights.

    Raises:
        UserError: the library has no such network, or no such tag.
    """
    library, _, model = name.partition(":")
    if library == "timm":
        return _timm_statistics(name)
    if library != "torchvision":
        return None
    from torchvision import models

    if model not in models.list_models(module=models):
        raise _not_in_library(model, models.list_models(module=models))
    weights = next(iter(models.get_model_weights(model)), None)
    transforms = weights.transforms() if weights is not None else None
    mean, std = getattr(transforms, "mean", None), getattr(transforms, "std", None)
    return (tuple(mean), tuple(std)) if mean and std else None


def _timm_statistics(name: str) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    import timm

    model = without_tag(name).removeprefix("timm:")
    _check_timm(model)
    tag = name.partition(".")[2]
    tags = [full.partition(".")[2] for full in timm.list_models(f"{model}.*", pretrained=True)]
    if "." in name and tag not in tags:
        raise unknown(f"tag of timm:{model}", tag, tags)
    config = timm.get_pretrained_cfg(f"{model}.{tag}" if tag else model)
    return (tuple(config.mean), tuple(config.std)) if config is not None else None


def _on_default_device(make: Callable[[], nn.Module]) -> nn.Module:
    try:
        return make()
    except NotImplementedError:  # a constructor that computes with tensors, on the meta device
        device = torch.get_default_device()
        with torch.device("cpu"):
            network = make()
        return network.to(device)


def _make_timm(name: str, classes: int, image_shape: ImageShape) -> nn.Module:
    import timm

    _check_timm(name)
    pretrained = timm.get_pretrained_cfg(name)
    # Transformers are built for one image size; other networks know no such argument.
    fixed = {"img_size": image_shape[1:]} if pretrained and pretrained.fixed_input_size else {}
    return timm.create_model(name, num_classes=classes, in_chans=image_shape[0], **fixed)


def _check_timm(name: str) -> None:
    import timm
    from timm.models import get_deprecated_models

    if not timm.is_model(name):
        raise _not_in_library(name, timm.list_models())
    current = get_deprecated_models().get(name)
    if current is not None:  # two names would be two configs of one network
        raise UserError(f"an old name; write timm:{current.partition('.')[0]}")


def _make_torchvision(name: str, classes: int, image_shape: ImageShape) -> nn.Module:
    from torchvision import models

    names = models.list_models(module=models)
    if name not in names:
        raise _not_in_library(name, names)
    arguments: dict[str, Any] = {}
    if name in _WITHOUT_AUXILIARY_HEADS:
        arguments.update(aux_logits=False, init_weights=True)
    if name.startswith("vit_"):
        arguments["image_size"] = image_shape[1]
    elif name.startswith("maxvit"):
        arguments["input_size"] = image_shape[1:]
    network = models.get_model(name, weights=None, num_classes=classes, **arguments)
    if image_shape[0] != 3:
        _replace_first_convolution(network, image_shape[0])
    return network


def _replace_first_convolution(network: nn.Module, in_channels: int) -> None:
    path, old = next((n, m) for n, m in network.named_modules() if isinstance(m, nn.Conv2d))
    parent, _, leaf = path.rpartition(".")
    new = nn.Conv2d(
        in_channels,
        old.out_channels,
        old.kernel_size,  # type: ignore[arg-type]
        old.stride,  # type: ignore[arg-type]
        old.padding,  # type: ignore[arg-type]
        bias=old.bias is not None,
    )
    setattr(network.get_submodule(parent), leaf, new)


def _not_in_library(name: str, names: Sequence[str]) -> UserError:
    near = difflib.get_close_matches(name, names, n=3, cutoff=0)
    return UserError(f"the library has no '{name}'; nearest: {', '.join(near)}")
