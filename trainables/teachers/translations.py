"""What other projects call the layers of the zoo's networks.

A table of renamings, by the way in which *our* network names its layers. Each takes the names of
a file to names of ours; whether they fit is seen by comparing all names and shapes, so that a
table that is wrong for a file costs nothing. From the released code of RepDistiller (and
mdistiller, which has its names), kuangliu's and weiaicunzai's and chenyaofo's CIFAR models,
torchvision and timm.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

Renaming = dict[str, str]


@dataclass(frozen=True)
class Translation:
    """A way to call layers.

    Attributes:
        rules: pattern and replacement, one behind the other, of names with a dot at the end.
        numbers: pattern of a number, or of two, in the names, which are counted through by their
            order; what takes their place, with ``{}`` for the count; and the first count.
        certain: whether these names tell enough of how the layers are computed.
    """

    rules: tuple[tuple[str, str], ...]
    numbers: tuple[tuple[str, str, int], ...] = ()
    certain: bool = True


_RESNET = Translation(
    numbers=(
        (r"^(?:layer|stage|group|block)s?[_.]?(\d)(?:\.layers?)?\.(?=\d+\.)", "layer{}.", 1),
        (r"^conv(\d)_x\.(?=\d+\.)", "layer{}.", 1),
    ),
    rules=(
        (r"^(?:conv1|stem|pre)\.0\.", "conv1."),
        (r"^(?:conv1|stem|pre)\.1\.", "bn1."),
        (r"^(?:conv|conv0|conv_1|init_conv|stem)\.", "conv1."),
        (r"^(?:bn|bn0|bn_1|norm1?|stem_bn)\.", "bn1."),
        (r"\.(?:shortcut|skip|skip_connection|convShortcut|residual|proj)\.", ".downsample."),
        (r"\.downsample\.conv\.", ".downsample.0."),
        (r"\.downsample\.(?:bn|norm)\.", ".downsample.1."),
        (r"\.residual_function\.0\.", ".conv1."),
        (r"\.residual_function\.1\.", ".bn1."),
        (r"\.residual_function\.3\.", ".conv2."),
        (r"\.residual_function\.4\.", ".bn2."),
        (r"\.residual_function\.6\.", ".conv3."),
        (r"\.residual_function\.7\.", ".bn3."),
        (r"\.norm([123])\.", r".bn\1."),
        (r"\.(?:se|attn|ECA|eca_layer)\.", ".eca."),
    ),
)
_WRN_RULES = (
    (r"^(?:conv0|conv|init_conv|stem)\.", "conv1."),
    (r"^(?:bn1|batch_norm|norm|bn_final)\.", "bn."),
    (
        r"\.(?:convShortcut|shortcut|skip|downsample|conv_shortcut|shortcut_conv)(?:\.0)?\.",
        ".shortcut.",
    ),
)
_WRN = Translation(
    numbers=(
        (r"^(?:block|group|stage)s?[_.]?(\d)(?:\.layer|\.layers)?\.(?=\d+\.)", "group{}.", 1),
    ),
    rules=_WRN_RULES,
)
# Of these names there are networks that stride in the second convolution.
_WRN_LAYERS = Translation(
    numbers=((r"^layers?[_.]?(\d)\.(?=\d+\.)", "group{}.", 1),), rules=_WRN_RULES, certain=False
)


def _expanded(block: str) -> tuple[tuple[str, str], ...]:
    """A block of MobileNetV2 that is one flat sequence: 1x1, 3x3, 1x1."""
    places = ((0, "0.0"), (1, "0.1"), (3, "1.0"), (4, "1.1"), (6, "2"), (7, "3"))
    return tuple(
        (rf"^(features\.{block}\.conv)\.{flat}\.(?!\d)", rf"\1.{nested}.")
        for flat, nested in places
    )


_MOBILENET_BLOCKS = Translation(
    numbers=((r"^blocks\.(\d+)\.(\d+)\.", "features.{}.", 1),),
    rules=((r"^conv1\.", "features.0."), (r"^conv2\.", "features.18."), *_expanded(r"\d+")),
)
_MOBILENET_FLAT = Translation(
    rules=(
        (r"^conv\.", "features.18."),
        (r"^(features\.1\.conv)\.([01])\.(?!\d)", r"\1.0.\2."),
        (r"^(features\.1\.conv)\.3\.", r"\1.1."),
        (r"^(features\.1\.conv)\.4\.", r"\1.2."),
        *_expanded(r"(?!1\.)\d+"),
    ),
    certain=False,
)
# timm's names do not tell the strides: its networks shrink ImageNet's pictures.
_MOBILENET_TIMM = Translation(
    numbers=((r"^blocks\.(\d+)\.(\d+)\.", "features.{}.", 1),),
    rules=(
        (r"^conv_stem\.", "features.0.0."),
        (r"^bn1\.", "features.0.1."),
        (r"^conv_head\.", "features.18.0."),
        (r"^bn2\.", "features.18.1."),
        (r"^(features\.1)\.conv_dw\.", r"\1.conv.0.0."),
        (r"^(features\.1)\.bn1\.", r"\1.conv.0.1."),
        (r"^(features\.1)\.conv_pw\.", r"\1.conv.1."),
        (r"^(features\.1)\.bn2\.", r"\1.conv.2."),
        (r"\.conv_pw\.", ".conv.0.0."),
        (r"\.bn1\.", ".conv.0.1."),
        (r"\.conv_dw\.", ".conv.1.0."),
        (r"\.bn2\.", ".conv.1.1."),
        (r"\.conv_pwl\.", ".conv.2."),
        (r"\.bn3\.", ".conv.3."),
    ),
    certain=False,
)
# Old names of torchvision's DenseNets.
_DENSENET = Translation(rules=((r"(denselayer\d+\.(?:norm|conv))\.(\d)\.", r"\1\2."),))

TRANSLATIONS = (
    _RESNET,
    _WRN,
    _WRN_LAYERS,
    _MOBILENET_BLOCKS,
    _MOBILENET_FLAT,
    _MOBILENET_TIMM,
    _DENSENET,
)

CLASSIFIERS = (
    *("classifier", "fc", "linear", "head.fc", "head", "classifier.1", "classifier.0"),
    *("last_linear", "heads.head", "output", "logits", "classifier.fc", "classifier.2", "final"),
)
"""What the last linear layer is called."""


def translate(names: Sequence[str], translation: Translation) -> Renaming:
    """Names of modules to those that a translation gives them."""
    renamed = {name: f"{name}." for name in names}
    for pattern, replacement, start in translation.numbers:
        renamed = _counted(renamed, re.compile(pattern), replacement, start)
    for pattern, replacement in translation.rules:
        compiled = re.compile(pattern)
        renamed = {old: compiled.sub(replacement, new) for old, new in renamed.items()}
    return {old: new.removesuffix(".") for old, new in renamed.items()}


def _counted(renamed: Renaming, pattern: re.Pattern[str], place: str, start: int) -> Renaming:
    found = {old: match for old, new in renamed.items() if (match := pattern.search(new))}
    order = sorted({tuple(map(int, match.groups())) for match in found.values()})
    return renamed | {
        old: f"{place.format(start + order.index(tuple(map(int, match.groups()))))}"
        f"{renamed[old][match.end() :]}"
        for old, match in found.items()
    }


def describe(renaming: Renaming) -> str:
    """The parts of names that a renaming changes: ``shortcut -> downsample``; a few of them."""
    changes: dict[str, None] = {}
    for old, new in renaming.items():
        if old != new:
            old, new = (re.sub(r"\d+", "*", name) for name in (old, new))
            changes[" -> ".join(_difference(old.split("."), new.split(".")))] = None
    shown = list(changes)[:4]
    return ", ".join(shown) + (", ..." if len(changes) > len(shown) else "")


def _difference(old: list[str], new: list[str]) -> Iterator[str]:
    while old and new and old[-1] == new[-1] and min(len(old), len(new)) > 1:
        old, new = old[:-1], new[:-1]
    while old and new and old[0] == new[0] and min(len(old), len(new)) > 1:
        old, new = old[1:], new[1:]
    yield ".".join(old)
    yield ".".join(new)
