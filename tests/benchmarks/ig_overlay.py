"""What the overlay of `ig` costs in a step, and KD with it beside the usual loop.

python tests/benchmarks/ig_overlay.py [--rounds 12] [--json FILE]

The contestants take turns in one process, a few steps each, in processor time, so that what else
the machine does meets them alike; which is first changes from round to round. Ratios are those of
the medians. All have the workers' setting of the allocator, one thread, the same images, batch and
student.

- `ig` against the plain student: every step lays maps over a tenth of the images.
- MobileNetV2 without its last five features under KD and `ig`, second trial of a sweep (maps and
  the teacher's answers are there), against a loop as repositories write it: a DataLoader that loads
  image and map by index, crops and flips both alike, lays one over the other image by image, and
  waits for loss and accuracy in every step; the teacher is run for the view, as it must be where
  view and answer are to belong together. That loop teaches what ours does.
- `by index` is the loop that arXiv 2506.14440 releases: maps are not cropped, and the teacher's
  logits are loaded by index as well, so that both are of another view. It does less than ours.

Networks have random weights and maps are drawn: they cost the same. Exit code 1 where a ratio is
not reached.
"""

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from conditions import conditions
from contestants import images
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torchvision import transforms
from torchvision.transforms import functional

from orchestrator.sweeps.cluster import WORKER_ENVIRONMENT
from trainables.compression.measure import count_macs, count_params
from trainables.config import TrialConfig
from trainables.data.dataset import Dataset
from trainables.models.registry import create_model
from trainables.models.weights import Card
from trainables.teachers.maps import StoredMaps
from trainables.teachers.teacher import Teacher
from trainables.training import Training

CPU = torch.device("cpu")
TEACHER, STUDENT, BATCH, STEPS = "mobilenetv2", "mobilenetv2-minus5", 64, 3
OVERLAY_REACH, LOOP_REACH = 1.05, 1.8
Steps = Callable[[], None]


class ImagesWithMaps(TorchDataset[tuple[Tensor, int, Tensor]]):
    """Image, label and logits by index, under the map of that index: one at a time."""

    def __init__(
        self, dataset: Dataset, maps: np.ndarray, logits: np.ndarray, *, aligned: bool
    ) -> None:
        pixels = dataset.train.images.numpy()
        self.images = np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))
        self.labels, self.maps, self.logits = dataset.train.labels.tolist(), maps, logits
        self.aligned, self.crop = aligned, transforms.RandomCrop(pixels.shape[-1])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int, Tensor]:
        padded = functional.pad(Image.fromarray(self.images[index]), [4])
        there = self.crop.get_params(padded, self.crop.size)
        flip = torch.rand(1).item() < 0.5
        image = functional.crop(padded, *there)
        image = functional.to_tensor(functional.hflip(image) if flip else image)
        shown = torch.from_numpy(self.maps[index])
        if self.aligned:
            shown = functional.crop(functional.pad(shown, [4]), *there)
            shown = functional.hflip(shown) if flip else shown
        shown = shown ** math.exp(torch.rand(1).item() * math.log(2))
        shown = (shown - shown.min()) / (shown.max() - shown.min())
        if torch.rand(1).item() < 0.1:
            image = 0.5 * image + 0.5 * shown.repeat(3, 1, 1)
        return image, self.labels[index], torch.from_numpy(self.logits[index])


def usual_loop(dataset: Dataset, maps: Tensor, *, live: bool) -> Steps:
    """Some steps of KD with overlays as repositories write them.

    Args:
        dataset, maps: what is trained on; maps are float16 ``[N, H, W]``.
        live: whether maps and answers are those of the view.
    """
    torch.manual_seed(0)
    student = create_model(STUDENT, 10, dataset.image_shape).train()
    teacher = create_model(TEACHER, 10, dataset.image_shape).eval()
    logits = np.zeros((len(dataset.train), 10), np.float32)
    data = ImagesWithMaps(dataset, maps.float().numpy(), logits, aligned=live)
    loader = DataLoader(data, BATCH, shuffle=True)
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-3)
    batches = iter(loader)

    def steps() -> None:
        for _ in range(STEPS):
            pixels, labels, known = next(batches)
            if live:
                with torch.no_grad():
                    known = teacher(pixels).logits
            optimizer.zero_grad()
            found = student(pixels).logits
            soft = F.kl_div(
                F.log_softmax(found / 2.5, 1), F.softmax(known / 2.5, 1), reduction="batchmean"
            )
            hard = F.cross_entropy(found, labels)
            loss = 0.01 * 2.5**2 * soft + 0.99 * hard
            loss.backward()
            optimizer.step()
            soft.item(), hard.item(), (found.argmax(1) == labels).sum().item()

    return steps


