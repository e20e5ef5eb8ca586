"""Looking at a network in training leaves it as it was."""

import pytest
import torch

from trainables.models.observe import observe
from trainables.models.registry import create_model

IMAGE = (3, 32, 32)


@pytest.mark.parametrize("name", ["resnet8", "mobilenetv2_x0.25", "timm:mobilenetv2_035"])
@pytest.mark.parametrize("training", [True, False])
def test_no_trace(name: str, training: bool) -> None:
    torch.manual_seed(0)
    network = create_model(name, 10, IMAGE).train(training)
    images = 3 * torch.randn(4, *IMAGE) + 1
    before = {key: value.clone() for key, value in network.state_dict().items()}
    torch.manual_seed(1)  # for dropout
    found = observe(network, images)
    after = network.state_dict()
    assert [key for key in before if not torch.equal(before[key], after[key])] == []
    assert not found.logits.requires_grad
    torch.manual_seed(1)
    assert torch.equal(found.logits, network(images).logits)
    changed = any(not torch.equal(before[key], value) for key, value in after.items())
    assert changed == training, "the statistics follow again"


def test_statistics_follow_again_after_an_error() -> None:
    network = create_model("resnet8", 10, IMAGE).train()
    with pytest.raises(RuntimeError):
        observe(network, torch.zeros(2, 5, 32, 32))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    network(torch.randn(4, *IMAGE))
    assert any(not torch.equal(before[key], now) for key, now in network.state_dict().items())
