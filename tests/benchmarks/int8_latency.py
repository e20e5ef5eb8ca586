"""Latency and accuracy of an imported network, in floating point and as int8, by runtime.

    python tests/benchmarks/int8_latency.py MODEL FILE --data DATA [--images 2000] [--json OUT]

The student of ``epochs: 0`` and ``compression: int8``, and beside it the same network through
torchao's own way (PT2E: prepare, calibrate on one batch, convert), compiled alike. Every network
and runtime takes its turn in one loop, so that a busy machine slows them alike; one thread.
Accuracies are of test images in batches of the one size that a compiled network answers to.
"""

import argparse
import copy
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

from trainables.compression.measure import size_bytes
from trainables.compression.registry import config_of, part_class, resolve_chain
from trainables.compression.step import Scene
from trainables.data.sources import load_dataset
from trainables.data.views import to_float
from trainables.models.blueprint import edit
from trainables.runtimes.compiled import _frozen, _Logits
from trainables.runtimes.registry import RUNTIMES
from trainables.runtimes.runtime import Answer
from trainables.teachers.importing import import_teacher
from trainables.teachers.teacher import load_teacher
from trainables.version import versions

CPU = torch.device("cpu")
BATCHES = (1, 64)
WARM_UP = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("file")
    parser.add_argument("--data", required=True)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--range", nargs="+", default=["mse", "minmax"])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)

    data = load_dataset("cifar10", options.data)
    with tempfile.TemporaryDirectory() as folder:
        card = import_teacher(options.model, options.file, data, results=folder)
        network = load_teacher(folder, card.name, "cpu", data, card.fingerprint).network
    test = data.read_test()
    images = to_float(test.images[: options.images], card.mean, card.std)
    labels = test.labels[: options.images]
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))

    def batches(count: int):
        for part in order[:count].split(64):
            yield to_float(data.train.images[part], card.mean, card.std), data.train.labels[part]

    def quantised(choice: str):
        made = copy.deepcopy(network).eval()
        step = part_class("int8")(config_of("int8", resolve_chain("int8", {"int8.range": choice})))
        scene = Scene(made, batches, torch.Generator().manual_seed(0), data.image_shape, CPU)
        with torch.no_grad():
            for change in step.at(1.0, scene):
                edit(made, change, data.image_shape)
        return made.eval()

    networks = {"float": network.eval()} | {f"int8, {one}": quantised(one) for one in options.range}
    found: dict[str, Any] = {"accuracy": {}, "latency": {}, "ready_seconds": {}, "bytes": {}}
    for name, one in networks.items():
        found["bytes"][name] = size_bytes(one)
        found["accuracy"][f"{name}, eager"] = accuracy(
            answer_of("eager", one, images), images, labels
        )
        print(f"{name}, eager: {100 * found['accuracy'][f'{name}, eager']:.2f} %", flush=True)
    timed = {"float": networks["float"], "int8": networks[f"int8, {options.range[0]}"]}
    runtimes = [name for name in RUNTIMES if RUNTIMES[name]().unavailable() is None]
    for batch in BATCHES:
        answers = {}
        for runtime in runtimes:
            for name, one in timed.items():
                started = time.perf_counter()
                answers[f"{name}, {runtime}"] = answer_of(runtime, one, images[:batch])
                found["ready_seconds"][f"{name}, {runtime}, {batch}"] = (
                    time.perf_counter() - started
                )
        if "compiled" in runtimes:
            calibration = next(batches(max(BATCHES)))[0]
            answers["int8 of PT2E, compiled"] = through_pt2e(network, calibration, images[:batch])
        found["latency"][batch] = times(answers, images[:batch], options.runs)
        for what, (median, spread) in found["latency"][batch].items():
            print(f"batch {batch:>2}  {what:<22}  {median:8.3f} ms  (IQR {spread:.3f})", flush=True)
        if batch > 1:
            for what, answer in answers.items():
                found["accuracy"][what] = accuracy(answer, images, labels, batch)
                print(f"{what}: {100 * found['accuracy'][what]:.2f} %", flush=True)
    print(f"bytes: {found['bytes']}")
    if options.json:
        facts = {
            "platform": platform.platform(),
            "cpu": torch.backends.cpu.get_cpu_capability(),
            "cores": os.cpu_count(),
            "load": os.getloadavg()[0],
        }
        command = f"python tests/benchmarks/int8_latency.py {card.model} FILE --data DATA"
        record = {"command": command, "versions": versions(), **facts, "threads": 1, **found}
        options.json.write_text(json.dumps(record, indent=2) + "\n")


@torch.no_grad()
def through_pt2e(network: Any, calibration: Tensor, images: Tensor) -> Answer:
    """torchao's quantisation of a network, frozen and compiled as the runtime does it."""
    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
    logits = _Logits(copy.deepcopy(network)).eval()
    sizes = ({0: torch.export.Dim("batch", min=1, max=512)},)
    graph = torch.export.export(logits, (calibration,), dynamic_shapes=sizes).module()
    prepared = prepare_pt2e(graph, quantizer)
    prepared(calibration)
    return _frozen(convert_pt2e(prepared), images)


def answer_of(runtime: str, network: Any, images: Tensor) -> Answer:
    with torch.no_grad():
        return RUNTIMES[runtime]().ready(network, images)


@torch.no_grad()
def accuracy(answer: Answer, images: Tensor, labels: Tensor, batch: int = 64) -> float:
    """Of those images that fill whole batches."""
    whole = len(images) // batch * batch
    hits = [
        (answer(part).argmax(1) == truth).sum().item()
        for part, truth in zip(
            images[:whole].split(batch), labels[:whole].split(batch), strict=True
        )
    ]
    return sum(hits) / whole


@torch.no_grad()
def times(answers: dict[str, Answer], images: Tensor, runs: int) -> dict[str, tuple[float, float]]:
    """Median and interquartile range in milliseconds, of calls in turn."""
    taken: dict[str, list[float]] = {name: [] for name in answers}
    for run in range(WARM_UP + runs):
        for name, answer in answers.items():
            started = time.perf_counter()
            answer(images)
            if run >= WARM_UP:
                taken[name].append(1000 * (time.perf_counter() - started))
    ends = {name: statistics.quantiles(each, n=4) for name, each in taken.items()}
    return {name: (middle, high - low) for name, (low, middle, high) in ends.items()}


if __name__ == "__main__":
    main()
