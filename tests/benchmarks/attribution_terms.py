"""What a step under SWA costs with the closed form, beside backward passes, in one process.

python tests/benchmarks/attribution_terms.py [--student resnet8] [--teacher resnet20] [--batch 64]
    [--rounds 10] [--reach 0.7]

A step is the passes of both networks and the loss, without an optimizer. Sensitivities are found
from the classifier's weights, by a backward pass to the stage alone, or by one through the whole
network, as the paper's code asks for it. The forms give equal losses, which is checked, and take
turns; EWA and no term at all stand beside them. Processor time, one thread. Exit code 1 where the
closed form takes more than --reach of the last.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from trainables.methods.ewa import EWA, EWAConfig
from trainables.methods.swa import SWA, SWAConfig, swa_loss
from trainables.methods.term import Batch
from trainables.models.features import with_features
from trainables.models.registry import create_model
from trainables.models.shapes import output_shapes

SHAPE, CLASSES = (3, 32, 32), 10


def slopes(outputs, classes, *, learning: bool):
    """Sensitivities of the last stage by a backward pass, as the paper's code finds them."""
    said = outputs.logits.gather(1, classes[:, None]).sum()
    (found,) = torch.autograd.grad(said, outputs.stages[-1], create_graph=learning)
    return found.sum((2, 3))


def contestants(options: argparse.Namespace) -> dict[str, Callable[[], torch.Tensor]]:
    """By name what gives the loss of a step, with a graph."""
    torch.manual_seed(0)
    teacher = create_model(options.teacher, CLASSES, SHAPE).eval().requires_grad_(False)
    student = create_model(options.student, CLASSES, SHAPE).train()
    images, target = torch.randn(options.batch, *SHAPE), torch.arange(options.batch) % CLASSES
    batch = Batch(target, target, 0.0, 0.0)
    shapes = [output_shapes(one, SHAPE) for one in (student, teacher)]
    terms = {"ewa": EWA(EWAConfig(), *shapes), "swa, closed form": SWA(SWAConfig(), *shapes)}
    for term in terms.values():
        term.attach(teacher, target, target)
        assert term.needs <= {"logits", "stages"}

    def plain() -> torch.Tensor:
        with torch.no_grad():
            teacher(images)
        return F.cross_entropy(student(images).logits, target)

    def closed(name: str) -> Callable[[], torch.Tensor]:
        def loss() -> torch.Tensor:
            term = terms[name]
            with torch.no_grad():
                taught = teacher(images)
            said = with_features(student, images, term.student_needs, None, learning=True)
            return F.cross_entropy(said.logits, target) + term(said, taught, batch)

        return loss

    def autograd() -> torch.Tensor:
        taught = teacher(images.clone().requires_grad_())
        said, classes = student(images), taught.logits.argmax(1)
        theirs = slopes(taught, classes, learning=False), taught.stages[-1].detach()
        ours = slopes(said, classes, learning=True)
        loss = swa_loss(said.stages[-1], theirs[1], ours, theirs[0])
        return F.cross_entropy(said.logits, target) + SWAConfig().weight * loss

    def published() -> torch.Tensor:
        """Through all of both networks, as the released code asks: of the weights, too."""
        teacher.requires_grad_()
        taught = teacher(images)
        said, classes = student(images), taught.logits.argmax(1)
        kept = []
        for outputs, network, learning in ((taught, teacher, False), (said, student, True)):
            wanted = outputs.logits.gather(1, classes[:, None]).sum()
            sought = [outputs.stages[-1], *network.parameters()]
            found = torch.autograd.grad(wanted, sought, create_graph=learning, allow_unused=True)
            kept.append(found[0].sum((2, 3)))
        teacher.requires_grad_(False)
        loss = swa_loss(said.stages[-1], taught.stages[-1].detach(), kept[1], kept[0])
        return F.cross_entropy(said.logits, target) + SWAConfig().weight * loss

    made = {name: closed(name) for name in terms}
    return {"no term": plain, **made, "swa, to the stage": autograd, "swa, whole": published}


def seconds(loss: Callable[[], torch.Tensor]) -> float:
    started = time.process_time()
    loss().backward()
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--student", default="resnet8")
    parser.add_argument("--teacher", default="resnet20")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--reach", type=float, default=0.7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    steps = contestants(options)
    losses = [loss().item() for name, loss in steps.items() if name.startswith("swa")]
    assert max(losses) - min(losses) < 1e-4 * max(losses), losses
    found: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(options.rounds + 1):
        for name in [*steps][:: 1 if number % 2 else -1]:
            took = seconds(steps[name])
            if number:  # the first round warms up
                found[name].append(took)
    took = {name: statistics.median(times) for name, times in found.items()}
    print(f"{options.teacher} -> {options.student}, batch {options.batch}, one thread, fp32")
    for name, one in took.items():
        print(f"  {name:18} {1000 * one:7.1f} ms, {one / took['no term']:.3f} of no term")
    closed = took["swa, closed form"]
    for name in ("swa, to the stage", "swa, whole"):
        print(f"closed form against {name}: {took[name] / closed:.2f} times as fast")
    sys.exit(closed > options.reach * took["swa, whole"])


if __name__ == "__main__":
    main()
