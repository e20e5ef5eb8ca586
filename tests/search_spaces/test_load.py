"""Studies from files, shipped and own, and what --set does to them."""

import pytest
import yaml

from search_spaces.load import load_study, override, parse_study, study_names
from search_spaces.spec import Study
from search_spaces.teacher import TeacherSpec
from trainables.errors import UserError


def own(tmp_path, text, name="own.yaml"):
    path = tmp_path / name
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("name", study_names())
def test_a_shipped_study_is_complete_and_consistent(name):
    study = load_study(name)
    assert study.name == name
    assert len(study.description) > 40
    assert study.trials or study.sampler in ("grid", "points")
    # What is written to study.yaml says the same study.
    assert (
        parse_study(yaml.safe_load(yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False)))
        == study
    )


def test_a_file_gives_its_name_to_the_study(tmp_path):
    path = own(tmp_path, "dataset: digits\nsampler: grid\ndimensions: {lr: [0.1]}", "mine.yml")
    assert load_study(path).name == "mine"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dataset: [digits", "is no YAML"),
        ("- digits", "expected keys and values"),
        ("", "expected keys and values"),
        ("dataset: digits\nfixed: [lr]", "fixed: expected keys and values"),
        ("dataset: digits\ndimensions: 3", "dimensions: expected keys and values"),
        ("dataset: digits\nteacher: [wrn]", "teacher: expected keys and values"),
        ("dataset: digits\ncover: method", "cover: expected a list"),
        ("dataset: digits\npairs: [a->b]", "pairs: expected keys and values"),
        ("dataset: digits\npairs: {a->b: 3}", "pairs.a->b: expected keys and values, got 3"),
    ],
)
def test_a_broken_file_is_named_in_one_line(tmp_path, text, expected):
    with pytest.raises(UserError) as caught:
        load_study(own(tmp_path, text))
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "dataset: digits\nfixed: {lr: 1}\nfixed: {lr: 2}",
            "key 'fixed' stands twice, in line 2",
        ),
        ("dataset: digits\ndimensions:\n  lr: [1]\n  lr: [2]", "key 'lr' stands twice, in line 3"),
        ("dataset: digits\npairs:\n  a->b: {lr: 1}\n  a->b: {lr: 2}", "key 'a->b' stands twice"),
        ("dataset: digits\nfixed: {lr: &a [*a]}", "fixed.lr: expected a single value"),
        ("dataset: 2001-13-45", "is no YAML: month must be in 1..12"),
        ("dataset: digits\ntrials: " + "9" * 5000, "is no YAML"),
        ("[" * 100_000, "is no YAML: it nests too deeply"),
        ("dataset: digits\n---\ndataset: cifar10", "is no YAML: expected a single document"),
    ],
)
def test_what_yaml_would_take_otherwise_than_meant(tmp_path, text, expected):
    with pytest.raises(UserError) as caught:
        load_study(own(tmp_path, text))
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400  # with a long path


def test_a_merged_key_may_be_overridden(tmp_path):
    text = "dataset: digits\nfixed: {<<: {lr: 1, epochs: 2}, lr: 3}"
    assert load_study(own(tmp_path, text)).fixed == {"lr": 3, "epochs": 2}


@pytest.mark.parametrize(
    ("dimensions", "expected"),
    [
        ("lr: [0.1, 0.1]", "dimensions.lr: 0.1 stands twice"),
        ("lr: [1, 0.5, 1.0]", "dimensions.lr: 1 and 1.0 are one value"),
        ("lr: [0.1, '0.1']", "dimensions.lr: 0.1 and '0.1' are one value"),
        ("milestones: ['1', 1]", "dimensions.milestones: '1' and 1 are one value"),
        ("method: [mixup+dml, dml+mixup]", "'mixup+dml' and 'dml+mixup' are one value"),
        ("student: [wrn_10_1, wrn_10_1_x1.0]", "'wrn_10_1' and 'wrn_10_1_x1.0' are one value"),
        ("milestones: {low: 0.1, high: 0.9}", "dimensions.milestones: is no number"),
        ("lr: {low: 0.1, high: 0.75, step: 0.1}", "end at 0.7 and never reach high, 0.75"),
        ("epochs: {low: 1, high: 8, step: 2}", "steps of 2 from 1 end at 7 and never reach high"),
        (
            "optimizer: [sgd, adam], momentum: {choices: [0.8], when: {optimizer: [adamw]}}",
            "dimensions.momentum.when.optimizer: 'adamw' is none of its choices: sgd, adam",
        ),
        (
            "optimizer: [sgd, adam], momentum: {choices: [0.8], when: {optimizer: [sgd, sgd]}}",
            "dimensions.momentum.when.optimizer: 'sgd' stands twice",
        ),
    ],
)
def test_what_is_said_in_vain_is_refused_where_it_is_written(tmp_path, dimensions, expected):
    text = f"{{dataset: digits, sampler: random, trials: 2, dimensions: {{{dimensions}}}}}"
    with pytest.raises(UserError) as caught:
        load_study(own(tmp_path, text))
    assert expected in str(caught.value)
    # A sweep that began with such a study is read all the same.
    parse_study(yaml.safe_load(text) | {"name": "s"})


