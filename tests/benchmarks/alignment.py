"""What the shortcut of stored maps costs, and what maps of other images are worth: do the maps that
`ig` lays over views resemble the integrated gradients of these views?

python tests/benchmarks/alignment.py resnet20=FILE --data DATA [--images 200] [--steps 100]
    [--json FILE]

Of training images of CIFAR-10, each under the crop and flip of an epoch, as a step sees it: the
stored map of the image under the same crop and flip (``aligned``), and what the variant
``shuffled`` gives it, each beside integrated gradients of the view itself, of an imported network
and of the image's label. Spearman's ρ over all pixels, image by image; and over those of the image
alone, since the zeros around a crop have no map, while black pixels of a view have one. Means with
standard errors, and those of the paired differences.
"""

import argparse
import json
import math
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from quantisers import said_words
from torch import Tensor

from trainables.attribution.map_settings import MapSettings
from trainables.attribution.preservation import spearman
from trainables.data.dataset import Dataset, Images
from trainables.data.sources import load_dataset
from trainables.data.views import Offsets, ViewPlan
from trainables.teachers.importing import import_teacher
from trainables.teachers.maps import stored_maps
from trainables.teachers.teacher import Teacher, load_teacher
from trainables.training.feeding import Feed
from trainables.training.shown_maps import PlacedMaps, ShownMaps

CPU = torch.device("cpu")
ALIGNMENTS = ("aligned", "shuffled")
AREAS = ("all pixels", "pixels of the image")


def some(data: Dataset, images: int) -> Dataset:
    """A data set of a few of the training images."""
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))
    there = order[:images].sort().values
    train = Images(data.train.images[there], data.train.labels[there])
    return replace(data, train=train, fingerprint=f"{images} of {data.fingerprint}")


def correlations(teacher: Teacher, data: Dataset, settings: MapSettings) -> dict[str, list[Tensor]]:
    """By alignment Spearman's ρ of every image, ``[N]`` float64, in each of `AREAS`."""
    count = len(data.train)
    everything, views = torch.arange(count), ViewPlan.of(data, 0)
    offsets = views.offsets(0, everything)
    pixels = views.show(data.train.images, offsets)
    feed = Feed(everything, everything, offsets, pixels, {})
    stored = stored_maps(teacher, data, settings, CPU)
    shown = replace(data, train=Images(pixels, data.train.labels), fingerprint=f"views of {count}")
    true = stored_maps(teacher, shown, settings, CPU).values.float()
    inside = views.show(torch.ones_like(stored.values).unsqueeze(1), offsets).squeeze(1) > 0
    check(offsets, stored.values, inside)
    found = {}
    for alignment in ALIGNMENTS:
        maps = ShownMaps(PlacedMaps(stored, everything), everything, views, alignment)(feed)[:, 0]
        found[alignment] = [
            spearman(maps.flatten(1), true.flatten(1)),
            torch.cat(
                [
                    spearman(mine[area].unsqueeze(0), its[area].unsqueeze(0))
                    for mine, its, area in zip(maps, true, inside, strict=True)
                ]
            ),
        ]
    return found


def check(offsets: Offsets, maps: Tensor, inside: Tensor) -> None:
    """Whether what is compared are crops: some pixels of views are no image's, never most."""
    share = inside.double().mean().item()
    assert 0.5 < share < 1, share
    assert offsets.flip.any()
    assert not offsets.flip.all()
    assert maps.amax((1, 2)).eq(1).all()


def mean(values: Tensor) -> dict[str, float]:
    error = values.std().item() / math.sqrt(len(values))
    return {"mean": round(values.mean().item(), 4), "standard_error": round(error, 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("network", metavar="MODEL=FILE")
    parser.add_argument("--data", required=True)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--steps", type=int, default=MapSettings().steps)
    parser.add_argument("--json", metavar="FILE", help="write the result there")
    options = parser.parse_args()

    data, settings = load_dataset("cifar10", options.data), MapSettings(steps=options.steps)
    model, _, file = options.network.partition("=")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["KDSWEEP_CACHE"] = folder
        card = import_teacher(model, file, data, results=folder)
        teacher = load_teacher(folder, card.name, "cpu", data, card.fingerprint)
        found = correlations(teacher, some(data, options.images), settings)
    rows = {
        area: {name: mean(found[name][place]) for name in ALIGNMENTS}
        | {"difference": mean(found["aligned"][place] - found["shuffled"][place])}
        for place, area in enumerate(AREAS)
    }
    print(
        f"Spearman's rho with integrated gradients of the view itself: {card.model}, "
        f"{options.images} training images, {settings}"
    )
    for area, columns in rows.items():
        cells = [
            f"{name} {m['mean']:.3f} ± {m['standard_error']:.3f}" for name, m in columns.items()
        ]
        print(f"  {area:<20} {', '.join(cells)} (paired)")
    if options.json:
        words = said_words(sys.argv[1:])
        result = {
            "command": " ".join(["python", "tests/benchmarks/alignment.py", *words]),
            "conditions": f"{torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}",
            "network": f"{card.model}, imported",
            "images": options.images,
            "maps": settings.facts,
            "spearman": rows,
        }
        Path(options.json).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
