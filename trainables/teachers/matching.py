"""Which network a checkpoint is of, and which of its tensors goes where.

By name; else by the names that other projects are known to use
(`trainables.teachers.translations`); else by the order of the modules, where their kinds and
shapes leave one way only.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import nn

from trainables.data.dataset import Dataset
from trainables.models.blueprint import Blueprint, build
from trainables.models.external import External, without_tag
from trainables.models.family import ImageShape
from trainables.models.outputs import Network
from trainables.models.registry import canonical_name, create_model
from trainables.teachers.checkpoint import Candidate, Checkpoint, grouped, refusal
from trainables.teachers.identifying import Trial, numbers, why_not
from trainables.teachers.modules import (
    BESIDE,
    IN_THE_WAY,
    Modules,
    Shapes,
    linear_modules,
    modules_of,
    same_order,
    shapes_of,
)
from trainables.teachers.translations import (
    CLASSIFIERS,
    TRANSLATIONS,
    Renaming,
    describe,
    translate,
)

# Elsewhere these come for pictures of 224 pixels, with other strides or a pooling behind the stem,
# and the same tensors; only of who calls his shortcuts so is known that he means small images.
_STRIDES_UNKNOWN = re.compile(r"mobilenetv2(?!_s2)|resnet(18|34|50|101|152)(?!\d)")
_SMALL = re.compile(r"\.(shortcut|residual_function)\.")
# With weights of the library these normalise images a second time, which no tensor tells.
_INPUT_UNKNOWN = re.compile(r"torchvision:(googlenet|inception_v3)")


@dataclass(frozen=True)
class Fit:
    """A network with the weights of a checkpoint.

    Attributes:
        model: its canonical name, which can differ from the one asked for by the kind of shortcut
            or of pooling.
        network: with the weights.
        how: how they were matched, for one printed line.
        certain: False where names and shapes do not tell all of the computation: then accuracy
            far above chance must.
        place: where the weights lay in the file, and what else there would have been.
        left_out: what was passed over, in words.
    """

    model: str
    network: Network
    how: str
    certain: bool
    place: str
    left_out: tuple[str, ...]


def fit_weights(model: str, checkpoint: Checkpoint, classes: int, image_shape: ImageShape) -> Fit:
    """The network that a checkpoint is of.

    Args:
        model: the name asked for; of a CIFAR ResNet both kinds of shortcut are tried, of a VGG
            both kinds of pooling. ``timm:NAME.TAG`` is ``timm:NAME`` here.
        checkpoint: of `read_checkpoint`.
        classes: of the data.
        image_shape: ``(C, H, W)`` of the data.

    Raises:
        UserError: it does not fit, with the cause first.
    """
    asked = canonical_name(without_tag(model))
    trials: list[Trial] = []
    for name in _variants(asked):
        with torch.device("meta"):
            wanted = shapes_of(inner(create_model(name, classes, image_shape)))
        for candidate in checkpoint.candidates:
            trials += _trials(_with_head(candidate, wanted), name, wanted)
    fitting = [trial for trial in trials if trial.fits]
    if not fitting:
        nearest = min(trials, key=lambda trial: trial.distance)
        raise refusal(why_not(nearest, asked, classes, image_shape), checkpoint.file)
    surest = min(fitting, key=lambda trial: trial.doubt)
    network = create_model(surest.model, classes, image_shape)
    try:
        inner(network).load_state_dict(numbers(surest, inner(network).state_dict()))
    except ValueError as error:
        raise refusal(str(error), checkpoint.file) from error
    place = surest.candidate.place
    twins = {trial.model for trial in fitting if trial.doubt == surest.doubt} - {surest.model}
    guess = f" ({', '.join(twins)} would fit as well)" if surest.doubt == 2 and twins else ""
    others = {trial.candidate.place for trial in fitting if not trial.used & surest.used}
    return Fit(
        model=surest.model,
        network=network,
        how=surest.how + guess,
        certain=surest.certain,
        place=place + (f" (also there: {', '.join(sorted(others))})" if others else ""),
        left_out=(
            *surest.candidate.byproducts,
            *grouped(dict.fromkeys((*surest.beside, *surest.candidate.beside))),
        ),
    )


def fit_features(model: str, checkpoint: Checkpoint, dataset: Dataset) -> Fit:
    """The network with all weights of a checkpoint but those of its linear layers.

    The network's only linear layer, its head, keeps the weights that it was built with. Nothing
    is known by its accuracy here, so that what only the order of the modules tells is refused.

    Args:
        model: the network; no other is tried.
        checkpoint: of `read_checkpoint`; of whatever classes.
        dataset: gives classes and size of the images.

    Raises:
        UserError: it does not fit, with the cause first.
    """
    name, shape = canonical_name(without_tag(model)), dataset.image_shape
    with torch.device("meta"):
        wanted = shapes_of(inner(create_model(name, dataset.num_classes, shape)))
    heads = linear_modules(modules_of(wanted))
    if len(heads) != 1:
        raise refusal(
            f"{name} has {len(heads)} linear layers, expected a head alone", checkpoint.file
        )
    body = {key: size for key, size in wanted.items() if _module(key) not in heads}
    trials: list[Trial] = []
    for candidate in checkpoint.candidates:
        linear = linear_modules(modules_of(_sizes(candidate)))
        kept = {key: s for key, s in candidate.tensors.items() if _module(key) not in linear}
        trials += _trials(replace(candidate, tensors=kept), name, body)
    fitting = [trial for trial in trials if trial.fits and trial.doubt < 2]
    if not fitting:
        nearest = min(trials, key=lambda trial: trial.distance)
        cause = (
            f"the names of its layers are not known for {name}"
            if nearest.fits
            else why_not(nearest, name, dataset.num_classes, shape)
        )
        raise refusal(cause, checkpoint.file)
    surest = min(fitting, key=lambda trial: trial.doubt)
    network = build(Blueprint(name), dataset.num_classes, shape)
    try:
        inner(network).load_state_dict(numbers(surest, inner(network).state_dict()))
    except ValueError as error:
        raise refusal(str(error), checkpoint.file) from error
    whole = next(one for one in checkpoint.candidates if one.place == surest.candidate.place)
    linear = linear_modules(modules_of(_sizes(whole)))
    return Fit(
        model=name,
        network=network,
        how=surest.how,
        certain=surest.certain,
        place=surest.candidate.place,
        left_out=(*linear, *grouped(dict.fromkeys(surest.beside))),
    )


def _module(tensor: str) -> str:
    return tensor.rpartition(".")[0]


def inner(network: Network) -> nn.Module:
    """The module whose names a library's own files use."""
    return network.backbone if isinstance(network, External) else network


