"""Studies whose trials are explained: what is refused before anything starts, and a real sweep."""

import io
import json
import re

import pandas as pd
import pytest
import yaml
from here import said

from orchestrator.query import trials
from orchestrator.results.front import front, over_seeds
from orchestrator.results.tables import compression_table, render
from orchestrator.sweeps.checks import check_names, check_search
from orchestrator.sweeps.networks import check_networks
from orchestrator.sweeps.plan import Plan
from search_spaces.checks import check_effective
from search_spaces.load import parse_study
from search_spaces.schema import study_schema
from trainables.attribution.grad_cam import GradCAM
from trainables.attribution.registry import EXPLAINERS
from trainables.errors import UserError
from trainables.models.fake_quantised import FakeQuantisedLayer

STUDY = {
    "name": "s",
    "dataset": "digits",
    "teacher": {"model": "resnet8", "epochs": 2},
    "fixed": {
        "student": "wrn_10_0.5",
        "epochs": 2,
        "explainers": "grad_cam",
        "explained_images": 60,
    },
    "dimensions": {"method": ["student", "kd"]},
    "objectives": {"val_acc": "max", "size_bytes": "min", "val_preservation": "max"},
    "sampler": "grid",
    "repeats": 2,
}


def study(changes: dict | None = None, **fixed):
    fixed = {key: value for key, value in {**STUDY["fixed"], **fixed}.items() if value is not None}
    content = {**STUDY, "fixed": fixed, **(changes or {})}
    return parse_study({key: value for key, value in content.items() if value is not None})


def begin(found) -> Plan:
    """What is checked before a sweep begins, in its order."""
    plan = Plan(found, "s", "unused")
    check_names(plan)
    check_search(found, lambda: plan.dataset)
    check_networks(plan)
    return plan


def test_a_study_that_can_be_explained_passes():
    plan = begin(study(**{"grad_cam.layer": 1}))
    config = plan.study.config({"method": "kd"})
    assert (config.explainers, config.explaining) == ("grad_cam", {"grad_cam.layer": "1"})
    assert plan.key(config) == plan.key(study().config({"method": "kd"}))
    (line,) = plan.notes
    assert line.startswith("every student is explained on about 60 validation and 60 test images")
    assert not begin(study({"objectives": {"val_acc": "max"}}, explainers=None)).notes


@pytest.mark.parametrize(
    ("changes", "fixed", "line"),
    [
        ({}, {"explainers": "none"}, "objectives.val_preservation: needs explainers: add fixed.ex"),
        ({}, {"explainers": "gradcam"}, "unknown explainer 'gradcam'; did you mean grad_cam"),
        ({}, {"grad_cam.layr": 3}, "unknown key 'grad_cam.layr'; did you mean grad_cam.layer"),
        ({}, {"grad_cam.layer": "module:nope"}, "explainers: student wrn_.* unknown module"),
        (
            {},
            {"grad_cam.layer": "module:group3.0.conv1"},
            "explainers: teacher resnet8: unknown module of resnet8",
        ),
        (
            {"dimensions": {"explainers": ["grad_cam"]}, "sampler": "grid"},
            {"explainers": None},
            "dimensions.explainers: decides no result",
        ),
        (
            {"dimensions": {"grad_cam.layer": ["1", "2"]}},
            {},
            "dimensions.grad_cam.layer: decides no result; set it by fixed.grad_cam.layer",
        ),
        (
            {"objectives": {"val_localisation": "max"}},
            {},
            "objectives.val_localisation: needs masks, and no training image of 'digits' has one",
        ),
        (
            {"objectives": {"test_preservation": "max"}},
            {},
            "objective 'test_preservation': selection is on validation columns only",
        ),
        (
            {"constraints": {"val_preservation": ">= 0.5"}, "objectives": {"params": "min"}},
            {"explainers": None},
            "constraints.val_preservation: needs explainers",
        ),
        (
            {
                "teacher": None,
                "dimensions": {"method": ["student"]},
                "objectives": {"val_acc": "max"},
            },
            {},
            "explainers: grad_cam: nothing to score: there is no teacher .* no image of 'digits'",
        ),
        (
            {"teacher": None, "dimensions": {"method": ["student"]}},
            {},
            "objectives.val_preservation: needs a teacher",
        ),
    ],
)
def test_what_cannot_be_scored_is_refused(changes, fixed, line):
    with pytest.raises(UserError, match=line) as caught:
        begin(study(changes, **fixed))
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


def test_a_setting_of_another_explainer_has_no_effect():
    check_effective(study(**{"grad_cam.layer": 1}), ["grad_cam.layer"])
    for changes, line in (({}, "with explainers grad_cam"), ({"explainers": None}, "without expl")):
        found = study({"objectives": {"val_acc": "max"}}, **{"smooth_grad.samples": 3} | changes)
        with pytest.raises(UserError, match=f"smooth_grad.samples: has no effect {line}"):
            check_effective(found, ["smooth_grad.samples"])


