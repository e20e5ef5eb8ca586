"""How many trials share a GPU."""

import pytest
import torch

from orchestrator.sweeps.packing import largest, share_for
from orchestrator.sweeps.plan import Plan
from search_spaces.load import parse_study
from trainables.memory import GpuMemory, measure_memory

GB = 10**9


@pytest.mark.parametrize(
    ("peak", "total", "trials"),
    [
        (1 * GB, 140 * GB, 16),  # more would only wait for one another
        (30 * GB, 140 * GB, 3),
        (10 * GB, 24 * GB, 2),
        (20 * GB, 24 * GB, 1),
        (40 * GB, 24 * GB, 1),
    ],
)
def test_as_many_as_fit(peak: int, total: int, trials: int) -> None:
    assert share_for(GpuMemory(peak, total)) == pytest.approx(1 / trials)


def plan(tmp_path, **changes) -> Plan:
    content = {
        "name": "s",
        "dataset": "digits",
        "teacher": {"model": "wrn_16_1"},
        "fixed": {"epochs": 1},
        "dimensions": {
            "student": ["wrn_10_0.5", "wrn_10_2", "wrn_10_1"],
            "method": ["student", "kd"],
        },
        "sampler": "grid",
    }
    return Plan(parse_study({**content, **changes}), "s", str(tmp_path)).with_teachers()


def test_the_largest_student_is_measured(tmp_path) -> None:
    assert largest(plan(tmp_path)).student == "wrn_10_2"


def test_peers_count_as_well(tmp_path) -> None:
    dimensions = {"student": ["wrn_10_1", "wrn_10_0.5"], "method": ["student", "dml"]}
    found = largest(plan(tmp_path, dimensions=dimensions))
    assert (found.student, found.method) == ("wrn_10_1", "dml")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_memory_is_measured_on_the_gpu(tmp_path) -> None:
    made = plan(tmp_path)
    config = largest(made).replace(method="student")
    memory = measure_memory(made.job(config, "probe", 1, teacher=None))
    assert 0 < memory.peak < memory.total
