"""Attribution maps in a training step: whose they are, and under which crop and flip."""

import copy
import dataclasses
import io
import json
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from trainables.attribution.map_settings import TARGETS
from trainables.columns import TrialRow
from trainables.config import TrialConfig
from trainables.data.dataset import Dataset
from trainables.data.views import Offsets
from trainables.experiment import config_key
from trainables.methods.ig import IG
from trainables.methods.term import Batch
from trainables.rows import add_training
from trainables.teachers.maps import StoredMaps
from trainables.teachers.teacher import Teacher
from trainables.training import Training
from trainables.training.shown_maps import PlacedMaps, ShownMaps, others

CPU = torch.device("cpu")
FACTS = {"explainer": "integrated_gradients", "target": "label", "baseline": "mean", "steps": 50}
Quick = Callable[..., TrialConfig]


@pytest.fixture
def maps(digits: Dataset) -> StoredMaps:
    """By hand: every pixel of every map has a value of its own."""
    images = digits.train.images
    number, height, width = len(images), *images.shape[-2:]
    draw = torch.Generator().manual_seed(3)
    values = torch.rand(number, height, width, generator=draw, dtype=torch.float64).float()
    return StoredMaps(values / values.amax((1, 2), keepdim=True), FACTS)


@pytest.fixture
def train(quick: Quick, digits: Dataset, digits_teacher, maps: StoredMaps):
    """A training with the maps; small views that move a lot."""

    def make(method: str = "ig", teacher: Teacher | None = None, **changes: object) -> Training:
        values = {"teacher": "resnet8", "crop_padding": 2, "flip": True, "epochs": 2}
        config = quick(method=method, train_fraction=0.1, **(values | changes))
        teacher = teacher or digits_teacher.load()
        return Training(config, digits, config.student, teacher, CPU, maps=maps)

    return make


def cropped(image: np.ndarray, dy: int, dx: int, flip: bool, padding: int) -> np.ndarray:
    """A view by slices of one image, ``[H, W]``; by hand, and not by the house."""
    height, width = image.shape
    around = np.zeros((height + 2 * padding, width + 2 * padding), image.dtype)
    around[padding : padding + height, padding : padding + width] = image
    view = around[dy : dy + height, dx : dx + width]
    return view[:, ::-1] if flip else view


def in_steps(training: Training, monkeypatch: pytest.MonkeyPatch) -> list[Batch]:
    """The batches of an epoch as the modifier gets them."""
    given: list[Batch] = []
    draw = IG.draw

    def watched(self: IG, batch: Batch) -> Batch:
        given.append(batch)
        return draw(self, batch)

    monkeypatch.setattr(IG, "draw", watched)
    training.run_epoch()
    return given


def own_maps(batch: Batch, maps: StoredMaps, dataset: Dataset, padding: int) -> np.ndarray:
    """What the step has to use: of every image its own map as its view shows it."""
    assert batch.offsets is not None
    dy, dx, flip = (part.tolist() for part in batch.offsets)
    assert len(set(zip(dy, dx, flip, strict=True))) > 10, "the test is about views that differ"
    return np.stack(
        [
            cropped(maps.values[place].numpy(), dy[i], dx[i], flip[i], padding)[None]
            for i, place in enumerate(batch.indices.tolist())
        ]
    )


