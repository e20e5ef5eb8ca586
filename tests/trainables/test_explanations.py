"""A trial's student explained: what its row says, and what must not pass for an explanation."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from orchestrator.results.store import Store
from trainables import explanations
from trainables.attribution.answers import agreement, says
from trainables.columns import TrialRow
from trainables.config import TrialConfig
from trainables.data.dataset import VOID, Dataset, Images, Masks
from trainables.explanations import Explained, asked_of, choose
from trainables.job import Job, Run
from trainables.models.blueprint import Blueprint, build
from trainables.models.outputs import Network
from trainables.randomness import Randomness
from trainables.teachers.teacher import Teacher

CPU = torch.device("cpu")
SCORES = ("localisation", "pointing", "miou")
BESIDE = ("preservation", "agreement")

Quick = Callable[..., TrialConfig]
MakeJob = Callable[..., Job]


@pytest.fixture
def explained(quick: Quick) -> Quick:
    def make(**changes: object) -> TrialConfig:
        given: dict[str, object] = {"explainers": "grad_cam+gradients", "explained_images": 40}
        return quick(**given | {"teacher": "resnet8", "epochs": 1} | changes)

    return make


@pytest.fixture(scope="session")
def teacher(digits_teacher: Any) -> Teacher:
    return digits_teacher.load()


def masked(images: Images, every: int = 1) -> Images:
    """Strokes are the digit, the pixels around them void; some images have such a mask."""
    positions = torch.arange(0, len(images), every)
    pixels, labels = images.images[positions, 0], images.labels[positions]
    inside, around = pixels > 160, pixels > 60
    values = torch.where(inside, (labels + 1).view(-1, 1, 1), torch.where(around, VOID, 0))
    return replace(images, masks=Masks(positions, values.to(torch.uint8)))


@pytest.fixture(scope="session")
def with_masks(digits: Dataset) -> Dataset:
    return replace(digits, train=masked(digits.train), _test=masked(digits.read_test()))


def filled_in(
    config: TrialConfig, dataset: Dataset, teacher: Teacher | None, network: Network
) -> dict[str, Any]:
    """The columns of a network, whose images are normalised as the data set says."""
    row = TrialRow()
    normal = (teacher.card.mean, teacher.card.std) if teacher else (dataset.mean, dataset.std)
    Explained(config, dataset, teacher, CPU).fill_in(row, network, normal, torch.arange(0, 400, 4))
    return row.known()


def fresh(dataset: Dataset, seed: int, model: str = "resnet8") -> Network:
    with Randomness(seed, CPU):
        return build(Blueprint(model), dataset.num_classes, dataset.image_shape)


def finish(run: Run) -> dict[str, Any]:
    while not run.finished:
        run.run_epoch()
    return run.row("completed")


def test_a_row_tells_what_was_explained(explained: Quick, make_job: MakeJob, tmp_path) -> None:
    row = finish(Run(make_job(explained(method="kd"), "explained"), CPU))
    said = json.loads(row["attributions"])
    assert [*said] == ["val", "test"]
    for part in said:
        assert 30 <= said[part]["images"] <= 50
        assert [*said[part]["explainers"]] == ["grad_cam", "gradients"]
        kept = [one["preservation"]["spearman"] for one in said[part]["explainers"].values()]
        mean = sum(one["preserved"] for one in kept) / 2
        assert row[f"{part}_preservation"] == pytest.approx(mean)
        assert 0 <= mean < 1
        assert row[f"{part}_agreement"] == said[part]["agreement"]
        counts = [one["empty_maps"] for one in said[part]["explainers"].values()]
        assert row[f"{part}_empty_maps"] == sum(counts) < 10
        assert not [name for name in SCORES if f"{part}_{name}" in row], "nothing has a mask"
    assert Store(str(tmp_path), "s").add_trial(row)


def test_nothing_is_said_where_nobody_asks(quick: Quick, make_job: MakeJob) -> None:
    row = finish(Run(make_job(quick(epochs=1), "unexplained"), CPU))
    assert not [name for name in row if "attribution" in name or name.endswith("empty_maps")]


def test_scores_survive_an_interruption(explained: Quick, make_job: MakeJob) -> None:
    config = explained(method="kd", epochs=2)
    first = Run(make_job(config, "whole"), CPU)
    first.run_epoch()
    second = Run(make_job(config, "interrupted"), CPU, keep=False)
    second.restore(first.checkpoint())
    ours, theirs = finish(first), finish(second)
    for name in ("attributions", "val_preservation", "test_preservation", "test_agreement"):
        assert ours[name] == theirs[name]


def test_a_trial_without_teacher_is_located_and_not_compared(
    explained: Quick, with_masks: Dataset
) -> None:
    found = filled_in(explained(teacher=None), with_masks, None, fresh(with_masks, 3))
    assert all(0 <= found[f"val_{name}"] <= 1 for name in SCORES)
    assert not [name for name in BESIDE if f"val_{name}" in found]


def test_a_student_that_is_its_teacher_is_preserved(
    explained: Quick, with_masks: Dataset, teacher: Teacher
) -> None:
    found = filled_in(explained(), with_masks, teacher, teacher.network)
    assert found["val_preservation"] == pytest.approx(1)
    assert found["test_preservation"] == pytest.approx(1)
    assert found["val_agreement"] == found["test_agreement"] == 1
    said = json.loads(found["attributions"])["val"]
    for one in said["explainers"].values():
        own, taught = one["localisation"], one["teacher"]["localisation"]
        assert own == taught
        assert 0 < own["auc"] < 1
        assert own["pairs"] == said["images"] <= one["maps"], "and a class that the teacher errs by"


@pytest.mark.parametrize("value", [0.0, math.nan])
def test_a_collapsed_student_is_not_preserved(
    explained: Quick, with_masks: Dataset, teacher: Teacher, value: float
) -> None:
    """All weights behind the stem are zero, or no numbers."""
    network = fresh(with_masks, 0)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if not name.startswith("conv1"):
                weight.fill_(value)
    found = filled_in(explained(), with_masks, teacher, network)
    said = json.loads(found["attributions"])
    for part in ("val", "test"):
        maps = [one["maps"] for one in said[part]["explainers"].values()]
        assert found[f"{part}_empty_maps"] == sum(maps) > 0
        assert found[f"{part}_preservation"] == 0
        assert found[f"{part}_localisation"] == 0.5
        assert found[f"{part}_pointing"] == found[f"{part}_miou"] == 0
    assert "NaN" not in found["attributions"]


def test_a_class_that_nothing_speaks_for_has_an_empty_map(
    explained: Quick, with_masks: Dataset, teacher: Teacher
) -> None:
    network = fresh(with_masks, 1)
    with torch.no_grad():
        network.classifier.weight.copy_(-network.classifier.weight.abs())
    found = filled_in(explained(explainers="grad_cam"), with_masks, teacher, network)
    one = json.loads(found["attributions"])["test"]["explainers"]["grad_cam"]
    assert found["test_empty_maps"] == one["maps"] > 0
    assert (found["test_localisation"], found["test_pointing"]) == (0.5, 0.0)
    assert found["test_preservation"] == 0


def test_what_has_learned_nothing_preserves_nothing(
    explained: Quick, digits: Dataset, teacher: Teacher
) -> None:
    config = explained(explainers="gradients+smooth_grad", **{"smooth_grad.samples": 4})
    found = filled_in(config, digits, teacher, fresh(digits, explanations.SEED))
    assert found["val_preservation"] == 0
    said = json.loads(found["attributions"])["val"]["explainers"]["smooth_grad"]["preservation"]
    assert said["cosine"]["mean"] > 0.4, "without a correction it would look well preserved"
    assert filled_in(config, digits, teacher, fresh(digits, 5))["val_preservation"] < 0.1


def test_the_teacher_is_asked_once_for_all_trials(
    explained: Quick, digits: Dataset, teacher: Teacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked_of.cache_clear()
    explaining, seen = explanations.explain, []

    def watched(network: Network, *args: Any, **settings: Any) -> Any:
        seen.append(network)
        return explaining(network, *args, **settings)

    monkeypatch.setattr(explanations, "explain", watched)
    config, student = explained(explainers="grad_cam"), fresh(digits, 2)
    first = filled_in(config, digits, teacher, student)
    assert len(seen) == 2 * 3, "student, teacher and an untrained one; of both parts"
    assert filled_in(config.replace(seed=3), digits, teacher, student) == first
    assert seen[6:] == [student] * 2


def by_hand(network: Network, pixels: torch.Tensor, classes: torch.Tensor, dark: Any) -> Any:
    """Integrated gradients from a dark image: the sum over channels, by the middles of 20 parts."""
    network.eval()
    start = torch.tensor(dark, dtype=torch.float32).view(1, -1, 1, 1).expand_as(pixels)
    total = torch.zeros_like(pixels)
    for part in range(20):
        point = (start + (part + 0.5) / 20 * (pixels - start)).requires_grad_()
        chosen = network(point).logits.gather(1, classes[:, None]).sum()
        total += torch.autograd.grad(chosen, point)[0] / 20
    return (total * (pixels - start)).sum(1)


def test_black_is_black_in_the_images_of_each_network(
    explained: Quick, digits: Dataset, teacher: Teacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(0 - mean) / std of the teacher's normalisation, and of the student's, which is another."""
    asked = {"explainers": "integrated_gradients", "explained_images": 20}
    asked |= {"integrated_gradients.baseline": "black", "integrated_gradients.steps": 20}
    asked["integrated_gradients.quadrature"] = "riemann_middle"
    config = explained(**asked)
    card = replace(teacher.card, mean=(0.2,), std=(0.5,))
    mine = Teacher(teacher.network, card, CPU)
    found: list[tuple[Any, ...]] = []
    maps_of = explanations.maps_of

    def kept(network: Network, name: str, how: Any, pixels: torch.Tensor, *rest: Any) -> Any:
        maps = maps_of(network, name, how, pixels, *rest)
        found.append((network, pixels[rest[0].images], rest[0].classes, maps))
        return maps

    monkeypatch.setattr(explanations, "maps_of", kept)
    student, row = fresh(digits, 2), TrialRow()
    positions = torch.arange(0, 400, 4)
    Explained(config, digits, mine, CPU).fill_in(row, student, ((0.3,), (0.4,)), positions)
    assert len(found) == 2 * 3
    for network, pixels, classes, maps in found:
        dark = -0.75 if network is student else -0.4
        assert pixels.min() == pytest.approx(dark), "a black pixel"
        expected = by_hand(network, pixels, classes, [dark])
        assert (maps - expected).norm() < 1e-3 * expected.norm()
        other = by_hand(network, pixels, classes, [0.0])
        assert (maps - other).norm() > 0.2 * other.norm()


