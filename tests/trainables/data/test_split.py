"""Stratified splits and epoch orders: pure functions of their seed, and of nothing else."""

import hashlib

import numpy as np
import pytest
import torch
from torch import Tensor

from trainables.data.batches import epoch_order, evaluation_batches, train_batches
from trainables.data.split import (
    enough_for_each,
    held_out,
    stratified_split,
    stratified_subset,
)


def labels_with(*counts: int) -> Tensor:
    labels = np.repeat(np.arange(len(counts)), counts)
    return torch.from_numpy(np.random.RandomState(0).permutation(labels))


def digest(indices: Tensor) -> str:
    return hashlib.sha256(indices.numpy().astype("<i8").tobytes()).hexdigest()[:16]


def test_split_is_disjoint_complete_and_stratified() -> None:
    labels = labels_with(100, 55, 7, 1)
    rest, held_out = stratified_split(labels, 0.1, seed=0)
    assert torch.equal(torch.cat([rest, held_out]).sort().values, torch.arange(163))
    assert torch.equal(rest, rest.sort().values)
    assert torch.equal(held_out, held_out.sort().values)
    # 5.5 rounds up, 0.7 up, 0.1 down.
    assert torch.bincount(labels[held_out], minlength=4).tolist() == [10, 6, 1, 0]


def test_split_follows_the_seed() -> None:
    labels = labels_with(500, 500)
    first = stratified_split(labels, 0.2, seed=1)[1]
    assert torch.equal(first, stratified_split(labels, 0.2, seed=1)[1])
    other = stratified_split(labels, 0.2, seed=2)[1]
    # 200 of 1000 twice: 40 in common by chance, standard deviation 5.1.
    assert abs(len(np.intersect1d(first, other)) - 40) < 26


def test_split_is_the_same_on_every_platform() -> None:
    labels = torch.arange(1000) % 10
    rest, held_out = stratified_split(labels, 0.1, seed=42)
    assert (digest(rest), digest(held_out)) == ("b179adfe99195cc8", "a8e3b2e127ea1a93")


def test_fraction_zero_holds_out_nothing() -> None:
    rest, held_out = stratified_split(labels_with(5, 5), 0, seed=0)
    assert torch.equal(rest, torch.arange(10))
    assert len(held_out) == 0
    assert held_out.dtype == torch.int64


@pytest.mark.parametrize("fraction", [-0.1, 1, 1.5, float("nan")])
def test_impossible_fractions_are_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match="fraction"):
        stratified_split(labels_with(5), fraction, seed=0)


@pytest.mark.parametrize("fraction", [-0.1, 0, 1.5, float("nan")])
def test_impossible_subsets_are_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match="fraction"):
        stratified_subset(labels_with(5), torch.arange(5), fraction, seed=0)


def test_subset_stays_within_the_indices_and_keeps_every_class() -> None:
    labels = labels_with(200, 100, 3)
    rest, _ = stratified_split(labels, 0.1, seed=0)
    subset = stratified_subset(labels, rest.flip(0), 0.1, seed=0)
    assert set(subset.tolist()) <= set(rest.tolist())
    assert torch.equal(subset, subset.sort().values)
    assert torch.bincount(labels[subset]).tolist() == [18, 9, 1]


def test_subsets_of_one_seed_are_nested() -> None:
    labels = labels_with(200, 100, 30)
    everything = torch.arange(330)
    subsets = [set(stratified_subset(labels, everything, f, 3).tolist()) for f in (0.05, 0.3, 1)]
    assert subsets[0] < subsets[1] < subsets[2]
    assert len(subsets[2]) == 330


def test_subset_is_independent_of_the_split_of_the_same_seed() -> None:
    labels = torch.zeros(10_000, dtype=torch.int64)
    _, held_out = stratified_split(labels, 0.5, seed=5)
    subset = stratified_subset(labels, torch.arange(10_000), 0.5, seed=5)
    # 5000 of 10,000 twice: 2500 in common by chance, standard deviation 25.
    assert abs(len(np.intersect1d(held_out, subset)) - 2500) < 125


def test_epoch_order_is_a_permutation_that_seed_and_epoch_decide() -> None:
    indices = torch.arange(0, 2000, 2)
    order = epoch_order(1, 0, indices)
    assert torch.equal(order.sort().values, indices)
    assert torch.equal(order, epoch_order(1, 0, indices.flip(0)))
    for other in (epoch_order(1, 1, indices), epoch_order(2, 0, indices), indices):
        assert int((order == other).sum()) < 10  # one fixed point expected by chance


def test_epoch_order_of_a_part_is_the_order_of_the_whole() -> None:
    order = epoch_order(1, 4, torch.arange(1000))
    part = epoch_order(1, 4, torch.arange(500))
    assert torch.equal(order[order < 500], part)


def test_every_image_comes_equally_early() -> None:
    positions = torch.stack([epoch_order(0, e, torch.arange(20)).argsort() for e in range(2000)])
    # Mean of 2000 uniform positions 0..19: 9.5, standard deviation 0.13.
    assert float((positions.double().mean(0) - 9.5).abs().max()) < 5 * 0.13


def test_epoch_order_is_the_same_on_every_platform() -> None:
    assert digest(epoch_order(3, 2, torch.arange(1000))) == "44dcefd133f79f88"


def test_training_batches_have_one_shape() -> None:
    order = torch.arange(107)
    batches = train_batches(order, 25)
    assert [len(batch) for batch in batches] == [25, 25, 25, 25]
    assert torch.equal(torch.cat(batches), order[:100])
    assert [len(batch) for batch in train_batches(order[:100], 25)] == [25, 25, 25, 25]
    assert [len(batch) for batch in train_batches(order[:20], 25)] == [20]


def test_evaluation_batches_keep_everything() -> None:
    batches = evaluation_batches(torch.arange(107), 25)
    assert [len(batch) for batch in batches] == [25, 25, 25, 25, 7]
    assert torch.equal(torch.cat(batches), torch.arange(107))


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.17, 0.5, 0.9])
def test_held_out_counts_are_those_of_the_split(fraction: float) -> None:
    counts = [1, 3, 5, 50, 0]
    labels = torch.repeat_interleave(torch.arange(5), torch.tensor(counts))
    _, out = stratified_split(labels, fraction, seed=3)
    assert held_out(counts, fraction) == torch.bincount(labels[out], minlength=5).tolist()


def test_the_least_fraction_that_holds_out_one_of_every_class() -> None:
    assert enough_for_each([3, 9]) == 0.17
    assert enough_for_each([5, 1, 0]) == 0.1
    assert enough_for_each([1, 1]) is None
    for least in range(2, 3000):
        fraction = enough_for_each([least, 5000])
        assert fraction is not None
        assert held_out([least], fraction) == [1]
        assert held_out([least], fraction - 10 ** (np.floor(np.log10(fraction)) - 1)) == [0]
