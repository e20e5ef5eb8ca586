"""One line for every mistake, before anything is started or written."""

from pathlib import Path

import pytest
import yaml

from search_spaces.load import load_study


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("run digitz", "unknown study 'digitz'; did you mean digits"),
        ("run nowhere.yaml", "'nowhere.yaml' cannot be read"),
        ("run digits --set method=kdd", "unknown method 'kdd'; did you mean kd?"),
        ("run digits --set temperature=0", "temperature: expected a number > 0, got 0"),
        ("run digits --set epochs=-3", "epochs: expected a whole number >= 1, got -3"),
        ("run digits --set seed=-1", "seed: expected a whole number from 0 to 4294967295, got -1"),
        ("run digits --set epochs", "--set epochs: expected KEY=VALUE"),
        ("run digits --set kd.temp=3", "unknown key 'kd.temp'; did you mean kd.temperature?"),
        ("run digits --set epoch=3", "unknown key 'epoch'; did you mean epochs?"),
        ("run digits --trials -1", "trials"),
        ("run digits --trials many", "--trials: invalid int value: 'many'"),
        ("run digits --max-concurrent 0", "--max-concurrent: expected at least 1, got 0"),
        ("run digits --gpus-per-trial -1", "--gpus-per-trial: expected auto"),
        ("run digits --gpus-per-trial nan", "--gpus-per-trial: expected auto"),
        ("run digits --gpus-per-trial 1.5", "--gpus-per-trial: expected auto"),
        ("run digits --name ../up", "sweep name '../up'"),
        ("run digits --set student=vgg8", "vgg8"),
        ("run digits --set student=wrm", "unknown model 'wrm'"),
        ("run digits --set factor=100000", "factor"),
        ("run digits --set teacher.model=nope", "unknown model 'nope'"),
        ("run digits --set val_fraction=0", "val_fraction"),
        ("run digits --set dataset=cifar10", "cifar10"),
        ("run pareto_cifar10", "--data"),
        ("run pareto_cifar10 --data .", "cifar10"),
        ("run digits --results s4://bucket/x", "s4://bucket/x"),
        ("run digits --results=", "--results: expected a folder, got an empty name"),
        ("table --results=", "--results: expected a folder, got an empty name"),
        ("run digits --data=", "--data: expected a folder, got an empty name"),
        ("datasets cifar10 --data=", "--data: expected a folder, got an empty name"),
        ("export s s-1 --data=", "--data: expected a folder, got an empty name"),
        ("run", "required: STUDY"),
        ("run digits --sett a=b", "--sett"),
        ("", "required: VERB"),
        ("rum digits", "'rum'"),
        ("resume digits", "unknown sweep 'digits'"),
        ("confirm digits", "digits"),
        ("table digits", "digits"),
        ("front digits", "digits"),
        ("plot digits", "digits"),
        ("trial", "expected a study, or --replay"),
        ("trial digitz", "unknown study 'digitz'"),
        ("trial digits methd=kd", "unknown key 'methd'; did you mean method"),
        ("trial digits --pdb method=kd --nope", "unrecognized arguments"),
        ("trial digits method", "method: expected KEY=VALUE"),
        ("trial digits --profile p.json epochs=1", "--profile: needs at least 2 epochs"),
        ("trial --replay digits digits-00000", "unknown sweep 'digits'"),
        ("query VALUES(1)", "no sweeps"),
        ("query", "expected a statement, such as SELECT, or --columns"),
        ("studies nope", "unknown study 'nope'"),
        ("methods nope", "unknown method 'nope'"),
        ("methods kd+at+kd", "a term is named twice"),
        ("methods at+ls", "join it with a term that has a softmax"),
        ("models nope", "unknown model 'nope'"),
        ("models wrn_16_2 --image 3x-1x8", "--image: expected CxHxW"),
        ("models wrn_16_2 --classes -1", "--classes: expected at least 2"),
        ("datasets nope", "unknown dataset 'nope'"),
        ("datasets cifar10", "--data"),
        ("teacher", "required: ACTION"),
        ("teacher train digits --set teacher.epochs=0", "teacher.epochs"),
        ("teacher adopt digits digits-00000", "unknown sweep 'digits'"),
        ("export", "export: expected one of --onnx FILE and --pt2 FILE, got neither"),
        ("export digits d-0 --onnx a.onnx --pt2 a.pt2", "and --pt2 FILE, got both"),
        ("export --onnx a.onnx", "export: expected SWEEP TRIAL_ID, or --teacher NAME"),
        ("export digits --onnx a.onnx", "export: expected SWEEP TRIAL_ID, or --teacher NAME"),
        ("export digits --teacher t --onnx a.onnx", "or --teacher NAME, got both"),
        ("export digits d-0 --onnx a.pt2", "--onnx a.pt2: expected a file that ends in .onnx"),
        ("export digits d-0 --pt2 a", "--pt2 a: expected a file that ends in .pt2"),
        ("export digits d-0 --onnx no/a.onnx", "--onnx no/a.onnx: there is no folder no"),
        ("export digits d-0 --onnx a.onnx", "unknown sweep 'digits'"),
        ("export --teacher t --onnx a.onnx", "unknown teacher 't'"),
        ("inspect digits", "inspect: expected SWEEP TRIAL_ID, or --teacher NAME"),
        ("inspect digits d-0", "unknown sweep 'digits'"),
        ("inspect digits d-0 -o no/pictures", "-o no/pictures: cannot be written"),
        ("run digits --set pair=a->b", "pair: the study has no pairs"),
        ("teacher import wrn_16_2 nowhere.pt --dataset digits", "nowhere.pt"),
        ("teacher import wrm_16_2 nowhere.pt --dataset digits", "nowhere.pt"),
    ],
)
def test_a_mistake_gets_one_line_and_starts_nothing(refused, arguments, expected):
    assert expected in refused(*arguments.split())


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"dimension": {}}, "unknown key in study 'dimension'; did you mean dimensions"),
        ({"fixed": {"epoch": 3}}, "unknown key 'epoch'"),
        ({"dimensions": {"temprature": [1]}}, "unknown key 'temprature'; did you mean temperature"),
        ({"teacher": {"model": "wrn_16_2", "epoch": 3}}, "'teacher.epoch'"),
        ({"teacher": {"name": "nobody"}}, "there is no teacher 'nobody'"),
        ({"objectives": {"val_accuracy": "max"}}, "objective 'val_accuracy'; did you mean val_acc"),
        ({"objectives": {"host": "max"}}, "unknown objective 'host'"),
        ({"objectives": {"compression_params": "max"}, "teacher": None}, "needs a teacher"),
        ({"dimensions": {"method": ["kd"]}, "teacher": None}, "teacher: method 'kd' needs one"),
        (
            {"teacher": {"model": "wrn_10_1", "method": "kd"}},
            "teacher: method 'kd' needs a teacher",
        ),
        (
            {"teacher": {}, "fixed": {}, "pairs": {"wrn_16_1->wrn_10_1": {"lr": 0}}},
            "pairs.wrn_16_1->wrn_10_1.lr: expected a number > 0, got 0",
        ),
    ],
)
def test_a_mistake_in_a_study_file(refused, tmp_path, changes, expected):
    content = yaml.safe_load(Path(load_study.__globals__["SHIPPED"], "digits.yaml").read_text())
    content |= {"dimensions": {"method": ["student"]}, "cover": [], "sampler": "grid"}
    content["fixed"] = {"student": "wrn_10_1"}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(content | changes))
    assert expected in refused("run", "own.yaml", "--results", "results")


