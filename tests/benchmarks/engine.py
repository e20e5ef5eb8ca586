"""How fast trials train, as ratios to the usual loop (`baseline.py`) in one run on one machine.

    python tests/benchmarks/engine.py [--rows kd_wrn live_at] [--rounds 3] [--json FILE]

Every contestant is a process of its own that has built its networks and taken its first steps.
They take turns, one round after the other, so that what else the machine does meets all alike.
A row's ratio is that of the medians over the rounds. On a CPU, ours is as a sweep runs it: one
trial per core with one thread each, together; the baseline has all cores, and as many loader
processes. On a GPU, ours is one trial where nothing else is said; the baseline has 8 loader
processes. Teachers have random weights, which cost the same. Rows that say what one lever does by
itself have nothing to reach.
"""

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from contestants import Contestant, compete, images
from engine_rows import Row, cpu_rows, gpu_rows


class Team:
    """The processes of a contestant."""

    def __init__(self, contestant: Contestant, cores: int, cache: str) -> None:
        self.contestant = contestant
        self.pipes = []
        kept = dict(os.environ)
        if contestant.malloc:
            from orchestrator.sweeps.cluster import WORKER_ENVIRONMENT

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
        "reached": None if row.reach is None else fast / slow >= row.reach,
    }


def processor() -> str:
    """In words, with what decides whether bf16 pays."""
    import torch

    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else 'unknown'}, {torch.backends.cpu.get_cpu_capability()}"


def machine_name(gpu: str | None) -> str:
    """``avx2``, ``avx512``, ``nvidia-h200``: what decides the figures."""
    import torch

    name = gpu or torch.backends.cpu.get_cpu_capability()
    return name.lower().replace(" ", "-")


def main() -> None:
    import torch

    from trainables.version import versions

    cores = len(os.sched_getaffinity(0))
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    known = gpu_rows(cores) if gpu else cpu_rows(cores)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--rows", nargs="*", choices=[row.key for row in known])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--json", metavar="FILE", help="write the figures there; in a folder, by the machine's name"
    )
    options = parser.parse_args()
    multiprocessing.set_start_method("spawn")
    results = []
    facts = {
        "command": " ".join(["python tests/benchmarks/engine.py", *sys.argv[1:]]),
        "machine": {
            "platform": platform.platform(),
            "cores": cores,
            "processor": processor(),
            "gpu": gpu,
            "load": os.getloadavg()[0],
        },
        "versions": versions(),
    }
    with tempfile.TemporaryDirectory() as cache:
        os.environ["KDSWEEP_CACHE"] = cache
        images()  # decoded once, for all
        for row in known:
            if options.rows and row.key not in options.rows:
                continue
            result = measured(row, options.rounds, cores, cache)
            results.append(result)
            speeds = result["images_per_second"]
            goal = "" if row.reach is None else f", to reach {row.reach:.2f}"
            print(
                f"{row.what}: {speeds['fast']:.0f} against {speeds['slow']:.0f} images/s, "
                f"ratio {result['ratio']:.2f}{goal}"
                f"{'  NOT REACHED' if result['reached'] is False else ''}",
                flush=True,
            )
            if options.json:  # what is there, should the next row be interrupted
                file = Path(options.json)
                file = file / f"engine_{machine_name(gpu)}.json" if file.is_dir() else file
                file.write_text(json.dumps(facts | {"results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