def test_an_explainer_that_fails_costs_its_numbers_alone(
    explained: Quick, digits: Dataset, teacher: Teacher
) -> None:
    config = explained(**{"grad_cam.layer": "module:block3.0.conv1"})  # of a WRN
    found = filled_in(config, digits, teacher, fresh(digits, 0, "wrn_10_0.5"))
    said = json.loads(found["attributions"])["val"]["explainers"]
    assert said["grad_cam"]["error"].startswith("teacher ")
    assert said["gradients"]["preservation"]["pairs"] > 30
    assert "val_preservation" not in found, "a mean over the others would be another number"
    assert "val_empty_maps" not in found
    assert "val_agreement" in found


def test_images_are_chosen_by_class_and_for_ever(digits: Dataset) -> None:
    chosen = choose(digits.train, torch.arange(50, 1000), 100, digits.task)
    assert torch.equal(chosen, choose(digits.train, torch.arange(50, 1000), 100, digits.task))
    assert torch.bincount(digits.train.labels[chosen]).min() >= 8
    assert 95 <= len(chosen) <= 105
    assert chosen.min() >= 50
    few = torch.arange(7)
    assert torch.equal(choose(digits.train, few, 100, digits.task), few)


def test_only_images_with_masks_are_chosen_where_there_are_any(digits: Dataset) -> None:
    some = masked(digits.train, every=3)
    assert not (choose(some, torch.arange(1000), 50, digits.task) % 3).any()
    without = torch.tensor([1, 2, 4])
    assert torch.equal(choose(some, without, 50, digits.task), without)


