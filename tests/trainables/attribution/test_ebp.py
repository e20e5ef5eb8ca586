"""EBP is a probability: by every single contribution, and over the zoo."""

import pytest
import torch
from explicit import explained, parts, shared
from lively import images, made

from trainables.attribution import rules
from trainables.attribution.ebp import EBP, EBPConfig
from trainables.errors import UserError

TARGETS = torch.tensor([3, 0])


def test_every_contribution():
    network = made("vgg11_x0.125").eval()
    expected = explained(
        network,
        images(2),
        TARGETS,
        lambda number, x, values, weight, bias, relevance: shared(
            parts(values * weight)[0], relevance
        ),
        torch.ones_like,
    )
    found = EBP(EBPConfig(), network).attribute(images(2), TARGETS)
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("layer", ["input", "0", "last"])
@pytest.mark.parametrize("name", ["resnet8", "resnet8-eca_parallel", "wrn_10_1", "vgg11_x0.125"])
def test_a_probability(name, layer):
    explainer = EBP(EBPConfig(layer=layer), made(name).eval())
    found = explainer.attribute(images(2), TARGETS)
    assert found.shape[:2] == (2, 3 if layer == "input" else 1)
    assert (found >= 0).all()
    torch.testing.assert_close(rules.per_image(found), torch.ones(2, dtype=torch.float64))
    walked = explainer.relevance(images(2), TARGETS)
    assert (walked.values >= 0).all()
    torch.testing.assert_close(
        rules.per_image(walked.values) + walked.absorbed, torch.ones(2, dtype=torch.float64)
    )
    # Only where a gate is added to zeros is there nothing to walk on to.
    assert (walked.absorbed < (0.3 if "parallel" in name else 1e-3)).all()
    assert explainer.maps(images(2), TARGETS).shape == (2, 32, 32)


def test_the_end_is_the_stage_that_was_asked_for():
    network = made("resnet8").eval()
    stages = network(images(2)).stages
    for number, stage in enumerate(stages):
        found = EBP(EBPConfig(layer=str(number)), network).relevance(images(2), TARGETS)
        assert found.values.shape == stage.shape
        assert not found.values[stage == 0].any()  # no walk comes by a neuron that is silent


@pytest.mark.parametrize("layer", ["3", "-1", "first"])
def test_a_stage_that_is_not_there(layer):
    with pytest.raises(UserError, match=f"ebp.layer: expected input, last or a .* got '{layer}'$"):
        EBP(EBPConfig(layer=layer), made("resnet8"))


def test_a_class_that_nothing_speaks_for():
    network = made("resnet8").eval()
    network.classifier.weight.data[3] = -1
    found = EBP(EBPConfig(), network).attribute(images(2), TARGETS)
    assert not found[0].any()
    assert found[1].any()
