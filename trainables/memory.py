"""How much of a GPU a trial takes, measured on its first steps."""

from typing import NamedTuple

import torch

from trainables.job import Job, Run

STEPS = 3

CONTEXT_BYTES = 600 * 10**6
"""What a process takes of a GPU before its first tensor: the driver's state and the code of its
libraries, about half a gigabyte. What is there by then cannot be told from other processes'."""


class GpuMemory(NamedTuple):
    """Bytes that a trial took at most, its process's share of the driver included, and in all."""

    peak: int
    total: int


def measure_memory(job: Job) -> GpuMemory:
    """Trains a few steps of a trial on the GPU of this process, and throws them away.

    Args:
        job: the trial; its teacher is there. Nothing of it is written.
    """
    device = torch.device("cuda", 0)
    before, _ = torch.cuda.mem_get_info(device)
    run = Run(job, device, keep=False)
    training = run.training
    training.learner.train()
    first = training.stream.plan(0)[0]
    for feed in training.stream(0, [first] * STEPS):
        training.learner.step(feed, 0.0)
    training.val_score()
    torch.cuda.synchronize(device)
    free, total = torch.cuda.mem_get_info(device)
    # What libraries allocate by themselves shows in the first figure only.
    taken = max(before - free, torch.cuda.max_memory_reserved(device))
    return GpuMemory(taken + CONTEXT_BYTES, total)
