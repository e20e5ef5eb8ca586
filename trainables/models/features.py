"""What a network says beside the four fields of `Outputs`, by key.

``module:NAME`` is what the module of that name returned; of one that runs more than once, the
last time. ``input_gradient`` is the gradient of the true classes' logits with respect to the
network's normalised input,

    ∂/∂x Σ_b Σ_c y_bc · z_bc,   ``[B, C, H, W]``, float32,

where y_bc is the share of class c in the label of image b: 1 for a true class, λ and 1 − λ for
those of mixed images. ``stage_gradient:N`` is that of one logit of each image with respect to the
stage of number N, from 0,

    ∂/∂f Σ_b z_b,c(b),   ``[B, C, H, W]``, float32.

In training mode BatchNorm makes a logit depend on the other images of the batch, too; the sums take
that in. ``class_weights`` is what the classifier multiplies its input by, ``[classes, D]``: of one
that is quantised, the quantised weights.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from trainables.models.outputs import Network, Outputs

FIELDS = frozenset({"logits", "embedding", "stages", "shortcuts"})
"""What a network says without being asked."""

MODULE = "module:"
INPUT_GRADIENT = "input_gradient"
STAGE_GRADIENT = "stage_gradient:"
CLASS_WEIGHTS = "class_weights"

Kept = TypeVar("Kept")


def with_features(
    network: Network,
    images: Tensor,
    keys: Collection[str],
    shares: Callable[[int], Tensor] | None,
    *,
    learning: bool,
    chosen: Tensor | None = None,
) -> Outputs:
    """One forward pass in the network's present mode, with all of ``keys`` in `Outputs.features`.

    Args:
        network: has the modules.
        images: normalised, ``[B, C, H, W]``.
        keys: of `Shapes.features`.
        shares: y for a number of classes, ``[B, classes]`` float32: the share of every class in
            the label of each image. None where no gradient of the input is wanted.
        learning: whether what is returned has gradients with respect to the weights, gradients
            included; otherwise nothing has.
        chosen: c, ``[B]``: whose logits the gradients of stages are of. None: of each image the
            greatest of this network.
    """
    of_stages = {
        key: int(key.removeprefix(STAGE_GRADIENT)) for key in keys if key.startswith(STAGE_GRADIENT)
    }
    differentiated = INPUT_GRADIENT in keys or bool(of_stages)
    names = [key.removeprefix(MODULE) for key in keys if key.startswith(MODULE)]
    with (
        torch.set_grad_enabled(learning or differentiated),
        _differentiable_twice(learning and differentiated),
    ):
        if differentiated:
            leaf = images.detach().requires_grad_()
            images = leaf.view_as(leaf)  # a counter of operations gets on with no leaf
        # Copied, because the next module may write to the same place.
        with hearing(network, names, Tensor.clone) as heard:
            outputs: Outputs = network(images)
        features = {MODULE + name: values for name, values in heard.items()}
        logits = outputs.logits
        with _full_precision(images):
            if CLASS_WEIGHTS in keys:
                features[CLASS_WEIGHTS] = class_weights(network)
            if INPUT_GRADIENT in keys:
                assert shares is not None
                said = (logits.float() * shares(logits.shape[1])).sum()
                (found,) = torch.autograd.grad(
                    said, images, create_graph=learning, retain_graph=bool(of_stages) or None
                )
                features[INPUT_GRADIENT] = found
            if of_stages:
                classes = logits.argmax(1) if chosen is None else chosen
                said = logits.float().gather(1, classes.unsqueeze(1)).sum()
                stages = [outputs.stages[number] for number in of_stages.values()]
                slopes = torch.autograd.grad(said, stages, create_graph=learning)
                features |= {key: one.float() for key, one in zip(of_stages, slopes, strict=True)}
    outputs = outputs._replace(features=features)
    return outputs if learning else _detached(outputs)


def class_weights(network: Network) -> Tensor:
    """What the classifier multiplies its input by, ``[classes, D]``, with gradients."""
    layer = network.classifier
    quantised = getattr(layer, "quantised_weight", None)
    weights: Tensor = layer.weight if quantised is None else quantised()
    return weights


def behind_logits(logits: Tensor, stages: Sequence[Tensor]) -> list[bool]:
    """Which stages the logits are computed from, so that they have a gradient there.

    Args:
        logits, stages: of a pass that has recorded its graph. A stage that is a rearranged copy of
            what the network goes on with has none.
    """
    seen, waiting = set[Any](), [logits.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [upper for upper, _ in node.next_functions]
    return [stage.grad_fn is not None and stage.grad_fn in seen for stage in stages]


@contextmanager
def hearing(
    network: nn.Module, names: Collection[str], keep: Callable[[Tensor], Kept]
) -> Iterator[dict[str, Kept]]:
    """What is kept of the outputs of modules while the context lasts, by the modules' names.

    Modules that do not run, or return something else than a tensor, are left out.
    """
    heard: dict[str, Kept] = {}

    def listen(name: str, _: nn.Module, __: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            heard[name] = keep(output)

    # For one pass: a deep copy would keep hooks that report to the original.
    handles = [
        network.get_submodule(name).register_forward_hook(partial(listen, name)) for name in names
    ]
    try:
        yield heard
    finally:
        for handle in handles:
            handle.remove()


def _differentiable_twice(wanted: bool) -> AbstractContextManager[None]:
    """A context in which attention is computed such that its gradient has a gradient."""
    return sdpa_kernel(SDPBackend.MATH) if wanted else nullcontext()


def _full_precision(images: Tensor) -> AbstractContextManager[Any]:
    if images.is_meta:  # there is no autocast for it
        return nullcontext()
    return torch.autocast(images.device.type, enabled=False)


def _detached(outputs: Outputs) -> Outputs:
    return Outputs(
        outputs.logits.detach(),
        outputs.embedding.detach(),
        tuple(stage.detach() for stage in outputs.stages),
        tuple(shortcut.detach() for shortcut in outputs.shortcuts),
        {key: values.detach() for key, values in outputs.features.items()},
    )
