"""Accuracy of an imported network at few bits by each quantiser, and GPFQ's speed.

python tests/benchmarks/quantisers.py MODEL FILE --data DATA [--images 10000] [--bits 8 6 5 4 3 2]

The speed is that of `gpfq` beside the loop over columns by which it is defined, on the same inputs
of every layer in one run.
"""

import argparse
import copy
import tempfile
import time

import torch
from torch import Tensor

from trainables.compression.alphabets import largest_character, layer_alphabet
from trainables.compression.gpfq import gpfq
from trainables.compression.lockstep import changed_weights, patches
from trainables.compression.measure import size_bytes
from trainables.compression.registry import config_of, part_class, resolve_chain
from trainables.compression.step import Scene
from trainables.data.dataset import Images
from trainables.data.sources import load_dataset
from trainables.data.views import to_float
from trainables.evaluation import score
from trainables.models.blueprint import edit
from trainables.tasks.single_label import SINGLE_LABEL
from trainables.teachers.importing import import_teacher
from trainables.teachers.teacher import load_teacher

CPU = torch.device("cpu")
STEPS = ("gpfq", "msq", "rtn")
LOOKED_AT = 256


def column_loop(weights: Tensor, inputs: Tensor, seen: Tensor, rounding) -> Tensor:
    """GPFQ as it is defined, with the error state of all images and neurons."""
    state = inputs.new_zeros(len(inputs), len(weights))
    found = torch.empty_like(weights)
    for t in range(weights.shape[1]):
        state += torch.outer(inputs[:, t], weights[:, t])
        norm = seen[:, t].square().sum()
        found[:, t] = rounding(seen[:, t] @ state / norm if norm > 0 else 0 * weights[:, t])
        state -= torch.outer(seen[:, t], found[:, t])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("file")
    parser.add_argument("--data", required=True)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--bits", type=int, nargs="+", default=[8, 6, 5, 4, 3, 2])
    options = parser.parse_args()

    data = load_dataset("cifar10", options.data)
    with tempfile.TemporaryDirectory() as folder:
        card = import_teacher(options.model, options.file, data, results=folder)
        teacher = load_teacher(folder, card.name, "cpu", data, card.fingerprint)
    network = teacher.network
    test = data.read_test()
    test = Images(test.images[: options.images], test.labels[: options.images])
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))

    def floats(pixels: Tensor) -> Tensor:
        return to_float(pixels, card.mean, card.std)

    def accuracy(one) -> float:
        with torch.no_grad():
            said = score(lambda pixels: one(floats(pixels)).logits, test, CPU, SINGLE_LABEL)
        return 100 * said.acc

    def batches(count: int):
        for part in order[:count].split(64):
            yield floats(data.train.images[part]), data.train.labels[part]

    print(f"{card.model}: {accuracy(network):.2f} % of {len(test)} test images, float32")
    print(f"{'bits':>4}  {'method':<6}  {'top-1':>7}  {'seconds':>7}  {'bytes':>9}")
    for bits in options.bits:
        for name in STEPS:
            made = copy.deepcopy(network)
            step = part_class(name)(config_of(name, resolve_chain(name, {name: bits})))
            scene = Scene(made, batches, torch.Generator().manual_seed(0), data.image_shape, CPU)
            started = time.perf_counter()
            with torch.no_grad():
                for change in step.at(1.0, scene):
                    edit(made, change, data.image_shape)
            seconds = time.perf_counter() - started
            row = f"{bits:>4}  {name:<6}  {accuracy(made):>6.2f}%  {seconds:>7.1f}"
            print(f"{row}  {size_bytes(made):>9,}", flush=True)

    images = torch.cat([one for one, _ in batches(LOOKED_AT)])
    taken = {"blocks": 0.0, "columns one by one": 0.0}
    different = 0

    def timed(name: str, layer, inputs: Tensor, seen: Tensor) -> Tensor:
        nonlocal different
        drawn = torch.Generator().manual_seed(0)
        given, shown = patches(layer, torch.cat([inputs, seen]), 0.25, drawn).chunk(2, dim=1)
        rows = layer.weight.detach().flatten(1)
        alphabet = layer_alphabet(rows, largest_character(4, packed=False))
        started = time.perf_counter()
        found = gpfq(rows[None], given, shown, alphabet.nearest)
        between = time.perf_counter()
        wanted = column_loop(rows, given[0], shown[0], alphabet.nearest)
        taken["blocks"] += between - started
        taken["columns one by one"] += time.perf_counter() - between
        different += int((found[0] != wanted).sum())
        return found.view(layer.weight.shape)

    weights = changed_weights(network, images, timed)
    every = sum(weight.numel() for weight in weights.values())
    ratio = taken["columns one by one"] / taken["blocks"]
    print(
        f"gpfq, 4 bits, {LOOKED_AT} images, {len(weights)} layers, threads "
        f"{torch.get_num_threads()}: {', '.join(f'{k} {v:.1f} s' for k, v in taken.items())}, "
        f"ratio {ratio:.1f}; {different:,} of {every:,} weights differ"
    )


if __name__ == "__main__":
    main()
