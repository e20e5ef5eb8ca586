"""How many trials share a GPU: as many as fit, by the memory that the largest one was seen to take.

Small students leave most of a GPU idle; several at once fill it. A trial that still runs out of
memory is tried again with twice the share (`orchestrator.sweeps.ledger`).
"""

import logging
from typing import Any

from orchestrator.sweeps.plan import Plan
from trainables.compression.measure import macs_of
from trainables.config import TrialConfig
from trainables.memory import GpuMemory, measure_memory
from trainables.methods.registry import peer_models
from trainables.models.blueprint import Blueprint

log = logging.getLogger(__name__)

FILLED = 0.85
"""Of a GPU's memory; allocators of several processes do not fit seamlessly."""

MOST = 16
"""Trials on one GPU, beyond which they only wait for one another."""


def share_for(memory: GpuMemory) -> float:
    """The share of a GPU to ask Ray for: 1 / how many such trials fit.

    Args:
        memory: of the largest trial.
    """
    fit = int(FILLED * memory.total / max(memory.peak, 1))
    return 1.0 / max(1, min(fit, MOST))


def largest(plan: Plan) -> TrialConfig:
    """The config whose student, with its peers, computes most: that takes most memory.

    Of those that compute as much it is one of most teachers.
    """
    data = plan.dataset

    def effort(config: TrialConfig) -> tuple[int, int]:
        student = plan.blueprint(config)
        peers = peer_models(config.method, config.terms).values()
        networks = [student, *(Blueprint(name or student.model) for name in peers)]
        macs = sum(macs_of(one, data.num_classes, data.image_shape) for one in networks)
        return config.batch_size * macs, len(config.teachers)

    return max((config for _, config in plan.corners()), key=effort)


def packed_share(plan: Plan) -> float:
    """The share of a GPU for every trial of a plan, measured on a GPU of the cluster.

    A trial that cannot be measured, for whatever reason, gets a whole GPU; a warning says so.
    """
    import ray

    job = plan.job(largest(plan), "probe", 1)
    probe: Any = ray.remote(num_cpus=plan.cpus, num_gpus=1, max_calls=1)(measure_memory)
    try:
        return share_for(GpuMemory(*ray.get(probe.remote(job))))
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[-1]
        log.warning("a trial's GPU memory could not be measured (%s): one trial per GPU", reason)
        return 1.0
