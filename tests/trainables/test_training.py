"""One trial in this process: what it sees, what it learns, and what decides it."""

import dataclasses
from collections.abc import Callable

import pytest
import torch
from short_training import assert_same_weights, epochs, one_batch, seen_by, train
from torch import Tensor

from trainables.config import TrialConfig
from trainables.data.dataset import Content, Dataset, Images
from trainables.data.views import to_float
from trainables.errors import UserError
from trainables.methods.term import Batch
from trainables.training.schedule import learning_rate

Quick = Callable[..., TrialConfig]


def test_it_learns(digits: Dataset, quick: Quick) -> None:
    training = train(quick(student="resnet8", epochs=4, train_fraction=1.0), digits)
    rows = epochs(training, 4)
    assert rows[-1]["val_acc"] > 0.85
    assert rows[-1]["train_loss"] < 0.5 * rows[0]["train_loss"]
    assert training.test()["student"].acc > 0.85


def test_rows_say_what_happened(digits: Dataset, quick: Quick, digits_teacher) -> None:
    config = quick(method="kd+at", teacher="resnet8", epochs=2)
    training = train(config, digits, digits_teacher.load())
    row = training.run_epoch()
    assert row["epoch"] == training.epoch == 1
    assert set(row["term_losses"]) == {"ce", "kd", "at"}
    assert row["train_loss"] == pytest.approx(sum(row["term_losses"].values()))
    assert 0 <= row["val_acc"] <= 1
    steps = len(training.stream.train_indices) // 32
    assert row["lr"] == pytest.approx(learning_rate(config, (steps - 1) / steps))
    assert row["images_per_second"] == pytest.approx(steps * 32 / row["seconds"])
    assert training.train_seconds == row["seconds"]


