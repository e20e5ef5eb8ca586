"""Accuracy of imported networks at few bits by each quantiser, trained and untrained, and GPFQ's
speed.

python tests/benchmarks/quantisers.py resnet20=FILE resnet56=FILE --data DATA --json FILE
    [--images 10000] [--bits 8 6 5 4 3 2] [--methods gpfq msq msq:scalar=1.16 rtn]
    [--qat 4 2] [--epochs 2] [--share 0.1]

The table holds every method at every width, with settings of its own where they are written, on
the whole test set unless ``--images`` says fewer. ``--qat`` trains the first network at these
widths from its own weights, with itself as the teacher (kd), on a share of the training images;
beside it stand the same weights, rounded by rtn.
The speed is that of `gpfq` beside the loop over columns by which it is defined, with the error
state laid out as in the authors' released code and the other way round, on the same inputs of every
layer in one run, in seconds of the processor; it means something with one thread.
"""

import argparse
import copy
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trainables.compression.alphabets import largest_character, layer_alphabet
from trainables.compression.chain import Chain
from trainables.compression.gpfq import gpfq
from trainables.compression.lockstep import changed_weights, patches
from trainables.compression.measure import size_bytes
from trainables.compression.registry import config_of, part_class, resolve_chain
from trainables.compression.step import Scene
from trainables.config import TrialConfig
from trainables.data.dataset import Dataset, Images
from trainables.data.sources import load_dataset
from trainables.data.views import to_float
from trainables.evaluation import score
from trainables.models.blueprint import edit
from trainables.models.outputs import Network
from trainables.tasks.single_label import SINGLE_LABEL
from trainables.teachers.importing import import_teacher
from trainables.teachers.teacher import Teacher, load_teacher
from trainables.training import Training

CPU = torch.device("cpu")
METHODS = ("gpfq", "msq", "msq:scalar=1.16", "rtn")
"""The C that is published for gpfq clips large weights: msq gains by it at few bits alone."""

LOOKED_AT = 256
BATCH = 64
LR = 0.01


class Case(NamedTuple):
    """An imported network with its data.

    Attributes:
        model: what it is called on the command line.
        teacher: it, with its card.
        data: normalised as it wants it.
        test: the test images that count.
    """

    model: str
    teacher: Teacher
    data: Dataset
    test: Images

    @property
    def network(self) -> Network:
        return self.teacher.network

    def batches(self, count: int) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.data.train), generator=torch.Generator().manual_seed(0))
        for part in order[:count].split(BATCH):
            yield self.floats(self.data.train.images[part]), self.data.train.labels[part]

    def floats(self, pixels: Tensor) -> Tensor:
        return to_float(pixels, self.data.mean, self.data.std)

    def top1(self, network: Network) -> float:
        """Percent of the test images."""
        network.eval()
        with torch.no_grad():
            said = score(
                lambda pixels: network(self.floats(pixels)).logits, self.test, CPU, SINGLE_LABEL
            )
        assert said.acc is not None
        return round(100 * said.acc, 2)


def column_loop(
    weights: Tensor,
    inputs: Tensor,
    seen: Tensor,
    rounding: Callable[[Tensor], Tensor],
    by_neuron: bool,
) -> Tensor:
    """GPFQ as it is defined, with the error state of all images and neurons.

    Args:
        weights: ``[N, d]``.
        inputs, seen: X and X̃, ``[m, d]``.
        rounding: as for `gpfq`.
        by_neuron: whether the state is ``[N, m]``, as the authors' released code has it, or
            ``[m, N]``, which is faster on a CPU.
    """
    found = torch.empty_like(weights)
    state = weights.new_zeros(
        (len(weights), len(inputs)) if by_neuron else (len(inputs), len(weights))
    )
    for t in range(weights.shape[1]):
        own, shown, column = inputs[:, t], seen[:, t], weights[:, t]
        state += torch.outer(column, own) if by_neuron else torch.outer(own, column)
        norm = shown.square().sum()
        product = state @ shown if by_neuron else shown @ state
        letter = found[:, t] = rounding(product / norm if norm > 0 else 0 * column)
        state -= torch.outer(letter, shown) if by_neuron else torch.outer(shown, letter)
    return found


