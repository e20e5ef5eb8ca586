"""The cluster file: valid for Ray's launcher, and closed to the world."""

import importlib.util
import json
from pathlib import Path

import jsonschema
import pytest
import yaml

FILE = Path(__file__).parents[1] / "cluster.yaml"


@pytest.fixture(scope="module")
def cluster() -> dict:
    return yaml.safe_load(FILE.read_text())


def test_valid_for_the_installed_ray(cluster):
    spec = importlib.util.find_spec("ray")
    schema = json.loads((Path(spec.origin).parent / "autoscaler" / "ray-schema.json").read_text())
    jsonschema.validate(cluster, schema)
    assert cluster["head_node_type"] in cluster["available_node_types"]


def test_every_ray_start_sets_the_authentication(cluster):
    starts = [
        line
        for kind in ("head", "worker")
        for line in cluster[f"{kind}_start_ray_commands"]
        if "ray start" in line
    ]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token" in line for line in starts)


def test_dashboard_stays_on_localhost_and_no_port_is_opened(cluster):
    assert "0.0.0.0" not in FILE.read_text()
    assert any("--dashboard-host=127.0.0.1" in x for x in cluster["head_start_ray_commands"])
    assert "IpPermissions" not in cluster["provider"]["security_group"]