def numbered(first: int, count: int) -> Images:
    """Grey images that tell their number: 10 levels of two digits, in the two halves."""
    numbers = torch.arange(first, first + count)
    images = torch.empty(count, 1, 8, 8, dtype=torch.uint8)
    images[..., :4] = (numbers // 16 * 16)[:, None, None, None]
    images[..., 4:] = (numbers % 16 * 16)[:, None, None, None]
    return Images(images, numbers % 2)


def numbers_in(inputs: list[Tensor], dataset: Dataset) -> list[int]:
    pixels = torch.cat(inputs) * dataset.std[0] + dataset.mean[0]
    levels = (pixels * 255).round().long()
    return (levels[:, 0, 0, 0] + levels[:, 0, 0, 7] // 16).tolist()


def test_training_validation_and_test_images_are_disjoint(quick: Quick) -> None:
    content = Content.measure(("even", "odd"), numbered(0, 160), numbered(160, 40))
    dataset = content.dataset("numbered", crop_padding=0, flip=False)
    config = quick(epochs=3, batch_size=8, train_fraction=1.0, val_fraction=0.25)
    training = train(config, dataset)
    trained: list[Tensor] = seen_by(training.student)
    scored: list[Tensor] = []
    training.student.register_forward_pre_hook(
        lambda network, given: None if network.training else scored.append(given[0].clone())
    )
    epochs(training, 3)
    seen, validated = numbers_in(trained, dataset), numbers_in(scored, dataset)
    assert len(seen) == 3 * 120
    assert len(set(seen)) == 120  # every image once per epoch
    assert sorted(validated) == sorted(3 * list(set(validated)))
    assert set(seen) | set(validated) == set(range(160))
    assert set(seen).isdisjoint(validated)

    scored.clear()
    training.test()
    assert numbers_in(scored, dataset) == list(range(160, 200))


def test_all_images_train_where_nothing_is_held_out(digits: Dataset, quick: Quick) -> None:
    training = train(quick(val_fraction=0, train_fraction=1.0, epochs=1), digits)
    assert len(training.stream.train_indices) == len(digits.train)
    row = training.run_epoch()
    assert row["val_acc"] is None
    assert row["val_loss"] is None


def test_the_test_set_is_closed_before_the_end(digits: Dataset, quick: Quick) -> None:
    training = train(quick(epochs=2), digits)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="after the last epoch only"):
            training.test()
        training.run_epoch()
    assert 0 <= training.test()["student"].acc <= 1


def test_scores_by_hand(digits: Dataset, quick: Quick) -> None:
    training = train(quick(epochs=1), digits)
    training.run_epoch()
    images = Images(digits.train.images[:700], digits.train.labels[:700])  # two batches
    found = training.learner.score(images)
    logits = training.student.eval()(to_float(images.images, digits.mean, digits.std)).logits
    assert found.acc == (logits.argmax(1) == images.labels).sum().item() / 700
    assert found.loss == pytest.approx(
        torch.nn.functional.cross_entropy(logits, images.labels).item(), rel=1e-5
    )


def test_equal_configs_give_equal_students(digits: Dataset, quick: Quick, digits_teacher) -> None:
    config = quick(method="kd+at", teacher="resnet8", epochs=2)
    made = []
    for noise in (0, 99):
        torch.manual_seed(noise)
        training = train(config, digits, digits_teacher.load())
        made.append((epochs(training, 2), training))
    assert made[0][0] == made[1][0]
    assert_same_weights(made[0][1].student, made[1][1].student)


def test_seeds_decide_what_they_say(digits: Dataset, quick: Quick) -> None:
    def start(**changes: int) -> tuple[Tensor, Tensor]:
        training = train(quick(epochs=1, **changes), digits)
        inputs = seen_by(training.student)
        weight = next(training.student.parameters()).detach().clone()
        training.run_epoch()
        return weight, torch.cat(inputs)

    weight, seen = start()
    other_weight, other_order = start(seed=1)
    assert not torch.equal(weight, other_weight)
    assert not torch.equal(seen, other_order)
    same_weight, other_views = start(view_seed=1)
    assert torch.equal(weight, same_weight)
    assert not torch.equal(seen, other_views)

    # Common random numbers: another seed orders the same views differently.
    def as_set(views: Tensor) -> set[bytes]:
        return {view.numpy().tobytes() for view in views.contiguous()}

    common = as_set(seen) & as_set(other_order)
    assert len(common) > 0.8 * len(as_set(seen))
    assert len(as_set(seen) & as_set(other_views)) < 0.5 * len(as_set(seen))


def test_a_split_that_leaves_nothing_to_train_on_is_refused(digits: Dataset, quick: Quick) -> None:
    few = Images(digits.train.images[:10], torch.arange(10))
    content = dataclasses.replace(digits, train=few)
    with pytest.raises(UserError, match=r"val_fraction: 0\.9 of 10 training images leaves none"):
        train(quick(val_fraction=0.9), content)


def test_a_method_is_told_how_far_the_training_is(
    digits: Dataset, quick: Quick, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ramps over a training, or changes in its last part, gets to its end."""
    training = train(quick(epochs=3), digits)
    told: list[Batch] = []
    draw = training.method.draw

    def noted(batch: Batch) -> Batch:
        told.append(batch)
        return draw(batch)

    monkeypatch.setattr(training.method, "draw", noted)
    epochs(training, 3)
    steps = len(training.stream.train_indices) // 32
    expected = [step / (3 * steps) for step in range(3 * steps)]
    assert steps > 3
    assert [batch.progress for batch in told] == pytest.approx(expected)
    assert [batch.epoch for batch in told] == pytest.approx([3 * share for share in expected])


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_the_learning_rate_reaches_the_optimizer(
    digits: Dataset, quick: Quick, optimizer: str
) -> None:
    config = quick(optimizer=optimizer, schedule="step", milestones="0.5", epochs=2, lr=1e-3)
    training = train(config, digits)
    assert [row["lr"] for row in epochs(training, 2)] == pytest.approx([1e-3, 1e-4])
    assert training.learner.updates.optimizers["student"].param_groups[0]["lr"] == pytest.approx(
        1e-4
    )
    assert type(training.learner.updates.optimizers["student"]).__name__.lower() == optimizer


@pytest.mark.parametrize("method", ["student", "kd+mixup", "dml", "dml+mixup"])
@pytest.mark.parametrize("form", ["image", "logits"])
def test_a_step_never_waits_for_the_device(
    digits: Dataset, quick: Quick, digits_teacher, no_waiting, method: str, form: str
) -> None:
    settings = {"mixup.teacher_mix": form} if "mixup" in method else {}
    config = quick(method=method, teacher="resnet8", **settings)
    training = train(config, digits, digits_teacher.load())
    training.learner.step(
        one_batch(training, training.stream.train_indices[:8]), 0.0
    )  # made once: may wait
    with no_waiting():
        losses = training.learner.step(
            one_batch(training, training.stream.train_indices[8:16]), 0.1
        )
    assert losses.isfinite().all()


@pytest.mark.parametrize("student", ["wrn_10_0.5", "wrn_16_0.25", "resnet8"])
def test_both_layouts_learn_the_same(digits: Dataset, quick: Quick, student: str) -> None:
    """Sums in another order: rounding, which steps let grow (fast where ReLUs see few pixels)."""
    losses = {}
    for channels_last in (True, False):
        config = quick(student=student, channels_last=channels_last, lr=0.01)
        training = train(config, digits)
        shapes = [weight for weight in training.student.parameters() if weight.ndim == 4]
        spatial = [weight for weight in shapes if weight.shape[1] > 1 and weight.shape[2] > 1]
        if spatial:  # others are the same in both
            assert {weight.is_contiguous() for weight in spatial} == {not channels_last}
        losses[channels_last] = training.run_epoch()["train_loss"]
    assert losses[True] == pytest.approx(losses[False], rel=1e-3)
