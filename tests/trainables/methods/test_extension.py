"""Demo: a new term is one class and one line in the registry (nowhere published, 2026).

Everything else, from the study's schema to the command line, finds it there.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from orchestrator.cli import main
from search_spaces.schema import study_schema
from trainables.config import TrialConfig
from trainables.data.dataset import Dataset
from trainables.methods import registry
from trainables.methods.term import Batch, Term
from trainables.models.outputs import Outputs, Shapes
from trainables.settings import setting
from trainables.training import Training


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoConfig:
    """Weights of `Demo`."""

    weight: float = setting(0.5, "of the embeddings' distance", at_least=0, search=(0.1, 2))
    temperature: float = setting(2.0, "of nothing in particular", above=0)


class Demo(Term):
    """Mean square between the embeddings, the student's mapped linearly."""

    needs = frozenset({"embedding"})
    Config = DemoConfig

    def __init__(self, config: DemoConfig, student: Shapes, teacher: Shapes) -> None:
        super().__init__(config, student, teacher)
        self.adaptor = nn.Linear(student.embedding, teacher.embedding)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        distance = self.adaptor(student.embedding) - teacher.embedding
        return self.config.weight * distance.float().square().mean()


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(registry.TERMS, "demo", f"{__name__}:Demo")
    yield
    registry.term_class.cache_clear()


def test_it_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert "demo" in registry.term_names()
    assert main(["methods"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("demo")]
    assert "embedding" in line


@pytest.mark.usefixtures("few_images_timed")
def test_it_is_described(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", "demo"]) == 0
    shown = capsys.readouterr().out
    assert "a new term is one class" in shown
    assert "demo.weight" in shown
    assert "a number >= 0" in shown


def test_it_is_in_the_schema_of_studies() -> None:
    properties = study_schema()["properties"]
    assert properties["fixed"]["properties"]["demo.weight"]["default"] == 0.5
    assert "demo.weight" in properties["dimensions"]["properties"]


def test_it_is_composed_and_shares_bare_names() -> None:
    config = TrialConfig.from_mapping(
        {"method": "demo+kd", "teacher": "resnet8", "temperature": 3, "weight": 1}
    )
    assert config.method == "kd+demo"
    assert config.terms == {
        "kd.alpha": 0.9,
        "kd.temperature": 3.0,
        "kd.form": "softmax",
        "demo.weight": 1.0,
        "demo.temperature": 3.0,
    }


@pytest.fixture
def start(digits: Dataset, digits_teacher) -> Callable[[], Training]:
    config = TrialConfig.from_mapping(
        {"method": "kd+demo", "teacher": "resnet8", "train_fraction": 0.1, "epochs": 2, "lr": 0.1}
    )
    cpu = torch.device("cpu")
    return lambda: Training(config, digits, "wrn_10_0.5", digits_teacher.load(), cpu)


def adaptor(training: Training) -> Tensor:
    return training.method.terms["demo"].adaptor.weight.detach().clone()


def test_it_trains_with_its_adaptor(start: Callable[[], Training]) -> None:
    training = start()
    before = adaptor(training)
    row = training.run_epoch()
    assert set(row["term_losses"]) == {"ce", "kd", "demo"}
    assert not torch.equal(adaptor(training), before)


def test_an_interruption_keeps_its_adaptor(start: Callable[[], Training]) -> None:
    undisturbed, interrupted = start(), start()
    interrupted.run_epoch()
    continued = start()
    continued.load_state_dict(interrupted.state_dict())
    continued.run_epoch()
    for _ in range(2):
        undisturbed.run_epoch()
    assert torch.equal(adaptor(continued), adaptor(undisturbed))
    assert continued.test() == undisturbed.test()
