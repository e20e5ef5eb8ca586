"""Every registered term, and outputs of networks to try it on."""

from collections.abc import Iterator

import torch
from torch import Tensor

from trainables.methods.method import Method
from trainables.methods.registry import resolve_settings, term_class, term_names
from trainables.methods.term import Batch, Term
from trainables.models.features import CLASS_WEIGHTS, STAGE_GRADIENT
from trainables.models.outputs import Network, Outputs, Shapes

PARTS = frozenset(Outputs._fields)
TERMS = [name for name in term_names() if issubclass(term_class(name), Term)]
IMAGE = (3, 32, 32)
CLASSES = 10


def build(name: str, student: Shapes, teacher: Shapes, network: Network | None = None) -> Term:
    """The term with its defaults, attached."""
    kind = term_class(name)
    return attached(kind(kind.Config(), student, teacher), network or Classifier(teacher))


def attached(term: Term, teacher: Network) -> Term:
    """The term with a training set of 60 images, the last ten of them held out."""
    term.attach(teacher, labels=torch.arange(60) % CLASSES, indices=torch.arange(50))
    return term


class Classifier(Network):
    """All that a term may take of a teacher's weights."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(5)
        self.classifier = torch.nn.Linear(shapes.embedding, shapes.classes)
        with torch.no_grad():
            for weight in self.classifier.parameters():
                weight.copy_(torch.randn(weight.shape, generator=draw) / 4)


def random_outputs(shapes: Shapes, batch: int, seed: int) -> Outputs:
    """Outputs as of a network: leaves with gradients, features not negative."""
    draw = torch.Generator().manual_seed(seed)

    def leaf(*shape: int) -> Tensor:
        return torch.randn(batch, *shape, generator=draw)

    outputs = Outputs(
        logits=leaf(shapes.classes),
        embedding=leaf(shapes.embedding).abs(),
        stages=tuple(leaf(*shape).abs() for shape in shapes.stages),
        shortcuts=tuple(leaf(*shape) for shape in shapes.shortcuts),
        features={CLASS_WEIGHTS: torch.randn(shapes.classes, shapes.embedding, generator=draw)}
        | {f"{STAGE_GRADIENT}{i}": leaf(*shape) for i, shape in enumerate(shapes.stages)},
    )
    for part in tensors(outputs):
        part.requires_grad_()
    return outputs


def tensors(outputs: Outputs) -> Iterator[Tensor]:
    """All that networks say."""
    yield outputs.logits
    yield outputs.embedding
    yield from outputs.stages
    yield from outputs.shortcuts
    yield from outputs.features.values()


def converted(outputs: Outputs, dtype: torch.dtype) -> Outputs:
    """The same numbers in another type, without a graph."""
    return Outputs(
        outputs.logits.detach().to(dtype),
        outputs.embedding.detach().to(dtype),
        tuple(stage.detach().to(dtype) for stage in outputs.stages),
        tuple(shortcut.detach().to(dtype) for shortcut in outputs.shortcuts),
        {key: values.detach().to(dtype) for key, values in outputs.features.items()},
    )


def some_images(batch: int) -> Tensor:
    """The same ones at every call: float32 ``[batch, 3, 32, 32]``."""
    return torch.randn(batch, *IMAGE, generator=torch.Generator().manual_seed(6))


PEERS = ("1", "2")


def batch_of(target: Tensor) -> Batch:
    """The middle of a training, with what two peers and a second teacher say, should somebody
    have any."""
    return Batch(
        target,
        torch.arange(len(target)),
        epoch=30.0,
        progress=0.5,
        inputs=some_images(len(target)),
        peers={name: random_outputs(OURS, len(target), 6 + int(name)) for name in PEERS},
        teachers={"second": random_outputs(THEIRS, len(target), 9)},
        maps=some_images(len(target))[:, :1].abs(),
        normalisation=((0.5,) * IMAGE[0], (0.25,) * IMAGE[0]),
    )


def loss_of(term: Term, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
    torch.manual_seed(2)  # a term may draw, but only from torch's generator
    loss: Tensor = term(student, teacher, batch_of(target))
    return loss


_OUR_STAGES = ((8, 16, 16), (16, 8, 8), (32, 4, 4))
_THEIR_STAGES = ((6, 16, 16), (12, 8, 8), (24, 4, 4), (48, 2, 2))


def shapes_of(width: int, stages: tuple[tuple[int, int, int], ...]) -> Shapes:
    """Of a network with an embedding of ``width`` numbers and these stages."""
    features: dict[str, tuple[int, ...]] = {CLASS_WEIGHTS: (CLASSES, width)}
    features |= {f"{STAGE_GRADIENT}{number}": shape for number, shape in enumerate(stages)}
    return Shapes(CLASSES, width, stages, stages, pooled=True, features=features)


OURS = shapes_of(32, _OUR_STAGES)
THEIRS = shapes_of(48, _THEIR_STAGES)
LATE = shapes_of(32, _OUR_STAGES[1:])
"""Pairs of stages with `THEIRS`: 0 with 1, 1 with 2."""


def joined(method: str, **settings: object) -> Method:
    """A method between `OURS` and `THEIRS`, attached."""
    torch.manual_seed(1)
    made = Method(method, resolve_settings(method, settings), OURS, THEIRS)
    made.attach(Classifier(THEIRS), labels=torch.arange(60) % CLASSES, indices=torch.arange(50))
    return made


def gradients(network: torch.nn.Module) -> list[Tensor]:
    """Of the weights that have one."""
    return [weight.grad for weight in network.parameters() if weight.grad is not None]
