"""Several teachers of one student: each term reads the one that it is told to, or all of them."""

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from every_term import TERMS
from learners import alone, assert_same, study_together
from whole_runs import assert_equal_weights, finish, steady

from trainables.config import TrialConfig
from trainables.data.dataset import Dataset
from trainables.errors import TeacherBroken, UserError
from trainables.experiment import config_key, decisive
from trainables.job import Job, Run
from trainables.methods.mkd import mkd_loss
from trainables.methods.registry import term_settings
from trainables.models.registry import create_model
from trainables.models.weights import save_network
from trainables.teachers.teacher import Teacher, teacher_folder
from trainables.training import Training
from trainables.training.learner import Learner
from trainables.training.stream import Stream

CPU = torch.device("cpu")
Quick = Callable[..., TrialConfig]
CHOOSING = [name for name in TERMS if f"{name}.teacher" in term_settings(name)]
SETTINGS: dict[str, dict[str, Any]] = {
    "crd": {"negatives": 50},
    "dkd": {"warmup": 0},
    "reviewkd": {"warmup": 0},
}


@pytest.fixture(scope="module")
def second(digits: Dataset, digits_teacher) -> Teacher:
    """Another network than the first teacher, of other stages, filed beside it."""
    torch.manual_seed(3)
    network = create_model("wrn_10_1", digits.num_classes, digits.image_shape)
    card = dataclasses.replace(
        digits_teacher.card, name="wrn_10_1", model="wrn_10_1", params=77_000, edits=()
    )
    folder = teacher_folder(digits_teacher.results)
    return Teacher(network, save_network(folder, "second.safetensors", network, card), CPU)


@pytest.fixture
def first(digits_teacher) -> Teacher:
    return digits_teacher.load()


def losses_of(training: Training, steps: int = 3) -> torch.Tensor:
    """Of some steps, ``[steps, parts]``."""
    learner, stream = training.learner, training.stream
    learner.train()
    return torch.stack([learner.step(feed, 0.0) for feed in stream(0, stream.plan(0)[:steps])])


def test_every_term_of_one_teacher_chooses_which() -> None:
    assert set(TERMS) - set(CHOOSING) == {"dml", "mkd"}


# A live teacher or a looked-up one, by turns; `make soak` takes both.
@pytest.mark.parametrize(
    ("name", "cache"),
    [
        pytest.param(name, cache, marks=[] if place % 2 == turn else pytest.mark.soak)
        for place, name in enumerate(CHOOSING)
        for turn, cache in enumerate(["off", "float32"])
    ],
)
def test_a_term_reads_the_teacher_that_it_is_told_to(
    name: str, cache: str, digits: Dataset, repeat: Quick, first: Teacher, second: Teacher
) -> None:
    """Bit for bit as where that one is the only one: its adaptors, depth, tables and precision."""
    own = {"method": name, "teacher_cache": cache, "epochs": 3, **SETTINGS.get(name, {})}
    alone = repeat(**own, teacher="wrn_10_1")
    expected = losses_of(Training(alone, digits, alone.student, second, CPU))
    both = repeat(**own, **{f"{name}.teacher": "wide", "teachers.wide": "wrn_10_1"})
    found = losses_of(Training(both, digits, both.student, first, CPU, others={"wide": second}))
    assert torch.equal(found, expected)
    other = repeat(**own)
    there = losses_of(Training(other, digits, other.student, first, CPU))
    assert not torch.equal(there, expected), "the test is about teachers that differ"


def test_terms_of_different_teachers(
    digits: Dataset, repeat: Quick, first: Teacher, second: Teacher
) -> None:
    """The first step's summands are those of each term alone with its teacher."""
    names = {"at.teacher": "wide", "teachers.wide": "wrn_10_1"}
    both = repeat(method="kd+at", **names)
    training = Training(both, digits, both.student, first, CPU, others={"wide": second})
    assert training.method.roles == ["teacher", "wide"]
    assert training.method.needs_of("teacher") == {"logits"}
    assert training.method.needs_of("wide") == {"stages"}
    assert training.method.depth("wide") is not None, "no further than attention reads"
    (found,) = losses_of(training, 1)
    kd, at = repeat(method="kd"), repeat(method="at", teacher="wrn_10_1")
    (of_kd,) = losses_of(Training(kd, digits, kd.student, first, CPU), 1)
    (of_at,) = losses_of(Training(at, digits, at.student, second, CPU), 1)
    assert torch.equal(found, torch.stack([*of_kd, of_at[1]]))


