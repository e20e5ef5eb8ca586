"""The teacher's attribution maps of a batch, as the views of its images show them."""

import logging
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trainables.attribution.map_settings import MapSettings
from trainables.data.dataset import Dataset
from trainables.data.views import ViewPlan
from trainables.once import warn_once
from trainables.teachers.maps import StoredMaps, stored_maps
from trainables.teachers.teacher import Teacher
from trainables.training.feeding import Feed
from trainables.training.shown_images import of_few

log = logging.getLogger(__name__)

SHUFFLED = "shuffled"
SHUFFLE_SEED = 0


class PlacedMaps(NamedTuple):
    """Stored maps, and where among them that of an image is.

    Attributes:
        stored: the maps.
        rows: int64 ``[N]`` by the image's position in the training set, on the device; those of
            images that are not trained on mean nothing.
    """

    stored: StoredMaps
    rows: Tensor


def place_maps(
    teacher: Teacher,
    dataset: Dataset,
    settings: MapSettings,
    trained: Tensor,
    device: torch.device,
    where: str = "auto",
) -> PlacedMaps:
    """A teacher's maps of the images that are trained on; computed where they are not stored.

    Args:
        teacher, dataset, settings, device, where: as for `stored_maps`.
        trained: their positions in the training set, int64 ``[M]``, on the CPU.
    """
    rows = torch.arange(len(dataset.train))
    mapped = of_few(dataset, trained)
    if mapped is not dataset:
        rows[trained.sort().values] = torch.arange(len(trained))
    return PlacedMaps(stored_maps(teacher, mapped, settings, device, where), rows.to(device))


class ShownMaps:
    """Maps under the crop and the flip of each view; of a batch once, whoever asks.

    Args:
        placed: the maps.
        trained: positions of the images that are trained on, int64 ``[M]``, on the CPU.
        views: the augmentation.
        alignment: ``aligned``, or ``shuffled``: each image gets the map of another one, always the
            same, and without crop or flip. That is a fault, kept for an ablation, and is said.
    """

    def __init__(
        self, placed: PlacedMaps, trained: Tensor, views: ViewPlan, alignment: str
    ) -> None:
        self.stored, self.rows = placed
        self.views, self.alignment = views, alignment
        if alignment == SHUFFLED:
            warn_once(
                log,
                "ig.alignment shuffled: every image gets the attribution map of another one, and "
                "not its own crop; for an ablation only",
            )
            there, theirs = trained, trained[others(len(trained))]
            self.rows = self.rows.clone()
            self.rows[there.to(self.rows.device)] = placed.rows[theirs.to(self.rows.device)]
        self._here = self.rows.cpu()
        self._last: tuple[Feed, Tensor] | None = None

    def __call__(self, feed: Feed) -> Tensor:
        """``[B, 1, H, W]`` float32, at least 0."""
        if self._last is None or self._last[0] is not feed:
            self._last = feed, self._shown(feed)
        return self._last[1]

    def _shown(self, feed: Feed) -> Tensor:
        maps = self.stored.of(self.rows[feed.there], self._here[feed.indices]).float()
        return maps if self.alignment == SHUFFLED else self.views.show(maps, feed.offsets)

    @property
    def facts(self) -> dict[str, Any]:
        """For the row: what the maps are, and their alignment."""
        return {**self.stored.facts, "alignment": self.alignment}


def others(images: int) -> Tensor:
    """For each of some images another one, int64 ``[images]``: one cycle, in random order.

    The same in every trial: it depends on the number of images alone.
    """
    cycle = torch.randperm(images, generator=torch.Generator().manual_seed(SHUFFLE_SEED))
    found = torch.empty_like(cycle)
    found[cycle] = cycle.roll(1)
    return found
