"""What explanations cost: counted as networks are asked, and told where it is long."""

import importlib
import inspect
import pkgutil

import pytest
import torch
from lively import images, made
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

from trainables import attribution
from trainables.attribution.costs import Effort, in_words, of_trial, passes_of
from trainables.attribution.explainer import Explainer
from trainables.attribution.explaining import explain
from trainables.attribution.registry import EXPLAINERS, resolve_explainers

TARGETS = torch.tensor([3, 0, 7, 7, 1])
SETTINGS = {
    "integrated_gradients.steps": 12,
    "smooth_grad.samples": 7,
    "gradient_shap.samples": 9,
}
COUNTS = {"grad_cam": 1, "gradients": 1} | {
    key.partition(".")[0]: count for key, count in SETTINGS.items()
}


@pytest.mark.parametrize("name", COUNTS)
def test_passes_are_those_that_a_network_makes(name):
    """Whatever is looked at beforehand takes a few more, of one image, however many there are."""
    config = resolve_explainers(name, SETTINGS)
    rows = {}
    for count in (1, 5):
        seen = []

        def watch(module, inputs, output, seen=seen):
            if isinstance(module, nn.Linear):
                seen.append(len(output))

        hook = register_module_forward_hook(watch)
        explain(made("resnet8"), config, images(count), TARGETS[:count])
        hook.remove()
        rows[count] = sum(seen)
    assert passes_of(config) == COUNTS[name] == (rows[5] - rows[1]) / 4


def test_an_explainer_of_this_folder_has_a_name():
    """And with it a place in the conformance suite."""
    kinds = set()
    for module in pkgutil.iter_modules(attribution.__path__, "trainables.attribution."):
        found = vars(importlib.import_module(module.name)).values()
        kinds |= {one for one in found if inspect.isclass(one) and issubclass(one, Explainer)}
    whole = {one for one in kinds if not inspect.isabstract(one) and hasattr(one, "Config")}
    assert whole == {EXPLAINERS[name] for name in EXPLAINERS._own}


def test_costs_in_words():
    asked = resolve_explainers("grad_cam+integrated_gradients", {})
    assert in_words(asked) == "grad_cam (1 pass a map), integrated_gradients (100)"
    assert in_words(resolve_explainers("smooth_grad", {})) == "smooth_grad (50 passes a map)"
    assert passes_of(asked) == 101


@pytest.mark.parametrize(
    ("done", "told"),
    [
        ([(100, 10.0)], "explaining: about 15 min more"),
        ([(100, 1.5)], None),  # 135 s are left, if the first batch is like the others
        ([(100, 1.5), (100, 0.01)], None),
        ([(100, 1.5), (100, 1.5)], "explaining: about 2 min more"),
        ([(5000, 40.0)], None),  # 32 s are left
    ],
)
def test_only_what_takes_a_minute_is_told(done, told, caplog):
    effort = Effort("explaining", 9000)
    for passes, seconds in done:
        effort.add(passes, seconds)
    effort.close()
    assert [record.getMessage() for record in caplog.records] == ([told] if told else [])


def test_progress_is_told_once_it_is_long(caplog, capsys, monkeypatch):
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    effort = Effort("explaining vgg16", 1000)
    for _ in range(10):
        effort.add(100, 30.0)
        now += 30
    effort.close()
    assert len(caplog.records) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "explaining vgg16, passes: 200 of 1,000"
    assert lines[-1].rstrip() == "explaining vgg16, passes: 1,000 done"


def test_every_pass_of_a_call_is_counted():
    """Of all batches, which are no larger than it takes to know how long the others take."""
    counted = []

    class Counting(Effort):
        def add(self, passes, seconds):
            assert seconds > 0
            counted.append(passes)

    asked = resolve_explainers("gradients+smooth_grad", {"smooth_grad.samples": 3})
    explain(made("resnet8"), asked, images(5), TARGETS, batch=3, effort=Counting("a", 20))
    many = resolve_explainers("smooth_grad", {"smooth_grad.samples": 1024})
    shape = (3, 8, 8)
    few = made("resnet8", shape=shape), many, images(5, shape), TARGETS
    explain(*few, effort=Counting("b", 5120))
    assert counted == [3, 2, 9, 6, 2048, 2048, 1024]


def test_what_a_student_takes():
    asked = resolve_explainers("grad_cam+smooth_grad", {})
    assert of_trial(asked, 256) == (
        "every student is explained on about 256 validation and 256 test images by grad_cam "
        "(1 pass a map), smooth_grad (50): 26,112 passes for a class each, and twice that for its "
        "teacher, once"
    )
