"""The combinations that a study's trials may have, by which it is checked before it runs."""

from typing import Any

from search_spaces.load import load_study, parse_study
from search_spaces.spec import Study

DIMENSIONS: dict[str, Any] = {
    "method": ["student", "kd"],
    "compression": ["explicit", "prune"],
    "prune": [2, 4],
    "kd.temperature": [1, 4],
}
POINTS: list[dict[str, Any]] = [
    {"method": "student", "compression": "explicit"},
    {"method": "kd", "compression": "prune", "prune": 4, "kd.temperature": 4},
    {"method": "kd", "compression": "prune", "prune": 4, "kd.temperature": 1},
]
SHAPING = {"method", "compression", "prune"}


def study(**changes: Any) -> Study:
    content = {
        "name": "s",
        "dataset": "digits",
        "teacher": {"model": "resnet14"},
        "fixed": {"student": "resnet8", "prune.of": "macs"},
        "dimensions": DIMENSIONS,
        "points": POINTS,
        "sampler": "points",
    }
    return parse_study(content | changes)


def shown(of: Study) -> list[tuple[Any, ...]]:
    corners = of.space.corners(SHAPING)
    return [(c["method"], c["compression"], c.get("prune")) for c in corners]


def test_of_listed_points_only_theirs() -> None:
    assert shown(study()) == [("student", "explicit", None), ("kd", "prune", 4)]


def test_of_anything_else_all_that_there_may_be() -> None:
    for sampler in ("grid", "tpe"):
        found = set(shown(study(sampler=sampler, trials=4 if sampler == "tpe" else None)))
        assert found == {
            *((m, "explicit", None) for m in DIMENSIONS["method"]),
            *((m, "prune", amount) for m in DIMENSIONS["method"] for amount in (2, 4)),
        }


def test_a_study_without_dimensions_has_one() -> None:
    alone = study(dimensions={}, points=[], fixed={"student": "resnet8", "method": "kd"})
    assert list(alone.space.corners(SHAPING)) == [{}]


def test_the_voc_study_has_no_network_that_none_of_its_trials_has() -> None:
    """Distilled students are not pruned there, and pruned ones are not distilled from scratch."""
    voc = load_study("attribution_voc")
    corners = list(voc.space.corners({"pair", *SHAPING}))
    assert {c["pair"] for c in corners if c["compression"] == "prune"} == {"structured"}
    assert {c["pair"] for c in corners if c["compression"] == "sparsify"} == {"unstructured"}
