"""The views of an image: pure, uniform, and equal to a loop that is plain to read."""

import numpy as np
import pytest
import torch

from trainables.data.views import Offsets, ViewPlan, crop_flip, to_float

PLAN = ViewPlan(padding=4, flip=True, seed=7)
MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15


def random_images(*shape: int) -> torch.Tensor:
    return torch.randint(
        0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )


def reference_views(images: np.ndarray, indices, offsets: Offsets, padding: int) -> np.ndarray:
    """Pad, crop, flip: one image after the other."""
    _, _, height, width = images.shape
    views = []
    for index, dy, dx, flip in zip(indices.tolist(), *(o.tolist() for o in offsets), strict=True):
        padded = np.pad(images[index], ((0, 0), (padding, padding), (padding, padding)))
        view = padded[:, dy : dy + height, dx : dx + width]
        views.append(view[:, :, ::-1] if flip else view)
    return np.stack(views)


def mix64(z: int) -> int:
    """The output function of SplitMix64 in plain integers."""
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def chi_square_in_sigmas(values: torch.Tensor, cells: int) -> float:
    counts = torch.bincount(values, minlength=cells).double()
    assert len(counts) == cells
    expected = len(values) / cells
    statistic = float(((counts - expected) ** 2 / expected).sum())
    return (statistic - (cells - 1)) / (2 * (cells - 1)) ** 0.5


@pytest.mark.parametrize(("padding", "flip"), [(4, True), (3, False), (0, True), (0, False)])
def test_batched_views_equal_the_loop(padding: int, flip: bool) -> None:
    images = random_images(50, 3, 11, 8)
    indices = torch.randperm(50, generator=torch.Generator().manual_seed(0))[:37]
    plan = ViewPlan(padding=padding, flip=flip, seed=3)
    expected = reference_views(images.numpy(), indices, plan.offsets(2, indices), padding)
    views = plan.images(images, 2, indices)
    assert views.dtype == torch.uint8
    np.testing.assert_array_equal(views.numpy(), expected)


def test_every_view_equals_the_loop() -> None:
    plan = ViewPlan(padding=2, flip=True, seed=0)
    images = random_images(1, 1, 4, 5)
    offsets = plan.from_id(torch.arange(plan.number_of_views))
    indices = torch.zeros(plan.number_of_views, dtype=torch.int64)
    views = crop_flip(images[indices], offsets, padding=2)
    np.testing.assert_array_equal(
        views.numpy(), reference_views(images.numpy(), indices, offsets, padding=2)
    )
    assert len(torch.unique(views.flatten(1), dim=0)) == plan.number_of_views == 50


def test_view_id_is_a_bijection() -> None:
    for plan in (PLAN, ViewPlan(padding=3, flip=False, seed=0)):
        ids = torch.arange(plan.number_of_views)
        dy, dx, flip = plan.from_id(ids)
        assert torch.equal(plan.view_id(dy, dx, flip), ids)
        assert dy.min() == dx.min() == 0
        assert dy.max() == dx.max() == 2 * plan.padding
        assert bool(flip.any()) == plan.flip
    assert PLAN.number_of_views == 162


def test_view_depends_on_seed_epoch_and_index_alone() -> None:
    images = random_images(300, 3, 8, 8)
    everything = torch.arange(300)
    together = PLAN.images(images, 5, everything)
    shuffled = torch.randperm(300, generator=torch.Generator().manual_seed(4))
    for batch in (*shuffled.split(64), torch.tensor([17]), torch.tensor([9, 9, 9])):
        assert torch.equal(PLAN.images(images, 5, batch), together[batch])
    assert torch.equal(PLAN.images(images, 5, everything), together)


def test_seeds_and_epochs_give_independent_views() -> None:
    indices = torch.arange(50_000)
    base = PLAN.view_ids(0, indices)
    other_seed = ViewPlan(padding=4, flip=True, seed=8).view_ids(0, indices)
    shifted = PLAN.view_ids(0, indices + 1)
    for other in (PLAN.view_ids(1, indices), PLAN.view_ids(1000, indices), other_seed, shifted):
        # Agreeing by chance: 309 of 50,000 expected, standard deviation 17.5.
        assert abs(int((base == other).sum()) - 50_000 / 162) < 5 * 17.5


@pytest.mark.parametrize("seed", [0, 1, 2**40, -3])
def test_views_are_uniform(seed: int) -> None:
    plan = ViewPlan(padding=4, flip=True, seed=seed)
    over_images = plan.view_ids(0, torch.arange(50_000))
    one = torch.tensor([123])
    over_epochs = torch.cat([plan.view_ids(epoch, one) for epoch in range(2000)])
    small = ViewPlan(padding=1, flip=False, seed=seed)
    pairs = small.view_ids(0, torch.arange(50_000)) * 9 + small.view_ids(1, torch.arange(50_000))
    assert abs(chi_square_in_sigmas(over_images, 162)) < 5
    assert abs(chi_square_in_sigmas(over_epochs, 162)) < 5
    assert abs(chi_square_in_sigmas(pairs, 81)) < 5


def test_views_are_those_of_the_published_generator() -> None:
    """Platforms and versions must agree: a table of teacher logits is indexed by these numbers."""
    # The first two numbers of SplitMix64 from seed 1234567.
    assert mix64(1234567 + GOLDEN & MASK) == 6457827717110365317
    assert mix64(1234567 + 2 * GOLDEN & MASK) == 3203168211198807973
    key = 0
    for part in (3, PLAN.seed, 11):  # purpose, seed, epoch
        key = mix64(((key + GOLDEN) & MASK) ^ part)
    indices = [0, 1, 2, 49_999, 2**40]
    expected = []
    for index in indices:
        expected.append((mix64((key + index * GOLDEN) & MASK) >> 32) * 162 >> 32)
    assert PLAN.view_ids(11, torch.tensor(indices)).tolist() == expected


def test_negative_padding_is_refused() -> None:
    with pytest.raises(ValueError, match="padding"):
        ViewPlan(padding=-1, flip=True, seed=0)


@pytest.mark.parametrize("channels_last", [True, False])
def test_to_float_normalises_each_channel(channels_last: bool) -> None:
    images = random_images(5, 3, 6, 7)
    untouched = images.clone()
    mean, std = (0.49, 0.48, 0.3), (0.25, 0.2, 1.0)
    expected = (images.double() / 255 - torch.tensor(mean).double().view(3, 1, 1)) / torch.tensor(
        std
    ).double().view(3, 1, 1)
    result = to_float(images, mean, std, channels_last=channels_last)
    assert result.dtype == torch.float32
    assert torch.equal(images, untouched)
    torch.testing.assert_close(result.double(), expected, atol=2e-6, rtol=0)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    assert result.is_contiguous(memory_format=memory_format)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_and_cpu_show_the_same_views() -> None:
    images = random_images(200, 3, 32, 32)
    indices = torch.arange(200)
    on_gpu = PLAN.images(images.cuda(), 3, indices.cuda())
    assert on_gpu.is_cuda
    assert torch.equal(on_gpu.cpu(), PLAN.images(images, 3, indices))
