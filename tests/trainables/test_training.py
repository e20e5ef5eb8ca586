"""One trial in this process: what it sees, what it learns, and that it can be interrupted."""

import copy
import dataclasses
import io
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from trainables.config import TrialConfig
from trainables.data.dataset import Content, Dataset, Images
from trainables.data.views import to_float
from trainables.errors import Diverged, TeacherBroken, UserError
from trainables.methods.kd import kd_loss
from trainables.methods.method import Method
from trainables.methods.term import Batch
from trainables.models.outputs import Outputs
from trainables.teachers.teacher import Teacher
from trainables.training import Training
from trainables.training.feeding import Feed
from trainables.training.schedule import learning_rate

CPU = torch.device("cpu")
Quick = Callable[..., TrialConfig]


def train(config: TrialConfig, dataset: Dataset, teacher: Teacher | None = None) -> Training:
    return Training(config, dataset, config.student, teacher, CPU)


def epochs(training: Training, count: int) -> list[dict[str, Any]]:
    """Rows without what the clock decides."""
    rows = [training.run_epoch() for _ in range(count)]
    return [{key: value for key, value in row.items() if "second" not in key} for row in rows]


def one_batch(training: Training, indices: Tensor) -> Feed:
    (feed,) = training.stream(0, [indices])
    return feed


def saved(training: Training) -> bytes:
    buffer = io.BytesIO()
    torch.save(training.state_dict(), buffer)
    return buffer.getvalue()


def assert_same_weights(first: torch.nn.Module, second: torch.nn.Module) -> None:
    ours, theirs = first.state_dict(), second.state_dict()
    assert ours.keys() == theirs.keys()
    assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []


def test_it_learns(digits: Dataset, quick: Quick) -> None:
    training = train(quick(student="resnet8", epochs=4, train_fraction=1.0), digits)
    rows = epochs(training, 4)
    assert rows[-1]["val_acc"] > 0.85
    assert rows[-1]["train_loss"] < 0.5 * rows[0]["train_loss"]
    assert training.test()["student"].acc > 0.85


def test_a_teacher_helps_it_agree(digits: Dataset, quick: Quick, digits_teacher) -> None:
    """KD alone, without labels, brings the student to the teacher's answers."""
    teacher = digits_teacher.load()
    config = quick(method="kd", teacher="resnet8", alpha=1.0, epochs=4, train_fraction=1.0)
    training = train(config, digits, teacher)
    images = digits.train.images

    def agreement() -> float:
        ours = training.student.eval()(to_float(images, digits.mean, digits.std)).logits.argmax(1)
        return (ours == teacher(images).logits.argmax(1)).float().mean().item()

    before = agreement()
    epochs(training, 4)
    assert before < 0.4
    assert agreement() > 0.8


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


class SpyTeacher(Teacher):
    """Remembers the views it was asked about, and how deep."""

    def __init__(self, teacher: Teacher) -> None:
        super().__init__(teacher.network, teacher.card, CPU)
        self.views: list[Tensor] = []
        self.depths: list[int | None] = []

    def __call__(
        self,
        views: Tensor,
        change: Callable[[Tensor], Tensor] | None = None,
        depth: int | None = None,
        *asked: Any,
    ) -> Outputs:
        self.views.append(views.clone())
        self.depths.append(depth)
        return super().__call__(views, change, depth, *asked)


def seen_by(network: torch.nn.Module) -> list[Tensor]:
    """Collects the inputs of a network's coming training steps."""
    inputs: list[Tensor] = []

    def record(module: torch.nn.Module, given: tuple[Tensor]) -> None:
        if module.training:
            inputs.append(given[0].clone())

    network.register_forward_pre_hook(record)
    return inputs


