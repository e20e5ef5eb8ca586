"""A trained network as a file of ``torch.export``, which runs without the code that made it."""

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainables.models.family import ImageShape
from trainables.models.outputs import Network
from trainables.runtimes.exported import (
    INPUT,
    FileAnswer,
    Served,
    check_against,
    failure,
    operators,
    quiet,
    write_file,
)

PROVENANCE = "provenance.json"
"""The extra file that says where a network is from; `torch.export.load` reads it, too."""

_INTEGERS = "import torch.ao.quantization.fx._decomposed"


def export_pt2(
    network: Network,
    image_shape: ImageShape,
    path: str | Path,
    *,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    provenance: Mapping[str, str],
    accept: Callable[[FileAnswer], None] | None = None,
) -> float:
    """Writes a network as ``torch.export.save`` does: any batch size, logits alone.

    ``torch.export.load(path).module()`` runs it, in a process that has run what `needed` says. The
    file appears only once it was loaded again and has answered as the network does.

    Args:
        network, image_shape, path, mean, std, accept: as for `onnx_file.export_onnx`.
        provenance: where the network is from; JSON in the extra file `PROVENANCE`, together with
            ``needs``: what `needed` says.

    Returns:
        The largest difference of a logit, over the largest logit of its batch or 1.

    Raises:
        UserError: the network cannot be exported, the file disagrees with it (with a logit of
            both), or cannot be written.
    """
    statistics = None if mean is None or std is None else (mean, std)
    served = Served(network, statistics)
    batch = torch.export.Dim("batch", min=1)
    try:
        with quiet(), torch.no_grad():
            program = torch.export.export(
                served, (served.sample(image_shape),), dynamic_shapes={INPUT: {0: batch}}
            )
    except Exception as error:  # an exporter that stumbles raises errors of any kind
        raise failure(network, "by torch.export", error) from error
    for node in program.graph.nodes:  # with the folders of this machine
        node.meta.pop("stack_trace", None)
    buffer = io.BytesIO()
    needs = needed(network, image_shape)
    text = json.dumps({**provenance, "needs": needs}, sort_keys=True)
    with quiet():
        torch.export.save(program, buffer, extra_files={PROVENANCE: text})
    data = buffer.getvalue()
    answer = _answer(data)
    worst = check_against(network, answer, image_shape, statistics, "the file")
    if accept is not None:
        accept(answer)
    write_file(Path(path), data)
    return worst


def needed(network: Network, image_shape: ImageShape) -> str:
    """The line of Python that registers what a file of the network is made of; often empty.

    Modules of integers stay in the operators by which torch knows them, and compiles them to
    integer arithmetic; but `torch.export.load` does not register these by itself.
    """
    found = operators(Served(network), image_shape)
    return _INTEGERS if any("quantized_decomposed" in name for name in found) else ""


def _answer(data: bytes) -> FileAnswer:
    with quiet():
        module: Any = torch.export.load(io.BytesIO(data)).module()

    @torch.no_grad()
    def answer(images: Tensor) -> Tensor:
        logits: Tensor = module(images.contiguous())
        return logits

    return answer
