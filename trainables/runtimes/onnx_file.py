"""A trained network as one ONNX file, which is checked before it is there."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainables.models.family import ImageShape
from trainables.models.outputs import Network
from trainables.runtimes.deploying import deploy
from trainables.runtimes.exported import (
    INPUT,
    OUTPUT,
    FileAnswer,
    Served,
    Statistics,
    check_against,
    failure,
    quiet,
    write_file,
)


def export_onnx(
    network: Network,
    image_shape: ImageShape,
    path: str | Path,
    *,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    provenance: Mapping[str, str],
    accept: Callable[[FileAnswer], None] | None = None,
) -> float:
    """Writes a network as one ONNX file, weights included.

    Its input ``images`` is ``[batch, C, H, W]``, its output ``logits`` ``[batch, classes]``; any
    batch size will do. Quantised modules become QuantizeLinear and DequantizeLinear, which ONNX
    Runtime makes int8 arithmetic of. The file appears only once ONNX Runtime has answered with
    it as the network does; see `exported.check_against`.

    Args:
        network: is exported in evaluation mode; stays as it is.
        image_shape: ``(C, H, W)``.
        path: a file in a folder that is there; an older one is replaced.
        mean, std: normalise inside, per channel of pixels in [0, 1]: the input is then uint8,
            pixels from 0 to 255 as they are. None: it is float32, normalised already.
        provenance: where the network is from; the file's ``metadata_props``.
        accept: gets the answers of the file before it has its name; what it raises prevents that.

    Returns:
        The largest difference of a logit, over the largest logit of its batch or 1.

    Raises:
        UserError: the network cannot be exported, ONNX Runtime disagrees (with a logit of both),
            or the file cannot be written.
    """
    statistics = None if mean is None or std is None else (mean, std)
    data = onnx_bytes(network, image_shape, statistics, provenance)
    answer = session_answer(open_session(data))
    worst = check_against(network, answer, image_shape, statistics, "the ONNX file")
    if accept is not None:
        accept(answer)
    write_file(Path(path), data)
    return worst


def onnx_bytes(
    network: Network,
    image_shape: ImageShape,
    statistics: Statistics | None,
    provenance: Mapping[str, str],
) -> bytes:
    """The file itself; equal bytes for equal networks of equal names.

    Raises:
        UserError: torch cannot export the network; says why in one line.
    """
    served = Served(network, statistics)
    deploy(served.network)
    try:
        with quiet(), torch.no_grad():
            program: Any = torch.onnx.export(
                served,
                (served.sample(image_shape),),
                dynamo=True,
                dynamic_shapes={INPUT: {0: "batch"}},
                input_names=[INPUT],
                output_names=[OUTPUT],
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # an exporter that stumbles raises errors of any kind
        raise failure(network, "to ONNX", error) from error
    model = program.model
    for node in model.graph:  # stack traces, with the folders of this machine
        node.metadata_props.clear()
    model.metadata_props.clear()
    model.metadata_props.update(provenance)
    import onnx_ir

    data: bytes = onnx_ir.to_proto(model).SerializeToString(deterministic=True)
    return data


def open_session(data: bytes) -> Any:
    """An ONNX Runtime session of a file's bytes, on the CPU with as many threads as torch has.

    Its threads sleep while they wait: spinning ones take the cores of whoever runs beside them.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def session_answer(session: Any) -> FileAnswer:
    """From images on the CPU, as the file takes them, to its logits."""

    def answer(images: Tensor) -> Tensor:
        found: Any = session.run([OUTPUT], {INPUT: images.contiguous().numpy()})
        return torch.from_numpy(found[0])

    return answer
