"""Which precision a network computes in."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from trainables.compression.measure import count_params
from trainables.config import TrialConfig
from trainables.data.dataset import Dataset
from trainables.engine import precision as engine
from trainables.engine.precision import choose_precision, computing
from trainables.models.blueprint import Blueprint, build
from trainables.models.edits import Channels
from trainables.training import Training

CPU = torch.device("cpu")
ASKED = ("train", Blueprint("wrn_10_1"), 10, (1, 8, 8), 16, CPU)


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("KDSWEEP_CACHE", str(tmp_path))
    engine._faster.cache_clear()
    return tmp_path / "precision"


@pytest.mark.parametrize("wanted", ["fp32", "bf16"])
def test_what_is_asked_for(wanted: str, cache: Path) -> None:
    assert choose_precision(wanted, *ASKED) == wanted
    assert not cache.exists()


def test_auto_times_both_and_keeps_the_answer(cache: Path) -> None:
    answer = choose_precision("auto", *ASKED)
    (file,) = cache.glob("*.json")
    record = json.loads(file.read_text())
    seconds = record["seconds"]
    assert answer == ("bf16" if seconds["fp32"] > 1.1 * seconds["bf16"] else "fp32")

    # Another process, and this one after a restart, find it.
    other = {"fp32": "bf16", "bf16": "fp32"}[answer]
    file.write_text(json.dumps(record | {"precision": other}))
    assert choose_precision("auto", *ASKED) == answer
    engine._faster.cache_clear()
    assert choose_precision("auto", *ASKED) == other


def test_the_question_is_about_the_built_network(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A narrower one has an answer of its own; without edits the question is as ever."""
    kept = {"group1.0.conv1": [0], "group1.0.bn2": [0]}
    narrow = Blueprint("wrn_10_1", (Channels.kept(kept, {"group1.0.conv2": [0]}),))
    sizes = []

    def measured(work: str, blueprint: Blueprint, *size: Any) -> dict[str, float]:
        sizes.append(count_params(build(blueprint, 10, (1, 8, 8))))
        return {"fp32": 1.0, "bf16": len(sizes) - 0.5}

    monkeypatch.setattr(engine, "_measured", measured)
    assert choose_precision("auto", *ASKED) == "bf16"
    assert choose_precision("auto", "train", narrow, *ASKED[2:]) == "fp32"
    assert choose_precision("auto", *ASKED) == "bf16"
    assert sizes[0] > sizes[1]
    questions = [json.loads(file.read_text())["question"] for file in cache.glob("*.json")]
    threads = torch.get_num_threads()
    rest = [10, [1, 8, 8], 16, engine._processor("cpu"), threads]
    assert sorted(questions) == sorted(
        ["train", name, *rest] for name in ("wrn_10_1", narrow.label)
    )
    words = ["train", "wrn_10_1", 10, (1, 8, 8), 16, engine._processor("cpu"), threads]
    text = json.dumps([*words, torch.__version__])
    assert (cache / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.json").is_file()


@pytest.mark.parametrize("faster", ["fp32", "bf16"])
def test_the_faster_one_wins(faster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {"fp32": 1.0, "bf16": 1.0} | {faster: 0.5}
    monkeypatch.setattr(engine, "_measured", lambda *_: seconds)
    assert choose_precision("auto", *ASKED) == faster


def test_a_near_tie_is_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_measured", lambda *_: {"fp32": 1.05, "bf16": 1.0})
    assert choose_precision("auto", *ASKED) == "fp32"


@pytest.mark.parametrize(
    ("seconds", "medians", "calls"),
    [
        # The first of each pays for its start, and does not count.
        ({"fp32": [9, 1, 2, 3], "bf16": [30, 1.5, 3, 2.5]}, (2, 2.5), 4),
        ({"fp32": [9, 5, 2, 3], "bf16": [30, 1, 3, 2]}, (5, 1), 2),
        ({"fp32": [9, 1, 2, 3], "bf16": [30, 3, 3, 2]}, (1, 3), 2),
        ({"fp32": [2], "bf16": [9]}, (2, 9), 1),  # a processor that only imitates bf16
    ],
)
def test_timing_ends_when_it_is_clear(
    seconds: dict[str, list[float]], medians: tuple[float, float], calls: int
) -> None:
    left = {precision: iter(values) for precision, values in seconds.items()}
    found = engine._in_turns(lambda precision: next(left[precision]) / 1000)
    assert (found["fp32"], found["bf16"]) == (medians[0] / 1000, medians[1] / 1000)
    assert len(list(left["bf16"])) == len(seconds["bf16"]) - calls


def test_a_damaged_answer_is_measured_again(cache: Path) -> None:
    choose_precision("auto", *ASKED)
    (file,) = cache.glob("*.json")
    file.write_text("{")
    engine._faster.cache_clear()
    assert choose_precision("auto", *ASKED) in ("fp32", "bf16")


def test_a_cache_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KDSWEEP_CACHE", str(tmp_path / "file"))
    assert choose_precision("auto", *ASKED) in ("fp32", "bf16")


def test_timing_draws_nothing_from_the_generators() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    choose_precision("auto", *ASKED)
    assert torch.equal(torch.get_rng_state(), before)


def test_bf16_is_for_activations_only(
    digits: Dataset, quick: Callable[..., TrialConfig], digits_teacher: Any
) -> None:
    config = quick(method="kd", teacher="resnet8", precision="bf16")
    training = Training(config, digits, config.student, digits_teacher.load(), CPU)
    seen = []
    training.student.register_forward_hook(lambda *call: seen.append(call[-1]))
    training.run_epoch()
    assert seen[0].logits.dtype == torch.bfloat16  # in training
    assert seen[-1].logits.dtype == torch.float32  # when it is scored
    assert {v.dtype for v in training.student.state_dict().values()} <= {torch.float32, torch.int64}
    assert training.teacher_precision == "bf16"


def test_the_teacher_may_differ(
    digits: Dataset, quick: Callable[..., TrialConfig], digits_teacher: Any
) -> None:
    config = quick(method="kd", teacher="resnet8", precision="bf16", teacher_precision="fp32")
    training = Training(config, digits, config.student, digits_teacher.load(), CPU)
    assert (training.precision, training.teacher_precision) == ("bf16", "fp32")


def test_losses_in_bf16_follow_those_in_fp32(
    digits: Dataset, quick: Callable[..., TrialConfig], digits_teacher: Any
) -> None:
    losses = []
    for precision in ("fp32", "bf16"):
        config = quick(method="kd+at", teacher="resnet8", precision=precision, lr=0.01)
        training = Training(config, digits, config.student, digits_teacher.load(), CPU)
        losses.append([training.run_epoch()["train_loss"] for _ in range(2)])
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
    assert losses[1] != losses[0]


def test_computing_in_bf16_ends_with_the_block() -> None:
    with computing("bf16", CPU):
        assert torch.is_autocast_enabled("cpu")
    assert not torch.is_autocast_enabled("cpu")
    with computing("fp32", CPU):
        assert not torch.is_autocast_enabled("cpu")


def test_one_round_of_slow_steps_is_enough() -> None:
    left = {"fp32": iter([3.0]), "bf16": iter([2.0])}
    assert engine._in_turns(lambda precision: next(left[precision])) == {"fp32": 3.0, "bf16": 2.0}
