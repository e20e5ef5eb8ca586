"""The loops that `engine.py` compares, each built and run in a process of its own."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

WARM_STEPS = 3
LOADERS = 8
"""Loader processes of the baseline on a GPU."""


@dataclass(frozen=True)
class Contestant:
    """One way to train one student.

    Attributes:
        loop: ``baseline`` or ``ours``; or ``forward``: the teacher's forward passes alone.
        teacher, student, method: what is trained.
        precision: of ours.
        table: of ours: ``off``; ``full``: every answer is there; ``filling``: none is.
        processes: how many run at the same time, each with its share of the cores.
        malloc: whether the C library keeps freed pages, as in kdsweep's workers.
        channels_last, compiled, images: of ours, as in a config.
        batch: images per step.
    """

    loop: str
    teacher: str
    student: str
    method: str
    precision: str = "fp32"
    table: str = "off"
    processes: int = 1
    malloc: bool = True
    channels_last: bool = True
    compiled: bool = False
    images: str = "auto"
    batch: int = 64


def compete(contestant: Contestant, threads: int, cache: str, pipe: Connection) -> None:
    """Builds a loop, then trains as many steps as it is asked for, again and again."""
    os.environ["KDSWEEP_CACHE"] = cache
    import torch

    torch.set_num_threads(threads)
    usual = contestant.loop == "baseline"
    prepare = _baseline(contestant, threads) if usual else _ours(contestant)
    prepare(WARM_STEPS)()
    pipe.send(None)
    while (count := pipe.recv()) is not None:
        train = prepare(count)
        pipe.send(None)
        pipe.recv()  # the others are prepared, too
        pipe.send(train())


Prepare = Callable[[int], Callable[[], tuple[int, float]]]


def _baseline(contestant: Contestant, workers: int) -> Prepare:
    import torch
    from baseline import Baseline

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    loop = Baseline(
        images(),
        contestant.student,
        contestant.teacher,
        contestant.method,
        contestant.batch,
        workers if device.type == "cpu" else LOADERS,
        device,
    )
    return lambda count: lambda: loop.steps(count)


def _ours(contestant: Contestant) -> Prepare:
    import torch

    from trainables.compression.measure import count_macs, count_params
    from trainables.config import TrialConfig
    from trainables.models.registry import create_model
    from trainables.models.weights import Card
    from trainables.teachers.teacher import Teacher
    from trainables.training import Training

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dataset = images()
    torch.manual_seed(0)
    network = create_model(contestant.teacher, dataset.num_classes, dataset.image_shape)
    card = Card(
        name=contestant.teacher,
        model=contestant.teacher,
        dataset=dataset.name,
        data_fingerprint=dataset.fingerprint,
        classes=dataset.num_classes,
        image_shape=dataset.image_shape,
        mean=dataset.mean,
        std=dataset.std,
        test_acc=0.1,
        params=count_params(network),
        macs=count_macs(network, dataset.image_shape),
        origin="benchmark",
        # Contestants that fill a table must not find what another one filled.
        fingerprint=f"{contestant.teacher}-{contestant.table}-{os.getpid()}",
    )
    config = TrialConfig(
        dataset="cifar10",
        teacher=contestant.teacher,
        student=contestant.student,
        method=contestant.method,
        precision=contestant.precision,
        teacher_cache="off" if contestant.table == "off" else "float16",
        batch_size=contestant.batch,
        channels_last=contestant.channels_last,
        compile=contestant.compiled,
        images=contestant.images,
        epochs=10_000,
    )
    training = Training(config, dataset, contestant.student, Teacher(network, card, device), device)
    training.learner.train()
    stream, lesson = training.stream, training.learner.lessons.get("teacher")

    def prepare(count: int) -> Callable[[], tuple[int, float]]:
        batches = stream.plan(training.epoch)[:count]
        if contestant.table == "full":  # as the first trial of the sweep left it
            for feed in stream(training.epoch, batches):
                lesson(feed)
            stream.flush()

        def train() -> tuple[int, float]:
            started = time.perf_counter()
            for feed in stream(training.epoch, batches):
                if contestant.loop == "forward":
                    lesson(feed)
                else:
                    training.learner.step(feed, float(training.epoch))
            stream.flush()
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds = time.perf_counter() - started
            training.epoch += 1  # other views, other order
            return count * config.batch_size, seconds

        return train

    return prepare


def images() -> Any:
    """CIFAR-10 where it is, random images of its shape elsewhere: the pixels cost the same."""
    from trainables.data.sources import load_dataset
    from trainables.errors import UserError

    try:
        return load_dataset("cifar10", os.environ.get("KDSWEEP_DATA"))
    except UserError:
        import torch

        from trainables.data.dataset import Content, Images

        draw = torch.Generator().manual_seed(0)

        def random(count: int) -> Images:
            pixels = torch.randint(0, 256, (count, 3, 32, 32), generator=draw, dtype=torch.uint8)
            return Images(pixels, torch.randint(0, 10, (count,), generator=draw))

        classes = tuple(str(number) for number in range(10))
        content = Content.measure(classes, random(50_000), random(1_000))
        return content.dataset("random", crop_padding=4, flip=True)