def test_the_teacher_sees_exactly_the_students_views(
    digits: Dataset, quick: Quick, digits_teacher
) -> None:
    spy = SpyTeacher(digits_teacher.load())
    config = quick(method="kd", teacher="resnet8", crop_padding=2, flip=True)
    training = train(config, digits, spy)
    inputs = seen_by(training.student)
    epochs(training, 2)
    assert len(inputs) == len(spy.views) == 2 * (len(training.stream.train_indices) // 32)
    for ours, theirs in zip(inputs, spy.views, strict=True):
        assert theirs.dtype == torch.uint8
        assert torch.equal(ours, to_float(theirs, digits.mean, digits.std))


@pytest.mark.parametrize(
    ("method", "settings", "depth"),
    [
        ("fitnet", {}, 2),
        ("at", {"stages": "0"}, 1),
        ("at+mixup", {"stages": "1"}, 2),
        ("kd+at", {"stages": "0"}, None),
    ],
)
def test_a_teacher_that_stops_early_teaches_the_same(
    digits: Dataset,
    quick: Quick,
    digits_teacher,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    settings: dict[str, Any],
    depth: int | None,
) -> None:
    config = quick(method=method, teacher="resnet8", precision="bf16", **settings)

    def steps() -> tuple[Tensor, Training, list[int | None]]:
        spy = SpyTeacher(digits_teacher.load())
        training = train(config, digits, spy)
        training.learner.train()
        batches = training.stream.train_indices[:96].split(32)
        losses = [training.learner.step(feed, epoch=0.0) for feed in training.stream(0, batches)]
        return torch.stack(losses), training, spy.depths

    losses, training, depths = steps()
    assert depths == 3 * [depth]
    monkeypatch.setattr(Method, "depth", None)
    whole_losses, whole, depths = steps()
    assert depths == 3 * [None]
    assert torch.equal(losses, whole_losses)
    assert_same_weights(training.student, whole.student)
    assert_same_weights(training.method, whole.method)


def test_nothing_runs_behind_what_is_read(digits: Dataset, quick: Quick, digits_teacher) -> None:
    teacher = digits_teacher.load()
    ran: list[str] = []
    handles = [
        part.register_forward_hook(lambda _, __, ___, name=name: ran.append(name))
        for name, part in teacher.network.named_children()
    ]
    try:
        config = quick(method="fitnet", teacher="resnet8", crop_padding=0, flip=False)
        training = train(config, digits, teacher)
        ran.clear()
        training.learner.step(one_batch(training, training.stream.train_indices[:8]), 0.0)
    finally:
        for handle in handles:
            handle.remove()
    assert ran == ["conv1", "bn1", "relu", "layer1", "layer2"]


def test_the_teacher_gets_its_own_normalisation(digits: Dataset, digits_teacher) -> None:
    loaded = digits_teacher.load()
    views = digits.train.images[:4]
    inputs: list[Tensor] = []
    handle = loaded.network.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    try:
        outputs = loaded(views)
    finally:
        handle.remove()
    torch.testing.assert_close(inputs[0], to_float(views, loaded.card.mean, loaded.card.std))
    assert not outputs.logits.requires_grad
    assert not loaded.network.training


def test_training_leaves_the_teacher_alone(digits: Dataset, quick: Quick, digits_teacher) -> None:
    teacher = digits_teacher.load()
    before = {key: value.clone() for key, value in teacher.network.state_dict().items()}
    training = train(quick(method="kd+at", teacher="resnet8"), digits, teacher)
    epochs(training, 1)
    after = teacher.network.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    ours = {
        id(weight)
        for group in training.learner.updates.optimizers["student"].param_groups
        for weight in group["params"]
    }
    assert ours.isdisjoint(id(weight) for weight in teacher.network.parameters())


def test_a_method_without_needs_asks_no_teacher(
    digits: Dataset, quick: Quick, digits_teacher
) -> None:
    spy = SpyTeacher(digits_teacher.load())
    epochs(train(quick(teacher="resnet8"), digits, spy), 1)
    assert spy.views == []


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


INTERRUPTED = [
    {"method": "kd+at", "schedule": "cosine", "momentum": 0.9, "nesterov": True},
    {"method": "kd", "optimizer": "adam", "lr": 1e-3, "schedule": "step", "warmup_epochs": 1.5},
    {"student": "mobilenetv2-minus15_x0.25", "train_fraction": 0.1},  # dropout
    {"method": "dml", "peers": 2, "peer": "mobilenetv2-minus15_x0.25", "train_fraction": 0.1},
    {"method": "dml+mixup", "update": "together", "optimizer": "adam", "lr": 1e-3},
    {"method": "kd+mixup", "mixup.alpha": 0.2, "resized_crops": 12},
    {"method": "fitnet", "optimizer": "muon", "lr": 0.02, "train_fraction": 0.1},
    {"method": "dml", "optimizer": "soap", "lr": 3e-3, "train_fraction": 0.1},
]


@pytest.mark.parametrize("values", INTERRUPTED, ids=lambda values: values.get("method", "student"))
@pytest.mark.parametrize("stop", [1, 2])
def test_an_interruption_leaves_no_trace(
    digits: Dataset, quick: Quick, digits_teacher, values: dict[str, Any], stop: int
) -> None:
    config = quick(teacher="resnet8", **values)
    undisturbed = train(config, digits, digits_teacher.load())
    rows = epochs(undisturbed, 3)

    first = train(config, digits, digits_teacher.load())
    interrupted = epochs(first, stop)
    state = torch.load(io.BytesIO(saved(first)), weights_only=True)
    torch.manual_seed(1234)
    torch.rand(77)  # what another trial in the same process would have drawn
    second = train(config, digits, digits_teacher.load())
    second.load_state_dict(state)
    interrupted += epochs(second, 3 - stop)

    assert second.train_seconds > first.train_seconds
    assert interrupted == rows
    for name, network in undisturbed.learner.networks.items():
        assert_same_weights(second.learner.networks[name], network)
    assert_same_weights(second.method, undisturbed.method)
    assert second.test() == undisturbed.test()


def test_every_generator_goes_on_where_it_stood(digits: Dataset, quick: Quick) -> None:
    """Also Python's and NumPy's, from which a term of another package may draw."""

    def draw() -> list[float]:
        return [random.gauss(), np.random.standard_normal(), torch.randn(()).item()]

    training = train(quick(), digits)
    with training.learner.random:
        draw()
    state = torch.load(io.BytesIO(saved(training)), weights_only=True)
    with training.learner.random:
        expected = draw()
    training.load_state_dict(state)
    with training.learner.random:
        assert draw() == expected


def test_dropout_is_at_work_in_that_student(digits: Dataset, quick: Quick) -> None:
    training = train(quick(student="mobilenetv2-minus15_x0.25", train_fraction=0.1), digits)
    assert any(
        isinstance(module, torch.nn.Dropout) and module.p > 0
        for module in training.student.modules()
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


def test_divergence_names_epoch_and_term(digits: Dataset, quick: Quick, digits_teacher) -> None:
    config = quick(method="kd", teacher="resnet8", lr=1e6)
    training = train(config, digits, digits_teacher.load())
    with pytest.raises(Diverged, match=r"became (nan|inf) in epoch 1, term .*(ce|kd).*; lower lr"):
        training.run_epoch()


def test_one_broken_term_is_told_from_the_others(
    digits: Dataset, quick: Quick, digits_teacher
) -> None:
    config = quick(method="kd+at", teacher="resnet8", epochs=1, batch_size=4096)  # one step
    training = train(config, digits, digits_teacher.load())
    training.method.terms["at"].register_forward_hook(lambda *given: given[-1] * float("inf"))
    with pytest.raises(Diverged, match=r"became inf in epoch 1, term at;"):
        training.run_epoch()


def test_a_student_that_the_last_update_broke_is_no_result(digits: Dataset, quick: Quick) -> None:
    """One step: its loss is that of the fresh weights."""
    config = quick(lr=1e30, epochs=1, batch_size=4096)
    with pytest.raises(Diverged, match=r"the validation loss is (nan|inf) after epoch 1; lower lr"):
        train(config, digits).run_epoch()
    whole = train(config.replace(val_fraction=0.0), digits)
    whole.run_epoch()
    with pytest.raises(Diverged, match=r"the test loss is (nan|inf) after epoch 1"):
        whole.test()


def broken(teacher: Teacher, value: float = float("nan")) -> Teacher:
    """A teacher of its own whose classifier says nothing any more."""
    network = copy.deepcopy(teacher.network)
    with torch.no_grad():
        network.classifier.weight[0, 0] = value
    return Teacher(network, teacher.card, CPU)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_teacher_that_says_no_numbers_is_named_before_it_teaches(
    digits: Dataset, quick: Quick, digits_teacher, value: float
) -> None:
    config = quick(method="kd+at", teacher="resnet8")
    with pytest.raises(TeacherBroken, match=r"teacher resnet8 says (nan|-?inf) .*\(logits\)") as it:
        train(config, digits, broken(digits_teacher.load(), value)).check_teacher()
    assert "lr" not in str(it.value)


def test_of_a_teacher_only_what_is_read_must_be_numbers(
    digits: Dataset, quick: Quick, digits_teacher
) -> None:
    config = quick(method="at", teacher="resnet8", epochs=1)
    training = train(config, digits, broken(digits_teacher.load()))
    training.check_teacher()
    training.run_epoch()


def test_a_teacher_that_breaks_on_later_images_gets_the_blame(
    digits: Dataset, quick: Quick, digits_teacher
) -> None:
    config = quick(method="kd", teacher="resnet8", epochs=1)
    training = train(config, digits, digits_teacher.load())
    lesson = training.learner.lesson
    lesson.teacher = broken(lesson.teacher)
    with pytest.raises(TeacherBroken, match="teacher resnet8 says nan to images of the data"):
        training.run_epoch()


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


def pixels_of(inputs: list[Tensor], mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Network inputs in levels from 0 to 255, before normalisation."""
    scale, shift = (torch.tensor(value).view(-1, 1, 1) for value in (std, mean))
    return 255 * (torch.cat(inputs) * scale + shift)


@pytest.mark.parametrize("form", ["image", "logits"])
def test_what_the_teacher_sees_of_mixed_images(
    digits: Dataset, quick: Quick, digits_teacher, form: str
) -> None:
    teacher = digits_teacher.load()
    card = dataclasses.replace(teacher.card, mean=(0.2,), std=(0.7,))  # another normalisation
    config = quick(method="kd+mixup", teacher="resnet8", **{"mixup.teacher_mix": form})
    training = train(config, digits, Teacher(teacher.network, card, CPU))
    ours, theirs = seen_by(training.student), []
    hook = teacher.network.register_forward_pre_hook(lambda _, given: theirs.append(given[0]))
    try:
        training.run_epoch()
    finally:
        hook.remove()
    student = pixels_of(ours, digits.mean, digits.std)
    taught = pixels_of(theirs, (0.2,), (0.7,))
    assert (student - student.round()).abs().max() > 0.1, "student's images are mixed"
    if form == "image":
        torch.testing.assert_close(taught, student, rtol=0, atol=1e-3)
    else:
        torch.testing.assert_close(taught, taught.round(), rtol=0, atol=1e-3)


def test_mixed_answers_of_the_teacher(digits: Dataset, quick: Quick, digits_teacher) -> None:
    """The whole first step by hand."""
    teacher = digits_teacher.load()
    settings = {"kd.alpha": 1.0, "kd.temperature": 3.0, "mixup.teacher_mix": "logits"}
    training = train(quick(method="kd+mixup", teacher="resnet8", **settings), digits, teacher)
    indices = training.stream.train_indices[:32]
    views = training.stream.views.images(digits.train.images, 0, indices)
    torch.manual_seed(7)
    modifier = training.method.input_modifiers["mixup"]
    mix = modifier.draw(Batch(training.stream.labels[indices], indices, 0.0, 0.0)).mix
    with torch.no_grad():
        mixed = mix(to_float(views, digits.mean, digits.std))
        said = copy.deepcopy(training.student).train()(mixed).logits
        expected = kd_loss(said, mix(teacher(views).logits), 3.0)
    training.learner.train()
    with training.learner.random:
        torch.manual_seed(7)
        losses = training.learner.step(one_batch(training, indices), 0.0)
    torch.testing.assert_close(losses, torch.stack([0 * expected, expected]))


def test_remembered_answers_are_mixed_like_fresh_ones(
    digits: Dataset, quick: Quick, digits_teacher
) -> None:
    rows = {}
    for cache in ("off", "float32"):
        config = quick(
            method="kd+mixup",
            teacher="resnet8",
            teacher_cache=cache,
            **{"mixup.teacher_mix": "logits"},
        )
        training = train(config, digits, digits_teacher.load())
        rows[cache] = epochs(training, 3)
        assert (training.learner.lesson.answers is None) == (cache == "off")
    assert rows["float32"] == rows["off"]


def test_function_matching_teaches(digits: Dataset, quick: Quick, digits_teacher) -> None:
    config = quick(
        method="kd+mixup", teacher="resnet8", epochs=4, train_fraction=1.0, **{"kd.alpha": 1.0}
    )
    training = train(config, digits, digits_teacher.load())
    rows = epochs(training, 4)
    assert rows[-1]["term_losses"]["ce"] == 0
    assert rows[-1]["val_acc"] > 0.75


def test_mixing_draws_differ_from_step_to_step(digits: Dataset, quick: Quick) -> None:
    training = train(quick(method="mixup", train_fraction=0.1), digits)
    shares = []
    draw = training.method.input_modifiers["mixup"].draw

    def spied(batch):
        batch = draw(batch)
        shares.append(batch.mix.share.item())
        return batch

    training.method.input_modifiers["mixup"].draw = spied
    epochs(training, 2)
    assert len(set(shares)) == len(shares) > 4


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
