"""Adaptors: small layers that bring a student's features to a teacher's shape."""

import torch.nn.functional as F
from torch import Tensor, nn

Stage = tuple[int, int, int]


class BatchNorm(nn.BatchNorm2d):
    """BatchNorm that also takes one value per channel (a 1x1 map of one image).

    Such a value has no variance: it is normalised by the running statistics instead.
    """

    def forward(self, features: Tensor) -> Tensor:
        if self.training and features.numel() > features.shape[1]:
            return super().forward(features)
        return F.batch_norm(
            features, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
        )


class StageAdaptor(nn.Module):
    """1x1 convolution (no bias), BatchNorm and ReLU from the student's channels to the teacher's.

    The usual adaptor of feature distillation (SRRL, ICLR 2021, section 3). Where the maps
    differ in size, the larger one is average-pooled to the smaller: by `forward` on the
    student's side, by `match` on the teacher's.

    Args:
        student: ``(C, H, W)`` of the student's stage.
        teacher: ``(C, H, W)`` of the teacher's.
        rectify: whether there is a ReLU at the end, for features that have one.
    """

    def __init__(self, student: Stage, teacher: Stage, *, rectify: bool = True) -> None:
        super().__init__()
        self.size = (min(student[1], teacher[1]), min(student[2], teacher[2]))
        self.layers = nn.Sequential(
            nn.Conv2d(student[0], teacher[0], 1, bias=False),
            BatchNorm(teacher[0]),
            nn.ReLU(inplace=True) if rectify else nn.Identity(),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Student features ``[B, C_s, H_s, W_s]`` as ``[B, C_t, H, W]``."""
        adapted: Tensor = self.layers(self._pooled(features))
        return adapted

    def match(self, features: Tensor) -> Tensor:
        """Teacher features ``[B, C_t, H_t, W_t]`` as ``[B, C_t, H, W]``."""
        return self._pooled(features)

    def _pooled(self, features: Tensor) -> Tensor:
        if tuple(features.shape[-2:]) == self.size:
            return features
        return F.adaptive_avg_pool2d(features, self.size)