def test_points_and_cover_twice(tmp_path):
    text = "dataset: digits\nsampler: points\ndimensions: {lr: [1, 2], batch_size: [8]}\n"
    points = "points: [{lr: 1, batch_size: 8}, {lr: 2}, {batch_size: 8, lr: 1.0}]"
    with pytest.raises(UserError, match="points: number 3 is number 1 again"):
        load_study(own(tmp_path, text + points))
    with pytest.raises(UserError, match="cover: 'lr' stands twice"):
        load_study(own(tmp_path, text + "points: [{lr: 1}]\ncover: [lr, lr]"))


def test_the_study_of_a_sweep_begins_another(tmp_path):
    text = "dataset: digits\nsampler: grid\ndimensions: {lr: [1]}\nkdsweep: {sweep: s}\nname: s"
    assert load_study(own(tmp_path, text, "study.yaml")).name == "s"


def test_a_file_that_is_no_text(tmp_path):
    (tmp_path / "own.yaml").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(UserError, match="is no YAML"):
        load_study(str(tmp_path / "own.yaml"))


def test_unknown_studies():
    with pytest.raises(UserError, match="unknown study 'digit'; did you mean digits"):
        load_study("digit")
    with pytest.raises(UserError, match="cannot be read: No such file"):
        load_study("nowhere.yaml")


def test_tags_that_run_code_are_no_yaml(tmp_path):
    path = own(tmp_path, "dataset: !!python/object/apply:os.system ['true']")
    with pytest.raises(UserError, match="is no YAML"):
        load_study(path)


# --set


def digits(*assignments: str) -> Study:
    return load_study("digits", assignments)


def test_a_setting_is_fixed_for_all_trials_and_the_teacher():
    study = digits("epochs=3", "lr=1e-2")
    assert (study.fixed["epochs"], study.config({"factor": 2}).lr) == (3, 0.01)
    assert study.teacher_config().epochs == 3


def test_a_dimension_is_replaced():
    study = digits("method=kd", "temperature=4")
    assert "method" not in study.dimensions
    assert study.cover == ["factor"]
    assert study.config({"factor": 2}).terms["kd.temperature"] == 4


def test_points_that_differ_in_what_is_fixed_become_one(tmp_path):
    text = "{dataset: digits, sampler: points, dimensions: {lr: [1, 2], batch_size: [8, 9]},"
    path = own(tmp_path, text + " points: [{lr: 1, batch_size: 8}, {lr: 2, batch_size: 8}]}")
    assert load_study(path, ["lr=1"]).points == [{"batch_size": 8}]
    assert load_study(path, ["batch_size=8"]).points == [{"lr": 1}, {"lr": 2}]
    assert load_study(path, ["lr=1", "batch_size=8"]).points == [{}]
    twice = own(tmp_path, text + " points: [{lr: 1}, {lr: 1}, {lr: 2}]}", "twice.yaml")
    with pytest.raises(UserError, match="points: number 2 is number 1 again"):
        load_study(twice, ["batch_size=8"])


def test_a_fixed_dimension_leaves_the_points(tmp_path):
    text = "{dataset: digits, sampler: points, dimensions: {lr: [1, 2], batch_size: [8]},"
    path = own(tmp_path, text + " points: [{lr: 1, batch_size: 8}, {lr: 2}]}")
    assert load_study(path, ["lr=3"]).points == [{"batch_size": 8}, {}]


def test_the_teachers_own_settings():
    study = digits("epochs=20", "teacher.epochs=1", "teacher.model=wrn_10_1")
    assert (study.teacher_config().epochs, study.fixed["epochs"]) == (1, 20)
    assert study.teacher_config().student == "wrn_10_1"


CHAIN = {
    "name": "s",
    "dataset": "digits",
    "teacher": {
        "model": "resnet14",
        "method": "kd",
        "kd.temperature": 2,
        "epochs": 9,
        "teacher": {"model": "resnet20", "epochs": 8},
    },
    "fixed": {"student": "resnet8", "epochs": 7},
    "dimensions": {"method": ["student", "kd"]},
    "sampler": "grid",
}