@pytest.mark.parametrize("cache", ["off", "float32"])
def test_a_mean_over_teachers_of_the_very_same_views(
    cache: str, digits: Dataset, repeat: Quick, first: Teacher, second: Teacher
) -> None:
    config = repeat(method="mkd", teacher_cache=cache, epochs=2, **{"teachers.wide": "wrn_10_1"})
    training = Training(config, digits, config.student, first, CPU, others={"wide": second})
    learner, stream = training.learner, training.stream
    for epoch in (0, 1):  # the second epoch's answers are partly looked up
        learner.train()
        for feed in stream(epoch, stream.plan(epoch)):
            with torch.no_grad(), learner.random:
                state = learner.random.state_dict()
                student = learner.student(learner.floats(feed.views)).logits
                learner.random.load_state_dict(state)
            theirs = [teacher(feed.views).logits for teacher in (first, second)]
            _, found = learner.step(feed, epoch)
            torch.testing.assert_close(found, 0.9 * mkd_loss(student, theirs, 4.0))
        stream.flush()
    assert (training.hit_rate is None) == (cache == "off")


def test_images_changed_for_every_teacher(
    digits: Dataset, repeat: Quick, first: Teacher, second: Teacher
) -> None:
    """Mixed images: each teacher answers the mixture, normalised as its own images are."""
    config = repeat(method="mkd+mixup", **{"teachers.wide": "wrn_10_1"})
    seen: list[torch.Tensor] = []
    hooks = [
        teacher.network.register_forward_pre_hook(lambda _, images: seen.append(images[0]))
        for teacher in (first, second)
    ]
    training = Training(config, digits, config.student, first, CPU, others={"wide": second})
    losses_of(training, 1)
    for hook in hooks:
        hook.remove()
    ours, theirs = seen[-2:]
    means = [torch.tensor(one.card.mean) for one in (first, second)]
    stds = [torch.tensor(one.card.std) for one in (first, second)]
    torch.testing.assert_close(ours * stds[0] + means[0], theirs * stds[1] + means[1])


def test_learners_of_one_and_of_several_teachers_together(
    digits: Dataset, repeat: Quick, first: Teacher, second: Teacher
) -> None:
    wide = {"teachers.wide": "wrn_10_1"}
    configs = [
        repeat(method="kd"),
        repeat(method="mkd", **wide),
        repeat(method="kd+at", **wide, **{"at.teacher": "wide"}),
    ]
    stream = Stream(configs[0], digits, first, CPU, others={"wide": second})
    learners = [Learner(config, config.student, stream) for config in configs]
    study_together(stream, learners, 0)
    assert_same(learners[0], alone(configs[0], digits, first))
    for config, learner in zip(configs[1:], learners[1:], strict=True):
        training = Training(config, digits, config.student, first, CPU, others={"wide": second})
        training.run_epoch()
        assert_same(learner, training.learner)


def test_a_student_of_another_further_teacher_is_of_another_stream(
    digits: Dataset, repeat: Quick, first: Teacher, second: Teacher
) -> None:
    config = repeat(method="mkd", **{"teachers.wide": "wrn_10_1"})
    stream = Stream(config, digits, first, CPU, others={"wide": second})
    for role, name in (("wide", "wrn_16_1"), ("deep", "wrn_10_1")):
        other = repeat(method="mkd", **{f"teachers.{role}": name})
        with pytest.raises(ValueError, match=f"another repeat: its {role} differ"):
            Learner(other, other.student, stream)


def test_a_further_teacher_that_says_no_numbers(
    digits: Dataset, repeat: Quick, first: Teacher, second: Teacher
) -> None:
    network = create_model("wrn_10_1", digits.num_classes, digits.image_shape)
    with torch.no_grad():
        network.classifier.weight.fill_(torch.nan)
    broken = Teacher(network, dataclasses.replace(second.card, name="broken"), CPU)
    config = repeat(method="mkd", **{"teachers.wide": "broken"})
    training = Training(config, digits, config.student, first, CPU, others={"wide": broken})
    with pytest.raises(TeacherBroken, match="broken"):
        training.check_teacher()


