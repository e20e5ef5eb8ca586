"""How far stored maps miss completeness: integrated gradients of training images of CIFAR-10 by an
imported network, as `ig` reads them.

python tests/benchmarks/ig_completeness.py resnet20=FILE --data DATA [--images 2000] [--steps 100]
    [--reach 0.01] [--json FILE]

Errors are those of `trainables.attribution.integrated_gradients.completeness_errors`, image by
image; their mean is what rows tell. Maps are kept in KDSWEEP_CACHE, so that a run which was ended
goes on. Exit code 1 where the mean is above --reach.
"""

import argparse
import json
import math
import sys
import tempfile
import time
from pathlib import Path

import torch
from alignment import some
from quantisers import said_words

from trainables.attribution.map_settings import MapSettings
from trainables.data.sources import load_dataset
from trainables.teachers.importing import import_teacher
from trainables.teachers.map_file import MapFile
from trainables.teachers.maps import map_key, map_path, stored_maps
from trainables.teachers.teacher import load_teacher

CPU = torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("network", metavar="MODEL=FILE")
    parser.add_argument("--data", required=True)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=MapSettings().steps)
    parser.add_argument("--reach", type=float, default=0.01)
    parser.add_argument("--json", metavar="FILE", help="write the result there")
    options = parser.parse_args()

    whole, settings = load_dataset("cifar10", options.data), MapSettings(steps=options.steps)
    model, _, file = options.network.partition("=")
    with tempfile.TemporaryDirectory() as folder:
        card = import_teacher(model, file, whole, results=folder)
        teacher = load_teacher(folder, card.name, "cpu", whole, card.fingerprint)
    data = some(whole, options.images)
    started = time.process_time()
    stored = stored_maps(teacher, data, settings, CPU)
    seconds = time.process_time() - started
    key = map_key(card.fingerprint, data, settings)
    with MapFile(map_path(key), key) as kept:
        errors = torch.from_numpy(kept.errors()).double()
    mean = stored.facts["completeness_error"]
    assert len(errors) == options.images
    assert math.isclose(mean, errors.mean(), rel_tol=1e-9)
    row = {
        "mean": mean,
        "standard_error": errors.std().item() / math.sqrt(len(errors)),
        "median": errors.median().item(),
        "percentile_95": errors.quantile(0.95).item(),
        "largest": errors.max().item(),
    }
    row = {name: round(value, 6) for name, value in row.items()}
    print(
        f"{card.model}, {options.images:,} training images, {settings}: completeness error "
        + ", ".join(f"{name} {100 * value:.2f} %" for name, value in row.items())
        + f"; {seconds:.0f} s of the processor",
        flush=True,
    )
    if options.json:
        words = said_words(sys.argv[1:])
        result = {
            "command": " ".join(["python", "tests/benchmarks/ig_completeness.py", *words]),
            "conditions": f"{torch.backends.cpu.get_cpu_capability()}, "
            f"{torch.get_num_threads()} thread(s), torch {torch.__version__}",
            "network": f"{card.model}, imported",
            "images": options.images,
            "maps": settings.facts,
            "completeness_error": row,
            "processor_seconds": round(seconds),
        }
        Path(options.json).write_text(json.dumps(result, indent=1) + "\n")
    sys.exit(mean > options.reach)


if __name__ == "__main__":
    main()
