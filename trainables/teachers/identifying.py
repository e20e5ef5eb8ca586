"""Why weights do not fit, and what the zoo knows them for."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.errors import UserError
from trainables.models.family import ImageShape, number, with_width
from trainables.models.registry import FAMILIES, create_model
from trainables.teachers.checkpoint import Candidate
from trainables.teachers.inert_pickle import NotAPickle
from trainables.teachers.modules import (
    BESIDE,
    Modules,
    Shapes,
    linear_modules,
    modules_of,
    shapes_of,
)
from trainables.worker import kept


@dataclass(frozen=True)
class Trial:
    """One way to name the tensors of a candidate, against what a network wants."""

    candidate: Candidate
    model: str
    how: str
    certain: bool
    doubt: int  # 0 by name, 1 by a translation, 2 by order
    named: dict[str, str]  # ours -> the file's
    missing: list[str]
    wrong: list[str]  # of another shape; ours
    extra: list[str]  # the file's
    beside: list[str]  # the file's, which are no part of the network

    @property
    def fits(self) -> bool:
        """Whether every tensor has its place, and every place its tensor."""
        return not (self.missing or self.wrong or self.extra)

    @property
    def distance(self) -> tuple[bool, int, int, int]:
        """How far from that; parts of a network are farther than whole ones of another kind."""
        missing = len(self.missing)
        part = 2 * len(self.candidate.tensors) < missing + len(self.named)
        return part, missing + len(self.wrong), missing, 0 if missing else len(self.extra)

    @property
    def used(self) -> frozenset[int]:
        """Which tensors of the file, whatever the candidates call them."""
        return frozenset(id(self.candidate.tensors[name]) for name in self.named.values())


def numbers(trial: Trial, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a trial that fits, under our names and in our types.

    Raises:
        ValueError: what they hold is not a trained network's, with the file's name of it.
    """
    weights = dict(wanted)
    for ours, theirs in trial.named.items():
        stored = trial.candidate.tensors[theirs]
        if stored.unusual:
            raise ValueError(f"a {stored.unusual} tensor: {theirs}")
        try:
            tensor = stored.tensor()
        except NotAPickle as error:
            raise ValueError(f"damaged, or no file of weights: {error}: {theirs}") from error
        if wanted[ours].is_floating_point():
            if not tensor.is_floating_point():
                kind = str(tensor.dtype).removeprefix("torch.")
                raise ValueError(f"{kind} in {theirs}: expected plain floating-point weights")
            tensor = tensor.to(wanted[ours].dtype)
            if not tensor.isfinite().all():
                what = "NaN" if tensor.isnan().any() else "infinite numbers"
                raise ValueError(f"{what} in {theirs}")
            if ours.endswith("running_var") and (tensor < 0).any():
                raise ValueError(f"negative variance in {theirs}")
        weights[ours] = tensor
    return weights


def why_not(trial: Trial, asked: str, classes: int, image_shape: ImageShape) -> str:
    """The cause for which the nearest trial does not fit, and what the file is, where known."""
    tensors = trial.candidate.tensors
    wanted = _shapes(trial.model, classes, image_shape)
    sizes = {name: stored.size for name, stored in tensors.items()}
    found = modules_of(sizes)
    for name, stored in tensors.items():
        if stored.unusual:
            return f"a {stored.unusual} tensor: {name}"
        if name.endswith(("flat_param", "_flat_param_0")):
            return "flat parameters of FSDP: save a full state_dict"
        if name.endswith(("weight_g", "weight_v", "weight_u")) or "parametrizations." in name:
            return f"weights in parts ({name}): remove the parametrisation before saving"
    other_data = _other_data(trial, wanted, sizes)
    if other_data:
        return other_data
    known = identify(found, image_shape, (asked, trial.model))
    if known and known not in (asked, trial.model):
        return f"a {known}, asked for {asked}"
    linear, ours = linear_modules(found), linear_modules(modules_of(wanted))
    if known and trial.missing:
        first = next(iter(found))
        why = "leaves several ways" if trial.candidate.ordered else "is not kept by safetensors"
        return f"unknown names, such as '{first}', and the order of the modules {why}"
    if len(ours) == 1 and len(linear) > 1:
        return f"{len(linear)} linear layers in the file, {asked} has one"
    if _has_batchnorm(modules_of(wanted)) and not _has_batchnorm(found):
        return f"no BatchNorm in the file, {asked} has it"
    if trial.missing:
        return f"{_count(trial.missing, 'key')} missing for {asked}, first: {trial.missing[0]}"
    if trial.wrong:
        name = trial.wrong[0]
        shapes = _by(sizes[trial.named[name]]), _by(wanted[name])
        return f"{trial.named[name]} is {shapes[0]} in the file, {shapes[1]} in {asked}"
    return f"{_count(trial.extra, 'tensor')} without a place in {asked}, first: {trial.extra[0]}"