def _variants(asked: str) -> Iterator[str]:
    """Networks that a file of the one asked for may be of, told apart by its tensors."""
    yield asked
    resnet = re.fullmatch(r"(resnet(?:8|14|20|32|44|56|110))(-\w+)?(_x[\d.]+)?", asked)
    vgg = re.fullmatch(r"(vgg\d+)(-\w+)?(_x[\d.]+)?", asked)
    for match, kind in ((resnet, "_zeropad"), (vgg, "_gap")):
        if match is not None:
            yield canonical_name(f"{match[1]}{kind}{match[2] or ''}{match[3] or ''}")


def _with_head(candidate: Candidate, wanted: Shapes) -> Candidate:
    """A candidate with the last layer that lay beside its wrapped backbone."""
    ours = linear_modules(modules_of(wanted))
    headed = linear_modules(modules_of(_sizes(candidate)))
    if len(ours) != 1 or headed or 2 * len(candidate.tensors) < len(wanted):
        return candidate
    (shape,) = ours.values()
    theirs = [
        name
        for name, size in linear_modules(
            modules_of({name: stored.size for name, stored in candidate.beside.items()})
        ).items()
        if size[1:] == shape[1:] and not BESIDE.fullmatch(name.partition(".")[0])
    ]
    if len(theirs) != 1:
        return candidate
    head = {name: s for name, s in candidate.beside.items() if name.startswith(f"{theirs[0]}.")}
    rest = {name: s for name, s in candidate.beside.items() if name not in head}
    return replace(candidate, tensors={**candidate.tensors, **head}, beside=rest)


