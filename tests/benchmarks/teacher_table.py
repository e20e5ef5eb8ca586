"""How fast a teacher table of CIFAR size is filled and looked up, on one thread; JSON to stdout.

python tests/benchmarks/teacher_table.py --widths 10 100 --batches 64 512 [--folder DIR]
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from trainables.data.views import ViewPlan
from trainables.teachers.orbit_file import TableKey
from trainables.teachers.table import TeacherTable
from trainables.teachers.table_folder import list_tables

PLAN = ViewPlan(padding=4, flip=True, seed=0)


def batches(images: int, size: int, epoch: int) -> list[tuple[Tensor, Tensor]]:
    """An epoch in random order: indices and views."""
    order = torch.randperm(images, generator=torch.Generator().manual_seed(epoch))
    return [(part, PLAN.view_ids(epoch, part)) for part in order.split(size)]


def rates(seconds: Iterable[float], size: int) -> dict[str, float]:
    """Images per second of the median batch and of all together, in thousands."""
    seconds = list(seconds)
    return {
        "median": round(size / statistics.median(seconds) / 1e3, 1),
        "mean": round(size * len(seconds) / sum(seconds) / 1e3, 1),
    }


def fill(table: TeacherTable, epoch: list[tuple[Tensor, Tensor]], values: Tensor) -> list[float]:
    seconds = []
    for indices, views in epoch:
        start = time.perf_counter()
        table.fill(indices, views, values[: len(indices)])
        seconds.append(time.perf_counter() - start)
    return seconds


def look_up(table: TeacherTable, epoch: list[tuple[Tensor, Tensor]], filled: bool) -> list[float]:
    seconds = []
    out = torch.empty(len(epoch[0][0]), table.key.width)
    for indices, views in epoch:
        start = time.perf_counter()
        _, found = table.lookup(indices, views, out=out[: len(indices)])
        seconds.append(time.perf_counter() - start)
        assert bool(found.all()) == filled
    return seconds


def fill_in_order(table: TeacherTable, images: int, values: Tensor) -> list[float]:
    """As a whole table is built: all views of one image after the other."""
    views = torch.arange(PLAN.number_of_views)
    numbers = range(table.key.images - images, table.key.images)
    return fill(table, [(torch.full_like(views, number), views) for number in numbers], values)


def measure(folder: Path, images: int, width: int, size: int, dtype: str) -> dict[str, object]:
    key = TableKey(
        teacher=f"benchmark {size}",
        data="random",
        padding=PLAN.padding,
        flip=PLAN.flip,
        what="logits",
        precision="fp32",
        images=images,
        width=width,
        dtype=dtype,
    )
    values = torch.randn(max(size, PLAN.number_of_views), width)
    first, second = batches(images, size, 0), batches(images, size, 1)
    with TeacherTable.open(folder, key) as table:
        result: dict[str, object] = {"width": width, "batch": size, "dtype": dtype}
        result["fill"] = rates(fill(table, first, values), size)
        result["lookup, first time"] = rates(look_up(table, first, True), size)
        result["lookup"] = rates(look_up(table, first, True), size)
        (facts,) = (file for file in list_tables(folder) if file.key == key)
        result["MB on disk after an epoch"] = round(facts.disk_bytes / 1e6, 1)
        result["MB when full"] = round(key.file_bytes / 1e6, 1)
        fill(table, second, values)
        result["lookup, second epoch"] = rates(look_up(table, second, True), size)
        in_order = fill_in_order(table, 200, values)
        result["fill in order"] = rates(in_order, PLAN.number_of_views)
    start = time.perf_counter()
    result["entries filled"] = facts.count_filled()
    result["seconds to count them"] = round(time.perf_counter() - start, 2)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--widths", type=int, nargs="+", default=[10, 100, 128])
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 128, 512])
    parser.add_argument("--dtype", default="float16")
    parser.add_argument("--folder", help="on the disk to measure; a temporary one by default")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        results = [
            measure(Path(folder), options.images, width, size, options.dtype)
            for width in options.widths
            for size in options.batches
        ]
    machine = f"{platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}"
    report = {"machine": machine, "unit": "1000 images/s", "results": results}
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