def rounded(case: Case, method: str, bits: int) -> dict[str, Any]:
    """A row of the table: the network behind a step that trains nothing."""
    made = copy.deepcopy(case.network)
    name, *written = method.split(":")
    given = (one.partition("=") for one in written)
    values = {name: bits} | {f"{name}.{key}": float(value) for key, _, value in given}
    step = part_class(name)(config_of(name, resolve_chain(name, values)))
    generator, shape = torch.Generator().manual_seed(0), case.data.image_shape
    scene = Scene(made, case.batches, generator, shape, CPU)
    started = time.perf_counter()
    with torch.no_grad():
        for change in step.at(1.0, scene):  # type: ignore[union-attr]
            edit(made, change, shape)
    seconds = round(time.perf_counter() - started, 2)
    return said(case, made, method=method, bits=bits, seconds=seconds)


def trained(case: Case, bits: int, weights_only: bool, epochs: int, share: float) -> dict[str, Any]:
    """A row of the table: learned step sizes, from the network's own weights."""
    values = {"dataset": "cifar10", "student": case.teacher.card.model, "teacher": "itself"}
    values |= {"compression": "qat", "qat": bits, "qat.weights_only": weights_only, "method": "kd"}
    values |= {"epochs": epochs, "train_fraction": share, "val_fraction": 0.0, "lr": LR}
    values |= {"batch_size": BATCH, "precision": "fp32", "teacher_cache": "off"}
    config = TrialConfig.from_mapping(values)
    steps = Chain(config.compression, config.chain).steps
    training = Training(config, case.data, config.student, case.teacher, CPU, steps)
    training.student.load_state_dict(case.network.state_dict())
    started = time.perf_counter()
    for _ in range(epochs):
        training.run_epoch()
    seconds = round(time.perf_counter() - started, 1)
    facts = {"activations": None if weights_only else bits, "epochs": epochs, "share": share}
    return said(case, training.student, method="qat", bits=bits, seconds=seconds, **facts)


def said(case: Case, network: Network, **facts: Any) -> dict[str, Any]:
    row = {**facts, "top1": case.top1(network), "size_bytes": size_bytes(network)}
    print(
        f"{row['bits']:>4}  {row['method']:<15}  {row['top1']:>6.2f}%  {row['seconds']:>7.1f}  "
        f"{row['size_bytes']:>9,}{_of_training(row)}",
        flush=True,
    )
    return row


def _of_training(row: dict[str, Any]) -> str:
    if "epochs" not in row:
        return ""
    inputs = f"activations {row['activations'] or 32} bits"
    return f"  {row['epochs']} epochs of kd on {row['share']:.0%} of the training images, {inputs}"


def speed(case: Case) -> dict[str, Any]:
    """Processor's seconds of all layers: by blocks of columns, and one column after the other."""
    images = torch.cat([one for one, _ in case.batches(LOOKED_AT)])
    seconds = dict.fromkeys(("blocks", "columns", "turned_columns"), 0.0)
    different = 0

    def timed(name: str, layer: Any, inputs: Tensor, seen: Tensor) -> Tensor:
        nonlocal different
        drawn = torch.Generator().manual_seed(0)
        given, shown = patches(layer, torch.cat([inputs, seen]), 0.25, drawn).chunk(2, dim=1)
        rows = layer.weight.detach().flatten(1)
        alphabet = layer_alphabet(rows, largest_character(4, packed=False))
        ways = {
            "blocks": lambda: gpfq(rows[None], given, shown, alphabet.nearest)[0],
            "columns": lambda: column_loop(rows, given[0], shown[0], alphabet.nearest, True),
            "turned_columns": lambda: column_loop(
                rows, given[0], shown[0], alphabet.nearest, False
            ),
        }
        found = {}
        for way, quantised in ways.items():
            started = time.process_time()
            found[way] = quantised()
            seconds[way] += time.process_time() - started
        different += int((found["blocks"] != found["columns"]).sum())
        return found["blocks"].view(layer.weight.shape)

    weights = changed_weights(case.network, images, timed)
    blocks, columns, turned = seconds.values()
    row = {
        "layers": len(weights),
        "images": LOOKED_AT,
        **{f"{way}_seconds": round(value, 2) for way, value in seconds.items()},
        "ratio": round(columns / blocks, 1),
        "turned_ratio": round(turned / blocks, 1),
        "different_weights": different,
        "weights": sum(weight.numel() for weight in weights.values()),
    }
    print(
        f"gpfq, 4 bits, {LOOKED_AT} images, {len(weights)} layers: blocks {blocks:.1f} s; columns "
        f"one by one {columns:.1f} s with the authors' state [N, m], ratio {row['ratio']}, and "
        f"{turned:.1f} s with [m, N], ratio {row['turned_ratio']}; {different:,} of "
        f"{row['weights']:,} weights differ",
        flush=True,
    )
    return row


