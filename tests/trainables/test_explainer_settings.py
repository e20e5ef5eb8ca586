"""Explainers in a trial's config: their settings, and that they decide no result."""

import json

import pytest

from trainables.config import TrialConfig
from trainables.errors import UserError
from trainables.experiment import config_key, decisive


def key(config: TrialConfig) -> str:
    return config_key(config, student="s", data_fingerprint="d", teacher_fingerprint=None)


def test_settings_are_complete_and_come_back() -> None:
    config = TrialConfig.from_mapping(
        {"explainers": "smooth_grad + grad_cam+smooth_grad", "grad_cam.layer": 1}
    )
    assert config.explainers == "smooth_grad+grad_cam"
    assert config.explaining["grad_cam.layer"] == "1"
    assert {name.partition(".")[0] for name in config.explaining} == {"smooth_grad", "grad_cam"}
    assert TrialConfig.from_mapping(json.loads(config.to_json())) == config
    assert [*config.explainer_configs] == ["smooth_grad", "grad_cam"]
    assert config.explainer_configs["grad_cam"].layer == "1"
    assert config.replace(**{"grad_cam.layer": "2"}).explainer_configs["grad_cam"].layer == "2"


def test_nothing_is_explained_unless_asked_for() -> None:
    plain = TrialConfig()
    assert (plain.explainers, plain.explaining, plain.explainer_configs) == ("none", {}, {})
    assert TrialConfig(explainers="none").explainers == "none"


def test_what_is_measured_decides_nothing() -> None:
    plain = TrialConfig()
    explained = TrialConfig.from_mapping(
        {"explainers": "grad_cam", "grad_cam.layer": "1", "explained_images": 9}
    )
    assert key(plain) == key(explained)
    assert decisive(plain.to_dict()) == decisive(explained.to_dict())
    assert not {"explainers", "grad_cam.layer"} & decisive(explained.to_dict()).keys()


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"explainers": "gradcam"}, "unknown explainer 'gradcam'; did you mean grad_cam"),
        ({"grad_cam.layer": "1"}, "grad_cam.layer: has no effect with explainers none"),
        (
            {"explainers": "gradients", "grad_cam.layer": "1"},
            "grad_cam.layer: has no effect with explainers gradients",
        ),
        (
            {"explainers": "grad_cam", "grad_cam.layr": "1"},
            "unknown key 'grad_cam.layr'; did you mean grad_cam.layer",
        ),
        (
            {"explainers": "smooth_grad", "smooth_grad.samples": 0},
            "smooth_grad.samples: expected a whole number",
        ),
        ({"explained_images": 1}, "explained_images: expected a whole number >= 2, got 1"),
    ],
)
def test_mistakes_are_named(given: dict[str, object], line: str) -> None:
    with pytest.raises(UserError) as caught:
        TrialConfig.from_mapping(given)
    assert line in str(caught.value)
