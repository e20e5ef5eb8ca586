"""How fast trials train, as ratios to the usual loop (`baseline.py`) in one run on one machine.

    python tests/benchmarks/engine.py [--rows kd_wrn live] [--rounds 3] [--json FILE]

Every contestant is a process of its own that has built its networks and taken its first steps.
They take turns, one round after the other, so that what else the machine does meets all alike.
A row's ratio is that of the medians over the rounds. On a CPU, ours is as a sweep runs it: one
trial per core with one thread each, together; the baseline has all cores, and as many loader
processes. Teachers have random weights, which cost the same.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

WARM_STEPS = 3


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
    """

    loop: str
    teacher: str
    student: str
    method: str
    precision: str = "fp32"
    table: str = "off"
    processes: int = 1
    malloc: bool = True


@dataclass(frozen=True)
class Row:
    """A promise of the engine: ``fast`` is at least ``reach`` times as fast as ``slow``.

    Attributes:
        key: its name on the command line.
        what: in words.
        slow, fast: the contestants.
        reach: the least ratio of their images per second.
        steps: of a baseline's round; ours takes as many.
    """

    key: str
    what: str
    slow: Contestant
    fast: Contestant
    reach: float
    steps: int = 12


def rows(cores: int) -> list[Row]:
    """The rows that a CPU can run."""

    def base(teacher: str, student: str, method: str) -> Contestant:
        return Contestant("baseline", teacher, student, method, malloc=False)

    def ours(teacher: str, student: str, method: str, **more: Any) -> Contestant:
        return Contestant("ours", teacher, student, method, **{"processes": cores, **more})

    wrn, mobile = ("wrn_40_2", "wrn_16_2"), ("wrn_40_4", "mobilenetv2_s2")
    found = [
        Row(
            "kd_wrn",
            "KD WRN-40-2 -> WRN-16-2, second trial",
            base(*wrn, "kd"),
            ours(*wrn, "kd", precision="auto", table="full"),
            3.7,
        ),
        Row(
            "kd_wrn_fp32",
            "the same in fp32",
            base(*wrn, "kd"),
            ours(*wrn, "kd", table="full"),
            2.1,
        ),
        Row(
            "kd_mobile",
            "KD WRN-40-4 -> MobileNetV2, second trial",
            base(*mobile, "kd"),
            ours(*mobile, "kd", precision="auto", table="full"),
            6.0,
            steps=8,
        ),
    ]
    for method in ("at", "srd", "fitnet"):
        found.append(
            Row(
                f"live_{method}",
                f"{method} with the live teacher, WRN-40-2 -> WRN-16-2",
                base(*wrn, method),
                ours(*wrn, method, precision="auto"),
                2.0,
            )
        )
    found += [
        Row(
            "full_table",
            "KD with a full table against the plain student, WRN-40-2 -> WRN-16-2",
            ours(*wrn, "student", precision="auto"),
            ours(*wrn, "kd", precision="auto", table="full"),
            1 / 1.05,
            steps=24,
        ),
        Row(
            "filling",
            "KD that fills the table against the live teacher, WRN-40-2 -> WRN-16-2",
            ours(*wrn, "kd", precision="auto"),
            ours(*wrn, "kd", precision="auto", table="filling"),
            1 / 1.03,
            steps=24,
        ),
        Row(
            "building",
            "building the table against the teacher's forward passes, WRN-40-2",
            replace(ours(*wrn, "kd", precision="auto"), loop="forward"),
            replace(ours(*wrn, "kd", precision="auto", table="filling"), loop="forward"),
            0.95,
            steps=36,
        ),
    ]
    return found


# In a contestant's process


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
        images(), contestant.student, contestant.teacher, contestant.method, 64, workers, device
    )
    return lambda count: lambda: loop.steps(count)