def test_images_of_many_classes_are_explained_for_all_of_theirs(
    with_masks: Dataset, explained: Quick
) -> None:
    train = with_masks.train
    labels = torch.nn.functional.one_hot(train.labels, 10).to(torch.uint8)
    labels[:, 7] = 255  # counts neither way
    labels[:, 3] = 1
    many = replace(with_masks, task="multi-label", train=replace(train, labels=labels))
    config = explained(explainers="grad_cam", teacher=None)
    explainers = tuple(config.explainer_configs.items())
    pairs = asked_of(many, "val", (*range(40),), 40, explainers, None, "cpu").pairs
    own = train.labels[:40]
    for image, class_, compared, located in zip(
        pairs.images.tolist(), pairs.classes.tolist(), pairs.compared, pairs.located, strict=True
    ):
        assert located == (class_ == own[image])
        assert compared == (class_ == 3 or (class_ == own[image] and class_ != 7))
    assert len(pairs.images) == 40 + int((own != 3).sum())


def test_what_networks_say_and_both_say() -> None:
    one = torch.tensor([[2.0, 1.0, -1.0], [-3.0, -1.0, -2.0]])
    other = torch.tensor([[3.0, -1.0, 1.0], [-2.0, -1.0, -3.0]])
    assert says(one, False).tolist() == [[True, False, False], [False, True, False]]
    assert agreement(one, other, False) == 1.0
    assert agreement(one, -other, False) == 0.0
    assert says(one, True).tolist() == [[True, True, False], [False] * 3]
    assert agreement(one, other, True) == pytest.approx(1 / 3)
    assert agreement(one, one, True) == 1.0
    assert agreement(one, one - 9, True) == 0.0, "who says nothing agrees with nobody"
    assert agreement(one - 9, one - 9, True) is None
