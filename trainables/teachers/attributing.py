"""A teacher's maps of some images, as they are stored."""

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.attribution.folding import folded
from trainables.attribution.integrated_gradients import (
    baseline_image,
    completeness_errors,
    integrate,
    quadrature,
    rows_at_once,
)
from trainables.attribution.map_settings import MapSettings
from trainables.data.dataset import Dataset
from trainables.data.views import to_float
from trainables.errors import TeacherBroken
from trainables.methods.term import class_shares
from trainables.models.outputs import Network
from trainables.teachers.teacher import Teacher


class Attributing:
    """Maps of images that stand beside each other in a training set."""

    def __init__(
        self, teacher: Teacher, dataset: Dataset, settings: MapSettings, device: torch.device
    ) -> None:
        self._teacher, self._images, self._device = teacher, dataset.train, device
        self._settings = settings
        card = teacher.card
        blank = torch.zeros(1, *dataset.image_shape, device=device)
        with torch.autocast(device.type, enabled=False):
            self._network: Network = folded(teacher.network, blank)
            self._network.to(memory_format=torch.channels_last)
            self._baseline = baseline_image(settings.baseline, card.mean, card.std).to(device)
            with torch.no_grad():
                silent = self._baseline.expand(1, *dataset.image_shape).contiguous()
                self._silent = self._network(silent).logits
        self._points = quadrature(settings.quadrature, settings.steps)
        self._rows = rows_at_once(blank)

    def __call__(self, images: range) -> tuple[Tensor, Tensor]:
        """Maps ``[n, H, W]`` float16 and completeness errors ``[n]`` float32, on the CPU."""
        while True:
            try:
                with torch.autocast(self._device.type, enabled=False):
                    return self._attributed(images)
            except torch.OutOfMemoryError:
                if self._rows == 1:
                    raise
                self._rows //= 2

    @torch.no_grad()
    def _attributed(self, images: range) -> tuple[Tensor, Tensor]:
        there, card = slice(images.start, images.stop), self._teacher.card
        pixels = to_float(self._images.images[there].to(self._device), card.mean, card.std)
        logits = self._network(pixels).logits
        if self._settings.target == "teacher":
            shares = F.one_hot(logits.argmax(1), logits.shape[1]).float()
        else:
            shares = class_shares(self._images.labels[there].to(self._device), logits.shape[1])
        found = integrate(self._network, pixels, self._baseline, shares, self._points, self._rows)
        differences = ((logits - self._silent) * shares).sum(1)
        errors = completeness_errors(found.sum((1, 2, 3)), differences)
        maps = found.abs().sum(1)
        peaks = maps.amax((1, 2), keepdim=True)
        maps = torch.where(peaks == 0, 0.0, maps / peaks).half().cpu()
        broken = (~maps.isfinite().all(2).all(1)).nonzero()
        if len(broken):
            raise TeacherBroken(
                f"teacher {card.name} has no finite integrated gradients of training image "
                f"{images.start + int(broken[0])}"
            )
        return maps, errors.float().cpu()
