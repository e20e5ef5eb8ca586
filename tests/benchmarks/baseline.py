"""The loop that kdsweep is compared with: what distillation repositories usually run.

A DataLoader whose worker processes augment PIL images one by one, fp32 in PyTorch's default
layout, the teacher run in every step with all its features, and a wait for the loss's value in
every step. The losses and networks are kdsweep's own, so that the loop alone is compared.
"""

import time
from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torchvision import transforms

from trainables.data.dataset import Dataset
from trainables.methods.method import Method
from trainables.methods.registry import resolve_settings
from trainables.methods.term import Batch
from trainables.models.registry import create_model
from trainables.models.shapes import output_shapes


class PilImages(TorchDataset[tuple[Tensor, int, int]]):
    """Images as most loaders hold them: augmented one by one when they are asked for."""

    def __init__(self, dataset: Dataset) -> None:
        pixels = dataset.train.images.numpy()
        self.images = np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))
        self.labels = dataset.train.labels.tolist()
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(pixels.shape[-1], padding=dataset.crop_padding),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(dataset.mean, dataset.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index], index


class Baseline:
    """One student under training by the usual loop.

    Args:
        dataset: images of three channels.
        student, teacher: model names; the teacher has random weights, which cost the same.
        method: as in kdsweep.
        batch_size: images per step.
        workers: processes that load images.
        device: where the networks are.
    """

    def __init__(
        self,
        dataset: Dataset,
        student: str,
        teacher: str,
        method: str,
        batch_size: int,
        workers: int,
        device: torch.device,
    ) -> None:
        torch.manual_seed(0)
        shape, self.device = dataset.image_shape, device
        self.student = create_model(student, dataset.num_classes, shape)
        self.teacher = create_model(teacher, dataset.num_classes, shape).eval()
        self.method = Method(
            method,
            resolve_settings(method, {}),
            output_shapes(self.student, shape),
            output_shapes(self.teacher, shape),
        )
        if self.method.needs:
            self.method.attach(self.teacher, dataset.train.labels, torch.arange(len(dataset.train)))
        for module in (self.student, self.teacher, self.method):
            module.to(device)
        self.optimizer = torch.optim.SGD(
            [*self.student.parameters(), *self.method.parameters()],
            lr=0.05,
            momentum=0.9,
            weight_decay=5e-4,
        )
        self.loader = DataLoader(
            PilImages(dataset),
            batch_size,
            shuffle=True,
            num_workers=workers,
            drop_last=True,
            persistent_workers=workers > 0,
        )
        self.batches = self._forever()

    def _forever(self) -> Iterator[list[Tensor]]:
        while True:
            yield from self.loader

    def steps(self, count: int) -> tuple[int, float]:
        """Trains ``count`` steps; returns images and seconds."""
        self.student.train()
        started, images = time.perf_counter(), 0
        for _ in range(count):
            inputs, target, indices = (part.to(self.device) for part in next(self.batches))
            batch = Batch(target, indices, epoch=0.0, progress=0.0)
            taught = None
            if self.method.needs:
                with torch.no_grad():
                    taught = self.teacher(inputs)
            losses = self.method(self.student(inputs), taught, batch)
            self.optimizer.zero_grad()
            losses.sum().backward()
            self.optimizer.step()
            self.method.after_step(batch)
            losses.sum().item()  # as a progress bar shows it
            images += len(target)
        return images, time.perf_counter() - started