def trainings(*assignments: str):
    """The trainings of an assistant and of its teacher."""
    study = parse_study(override(CHAIN, assignments))
    return study.teacher_config(), study.teacher_config(study.teacher.teacher)


def test_a_setting_reaches_every_teacher_of_a_chain():
    lower, upper = trainings("epochs=1", "temperature=5", "method=kd")
    assert (lower.epochs, upper.epochs) == (1, 1)
    assert (lower.method, lower.terms["kd.temperature"]) == ("kd", 5)
    assert (upper.student, upper.method) == ("resnet20", "student")


def test_a_chain_is_changed_teacher_by_teacher():
    lower, upper = trainings("teacher.epochs=1", "teacher.temperature=5")
    assert (lower.epochs, upper.epochs, lower.terms["kd.temperature"]) == (1, 8, 5)
    lower, upper = trainings("teacher.teacher.epochs=1", "teacher.teacher.model=wrn_16_1")
    assert (lower.epochs, upper.epochs, upper.student) == (9, 1, "wrn_16_1")
    lower, upper = trainings("teacher.teacher=wrn_10_1", "teacher.teacher.lr=0.3")
    assert (upper.student, upper.lr, upper.epochs) == ("wrn_10_1", 0.3, 7)


def test_fields_of_the_study():
    study = digits("trials=5", "repeats=2", "sampler=random", "cover=[]")
    assert (study.trials, study.repeats, study.sampler, study.cover) == (5, 2, "random", [])


def test_overriding_leaves_the_content_as_it_was():
    content = {"dataset": "digits", "fixed": {"lr": 1}, "teacher": {"model": "x", "lr": 2}}
    before = yaml.safe_dump(content)
    override(content, ["lr=3", "teacher.epochs=1"])
    assert yaml.safe_dump(content) == before


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("epochs", "expected KEY=VALUE"),
        ("=3", "expected KEY=VALUE"),
        ("lr=[1", "is no YAML"),
        ("epoch=3", "unknown key 'epoch'; did you mean epochs"),
        ("teacher.epoch=3", "unknown key 'teacher.epoch'; did you mean teacher.epochs"),
        ("teacher=wrn_16_2", "teacher.model"),
        ("temperature=0", "temperature: expected a number > 0, got 0"),
        ("epochs=-1", "epochs: expected a whole number >= 1, got -1"),
        ("epochs=", "epochs: expected a whole number >= 1, got None"),
        ("trials=many", "trials"),
        ("method=kdd", "unknown method 'kdd'; did you mean kd"),
        ("fixed=3", "unknown key 'fixed'"),
    ],
)
def test_a_mistaken_assignment_is_named_in_one_line(assignment, expected):
    with pytest.raises(UserError) as caught:
        digits(assignment)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("assignments", "expected"),
    [
        (["depth=3"], "depth: has no effect with compression factor"),
        (["prune=2"], "for both of them write compression: factor+prune"),
        (["method=student", "dkd.beta=3"], "dkd.beta: has no effect with method student"),
        (["method=at", "temperature=3"], "temperature: has no effect with method at"),
    ],
)
def test_what_the_shell_says_in_vain(assignments, expected):
    with pytest.raises(UserError) as caught:
        load_study("digits", assignments)
    assert expected in str(caught.value)


def test_what_a_file_says_for_other_methods_than_the_shell_leaves():
    assert load_study("digits", ["method=at"]).fixed["compression"] == "factor"
    load_study("digits", ["compression=factor+prune", "prune=2", "method=kd", "temperature=3"])


@pytest.mark.parametrize(
    "own",
    [
        {"fixed": {"student": "resnet8", "compression": "width", "width": 0.5, "depth": 2}},
        {"fixed": {"student": "resnet8"}, "dimensions": {"kd.alpha": [0.5, 1.0]}},
    ],
)
def test_what_a_file_says_in_vain(tmp_path, own):
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({"dataset": "digits", "trials": 1, **own}))
    with pytest.raises(UserError, match="has no effect with"):
        load_study(str(file))


def test_an_imported_teacher_takes_the_place_of_a_recipe() -> None:
    study = digits("epochs=20", "teacher.name=mine")
    assert study.teacher == TeacherSpec(name="mine")
    with pytest.raises(UserError, match="an imported teacher takes no epochs"):
        digits("teacher.name=mine", "teacher.epochs=1")
