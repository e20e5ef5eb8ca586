"""What the shipped studies promise."""

from pathlib import Path

import pytest

from orchestrator.results.chains import told
from orchestrator.sweeps.networks import check_networks
from orchestrator.sweeps.plan import Plan
from search_spaces.load import load_study, study_names
from search_spaces.published import Published, join_pair
from search_spaces.spec import Study
from trainables.compression.chain import Chain
from trainables.config import TrialConfig
from trainables.methods.registry import PLAIN, parse_method, term_class, term_names
from trainables.models.registry import create_model
from trainables.settings import settings_of

PUBLISHED = [name for name in study_names() if load_study(name).published]


@pytest.mark.parametrize("name", study_names())
def test_a_shipped_study_can_be_run(name: str, shared_data: Path) -> None:
    """Every network is built, and every method for it."""
    # CIFAR-100 may not be there: images of the same size are. Those of VOC are made smaller.
    instead = {"cifar100": ["dataset=cifar10"], "voc2012": ["image_size=64"]}
    study = load_study(name, instead.get(load_study(name).dataset, []))
    if any(teacher.name is not None for teacher in study.all_teachers().values()):
        pytest.skip("needs an imported teacher")
    data = shared_data / "voc2012_mini" if study.dataset == "voc2012" else shared_data
    check_networks(Plan(study, name, "unused", str(data)))


def test_the_mission_searches_every_method_there_is() -> None:
    study = load_study("pareto_cifar10")
    methods = study.dimensions["method"].choices
    assert methods is not None
    used = {term for method in methods for term in parse_method(str(method))}
    assert used == set(term_names())
    assert PLAIN in methods
    assert study.teachers, "mkd reads several"


def test_the_mission_searches_every_weight_of_every_method() -> None:
    searched = set(load_study("pareto_cifar10").dimensions)
    weights = {
        f"{term}.{key}"
        for term in term_names()
        for key, setting in settings_of(term_class(term).Config).items()
        if setting.weight
    }
    assert weights <= searched


def test_the_demonstration_tries_every_method_at_every_factor_under_several_seeds() -> None:
    study = load_study("digits")
    cells = {(point["method"], point["factor"]) for point in study.first_points()}
    methods, factors = {method for method, _ in cells}, {factor for _, factor in cells}
    assert PLAIN in methods
    assert len(methods) >= 5
    assert len(factors) >= 3
    assert len(cells) == len(methods) * len(factors) == len(study.first_points())
    assert study.trials is not None
    assert study.trials > len(cells)  # the rest is for the sampler
    assert study.repeats >= 4


def test_the_demonstration_has_a_teacher_that_knows_more() -> None:
    study = load_study("digits")
    teacher = study.teacher_config()
    assert teacher is not None
    assert teacher.train_fraction == 1
    assert study.config(study.first_points()[0]).train_fraction == pytest.approx(0.1)


# Published tables


def test_five_studies_repeat_published_tables() -> None:
    assert PUBLISHED == [
        "compare_kd_cifar100",
        "crd_protocol_cifar100",
        "ig_cifar10",
        "joint_cifar10",
        "skip_eca_cifar10",
    ]


def published_of(study: Study) -> Published:
    assert study.published is not None
    return study.published


def student_of(config: TrialConfig) -> str:
    """As tables name it: with the steps that change it."""
    network = Chain(config.compression, config.chain).choose(
        config.student, teacher_params=None, classes=10, image_shape=(3, 32, 32)
    )
    return network + told(config.compression, config.to_json())


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_number_has_a_trial_of_ours(name: str) -> None:
    study = load_study(name)
    configs = [study.config(point) for point in study.space.grid()]
    cells = {
        (join_pair(str(config.teacher), student_of(config)), config.method) for config in configs
    }
    published = published_of(study)
    theirs = {(pair, method) for method, row in published.test_acc.items() for pair in row}
    assert theirs <= cells
    assert {pair for row in published.others.values() for pair in row} <= {p for p, _ in cells}
    assert set(published.teacher) == {config.teacher for config in configs}
    assert published.dataset == study.dataset


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_cell_is_one_config_of_the_published_protocol(name: str) -> None:
    """So nothing is chosen, and the whole table is filled."""
    study = load_study(name)
    trials = [study.config(point) for point in study.space.grid()]
    cells = {(trial.teacher, student_of(trial), trial.method) for trial in trials}
    pairs = {(trial.teacher, student_of(trial)) for trial in trials}
    configs = [trial.to_dict() for trial in trials]
    methods = {c["method"] for c in configs}
    assert len(cells) == len(configs) == len(pairs) * len(methods)
    for key, value in published_of(study).protocol.items():
        assert {config[key] for config in configs} == {value}
    assert study.repeats > 1


