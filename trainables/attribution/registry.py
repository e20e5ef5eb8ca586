"""The explainers by name, and their settings.

A new one is one file in this folder and one line in `EXPLAINERS`. Other packages add explainers
under the entry-point group ``kdsweep.explainers``. Names are known without torch; an explainer's
file is loaded when somebody asks for it.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from trainables.errors import UserError
from trainables.registry import Registry
from trainables.settings import Scalar, Setting, read, settings_of

EXPLAINERS: Registry[Any] = Registry(
    "explainer",
    "kdsweep.explainers",
    {
        "grad_cam": "trainables.attribution.grad_cam:GradCAM",
        "integrated_gradients": "trainables.attribution.integrated_gradients:IntegratedGradients",
        "gradients": "trainables.attribution.gradients:Gradients",
        "smooth_grad": "trainables.attribution.smooth_grad:SmoothGrad",
        "gradient_shap": "trainables.attribution.gradient_shap:GradientSHAP",
        "lrp": "trainables.attribution.lrp:LRP",
        "ebp": "trainables.attribution.ebp:EBP",
        "rap": "trainables.attribution.rap:RAP",
    },
)
"""Subclasses of `trainables.attribution.explainer.Explainer`."""


def explainer_settings(name: str) -> dict[str, Setting]:
    """Every setting of an explainer by its full key, for example ``integrated_gradients.steps``.

    Raises:
        UserError: no such explainer.
    """
    found = settings_of(EXPLAINERS[name].Config)
    return {f"{name}.{key}": setting for key, setting in found.items()}


def parse_explainers(text: str) -> list[str]:
    """The names of ``grad_cam+lrp``, each once; none of an empty text and of ``none``.

    Raises:
        UserError: no such explainer.
    """
    names = [name.strip() for name in text.split("+") if name.strip() not in ("", "none")]
    for name in names:
        EXPLAINERS.check(name)
    return list(dict.fromkeys(names))


def config_of(name: str, settings: Mapping[str, Scalar]) -> Any:
    """The config of an explainer from full keys; those of others are passed over.

    Raises:
        UserError: a value that is none of the setting's.
    """
    kind, start = EXPLAINERS[name].Config, f"{name}."
    own = {key: value for key, value in settings.items() if key.startswith(start)}
    return kind(**read(kind, {key.removeprefix(start): own[key] for key in own}, prefix=start))


def resolve_explainers(text: str, settings: Mapping[str, Scalar]) -> dict[str, Any]:
    """The configs of the explainers of a text by name."""
    return {name: config_of(name, settings) for name in parse_explainers(text)}


def explainer_of(key: str) -> str | None:
    """The explainer that a full key is of, whether it has such a setting or not; else None."""
    name, dot, _ = key.partition(".")
    return name if dot and name in EXPLAINERS else None


def resolve_explainer_settings(text: str, values: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """The settings of the explainers of a text by full key, complete and checked.

    Raises:
        UserError: a key that none of them has, or a value out of its range.
    """
    settings = all_explainer_settings(parse_explainers(text))
    for key in values:
        if key not in settings:
            raise UserError(f"{key}: has no effect with explainers {text}")
    return {key: one.check(key, values.get(key, one.default)) for key, one in settings.items()}


def all_explainer_settings(names: Iterable[str]) -> dict[str, Setting]:
    """The settings of explainers by full key."""
    return {key: one for name in names for key, one in explainer_settings(name).items()}
