"""Plan: keys of configs, work orders, and what is refused before anything starts."""

import pytest

from orchestrator.plan import CHECKPOINT_SECONDS, Plan
from search_spaces.load import load_study, parse_study
from trainables.errors import UserError


def plan(*assignments, **changes):
    study = load_study("digits", assignments).model_copy(update=changes)
    return Plan(study, "s", "unused")


def test_a_key_is_of_the_experiment_not_of_its_words():
    made = plan()
    four = {"method": "kd", "factor": 4}
    config = made.study.config(four)
    named = config.replace(compression="explicit", factor=None, student=made.student(config).name)
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
    assert made.teacher_file != other.teacher_file
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
    assert job.teacher == made.teacher_file
    assert job.checkpoint_seconds == 60
    monkeypatch.setenv(CHECKPOINT_SECONDS, "0")
    assert made.job(config, "s-00000", 1).checkpoint_seconds == 0


@pytest.mark.parametrize("value", ["-1", "often", "nan"])
def test_a_mistaken_checkpoint_interval(monkeypatch, value):
    monkeypatch.setenv(CHECKPOINT_SECONDS, value)
    with pytest.raises(UserError, match="KDSWEEP_CHECKPOINT_SECONDS: expected seconds >= 0"):
        plan().check()


def test_the_shipped_demonstration_passes():
    plan().check()


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
        plan(*assignments).check()
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
        Plan(study, "s", "unused").check()
