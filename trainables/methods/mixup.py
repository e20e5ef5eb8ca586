"""Mixup: training on mixtures of two images (Zhang et al., ICLR 2018, arXiv 1710.09412).

A modifier: alone it is the classic augmentation, beside other terms also their input. With a
random permutation π of the batch and one λ ~ Beta(α, α) per batch, as in the authors' code,

    x̃ = λ · x + (1 − λ) · x_π        CE = λ · CE(z, y) + (1 − λ) · CE(z, y_π)

``mixup``: the classic one, without a teacher. α = 1, λ uniform, is the authors' choice on CIFAR;
on ImageNet they take 0.1 to 0.4.

``kd+mixup``: distillation on mixtures. With ``kd.alpha: 1`` no label is used: the function
matching of Beyer et al. (CVPR 2022, arXiv 2106.05237), who mix with uniform λ, let teacher and
student see the very same x̃, and train long; the released configuration for ImageNet has
``kd.temperature: 1``. Their code, too, draws one λ per batch. It makes λ the larger of λ and
1 − λ, which with random partners changes nothing but the names of the two images.

``teacher_mix: logits`` lets the teacher see the views as they are and mixes its logits with the
same λ and π. That is no longer the teacher's answer to x̃, but the answers to plain views can be
looked up, which makes it as cheap as KD on plain images. It serves terms that read no more of the
teacher than its logits.

Every term of the teacher's outputs may stand beside it except those that read the one true class
of an image (dkd) or who the image is (crd): they are refused.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Dirichlet

from trainables.methods.term import Batch, InputModifier, Mix
from trainables.models.outputs import Outputs
from trainables.settings import setting


@dataclass(frozen=True, kw_only=True, slots=True)
class MixupConfig:
    """What `Mixup` mixes, and how strongly."""

    alpha: float = setting(
        1.0, "α of Beta(α, α), from which λ is drawn", at_least=0.01, search=(0.1, 2), log=True
    )
    teacher_mix: str = setting(
        "image",
        "whether the teacher sees the mixed image, or its logits of the plain ones are mixed",
        choices=("image", "logits"),
    )


class Mixup(InputModifier):
    """Every image mixed with another one of its batch."""

    mixes_labels = True
    Config = MixupConfig

    concentration: Tensor

    def __init__(self, config: MixupConfig) -> None:
        super().__init__(config)
        self.plain_teacher = config.teacher_mix == "logits"
        # A buffer, because a copy to a GPU makes the host wait. In double precision, because there
        # both of the gamma variables behind λ often underflow in single for a small α.
        both = torch.full((2,), config.alpha, dtype=torch.float64)
        self.register_buffer("concentration", both, persistent=False)

    def draw(self, batch: Batch) -> Batch:
        partner = torch.randperm(len(batch.target), device=batch.target.device)
        share = Dirichlet(self.concentration, validate_args=False).sample()[0]
        return batch._replace(mix=Mix(partner, share.float()))

    def forward(self, images: Tensor, batch: Batch) -> Tensor:
        assert batch.mix is not None
        return batch.mix(images)

    def taught(self, teacher: Outputs, batch: Batch) -> Outputs:
        assert batch.mix is not None
        nothing = dict.fromkeys(teacher._fields)
        return Outputs(**{**nothing, "logits": batch.mix(teacher.logits.float())})  # type: ignore[arg-type]