def imported(model: str, file: str, data: Dataset, images: int, results: str) -> Case:
    card = import_teacher(model, file, data, results=results)
    teacher = load_teacher(results, card.name, "cpu", data, card.fingerprint)
    test = data.read_test()
    own = replace(data, mean=card.mean, std=card.std)
    return Case(model, teacher, own, Images(test.images[:images], test.labels[:images]))


def table(case: Case, options: argparse.Namespace, qat: list[int]) -> dict[str, Any]:
    """Everything about one network."""
    top1 = case.top1(case.network)
    print(f"{case.teacher.card.model}: {top1:.2f} % of {len(case.test)} test images, float32")
    print(f"{'bits':>4}  {'method':<15}  {'top-1':>7}  {'seconds':>7}  {'bytes':>9}")
    rows = [rounded(case, name, bits) for bits in options.bits for name in options.methods]
    for bits in qat:
        for weights_only in (True, False):
            rows.append(trained(case, bits, weights_only, options.epochs, options.share))
        if bits not in options.bits:
            rows.append(rounded(case, "rtn", bits))
    network = f"{case.teacher.card.model}, imported"
    return {"network": network, "float32_top1": top1, "rows": rows, "gpfq_speed": speed(case)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="+", metavar="MODEL=FILE")
    parser.add_argument("--data", required=True)
    parser.add_argument("--images", type=int, default=10_000, help="test images")
    parser.add_argument("--bits", type=int, nargs="*", default=[8, 6, 5, 4, 3, 2])
    parser.add_argument("--methods", nargs="+", default=METHODS, metavar="STEP[:SETTING=VALUE]")
    parser.add_argument("--qat", type=int, nargs="*", default=[4, 2], help="of the first network")
    parser.add_argument("--epochs", type=int, default=2, help="of qat")
    parser.add_argument("--share", type=float, default=0.1, help="of the training images, for qat")
    parser.add_argument("--json", metavar="FILE", help="write the result there")
    options = parser.parse_args()

    data, networks = load_dataset("cifar10", options.data), []
    with tempfile.TemporaryDirectory() as folder:
        for place, words in enumerate(options.networks):
            model, _, file = words.partition("=")
            case = imported(model, file, data, options.images, folder)
            networks.append(table(case, options, options.qat if place == 0 else []))
    if options.json:
        result = {
            "command": " ".join(
                ["python", "tests/benchmarks/quantisers.py", *said_words(sys.argv[1:])]
            ),
            "conditions": f"{torch.backends.cpu.get_cpu_capability()}, "
            f"{torch.get_num_threads()} thread(s), load {os.getloadavg()[0]:.1f} at the end; "
            f"torch {torch.__version__}",
            "test_images": min(options.images, len(data.read_test())),
            "networks": networks,
        }
        Path(options.json).write_text(json.dumps(result, indent=1) + "\n")


def said_words(words: list[str]) -> list[str]:
    """A command line without the folders of one machine."""
    return [
        word.partition("=")[0] + "=" + Path(word.partition("=")[2]).name
        if "=" in word
        else ("DATA" if before == "--data" else Path(word).name)
        for before, word in zip(["", *words], words, strict=False)
    ]


if __name__ == "__main__":
    main()
