"""`kdsweep inspect`: the layers of a trained network as a table, and pictures of it."""

import csv
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.commands.networks import check_names, found, say
from orchestrator.commands.printing import print_table
from trainables.errors import UserError

if TYPE_CHECKING:
    from trainables.inspecting.layers import LayerTable

_HEADER = ("layer", "kind", "output", "parameters", "not 0", "bits", "MACs", "ms", "share")
_CSV = (
    *("name", "kind", "output", "params", "nonzero_params", "bits", "input_bits", "macs"),
    *("latency_ms", "latency_share"),
)
_BETWEEN = "(between layers)"


def inspect(options: Namespace) -> int:
    check_names(options)
    folder = None
    if options.output is not None:
        folder = Path(options.output).expanduser()
        _check(folder)
    card, network, data_dir = found(options)
    from trainables.inspecting.layers import layer_table

    table = layer_table(network, card.image_shape)
    if options.csv:
        _write_csv(table)
    else:
        print_table(_HEADER, _rows(table))
        print(
            f"\n{card.name} ({card.blueprint.label}), {_by(card.image_shape)}. bits: of a weight "
            "where it is stored, / of an input where inputs are quantised.\n"
            f"ms: of one image, eager, median of the faster half of warm passes here; {_BETWEEN}: "
            "additions, functions and Python."
        )
    if folder is not None:
        sys.stdout.flush()
        _draw(folder, card, network, data_dir, must_draw=options.data is not None)
    return 0


def _check(folder: Path) -> None:
    """Refuses a folder that could not be written, or made.

    Raises:
        UserError: it is a file, the folder above is missing, or it cannot be written.
    """
    import tempfile

    try:
        with tempfile.TemporaryFile(dir=folder if folder.exists() else folder.parent):
            pass
    except OSError as error:
        raise UserError(f"-o {folder}: cannot be written: {error.strerror}") from error


def _rows(table: "LayerTable") -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [
        (
            layer.name,
            layer.kind,
            _by(layer.output),
            _count(layer.params),
            _count(layer.nonzeros),
            _bits(layer.bits, layer.input_bits),
            _count(layer.macs),
            f"{layer.ms:.3f}",
            _share(layer.ms, table),
        )
        for layer in table.layers
    ]
    beside = table.params - sum(layer.params for layer in table.layers)
    nonzeros = table.nonzeros - sum(layer.nonzeros for layer in table.layers)
    between = (_count(beside), _count(nonzeros), "", "", f"{table.between:.3f}")
    rows.append((_BETWEEN, "", "", *between, _share(table.between, table)))
    whole = (f"{table.params:,}", f"{table.nonzeros:,}", "", f"{table.macs:,}")
    rows.append(("all", "", "", *whole, f"{table.whole:.3f}", "100.0 %"))
    return rows


def _write_csv(table: "LayerTable") -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(_CSV)
    for layer in table.layers:
        facts = (layer.params, layer.nonzeros, layer.bits, layer.input_bits, layer.macs)
        times = (f"{layer.ms:.6g}", f"{layer.ms / table.whole:.6g}")
        writer.writerow((layer.name, layer.kind, _by(layer.output), *facts, *times))
    times = (f"{table.between:.6g}", f"{table.between / table.whole:.6g}")
    writer.writerow((_BETWEEN, "", "", "", "", "", "", "", *times))


def _draw(folder: Path, card: Any, network: Any, data_dir: str | None, *, must_draw: bool) -> None:
    """Draws what can be drawn, and says what cannot."""
    from orchestrator.results import graph_picture, network_pictures
    from trainables.exporting import dataset_of
    from trainables.inspecting.graph import graph_of
    from trainables.inspecting.maps import feature_maps, first_kernels

    title = f"{card.name} ({card.blueprint.label})"
    folder.mkdir(exist_ok=True)

    def features(path: Path) -> None:
        try:
            dataset = dataset_of(card, data_dir)
        except UserError as error:
            if must_draw:
                raise
            raise _Left(str(error)) from error
        maps = _or_left(lambda: feature_maps(card, network, dataset))
        network_pictures.draw_features(maps, path, title)

    def kernels(path: Path) -> None:
        name, weight = _or_left(lambda: first_kernels(network))
        network_pictures.draw_kernels(name, weight, path, title)

    def graph(path: Path) -> None:
        boxes = _or_left(lambda: graph_of(network, card.image_shape))
        graph_picture.draw_graph(boxes, path, title)

    for file, draw in {
        "features.png": features,
        "kernels.png": kernels,
        "graph.svg": graph,
    }.items():
        path = folder / file
        say(f"drawing {path}")
        try:
            draw(path)
        except _Left as reason:
            say(f"no {path}: {reason}")
        except OSError as error:
            raise UserError(f"{path}: cannot be written: {error.strerror}") from error


class _Left(Exception):
    """A picture that there is none of, and why: the others are drawn."""


def _or_left(make: Callable[[], Any]) -> Any:
    try:
        return make()
    except UserError as error:
        raise _Left(str(error)) from error


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _count(number: int) -> str:
    return f"{number:,}" if number else ""


def _bits(weight: int | None, values: int | None) -> str:
    own = "" if weight is None else str(weight)
    return own if values is None else f"{own}/{values}"


def _share(ms: float, table: "LayerTable") -> str:
    return f"{100 * ms / table.whole:.1f} %"