def test_an_explainer_is_asked_about_quantised_layers_too(monkeypatch):
    """Whoever follows relevance through layers cannot follow it through rounding."""

    class NoRounding(GradCAM):
        def __init__(self, config, network, normalisation=None):
            super().__init__(config, network, normalisation)
            if any(isinstance(one, FakeQuantisedLayer) for one in network.modules()):
                raise UserError("no_rounding: layers are quantised")

    monkeypatch.setitem(EXPLAINERS._own, "no_rounding", NoRounding)
    begin(study(explainers="no_rounding"))
    for chain in ({"compression": "int8"}, {"compression": "qat+int8", "qat": 8}):
        with pytest.raises(UserError, match=r"student wrn_10_0\.5 behind .*: no_rounding: layers"):
            begin(study(explainers="no_rounding", **chain))


def test_editors_take_settings_of_explainers():
    schema = study_schema()
    (pattern,) = schema["properties"]["fixed"]["patternProperties"]
    assert re.match(pattern, "grad_cam.layer")
    assert not re.match(pattern, "kd.temperature")
    assert "explainers" in schema["properties"]["fixed"]["properties"]


def test_scores_are_means_over_seeds_on_a_front(recorded, trial_row):
    frame = recorded(
        [
            trial_row(0, "kd", 4, seed=0, val_acc=0.9, val_preservation=0.2, val_empty_maps=2),
            trial_row(1, "kd", 4, seed=1, val_acc=0.9, val_preservation=0.4, val_empty_maps=5),
            trial_row(2, "at", 4, seed=0, val_acc=0.8, val_preservation=0.5, val_empty_maps=0),
            trial_row(3, "sp", 4, seed=0, val_acc=0.7, val_preservation=0.1, val_empty_maps=0),
        ]
    )
    points = over_seeds(frame).set_index("method")
    assert points["val_preservation"].to_dict() == pytest.approx({"kd": 0.3, "at": 0.5, "sp": 0.1})
    assert points["val_empty_maps"]["kd"] == 3.5
    found = front(frame, {"val_acc": "max", "val_preservation": "max"})
    assert set(found["method"]) == {"kd", "at"}


def test_a_table_of_what_is_said_of_maps(recorded, trial_row):
    frame = recorded(
        [
            trial_row(0, "kd", 4, val_acc=0.9, val_score=0.9, metric="acc", test_preservation=0.25),
            trial_row(1, "at", 4, val_acc=0.8, val_score=0.8, metric="acc", test_preservation=0.5),
        ]
    )
    text = render(compression_table(frame, "test_preservation"))
    assert "Test preservation of the teacher's maps in %, mean ± sd over seeds" in text
    assert re.search(r"^at +\S*50\.00", text, re.MULTILINE)
    assert re.search(r"^kd +25\.00", text, re.MULTILINE)
    with pytest.raises(UserError, match=r"test_pointing: none was explained; .* fixed\.explainers"):
        compression_table(frame, "test_pointing")


def test_columns_are_documented():
    text = said("query", "--columns")
    for name in ("val_localisation", "test_miou", "val_preservation", "val_empty_maps"):
        assert re.search(rf"^{name} ", text, re.MULTILINE)


@pytest.mark.soak
def test_a_sweep_for_accurate_small_and_still_explained(tmp_path, cluster):
    file = tmp_path / "s.yaml"
    fixed = STUDY["fixed"] | {"student": "wrn", "compression": "factor"}
    changes = {"fixed": fixed, "dimensions": STUDY["dimensions"] | {"factor": [2, 8]}, "repeats": 1}
    file.write_text(yaml.safe_dump(STUDY | changes))
    results = ["--results", str(tmp_path / "results")]
    printed = said("run", str(file), "--max-concurrent", "1", *cluster, *results)
    assert "4 trials completed" in printed
    frame = trials(str(tmp_path / "results"))
    assert len(frame) == 4
    assert frame["val_preservation"].between(0, 1).all()
    assert frame["test_agreement"].between(0, 1).all()
    assert frame["val_localisation"].isna().all()
    for text in frame["attributions"]:
        one = json.loads(text)["val"]["explainers"]["grad_cam"]["preservation"]
        assert -1 < one["spearman"]["mean"] < 1
    shown = pd.read_csv(io.StringIO(said("front", "s", "--csv", *results)))
    assert shown["val_preservation"].between(0, 1).all()
    assert "preservation" in said("table", "s", "--metric", "test_preservation", *results)
    picture = tmp_path / "front.png"
    said("plot", "s", "-o", str(picture), *results)
    assert picture.stat().st_size > 1000