@pytest.mark.parametrize("method", ["ig", "kd+ig", "ig+at"])
def test_a_step_uses_the_images_own_map_as_its_view_shows_it(
    train, maps: StoredMaps, digits: Dataset, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    batches = in_steps(train(method), monkeypatch)
    assert len(batches) > 2
    for batch in batches:
        expected = own_maps(batch, maps, digits, padding=2)
        np.testing.assert_array_equal(batch.maps.numpy(), expected)


def test_one_image_one_crop_one_flip(maps: StoredMaps, train) -> None:
    """The map moves with the pixels of its image: where a pixel goes, its value goes."""
    training = train()
    views, image = training.stream.views, torch.tensor([7])
    where = Offsets(torch.tensor([4]), torch.tensor([1]), torch.tensor([True]))
    map_shown = views.show(maps.of(image), where)[0, 0].numpy()
    pixels = views.show(torch.arange(64, dtype=torch.uint8).view(1, 1, 8, 8) + 1, where)[0, 0]
    for y, x in np.ndindex(8, 8):
        if number := pixels[y, x].item():
            assert map_shown[y, x] == maps.values[7].flatten()[number - 1]
        else:
            assert map_shown[y, x] == 0  # beyond the image's edge
    assert (pixels == 0).sum() == 8 * 8 - 6 * 7


def test_a_shuffled_map_is_another_images_and_not_cropped(
    train, maps: StoredMaps, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = train(**{"ig.alignment": "shuffled"})
    trained = training.stream.train_indices
    partner = torch.full((len(maps.values),), -1)
    partner[trained] = trained[others(len(trained))]
    for batch in in_steps(training, monkeypatch):
        theirs = partner[batch.indices]
        assert torch.equal(batch.maps[:, 0], maps.values[theirs])
        assert not (theirs == batch.indices).any()
    assert training.attribution_maps == {**FACTS, "alignment": "shuffled"}


def test_shuffling_is_said(maps: StoredMaps, train, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("trainables.training.shown_maps.warn_once", lambda log, t: said.append(t))
    stream = train().stream
    placed = PlacedMaps(maps, torch.arange(len(maps.values)))
    ShownMaps(placed, stream.train_indices, stream.views, "aligned")
    assert said == []
    ShownMaps(placed, stream.train_indices, stream.views, "shuffled")
    assert len(said) == 1
    assert "shuffled: every image gets the attribution map of another one" in said[0]


@pytest.mark.parametrize("images", [2, 3, 50])
def test_everybody_gets_the_map_of_somebody_else(images: int) -> None:
    found = others(images)
    assert sorted(found.tolist()) == [*range(images)]
    assert not (found == torch.arange(images)).any()
    assert torch.equal(found, others(images))


def test_the_row_says_what_the_maps_are(train) -> None:
    row = TrialRow(sweep="s", trial_id="s-0")
    training = train("kd+ig")
    add_training(row, training, [])
    assert json.loads(row.attribution_maps) == {**FACTS, "alignment": "aligned"}
    row = TrialRow(sweep="s", trial_id="s-0")
    add_training(row, train("kd"), [])
    assert row.attribution_maps is None


def test_settings_of_the_maps_decide_which_trial_it_is(quick: Quick) -> None:
    keys = set()
    base = quick(method="kd+ig", teacher="resnet8")
    changes = [{"ig.alignment": "shuffled"}, {"ig.target": TARGETS[1]}, {"ig.baseline": "black"}]
    changes += [{"ig.steps": 20}, {"ig.probability": 0.2}, {"ig.teacher_sees": "overlay"}, {}]
    for change in changes:
        config = base.replace(**change)
        keys.add(config_key(config, student="x", data_fingerprint="d", teacher_fingerprint="t"))
    assert len(keys) == len(changes)


# A training goes on as it would have


def weights(training: Training) -> list[Tensor]:
    return [*training.student.state_dict().values()]


@pytest.mark.parametrize("method", ["ig", "kd+ig", "kd+ig+at", "ig+dml"])
def test_a_killed_training_goes_on_exactly(train, method: str) -> None:
    whole = train(method)
    whole.run_epoch()
    state = whole.state_dict()
    state = torch.load(_packed(state), weights_only=False)
    whole.run_epoch()
    torch.manual_seed(99)  # another process
    resumed = train(method)
    resumed.load_state_dict(state)
    resumed.run_epoch()
    for one, other in zip(weights(whole), weights(resumed), strict=True):
        assert torch.equal(one, other)


def _packed(state: object) -> io.BytesIO:
    out = io.BytesIO()
    torch.save(state, out)
    out.seek(0)
    return out


def test_aligned_shuffled_and_plain_are_three_students(train) -> None:
    changes = {"ig.probability": 0.5}
    students = [
        train("ig", **changes),
        train("ig", **changes, **{"ig.alignment": "shuffled"}),
        train("student"),
        train("ig", **changes),
    ]
    for training in students:
        training.run_epoch()
    first, second, third, again = (
        torch.cat([w.flatten().double() for w in weights(t)]) for t in students
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert not torch.equal(first, third)


def test_at_probability_zero_it_is_the_plain_student(train) -> None:
    """Nothing else of the training changes; draws come from the learner's own generator."""
    one, other = train("ig", **{"ig.probability": 0.0}), train("student")
    one.run_epoch()
    other.run_epoch()
    for a, b in zip(weights(one), weights(other), strict=True):
        assert torch.equal(a, b)


def test_a_teacher_that_sees_the_overlay_sees_the_students_pixels(train, digits_teacher) -> None:
    usual = digits_teacher.load()
    card = dataclasses.replace(usual.card, mean=(0.3,), std=(0.7,))
    teacher = Teacher(copy.deepcopy(usual.network), card, CPU)
    settings = {"ig.teacher_sees": "overlay", "ig.probability": 1.0}
    training = train("kd+ig", teacher, **settings)
    learner = training.learner
    seen: dict[str, Tensor] = {}
    teacher.network.register_forward_pre_hook(lambda m, a: seen.__setitem__("teacher", a[0]))
    learner.student.register_forward_pre_hook(lambda m, a: seen.__setitem__("student", a[0]))
    (feed,) = training.stream(0, training.stream.plan(0)[:1])
    learner.train()
    learner.step(feed, 0.0)
    mean, std = learner.normalisation
    ours = seen["student"] * std[0] + mean[0]
    torch.testing.assert_close(seen["teacher"] * 0.7 + 0.3, ours, rtol=0, atol=1e-5)
    plain = feed.views / 255
    assert not torch.allclose(ours, plain, atol=0.05)


# Where only some images are trained on


@pytest.mark.parametrize(("fraction", "few"), [(0.1, True), (1.0, False)])
def test_maps_of_the_images_that_are_trained_on(
    quick: Quick,
    digits: Dataset,
    digits_teacher,
    monkeypatch: pytest.MonkeyPatch,
    fraction: float,
    few: bool,
) -> None:
    """Each image still gets its own; others are not computed where most are not trained on."""
    asked: list[Dataset] = []

    def found(teacher: Teacher, dataset: Dataset, *further: object) -> StoredMaps:
        """The map of an image is the image, which tells at once whose it is."""
        asked.append(dataset)
        return StoredMaps(dataset.train.images[:, 0].half(), FACTS)

    monkeypatch.setattr("trainables.training.shown_maps.stored_maps", found)
    config = quick(method="ig", teacher="resnet8", train_fraction=fraction, crop_padding=2)
    training = Training(config, digits, config.student, digits_teacher.load(), CPU)
    trained = training.stream.train_indices
    assert len(asked[0].train) == (len(trained) if few else len(digits.train))
    assert (asked[0].fingerprint != digits.fingerprint) == few
    for feed in training.stream(0, training.stream.plan(0)):
        assert torch.equal(training.learner.maps(feed), feed.views.float())


def test_real_maps_from_a_trial_to_its_row(make_job, quick: Quick) -> None:
    """Integrated gradients of the teacher, computed once; the next trial looks them up."""
    from trainables.job import Run

    settings = {"ig.steps": 4, "teacher": "resnet8", "epochs": 1, "ig.probability": 0.5}
    rows = []
    for number, method in enumerate(("ig", "kd+ig", "kd+ig+at")):
        config = quick(method=method, train_fraction=0.1, **settings)
        run = Run(make_job(config, f"s-ig-{number}"), CPU)
        run.run_epoch()
        rows.append(run.row("completed"))
    facts = [json.loads(row["attribution_maps"]) for row in rows]
    assert facts[0] == facts[1] == facts[2]
    assert facts[0]["steps"] == 4
    assert facts[0]["alignment"] == "aligned"
    assert 0 <= facts[0]["completeness_error"] < 1
    assert all(row["test_acc"] > 0 for row in rows)