def test_gradients_for_the_answers_of_two_teachers_are_refused(
    digits: Dataset, repeat: Quick, first: Teacher, second: Teacher
) -> None:
    settings = {"stages": "0", "swa.teacher": "wide", "teachers.wide": "wrn_10_1"}
    config = repeat(method="swa+sswa", **settings)
    words = config, digits, config.student, first, CPU
    with pytest.raises(
        UserError, match=r"sswa and swa read the student's gradients for the answers"
    ):
        Training(*words, others={"wide": second})


def test_a_whole_run_and_its_row(
    repeat: Quick, digits_teacher, second: Teacher, make_job: Callable[..., Job], digits: Dataset
) -> None:
    wide = {"teachers.wide": "wrn_10_1"}
    config = repeat(method="mkd", epochs=3, **wide)
    others = {"wide": ("second", second.card.fingerprint)}
    whole = make_job(config, "several-whole", others=others)
    row = finish(Run(whole, CPU))
    assert json.loads(row["teachers"]) == {"wide": "wrn_10_1"}
    assert row["teacher"] == "resnet8"
    assert TrialConfig.from_mapping(json.loads(row["config"])) == config
    assert row["config_key"] == config_key(
        config,
        student=row["student"],
        data_fingerprint=digits.fingerprint,
        teacher_fingerprint=digits_teacher.card.fingerprint,
        others={"wide": second.card.fingerprint},
    )
    job = make_job(config, "several", others=others)
    Run(job, CPU).run_epoch()  # and then the process ends
    again = Run(job, CPU)
    assert len(again.rows) == 1
    assert steady(finish(again)) == steady(row)
    assert_equal_weights(job, whole)
    changed = make_job(config, "several", others={"wide": ("second", "0" * 64)})
    with pytest.raises(UserError, match="teacher 'second' has changed"):
        Run(changed, CPU)


def test_what_is_one_experiment(repeat: Quick) -> None:
    facts: dict[str, Any] = {
        "student": "wrn_10_0.5",
        "data_fingerprint": "d",
        "teacher_fingerprint": "t",
    }
    several = repeat(method="mkd", **{"teachers.wide": "wrn_10_1"})
    renamed = repeat(method="mkd", **{"teachers.wide": "as it is called elsewhere"})
    key = config_key(several, **facts, others={"wide": "w"})
    assert config_key(renamed, **facts, others={"wide": "w"}) == key
    assert config_key(several, **facts, others={"wide": "x"}) != key
    assert config_key(repeat(method="mkd"), **facts) != key
    chosen = {"teachers.wide": "wrn_10_1", "at.teacher": "wide"}
    keys = {
        config_key(repeat(method="kd+at", **chosen), **facts, others={"wide": "w"}),
        config_key(
            repeat(method="kd+at", **chosen, **{"kd.teacher": "wide"}),
            **facts,
            others={"wide": "w"},
        ),
        config_key(repeat(method="kd+at"), **facts),
    }
    assert len(keys) == 3
    assert "teachers.wide" in decisive(several.to_dict())
    assert "teachers.wide" not in decisive(several.to_dict(), "words")


def test_with_one_teacher_there_is_nothing_to_say(repeat: Quick) -> None:
    plain, said = repeat(method="kd"), repeat(method="kd", **{"kd.teacher": "teacher"})
    assert said == plain
    assert not [key for key in plain.to_dict() if key.endswith(".teacher")]


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("kd", {"teachers.wide": "x"}, "teachers.wide: no term of method 'kd' reads this teacher"),
        ("student", {"teachers.wide": "x"}, "teachers.wide: no term of method 'student'"),
        ("kd", {"kd.teacher": "wide"}, "kd.teacher: unknown teacher 'wide'; known: teacher"),
        (
            "kd",
            {"kd.teacher": "wild", "teachers.wide": "x"},
            "kd.teacher: unknown teacher 'wild'; did you mean wide",
        ),
        ("mkd", {"mkd.teacher": "wide", "teachers.wide": "x"}, "unknown key 'mkd.teacher'"),
        ("kd+dml", {"dml.teacher": "wide"}, "unknown key 'dml.teacher'"),
    ],
)
def test_refused(method: str, settings: dict[str, str], message: str, repeat: Quick) -> None:
    with pytest.raises(UserError) as error:
        repeat(method=method, **settings)
    assert message in str(error.value)
