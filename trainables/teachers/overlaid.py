"""Images as a student of `trainables.methods.ig` learns from them, to be looked at."""

from dataclasses import replace

import torch
from torch import Tensor

from trainables.attribution.map_settings import MapSettings
from trainables.data.dataset import Dataset, Images
from trainables.methods.ig import IGConfig, overlay_of
from trainables.teachers.attributing import Attributing
from trainables.teachers.teacher import Teacher


def overlaid(
    teacher: Teacher, dataset: Dataset, images: Images, config: IGConfig
) -> dict[float, Tensor]:
    """Images under their maps, at the least and at the greatest exponent.

    In training the exponent is drawn between the two, and an overlay lies over some images only.
    A map is computed for each image as it is, as the stored ones of training images are. Under
    ``alignment: shuffled`` an image has the map of the next one, the last that of the first.

    Args:
        teacher: on the CPU.
        dataset: of the teacher's classes.
        images: of that set, at least two of them where maps are shuffled.
        config: of the trial's ``ig``.

    Returns:
        By exponent, uint8 ``[n, C, H, W]``.

    Raises:
        TeacherBroken: its gradients are not finite.
    """
    shown = replace(dataset, train=images)
    attributing = Attributing(teacher, shown, MapSettings.of(config), torch.device("cpu"))
    maps = attributing(range(len(images)))[0].unsqueeze(1)
    if config.alignment == "shuffled":
        maps = maps.roll(-1, 0)
    pixels, found = images.images.float() / 255, {}
    for exponent in dict.fromkeys((1.0, config.exponent)):
        over, seen = overlay_of(maps, torch.full((len(images), 1, 1, 1), exponent))
        mixed = pixels.lerp(over, seen * (1 - config.share))
        found[exponent] = (mixed * 255).round().to(torch.uint8)
    return found