def test_settings_of_single_pairs() -> None:
    study = load_study("crd_protocol_cifar100")
    found = {
        (str(point["pair"]), str(point["method"])): study.config(point).terms
        for point in study.space.grid()
    }
    mobile = "vgg13->mobilenetv2_s2_x0.5"
    assert found["resnet56->resnet20", "dkd"]["dkd.beta"] == 2
    assert found["resnet56->resnet20", "reviewkd"]["reviewkd.weight"] == 0.6
    assert {found[pair, "kd"]["kd.temperature"] for pair in study.pairs} == {4}
    temperatures = {pair: found[pair, "kd+ls"]["kd.temperature"] for pair in study.pairs}
    assert temperatures == {**dict.fromkeys(study.pairs, 2), mobile: 3}
    compare = load_study("compare_kd_cifar100")
    points = [p for p in compare.space.grid() if p["method"] == "dml"]
    peers = {str(p["pair"]): compare.config(p).terms["dml.peer"] for p in points}
    assert peers == {pair: pair.partition("->")[0] for pair in compare.pairs}


def test_the_teacher_of_the_comparison_has_its_own_schedule() -> None:
    study = load_study("compare_kd_cifar100")
    found = {}
    for key, teacher in study.all_teachers().items():
        config = study.teacher_config(teacher, key)
        assert config is not None
        found[config.student] = [round(epoch, 3) for epoch in config.milestone_epochs()]
    assert found["resnet18"] == [150, 250, 320]
    assert found["wrn_40_4"] == [150, 180, 210]


IG_TYPES = ("student", "kd", "ig", "at", "kd+ig", "kd+at", "at+ig", "kd+at+ig")
IG_FACTORS = {3: 2.194, 5: 4.115, 7: 7.287, 9: 12.04, 11: 28.97, 13: 54.59, 15: 139.43, 17: 1121.7}


def test_eight_types_at_eight_factors() -> None:
    """The factors are those of the paper; the first eight configs are one of each type."""
    study = load_study("ig_cifar10")
    configs = [study.config(point) for point in study.space.grid()]
    cells = {(config.method, config.chain["depth"]) for config in configs}
    assert cells == {(method, depth) for method in IG_TYPES for depth in IG_FACTORS}
    teacher = params_of("mobilenetv2")
    for depth, factor in IG_FACTORS.items():
        found = teacher / params_of(f"mobilenetv2-minus{depth}")
        assert found == pytest.approx(factor, rel=1e-3)
    first = [study.config(point) for point in study.first_points()[:8]]
    assert tuple(config.method for config in first) == IG_TYPES
    assert {config.chain["depth"] for config in first} == {5}
    assert all(point in study.space.grid() for point in study.points)


def params_of(model: str) -> int:
    return sum(w.numel() for w in create_model(model, 10, (3, 32, 32)).parameters())


def test_attention_is_compared_at_the_papers_resolution() -> None:
    study = load_study("ig_cifar10")
    configs = [study.config(point) for point in study.space.grid()]
    stages = {c.chain["depth"]: c.terms["at.stages"] for c in configs if c.method == "kd+at"}
    assert stages == {3: "2", 5: "2", 7: "2", 9: "1", 11: "1", 13: "1", 15: "all", 17: "all"}


def test_what_alignment_is_worth_has_three_arms() -> None:
    study = load_study("ig_alignment_cifar10")
    arms = [study.config(point) for point in study.space.grid()]
    assert [(arm.method, arm.terms.get("ig.alignment")) for arm in arms] == [
        ("student", None),
        ("ig", "aligned"),
        ("ig", "shuffled"),
        ("kd", None),
        ("kd+ig", "aligned"),
        ("kd+ig", "shuffled"),
    ]
    assert study.repeats == 5


def test_pruning_and_rounding_have_four_objectives() -> None:
    """Every chain with every method; each begins with the teacher's weights."""
    study = load_study("prune_quantize_cifar10")
    assert study.teacher is not None
    assert study.teacher.model == study.fixed["student"]
    assert study.objectives == {
        "val_acc": "max",
        "size_bytes": "min",
        "latency_ms": "min",
        "bit_operations": "min",
    }
    assert study.fixed["start"] == "teacher"
    drawn = study.space.draw(lambda key, dimension: dimension.ends()[-1])
    assert study.config(drawn).compression == "prune+qat"
    for chain in study.dimensions["compression"].ends():
        point = study.space.draw(
            lambda key, dimension, c=chain: c if key == "compression" else dimension.ends()[0]
        )  # type: ignore[misc]
        assert {"prune", "gpfq", "qat"} & {*point} == {*str(chain).split("+")}
