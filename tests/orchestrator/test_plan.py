"""Plan: keys of configs, work orders, and what is refused before anything starts."""

import pytest
import torch

from orchestrator.sweeps.checks import check_names, check_search
from orchestrator.sweeps.networks import check_networks
from orchestrator.sweeps.plan import CHECKPOINT_SECONDS, Plan
from search_spaces.load import load_study, parse_study
from trainables.errors import UserError
from trainables.experiment import config_key
from trainables.teacher_training import train_teacher


def plan(*assignments, **changes):
    study = load_study("digits", assignments).model_copy(update=changes)
    return Plan(study, "s", "unused")


def test_a_key_is_of_the_experiment_not_of_its_words():
    made = plan()
    four = {"method": "kd", "factor": 4}
    config = made.study.config(four)
    named = config.replace(compression="explicit", factor=None, student=made.student(config))
    assert made.key(config) == made.key(named)
    assert made.key(config) == made.key(made.study.config({"method": "kd", "factor": 4.01}))
    others = [
        made.study.config({"method": "kd", "factor": 9}),
        made.study.config(four, repeat=1),
        config.replace(epochs=21),
        config.replace(val_fraction=0.0),
        config.replace(**{"kd.temperature": 3.0}),
    ]
    keys = {made.key(config), *map(made.key, others)}
    assert len(keys) == 1 + len(others)


def test_the_teacher_counts_only_where_it_is_read():
    made, other = plan(), plan("teacher.epochs=3")
    files = [spec.job(spec.study.config({"factor": 2}), "t", 1).teacher for spec in (made, other)]
    assert files[0] != files[1]
    kd, student = ({"method": method, "factor": 2} for method in ("kd", "student"))
    # Not trained yet, the teacher has no fingerprint: the files' names tell them apart.
    assert made.key(made.study.config(student)) == other.key(other.study.config(student))
    assert made.key(made.study.config(kd)) != made.key(made.study.config(student))


def test_a_job_says_what_a_worker_needs(monkeypatch):
    made = plan()
    config = made.study.config({"method": "kd", "factor": 2})
    job = made.job(config, "s-00000", 2, gpus=0.5)
    assert (job.sweep, job.trial_id, job.attempt, job.gpus) == ("s", "s-00000", 2, 0.5)
    assert job.config == config.to_dict()
    assert job.teacher == made.teachers.recipes[0].key
    assert job.checkpoint_seconds == 60
    monkeypatch.setenv(CHECKPOINT_SECONDS, "0")
    assert made.job(config, "s-00000", 1).checkpoint_seconds == 0


@pytest.mark.parametrize("value", ["-1", "often", "nan"])
def test_a_mistaken_checkpoint_interval(monkeypatch, value):
    monkeypatch.setenv(CHECKPOINT_SECONDS, value)
    with pytest.raises(UserError, match="KDSWEEP_CHECKPOINT_SECONDS: expected seconds >= 0"):
        check_networks(plan())


def begin(made: Plan) -> None:
    """What is checked before a sweep begins, in its order."""
    check_names(made)
    check_search(made.study, lambda: made.dataset)
    check_networks(made)


def test_names_are_checked_before_the_data_are_read(monkeypatch, tmp_path):
    monkeypatch.delenv("KDSWEEP_DATA", raising=False)
    for assignments, expected in (
        (["student=nope"], "unknown model 'nope'"),
        (["compression=depth", "depth=3"], "depth: only mobilenetv2 and mobilenetv2_s2 can be cut"),
        (["compression=width", "width=0.5"], "'wrn' is a family, and compression 'width' needs"),
        (["compression=explicit"], "'wrn' is a family, and compression 'explicit' needs"),
        (["student=timm:resnet18"], "factor: 'timm:resnet18' is not of this zoo"),
    ):
        with pytest.raises(UserError) as caught:
            check_names(plan("dataset=cifar10", *assignments))  # which is not there
        assert expected in str(caught.value)
        assert len(str(caught.value)) < 300


