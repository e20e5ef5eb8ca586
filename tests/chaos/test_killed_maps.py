"""A sweep that is killed while the attribution maps of its teacher are computed."""

import json
import os
import signal

import pytest

from orchestrator.query import trials
from trainables.attribution.map_settings import MapSettings
from trainables.data.sources import load_dataset
from trainables.teachers.map_file import MapFile
from trainables.teachers.maps import map_key, map_path
from trainables.teachers.teacher import find_teacher

STEPS = 30
COUNT = "attribution maps of wrn_16_1: "
OVERLAID = {
    "teacher": {"model": "wrn_16_1", "epochs": 1},
    "fixed": {"student": "wrn_10_0.5", "epochs": 1, "val_fraction": 0.2, "ig.steps": STEPS},
    "dimensions": {"method": ["ig"]},
}


@pytest.mark.slow
def test_maps_go_on_where_a_sweep_was_killed(start, study, tmp_path, monkeypatch):
    """First the actor that computes them, then the driver and all that it started."""
    monkeypatch.setenv("KDSWEEP_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "results"
    driver = start("run", study("m", **OVERLAID), "--results", str(folder))
    driver.wait_for(f"{COUNT}256 of 1,438")
    for pid in driver.workers("MapComputing"):
        os.kill(pid, signal.SIGKILL)
    driver.wait_for("attribution maps: the worker died; trying again")

    (file,) = (folder / "teachers").glob("*.safetensors")
    card = find_teacher(str(folder), file.stem)
    key = map_key(card.fingerprint, load_dataset("digits"), MapSettings(steps=STEPS))
    missing = parts_missing(key)
    driver.wait_until(lambda: len(parts_missing(key)) < len(missing), "another part")
    driver.kill()
    left = parts_missing(key)
    assert 0 < len(left) < len(missing) < key.parts, "the kill came too late"

    resumed = start("resume", "m", "--results", str(folder))
    assert resumed.wait() == 0, resumed.err
    counts = [line for line in resumed.out if COUNT in line and " of 1,438" in line]
    with MapFile(map_path(key), key) as kept:
        first = key.images - sum(len(kept.images(part)) for part in left[1:])
        assert kept.complete()
    assert counts[0].strip() == f"{COUNT}{first:,} of 1,438", resumed.out
    assert not [line for line in resumed.out if "damaged" in line]
    (row,) = trials(folder).to_dict("records")
    assert row["status"] == "completed"
    facts = json.loads(row["attribution_maps"])
    assert (facts["steps"], facts["alignment"]) == (STEPS, "aligned")


def parts_missing(key):
    """Parts of a file without a map, by their numbers."""
    with MapFile(map_path(key), key) as file:
        return file.missing()[0]
