"""What `sparsify` costs in a training step, beside a step of the dense student in the same process.

python tests/benchmarks/masks.py [--student resnet20] [--batch 64 128] [--rounds 40] [--reach 1.05]

The dense student and the masked one take turns, a few steps each, so that what else the machine
does meets both alike; which of them is first changes from round to round. The ratio is that of the
medians over the rounds. Exit code 1 where one is above --reach.
"""

import argparse
import statistics
import sys
import time

import torch

from trainables.compression.sparsify import Sparsify
from trainables.config import TrialConfig
from trainables.data.dataset import Content, Images
from trainables.models.masks import masks
from trainables.training import Training
from trainables.training.steps import take_steps

CPU = torch.device("cpu")
STEPS = 3


def dataset():
    """Random images of CIFAR's shape."""
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (1000, 3, 32, 32), dtype=torch.uint8, generator=draw)
    images, half = Images(pixels, torch.arange(1000) % 10), (0.5,) * 3
    content = Content(tuple(map(str, range(10))), images, images, "", "", half, half)
    return content.dataset("random", crop_padding=4, flip=True)


def ready(student: str, batch: int, steps: tuple) -> Training:
    """A training whose steps have come, and that has warmed up."""
    values = {"student": student, "batch_size": batch, "precision": "fp32", "lr": 1e-3}
    training = Training(TrialConfig.from_mapping(values), dataset(), student, None, CPU, steps)
    take_steps(training.learner, 0)
    seconds(training)
    return training


def seconds(training: Training) -> float:
    """Of a step, mean of some."""
    training.learner.train()
    batch = training.config.batch_size
    feeds = [*training.stream(0, [torch.arange(batch)] * STEPS)]
    started = time.perf_counter()
    for feed in feeds:
        training.learner.step(feed, 0.0)
    return (time.perf_counter() - started) / STEPS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--student", default="resnet20")
    parser.add_argument("--batch", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--reach", type=float, default=1.05)
    options = parser.parse_args()
    torch.set_num_threads(1)
    missed = False
    for batch in options.batch:
        step = Sparsify(Sparsify.Config(amount=0.9, begin=0.0, end=0.0))
        dense, masked = ready(options.student, batch, ()), ready(options.student, batch, (step,))
        assert masks(masked.student)
        assert not masks(dense.student)
        found: dict[Training, list[float]] = {dense: [], masked: []}
        for number in range(options.rounds):
            for one in (dense, masked) if number % 2 else (masked, dense):
                found[one].append(seconds(one))
        plain, ours = (statistics.median(found[one]) for one in (dense, masked))
        missed |= ours / plain > options.reach
        print(
            f"{options.student}, batch {batch}: dense {1000 * plain:.1f} ms, masked "
            f"{1000 * ours:.1f} ms a step, ratio {ours / plain:.3f} (at most {options.reach:g})",
            flush=True,
        )
    sys.exit(missed)


if __name__ == "__main__":
    main()
