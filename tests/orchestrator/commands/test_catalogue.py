"""What there is, as the command line lists and describes it."""

import json
import re
import sys

import pytest
from here import said

from orchestrator.cli import main
from trainables.methods.registry import term_class, term_names
from trainables.settings import settings_of


def test_lists_and_descriptions():
    assert "digits" in said("studies")
    assert "wrn_16_2" in said("studies", "digits")
    assert json.loads(said("studies", "--schema"))["title"] == "kdsweep study"
    assert "wrn" in said("models")
    assert "2,243,546" in said("models", "wrn_40_2")
    assert "cifar10" in said("datasets")
    assert "1x8x8" in said("datasets", "digits")


def cells(text: str, first: str) -> list[str]:
    """The row of a printed table that begins with ``first``."""
    (row,) = [line for line in text.splitlines() if line.split()[:1] == [first]]
    return re.split(" {2,}", row.strip())


@pytest.mark.slow
def test_the_methods_and_what_they_cost():
    text = said("methods")
    assert cells(text, "student")[1:] == ["nothing", "1", "1.00", "1.00", "cross-entropy alone"]
    for name in term_names():
        assert len(cells(text, name)) == 7, name
    assert cells(text, "kd")[1:4] == ["term", "logits", "0.1"]
    assert cells(text, "ls")[1:4] == ["modifier of logits", "logits", "0.1"]
    assert cells(text, "mixup")[1:6] == ["modifier of images", "nothing", "1", "1.00", "1.00"]
    assert cells(text, "at")[2::3] == ["feature maps", "-"]
    assert cells(text, "kd")[5] == "1.00"
    assert float(cells(text, "kd")[4]) > 1.5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "whole", "reads", "looked_up"),
    [
        ("at+kd", "kd+at", "at is a term and reads of the teacher: feature maps", False),
        pytest.param(
            *("ls", "kd+ls", "ls is a modifier of logits and reads of the teacher: logits", True),
            marks=pytest.mark.soak,
        ),
    ],
)
def test_a_method_is_described_counted_and_timed(capsys, name, whole, reads, looked_up):
    assert main(["methods", name]) == 0
    text, err = capsys.readouterr()
    assert err.startswith(f"timing steps of {whole} here")
    for part in name.split("+"):
        kind = term_class(part)
        assert sys.modules[kind.__module__].__doc__.strip() in text
        for key, found in settings_of(kind.Config).items():
            assert ("yes" in cells(text, f"{part}.{key}")) == found.weight
    assert reads in text
    assert f"{whole} leaves 0.1 of the cross-entropy" in text
    assert ("looked up: not possible" in text) != looked_up
    spent = re.search(r"time +([\d.]+): ([\d.]+) ms over ([\d.]+) ms, medians of (\d+) steps", text)
    ratio, ours, theirs, steps = map(float, spent.groups())
    assert ratio == pytest.approx(ours / theirs, abs=0.01)
    assert steps >= 5