def ours(dataset: Dataset, maps: StoredMaps, method: str, student: str, precision: str) -> Steps:
    """Some steps of a trial; those of KD find the teacher's answers."""
    torch.manual_seed(0)
    network = create_model(TEACHER, 10, dataset.image_shape)
    card = Card(
        name=TEACHER,
        model=TEACHER,
        dataset=dataset.name,
        data_fingerprint=dataset.fingerprint,
        classes=10,
        image_shape=dataset.image_shape,
        mean=dataset.mean,
        std=dataset.std,
        test_acc=0.1,
        params=count_params(network),
        macs=count_macs(network, dataset.image_shape),
        origin="benchmark",
        fingerprint="benchmark",
    )
    values = {"method": method, "student": student, "teacher": TEACHER, "batch_size": BATCH}
    values |= {"optimizer": "adam", "lr": 1e-3, "epochs": 10_000, "precision": precision}
    config = TrialConfig.from_mapping({**values, "dataset": "cifar10", "teacher_precision": "fp32"})
    teacher = Teacher(network, card, CPU)
    training = Training(config, dataset, student, teacher, CPU, maps=maps)
    stream, learner = training.stream, training.learner
    learner.train()
    batches = stream.plan(0)[:STEPS]
    for lesson in learner.lessons.values():  # as the first trial of the sweep left it
        for feed in stream(0, batches):
            lesson(feed)
        stream.flush()

    def steps() -> None:
        for feed in stream(0, batches):
            learner.step(feed, 0.0)

    return steps


def compare(contestants: dict[str, Steps], rounds: int) -> dict[str, float]:
    """Processor seconds of a step by contestant: medians over rounds."""
    found: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds + 1):
        names = [*contestants][:: 1 if number % 2 else -1]
        for name in names:
            started = time.process_time()
            contestants[name]()
            found[name].append((time.process_time() - started) / STEPS)
    return {name: statistics.median(seconds[1:]) for name, seconds in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--student", default="resnet20", help="of the overlay's row")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    facts = conditions(CPU)
    with tempfile.TemporaryDirectory() as cache:
        results = rows(options.student, options.rounds, cache)
    for name, (ratio, reach, reached, seconds) in results.items():
        told = ", ".join(f"{key} {1000 * value:.1f} ms" for key, value in seconds.items())
        print(f"{name}: {ratio:.3f} (goal {reach:g}{'' if reached else ', MISSED'}); {told} a step")
    if options.json:
        kept = facts | {
            "rows": {
                name: {"ratio": ratio, "goal": reach, "seconds_per_step": seconds}
                for name, (ratio, reach, _, seconds) in results.items()
            }
        }
        options.json.write_text(json.dumps(kept, indent=1) + "\n")
    sys.exit(not all(reached for _, _, reached, _ in results.values()))


def rows(
    student: str, rounds: int, cache: str
) -> dict[str, tuple[float, float, bool, dict[str, float]]]:
    """By name: ratio, goal, whether it is reached, processor seconds of a step."""
    os.environ["KDSWEEP_CACHE"] = cache
    dataset = images()
    draw = torch.Generator().manual_seed(0)
    maps = StoredMaps(torch.rand(len(dataset.train), 32, 32, generator=draw).half(), {})
    first = compare(
        {name: ours(dataset, maps, name, student, "fp32") for name in ("student", "ig")}, rounds
    )
    overlay = first["ig"] / first["student"]
    second = compare(
        {
            "usual loop": usual_loop(dataset, maps.values, live=True),
            "by index": usual_loop(dataset, maps.values, live=False),
            "kd+ig": ours(dataset, maps, "kd+ig", STUDENT, "auto"),
        },
        rounds,
    )
    loop = second["usual loop"] / second["kd+ig"]
    by_index = second["by index"] / second["kd+ig"]
    return {
        f"ig overlay over plain, {student}": (
            overlay,
            OVERLAY_REACH,
            overlay <= OVERLAY_REACH,
            first,
        ),
        "usual loop over kd+ig, second trial": (loop, LOOP_REACH, loop >= LOOP_REACH, second),
        "without the teacher, by index": (by_index, 1.0, by_index >= 1, second),
    }


if __name__ == "__main__":
    if os.environ.keys() >= WORKER_ENVIRONMENT.keys():
        main()
    # The C library reads them when a process starts.
    os.execve(sys.executable, [sys.executable, *sys.argv], WORKER_ENVIRONMENT | os.environ)
