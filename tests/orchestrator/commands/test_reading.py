"""What is read of a sweep: its columns and its front."""

from here import said

from orchestrator.cli import main
from orchestrator.results.store import Store


def test_every_column_is_explained(finished, capsys):
    assert main(["query", "--columns"]) == 0
    explained = {line.split()[0] for line in capsys.readouterr().out.splitlines()}
    for table in ("trials", "epochs"):
        text = f"SELECT column_name FROM (DESCRIBE {table})"
        assert main(["query", text, "--csv", "--results", finished]) == 0
        assert {*capsys.readouterr().out.split()[1:]} <= explained


def test_the_front_says_what_it_is_over(tmp_path, trial_row):
    store = Store(tmp_path, "s")
    rows = [("student", 0.7), ("kd", 0.7), ("at", 0.6)]
    for number, (method, accuracy) in enumerate(rows):
        store.add_trial(trial_row(number, method, 4, val_acc=accuracy, test_acc=0.5))
    text = said("front", "s", "--results", str(tmp_path))
    assert text.startswith("front over val_acc max, compression_params max (the study's own)")
    assert [line.split()[-2:] for line in text.splitlines()[1:]] == [
        ["equal", "trial_id"],
        ["2", "s-00000"],
    ]
    text = said("front", "s", "--objective", "val_acc=min", "--results", str(tmp_path))
    assert text.startswith("front over val_acc min (as asked)")
    csv = said("front", "s", "--csv", "--results", str(tmp_path))
    assert len(csv.splitlines()) == 2
    assert csv.startswith("method,student,compression_params,val_acc,test_acc,n,equal,trial_id\n")


def test_a_front_without_validation(refused, tmp_path, trial_row):
    """Of a published study, which trains on all images and chooses nothing."""
    folder = tmp_path / "r"
    store = Store(folder, "s")
    for number, (method, factor) in enumerate([("student", 2), ("kd", 2), ("student", 4)]):
        store.add_trial(trial_row(number, method, factor, test_acc=0.5 + number))
    where = ["s", "--results", str(folder)]
    assert "no finished trial of 3 has val_acc: val_fraction is 0" in refused("front", *where)
    assert "no finished trial of 3 has val_acc" in refused("table", *where, "--metric", "val_acc")
    assert "no finished trial of 3 has val_acc" in refused("plot", *where, "--metric", "val_acc")
    store.save_study("objectives: {compression_params: max}")
    text = said("front", *where)
    assert "No trial has val_acc (val_fraction: 0) and nothing is chosen by the test set" in text
    assert text.splitlines()[-1].split()[-1] == "s-00002"