def _sizes(candidate: Candidate) -> Shapes:
    return {name: stored.size for name, stored in candidate.tensors.items()}


def _trials(candidate: Candidate, model: str, wanted: Shapes) -> Iterator[Trial]:
    """Every way to name a candidate's tensors."""
    found, ours = modules_of(_sizes(candidate)), modules_of(wanted)
    yield _trial(candidate, model, wanted, {}, 0)
    classifier = _classifier(found, ours)
    yield _trial(candidate, model, wanted, classifier, 1)
    for translation in TRANSLATIONS:
        renaming = translate(list(found), translation) | classifier
        plain = all(old == new for old, new in renaming.items() if old not in classifier)
        if not plain and len(set(renaming.values())) == len(renaming):
            trial = _trial(candidate, model, wanted, renaming, 1)
            yield replace(trial, certain=trial.certain and translation.certain)
    kept = {name: held for name, held in found.items() if not BESIDE.fullmatch(name.split(".")[0])}
    renaming_by_order = same_order(kept, ours) if candidate.ordered else None
    if renaming_by_order is not None:
        yield replace(_trial(candidate, model, wanted, renaming_by_order, 2), certain=False)


def _classifier(found: Modules, ours: Modules) -> Renaming:
    """What the file calls our only linear layer."""
    wanted, there = linear_modules(ours), linear_modules(found)
    if len(wanted) != 1 or wanted.keys() & there.keys():
        return {}
    ((name, shape),) = wanted.items()
    known = [alias for alias in CLASSIFIERS if alias in there and there[alias][1:] == shape[1:]]
    if len(there) == 1:
        known = list(there)
    return {known[0]: name} if len(known) == 1 else {}


def _trial(
    candidate: Candidate, model: str, wanted: Shapes, renaming: Renaming, doubt: int
) -> Trial:
    named: dict[str, str] = {}
    extra: list[str] = []
    for name in candidate.tensors:
        module, _, leaf = name.rpartition(".")
        ours = f"{renaming.get(module, module)}.{leaf}".removeprefix(".")
        if ours in wanted:
            named[ours] = name
        elif leaf != "num_batches_tracked":
            extra.append(name)
    heads = {name.partition(".")[0] for name in named.values()}
    apart = [name for name in extra if name.partition(".")[0] not in heads]
    known = [name for name in apart if BESIDE.fullmatch(name.partition(".")[0])]
    beside = known + [
        name for name in apart if name not in known and not IN_THE_WAY.fullmatch(name.split(".")[0])
    ]
    told = not doubt or not _STRIDES_UNKNOWN.match(model) or any(map(_SMALL.search, renaming))
    used = {old: new for old, new in renaming.items() if f"{new}.weight" in wanted}
    return Trial(
        candidate=candidate,
        model=model,
        how=(
            "by name",
            f"by known translations ({describe(used)})",
            "by the order of modules",
        )[doubt],
        certain=len(beside) == len(known) and told and not _INPUT_UNKNOWN.match(model),
        doubt=doubt,
        named=named,
        missing=[
            name
            for name in wanted
            if name not in named and not name.endswith("num_batches_tracked")
        ],
        wrong=[
            ours
            for ours, theirs in named.items()
            if candidate.tensors[theirs].size != wanted[ours]
            and not candidate.tensors[theirs].unusual
        ],
        extra=[name for name in extra if name not in beside],
        beside=beside,
    )
