"""The runtime `onnx`: ONNX Runtime in this process."""

import pytest
import torch

from trainables.errors import UserError
from trainables.models import create_model
from trainables.runtimes.registry import RUNTIMES

SHAPE = (3, 16, 16)


def test_it_answers_as_the_network_does():
    torch.manual_seed(0)
    network = create_model("wrn_10_0.5", 10, SHAPE).eval()
    images = torch.randn(4, *SHAPE).to(memory_format=torch.channels_last)
    runtime = RUNTIMES["onnx"]()
    assert runtime.unavailable() is None
    answer = runtime.ready(network, images)
    expected = network(images).logits.detach()
    assert torch.allclose(answer(images), expected, atol=1e-5)
    with torch.no_grad():  # it does not follow
        network.classifier.weight.zero_()
    assert torch.allclose(answer(images), expected, atol=1e-5)


def test_it_runs_on_the_cpu_alone():
    with torch.device("meta"):
        network = create_model("resnet8", 10, SHAPE).eval()
        images = torch.zeros(1, *SHAPE)
    with pytest.raises(UserError, match="runtime 'onnx': runs on the CPU, and not on meta"):
        RUNTIMES["onnx"]().ready(network, images)
