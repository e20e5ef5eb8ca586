"""Maps a second, by every explainer at its default settings, on one network.

python tests/benchmarks/explainers.py [--network resnet20] [--images 16] [--rounds 3] [--json FILE]

Explainers take turns; a number is the median over the rounds, in seconds of processor time on a
CPU and of the clock on a GPU. Where captum has the same thing, it explains the same images in
the same turns, at equal settings, in batches of ``--captum-batch`` (8 is what scripts of the
literature use): ``over captum`` is its time over ours.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from captum.attr import GradientShap, IntegratedGradients, LayerGradCam, NoiseTunnel, Saliency
from conditions import conditions
from torch import Tensor, nn

from trainables.attribution.explaining import check_explainers, explain
from trainables.attribution.layers import find_layer
from trainables.attribution.registry import EXPLAINERS, resolve_explainers
from trainables.errors import UserError
from trainables.models import Network, create_model

CLASSES = 10


class Logits(nn.Module):
    """As captum wants a network."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network.eval()

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images).logits


def captums(network: Network, configs: dict[str, Any], images: Tensor) -> dict[str, Callable]:
    """What captum has of the explainers: attributions of images for classes."""
    wrapped = Logits(network)

    def asking(method: Any, **settings: Any) -> Callable[[Tensor, Tensor], Any]:
        return lambda x, y: method.attribute(x, target=y, **settings)

    found = {"gradients": asking(Saliency(wrapped))}
    layer = find_layer("layer", "last", network, images[:1]).module
    if layer:
        module = network.get_submodule(layer)
        found["grad_cam"] = asking(LayerGradCam(wrapped, module), relu_attributions=True)
    if "smooth_grad" in configs:
        config = configs["smooth_grad"]
        settings = {"nt_samples": config.samples, "stdevs": config.noise}
        found["smooth_grad"] = asking(NoiseTunnel(Saliency(wrapped)), **settings)
    if "gradient_shap" in configs:
        settings = {"n_samples": configs["gradient_shap"].samples}
        baselines = torch.randn(images.shape, device=images.device)
        found["gradient_shap"] = asking(GradientShap(wrapped), baselines=baselines, **settings)
    if "integrated_gradients" in configs:
        steps = configs["integrated_gradients"].steps
        found["integrated_gradients"] = asking(IntegratedGradients(wrapped), n_steps=steps)
    return found


def seconds(work: Callable[[], Any], device: torch.device) -> float:
    """Of one run."""
    if device.type != "cuda":
        started = time.process_time()
        work()
        return time.process_time() - started
    torch.cuda.synchronize(device)
    started = time.perf_counter()
    work()
    torch.cuda.synchronize(device)
    return time.perf_counter() - started


def in_batches(work: Callable[[Tensor, Tensor], Any], x: Tensor, y: Tensor, batch: int) -> None:
    for pixels, classes in zip(x.split(batch), y.split(batch), strict=True):
        work(pixels.clone().requires_grad_(), classes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--explainers", help="joined by '+'; default: all that there are")
    parser.add_argument("--network", default="resnet20")
    parser.add_argument("--size", type=int, default=32, help="pixels per side")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--captum-batch", type=int, default=8)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, help="where the numbers are kept")
    options = parser.parse_args()

    torch.manual_seed(0)
    device, shape = torch.device(options.device), (3, options.size, options.size)
    began = conditions(device)
    network = create_model(options.network, CLASSES, shape).to(device).eval()
    images = torch.randn(options.images, *shape, device=device)
    targets = torch.arange(options.images, device=device) % CLASSES

    asked: dict[str, Any] = {}
    for name in options.explainers.split("+") if options.explainers else EXPLAINERS:
        found = resolve_explainers(name, {})
        try:
            check_explainers(network, found, shape)
        except UserError as error:
            print(f"{name}: refused: {error}")
        else:
            asked |= found
    works: dict[tuple[str, str], Callable[[], Any]] = {}
    theirs = captums(network, asked, images)
    for name, config in asked.items():
        works[name, "ours"] = lambda one={name: config}: explain(network, one, images, targets)
        if name in theirs:
            works[name, "captum"] = lambda work=theirs[name]: in_batches(
                work, images, targets, options.captum_batch
            )
    taken: dict[tuple[str, str], list[float]] = {key: [] for key in works}
    for number in range(options.rounds + 1):
        for key, work in works.items():
            once = seconds(work, device)
            if number:  # the first warms up
                taken[key].append(once)
    medians = {key: statistics.median(times) for key, times in taken.items()}

    kind = "processor time" if device.type == "cpu" else "time"
    print(f"{options.network}, {options.images} images of {options.size} pixels, {device}, {kind}")
    print(f"{'explainer':<22}{'maps/s':>10}{'over captum':>14}")
    rows = {}
    for name in asked:
        rate = options.images / medians[name, "ours"]
        other = medians.get((name, "captum"))
        ratio = other / medians[name, "ours"] if other is not None else None
        rows[name] = {"maps_per_second": rate, "over_captum": ratio}
        print(f"{name:<22}{rate:>10.1f}{f'{ratio:.2f}' if ratio else '-':>14}")
    whole = options.images * len(asked) / sum(medians[name, "ours"] for name in asked)
    print(f"{'all, one by one':<22}{whole:>10.1f}{'':>14}")
    if options.json:
        chosen = {key: value for key, value in vars(options).items() if key != "json"}
        facts = began | {"settings": chosen, "all": whole, "rows": rows}
        options.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