def identify(found: Modules, image_shape: ImageShape, asked: tuple[str, ...]) -> str | None:
    """The network of the zoo whose modules have just these shapes, whatever they are called.

    Args:
        found: of the file.
        image_shape: of the data; the file may have other channels.
        asked: are tried first: some networks differ by the places of their modules alone.
    """
    inside = {
        name: held for name, held in found.items() if not BESIDE.fullmatch(name.split(".")[0])
    }
    linear = linear_modules(inside)
    convs = [held["weight"] for held in inside.values() if len(held.get("weight", ())) == 4]
    if len(linear) != 1 or not convs:
        return None
    ((classes, embedding),) = linear.values()
    stem = next((shape for shape in convs if shape[1] <= 4 < shape[0]), convs[0])
    attention = any(len(held.get("weight", ())) == 3 for held in inside.values())
    profile = _profile(inside.values())
    for name in (*asked, *_members(len(convs), attention, stem[0], embedding)):
        try:
            member = modules_of(_shapes(name, classes, (stem[1], *image_shape[1:])))
        except UserError:
            continue
        if _profile(member.values()) == profile:
            return name
    return None


def _members(convs: int, attention: bool, stem: int, embedding: int) -> Iterator[str]:
    """Names that could have so many convolutions, and channels behind the stem and at the end.

    A depth counts the linear layer, and no shortcuts; a VGG's counts three linear layers.
    """
    near = range(convs - 3, convs + 4)
    for family in FAMILIES.values():
        for member in family.members:
            depth = re.search(r"\d+", member.removeprefix("mobilenetv2"))
            counted = int(depth[0]) in near if depth and "mobilenet" not in member else convs > 4
            if counted and ("eca" in member) == attention and family.name != "wrn":
                widths = dict.fromkeys(number(stem / base) for base in (stem, 16, 32, 64))
                yield from (with_width(member, float(width)) for width in widths)
    yield from (f"wrn_{depth}_{number(embedding / 64)}" for depth in near if depth % 6 == 4)
    yield from (f"torchvision:resnet{depth}" for depth in (18, 34, 50, 101, 152) if depth in near)


def _profile(modules: Iterable[Shapes]) -> Counter[object]:
    return Counter(tuple(sorted(held.items())) for held in modules)


@kept("shapes of weights", entries=1024)
def _shapes(name: str, classes: int, image_shape: ImageShape) -> Shapes:
    """Of a network of the zoo; a hundred of them stand beside a file that nobody knows."""
    with torch.device("meta"):
        network = create_model(name, classes, image_shape)
    return shapes_of(getattr(network, "backbone", network))


def _other_data(trial: Trial, wanted: Shapes, sizes: Shapes) -> str:
    """Of a network that fits but for the number of classes, of channels, or of both."""
    if trial.missing or trial.extra:
        return ""
    linear = linear_modules(modules_of(wanted))
    causes: dict[str, None] = {}
    for ours in trial.wrong:
        there, here = sizes[trial.named[ours]], wanted[ours]
        module = ours.rpartition(".")[0]
        if module in linear and there[1:] == here[1:]:
            causes[f"{there[0]} classes in the file, {here[0]} in the data"] = None
        elif len(here) == 4 and (there[0], *there[2:]) == (here[0], *here[2:]) and here[1] <= 4:
            causes[f"{there[1]} input channels in the file, images have {here[1]}"] = None
        else:
            return ""
    return "; ".join(sorted(causes, key=lambda cause: "channels" in cause))


def _has_batchnorm(modules: Modules) -> bool:
    return any("running_mean" in held for held in modules.values())


def _count(names: list[str], word: str) -> str:
    return f"{len(names)} {word}{'s' if len(names) > 1 else ''}"


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a number"
