"""Monte-Carlo repeats: with ``resample`` each seed has training images of its own."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from trainables.config import TrialConfig
from trainables.data.dataset import Content, Dataset, Images
from trainables.data.labels import IGNORED, class_counts
from trainables.data.split import stratified_split, stratified_subset
from trainables.experiment import config_key, decisive
from trainables.training import Training
from trainables.training.stream import Stream

CPU = torch.device("cpu")
Quick = Callable[..., TrialConfig]


def many_labels() -> Dataset:
    """Four classes, from frequent to rare, of which images have none to all; some say neither."""
    draw = torch.Generator().manual_seed(0)
    shares = torch.tensor([0.6, 0.3, 0.15, 0.06])
    labels = (torch.rand(500, 4, generator=draw) < shares).to(torch.uint8)
    labels[torch.rand(500, 4, generator=draw) < 0.05] = IGNORED
    images = torch.randint(0, 256, (500, 3, 8, 8), generator=draw, dtype=torch.uint8)
    part = Images(images, labels)
    content = Content.measure(("a", "b", "c", "d"), part, part, task="multi-label")
    return content.dataset("many", crop_padding=0, flip=False)


@pytest.fixture(params=["single-label", "multi-label"])
def data(request: pytest.FixtureRequest, digits: Dataset) -> Dataset:
    return digits if request.param == digits.task else many_labels()


@pytest.fixture
def shown(quick: Quick, data: Dataset) -> Callable[..., Stream]:
    """What a trial of some seed is shown."""

    def show(seed: int, **changes: object) -> Stream:
        values = {"resample": True, "train_fraction": 0.5, "val_fraction": 0.2} | changes
        return Stream(quick(dataset=data.name, seed=seed, **values), data, None, CPU)

    return show


def same(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one.sort().values, other.sort().values)


def test_each_seed_has_its_own_images(shown: Callable[..., Stream]) -> None:
    first, second, again = (shown(seed).train_indices for seed in (0, 1, 0))
    assert torch.equal(first, again)
    assert not same(first, second)
    # About half of a half are in both; of the same images all would be.
    both = torch.isin(first, second).double().mean().item()
    assert 0.35 < both < 0.65
    assert abs(len(first) - len(second)) <= 4


def test_otherwise_all_seeds_have_the_same(shown: Callable[..., Stream]) -> None:
    plain = [shown(seed, resample=False) for seed in (0, 1)]
    assert torch.equal(*(stream.train_indices for stream in plain))
    # Only their order is the seed's.
    orders = [torch.cat(stream.plan(0)) for stream in plain]
    assert not torch.equal(*orders)
    other = shown(0, resample=False, split_seed=5)
    assert not same(other.train_indices, plain[0].train_indices)


def test_the_validation_images_stay(shown: Callable[..., Stream]) -> None:
    """Seeds are compared on the same images, and nobody learns from them."""
    kept = shown(0, resample=False).val_indices
    assert len(kept)
    for seed in range(4):
        stream = shown(seed)
        assert torch.equal(stream.val_indices, kept)
        assert not torch.isin(stream.train_indices, kept).any()
    assert not same(shown(0, split_seed=1).val_indices, kept)


@pytest.mark.parametrize("fraction", [0.25, 0.5, 0.8])
def test_every_class_keeps_its_share(
    shown: Callable[..., Stream], data: Dataset, fraction: float
) -> None:
    labels, classes = data.train.labels, data.num_classes
    for seed in range(3):
        stream = shown(seed, train_fraction=fraction)
        rest = torch.ones(len(labels), dtype=torch.bool)
        rest[stream.val_indices] = False
        wanted = fraction * class_counts(labels[rest], classes)
        found = class_counts(labels[stream.train_indices], classes)
        assert (found - wanted).abs().max() <= (0.5 if labels.ndim == 1 else 1.5)
        assert len(stream.train_indices) == pytest.approx(fraction * int(rest.sum()), abs=5)


def test_it_is_the_subset_of_that_seed(quick: Quick, digits: Dataset) -> None:
    """By the function alone, which is frozen elsewhere."""
    config = quick(seed=7, resample=True, train_fraction=0.3, split_seed=2)
    labels = digits.train.labels
    rest, _ = stratified_split(labels, config.val_fraction, 2)
    stream = Stream(config, digits, None, CPU)
    assert torch.equal(stream.train_indices, stratified_subset(labels, rest, 0.3, 7))


def test_of_all_images_there_is_one_choice(shown: Callable[..., Stream]) -> None:
    first, second = (shown(seed, train_fraction=1.0).train_indices for seed in (0, 1))
    assert same(first, second)


def test_a_training_sees_its_own_images_alone(quick: Quick, digits: Dataset) -> None:
    trainings = [
        Training(
            quick(seed=seed, resample=True, train_fraction=0.1), digits, "wrn_10_0.5", None, CPU
        )
        for seed in (0, 1)
    ]
    seen = []
    for training in trainings:
        stream = training.stream
        indices = torch.cat([feed.indices for feed in stream(0, stream.plan(0))])
        assert torch.isin(indices, stream.train_indices).all()
        seen.append(indices)
    assert not same(*seen)


def test_students_of_one_repeat_learn_from_the_same(quick: Quick, digits: Dataset) -> None:
    """Several students may share a stream; one with another choice of images is none of them."""
    values = {"resample": True, "train_fraction": 0.1}
    training = Training(quick(seed=0, **values), digits, "wrn_10_0.5", None, CPU)
    for changes in ({"seed": 1}, {"resample": False}):
        other = quick(**{"seed": 0, **values, **changes})
        with pytest.raises(ValueError, match=f"another repeat: its {next(iter(changes))} differ"):
            training.stream.method(other, training.learner.shapes)


def test_it_is_another_experiment(quick: Quick) -> None:
    def key(**changes: object) -> str:
        config = quick(**changes)
        return config_key(
            config, student=config.student, data_fingerprint="d", teacher_fingerprint=None
        )

    assert key(resample=True) != key()
    assert key(resample=True, seed=1) != key(resample=True)
    # Rows of before it could be set do not say it.
    config = quick().to_dict()
    before = {name: value for name, value in config.items() if name != "resample"}
    assert decisive(before) == decisive(config)
    assert decisive(config | {"resample": True}) != decisive(config)