def _ours(contestant: Contestant) -> Prepare:
    import torch

    from trainables.compression.measure import count_macs, count_params
    from trainables.config import TrialConfig
    from trainables.data.batches import epoch_order, train_batches
    from trainables.engine.precision import computing
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
        epochs=10_000,
    )
    training = Training(config, dataset, contestant.student, Teacher(network, card, device), device)
    training.student.train()
    training.method.train()

    def ask(indices: torch.Tensor) -> None:
        views = training.views.images(training.images, training.epoch, indices)
        if training.answers:
            view_ids = training.views.view_ids(training.epoch, indices)
            training.answers(views, indices, view_ids)
        elif training.teacher:
            with computing(training.teacher_precision, device):
                training.teacher(views)

    def prepare(count: int) -> Callable[[], tuple[int, float]]:
        order = epoch_order(config.seed, training.epoch, training.train_indices)
        batches = train_batches(order, config.batch_size)[:count]
        if contestant.table == "full":  # as the first trial of the sweep left it
            for indices in batches:
                ask(indices)

        def train() -> tuple[int, float]:
            started = time.perf_counter()
            for indices in batches:
                if contestant.loop == "forward":
                    ask(indices)
                else:
                    training.step(indices, float(training.epoch))
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


# In the driver


class Team:
    """The processes of a contestant."""

    def __init__(self, contestant: Contestant, cores: int, cache: str) -> None:
        self.contestant = contestant
        self.pipes = []
        kept = dict(os.environ)
        if contestant.malloc:
            from orchestrator.cluster import WORKER_ENVIRONMENT

            os.environ.update(WORKER_ENVIRONMENT)
        threads = max(1, cores // contestant.processes)
        os.environ["OMP_NUM_THREADS"] = str(threads)
        for _ in range(contestant.processes):
            pipe, other = multiprocessing.Pipe()
            process = multiprocessing.Process(
                target=compete, args=(contestant, threads, cache, other)
            )
            process.start()  # with this environment
            self.pipes.append(pipe)
        os.environ.clear()
        os.environ.update(kept)
        for pipe in self.pipes:
            pipe.recv()

    def images_per_second(self, steps: int) -> float:
        """Of all processes together, in one round."""
        for pipe in self.pipes:
            pipe.send(steps)
        for pipe in self.pipes:
            pipe.recv()
        for pipe in self.pipes:
            pipe.send(None)
        answers = [pipe.recv() for pipe in self.pipes]
        return sum(count / seconds for count, seconds in answers)

    def stop(self) -> None:
        for pipe in self.pipes:
            pipe.send(None)


def measured(row: Row, rounds: int, cores: int, cache: str) -> dict[str, Any]:
    """The row with its medians and its ratio."""
    teams = [Team(one, cores, cache) for one in (row.slow, row.fast)]
    found: list[list[float]] = [[], []]
    for _ in range(rounds):
        for team, speeds in zip(teams, found, strict=True):
            speeds.append(team.images_per_second(row.steps))
    for team in teams:
        team.stop()
    slow, fast = (statistics.median(speeds) for speeds in found)
    return {
        "row": row.key,
        "what": row.what,
        "images_per_second": {"slow": slow, "fast": fast},
        "rounds": {"slow": found[0], "fast": found[1]},
        "ratio": fast / slow,
        "reach": row.reach,
        "reached": fast / slow >= row.reach,
    }


def main() -> None:
    from trainables.version import versions

    cores = len(os.sched_getaffinity(0))
    known = rows(cores)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--rows", nargs="*", choices=[row.key for row in known])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", metavar="FILE", help="where to write the figures")
    options = parser.parse_args()
    multiprocessing.set_start_method("spawn")
    results = []
    with tempfile.TemporaryDirectory() as cache:
        for row in known:
            if options.rows and row.key not in options.rows:
                continue
            result = measured(row, options.rounds, cores, cache)
            results.append(result)
            speeds = result["images_per_second"]
            print(
                f"{row.what}: {speeds['fast']:.0f} against {speeds['slow']:.0f} images/s, "
                f"ratio {result['ratio']:.2f}, to reach {row.reach:.2f}"
                f"{'' if result['reached'] else '  NOT REACHED'}",
                flush=True,
            )
    if options.json:
        import platform

        facts = {
            "command": "python tests/benchmarks/engine.py",
            "results": results,
            "machine": {
                "platform": platform.platform(),
                "cores": cores,
                "load": os.getloadavg()[0],
            },
            "versions": versions(),
        }
        Path(options.json).write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()