@pytest.mark.parametrize("verb", ["run", "trial", "teacher train"])
def test_results_that_cannot_be_written(refused, tmp_path, verb):
    (tmp_path / "file").write_text("")
    for results in ("file", "file/below", "/proc/results"):
        assert "results" in refused(*verb.split(), "digits", "--results", results)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("resume t", "unknown sweep 't'; "),
        ("table t", "unknown sweep 't'; "),
        ("table s", "no finished trial"),
        ("plot s -o x.png", "finished"),
        ("confirm s", "no finished trial"),
        ("confirm s --seeds 0", "--seeds: expected at least 1, at most 10000, got 0"),
        ("confirm s --seeds 99999999999", "--seeds: expected at least 1, at most 10000"),
        ("front s", "no finished trial: 1 failed; most often: Diverged: nan"),
        ("front s --objective val_acc=max --objective val_acc=min", "val_acc is named twice"),
        ("run digits --name s/t", "sweep name 's/t'"),
        ("run digits --name=-x", "sweep name '-x'"),
        ("resume " + "s" * 300, "expected at most 200 characters, got 300"),
        ("run digits --set repeats=2 --set seed=4294967295", "reaches beyond the greatest seed"),
        ("run digits --set sampler_seed=99999999999", "sampler_seed"),
        ("run digits --set compression=depth --set depth=3", "depth: only mobilenetv2 and"),
        ("trial digits compression=depth depth=3", "depth: only mobilenetv2 and"),
        ("trial digits compression=width width=2", "'wrn' is a family"),
        ("confirm s --top -1", "--top: expected at least 1, got -1"),
        ("front s --objective val_acc", "expected COLUMN=max or COLUMN=min"),
        ("front s --objective nope=max", "nope"),
        ("front s --objective host=max", "unknown objective 'host'"),
        ("trial --replay s s-00001", "unknown trial 's-00001'; did you mean s-00000"),
        ("run digits --name s", "--name s: there is such a sweep"),
        ("teacher adopt s s-00001", "unknown trial 's-00001'"),
        ("export s s-00001 --onnx a.onnx", "unknown trial 's-00001'"),
        ("inspect s s-00001", "unknown trial 's-00001'"),
    ],
)
def test_a_mistake_about_a_sweep(refused, finished, arguments, expected):
    assert expected in refused(*arguments.split(), "--results", finished)


def test_broken_sql(refused, finished):
    for sql in ("SELEKT 1", "SELECT nope FROM trials", "SELECT * FROM '/etc/passwd'", "DROP x"):
        assert "query" in refused("query", sql, "--results", finished)


def test_changed_data_is_refused(refused, finished):
    path = Path(finished, "s", "study.yaml")
    content = yaml.safe_load(path.read_text())
    content["kdsweep"]["data_fingerprint"] = "0" * 64
    path.write_text(yaml.safe_dump(content))
    message = refused("resume", "s", "--results", finished)
    assert "'digits' is not the one that sweep 's' began with" in message


ALONE = "dataset: digits\nfixed: {student: wrn_10_0.5, epochs: 1, train_fraction: 0.1}\n"


def test_only_a_search_asks_for_a_budget(refused, tmp_path):
    (tmp_path / "alone.yaml").write_text(ALONE + "dimensions: {lr: [0.1, 0.2]}\n")
    assert "trials: expected how many configs to train" in refused("run", "alone.yaml")


def test_a_name_that_is_empty_is_no_name(refused, finished):
    assert "sweep name ''" in refused("run", "digits", "--name", "", "--results", finished)