def test_a_warmup_longer_than_the_training_is_said(caplog):
    check_names(plan("method=dkd", "epochs=240"))
    check_names(plan("method=dkd", "epochs=9", "dkd.warmup_fraction=0.1"))
    check_names(plan("method=dkd", "epochs=9", "dkd.warmup=3"))
    assert caplog.text == ""
    check_names(plan("method=dkd+reviewkd", "epochs=9"))
    assert [record.args[0] for record in caplog.records] == ["dkd.warmup", "reviewkd.warmup"]
    assert "reviewkd.warmup_fraction: 0.08" in caplog.text


def test_the_shipped_demonstration_passes():
    check_networks(plan())


@pytest.mark.parametrize(
    ("assignments", "expected"),
    [
        (["student=vgg8"], "vgg8"),
        (["factor=100000"], "factor"),
        (["student=nope"], "unknown model 'nope'"),
        (["teacher.model=nope"], "unknown model 'nope'"),
        (["val_fraction=0"], "objectives.val_acc: val_fraction is 0"),
        (
            ["objectives={val_accuracy: max}"],
            "unknown objective 'val_accuracy'; did you mean val_acc",
        ),
        (["objectives={started_at: max}"], "unknown objective 'started_at'"),
        (["dataset=cifar10"], "cifar10"),
    ],
)
def test_what_cannot_work_is_refused(assignments, expected, monkeypatch, tmp_path):
    monkeypatch.delenv("KDSWEEP_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        begin(plan(*assignments))
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_last_of_many_choices_is_built_too():
    """Not only the first combination is checked."""
    study = parse_study(
        {
            "name": "s",
            "dataset": "digits",
            "teacher": {"model": "wrn_16_2"},
            "dimensions": {"method": ["student", "kd"], "student": ["wrn_10_1", "vgg8"]},
            "sampler": "grid",
        }
    )
    with pytest.raises(UserError, match="vgg8"):
        check_networks(Plan(study, "s", "unused"))


# Pairs and chains

PAIRS = {
    "name": "s",
    "dataset": "digits",
    "teacher": {"epochs": 1},
    "pairs": {
        "wrn_10_1->wrn_10_0.5": {"kd.alpha": 0.5},
        "resnet14->wrn_10_0.5": None,
        "ta": {
            "teacher": {"model": "resnet8", "method": "kd", "teacher": "resnet14"},
            "student": "wrn_10_0.5",
        },
    },
    "fixed": {"train_fraction": 0.1, "epochs": 1},
    "dimensions": {"method": ["student", "kd"]},
    "sampler": "grid",
}


def paired(results="unused", **changes):
    return Plan(parse_study(PAIRS | changes), "s", str(results))


def trained(made, *recipes):
    for recipe in recipes or made.teachers.recipes:
        train_teacher(recipe, made.results, None, torch.device("cpu"), lambda row: None)
    return made.with_teachers()


def of_pairs(made, method="kd"):
    return {pair: made.study.config({"pair": pair, "method": method}) for pair in made.study.pairs}


def test_every_teacher_is_trained_once_and_none_before_its_own():
    made = paired()
    assert [recipe.name for recipe in made.teachers.recipes] == [
        "wrn_10_1",
        "resnet14",
        "resnet8(kd:resnet14)",
    ]
    assert made.missing() == made.teachers.recipes
    configs = of_pairs(made)
    assert [r.name for r in made.missing(configs["ta"])] == ["resnet14", "resnet8(kd:resnet14)"]
    assert [r.name for r in made.missing(configs["wrn_10_1->wrn_10_0.5"])] == ["wrn_10_1"]


def test_a_trial_gets_the_teacher_of_its_pair(tmp_path):
    made = trained(paired(tmp_path))
    assert made.missing() == []
    files = {pair: made.teachers.of(config).file for pair, config in of_pairs(made).items()}
    cards = {pair: made.cards.get(file) for pair, file in files.items()}
    assert [card.model for card in cards.values()] == ["wrn_10_1", "resnet14", "resnet8"]
    for pair, config in of_pairs(made).items():
        file = made.job(config, "t", 1).teacher
        assert (tmp_path / "teachers" / f"{file}.safetensors").is_file()
        assert made.cards[file] == cards[pair]
        assert made.key(config) == config_key(
            config,
            student="wrn_10_0.5",
            data_fingerprint=made.dataset.fingerprint,
            teacher_fingerprint=cards[pair].fingerprint,
        )
    # The plain student is the same experiment whoever would have taught it.
    assert len({made.key(config) for config in of_pairs(made, "student").values()}) == 1


def test_what_is_above_a_teacher_that_exists_is_not_needed(tmp_path):
    made = paired(tmp_path)
    _, upper, lower = made.teachers.recipes
    made = trained(made, lower)
    (tmp_path / "teachers" / f"{upper.key}.safetensors").unlink()
    made = made.with_teachers()
    assert made.missing(of_pairs(made)["ta"]) == []
    assert upper in made.missing()


def test_a_factor_is_taken_of_the_pairs_own_teacher():
    pairs = {"wrn_16_2->wrn": None, "wrn_16_1->wrn": None}
    made = paired(pairs=pairs, fixed={"compression": "factor", "factor": 4})
    students = {made.student(config) for config in of_pairs(made).values()}
    assert len(students) == 2


def test_the_file_of_an_assistant_is_named_by_the_whole_chain():
    def key(upper):
        teacher = {"model": "resnet8", "method": "kd", "teacher": upper}
        made = paired(pairs={}, teacher=teacher, fixed={"student": "wrn_10_1"})
        return made.job(made.study.config({"method": "kd"}), "t", 1).teacher

    plain = key("resnet14")
    assert plain.startswith("resnet8-")
    assert key({"model": "resnet14"}) == plain
    assert len({plain, key("resnet20"), key({"model": "resnet14", "lr": 0.3})}) == 3


def test_an_imported_teacher_counts_by_its_weights(tmp_path):
    made = trained(paired(tmp_path, pairs={"resnet14->wrn_10_1": None}))
    file = made.teachers.recipes[0].key
    by_name = {"model": "resnet8", "method": "kd", "teacher": {"name": file}}
    below = paired(tmp_path, pairs={}, teacher=by_name, fixed={"student": "wrn_10_1"})
    (recipe,) = below.teachers.recipes
    assert recipe.upper.file == file
    assert recipe.key.endswith(
        config_key(
            recipe.config,
            student="resnet8",
            data_fingerprint=made.dataset.fingerprint,
            teacher_fingerprint=made.cards[file].fingerprint,
        )
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"pairs": {"nope->wrn_10_1": None}}, "pairs.nope->wrn_10_1.teacher.model: unknown model"),
        ({"pairs": {"wrn_16_1->nope": None}}, "pairs.wrn_16_1->nope: unknown model 'nope'"),
        ({"pairs": {"wrn_16_1->wrn_10_1": None, "wrn_16_1->vgg13": None}}, "wrn_16_1->vgg13: "),
        (
            {"pairs": {"a": {"teacher": {"name": "nobody"}, "student": "wrn_10_1"}}},
            "pairs.a.teacher.name: there is no teacher 'nobody'",
        ),
        (
            {
                "pairs": {},
                "teacher": {"model": "wrn_10_1", "method": "kd", "teacher": {"name": "nobody"}},
            },
            "teacher.teacher.name: there is no teacher 'nobody'",
        ),
        (
            {
                "pairs": {},
                "teacher": {"model": "resnet8", "method": "fitnet", "teacher": "resnet14"},
                "fixed": {"student": "wrn_10_1", "fitnet.hint": 9},
            },
            "teacher resnet8(fitnet:resnet14): fitnet.hint",
        ),
        (
            {
                "pairs": {"resnet14->resnet8": None, "wrn_16_1->wrn_10_1": {"fitnet.hint": 9}},
                "dimensions": {"method": ["student", "fitnet"]},
            },
            "pairs.wrn_16_1->wrn_10_1: student wrn_10_1, method fitnet: fitnet.hint",
        ),
        (
            {"pairs": {"wrn_16_1->wrn_10_1": {"val_fraction": 0}}},
            "objectives.val_acc: val_fraction is 0",
        ),
    ],
)
def test_every_pair_and_every_chain_is_checked(changes, expected, tmp_path):
    with pytest.raises(UserError) as caught:
        begin(paired(tmp_path, **changes))
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_pairs_that_can_be_run_pass():
    check_networks(paired())
