"""What a sweep shows: plain lines in a pipe, a panel on a terminal."""

import io
import json
import re

import pytest
from rich.console import Console

from orchestrator.sweeps import progress as module
from orchestrator.sweeps.progress import Pace, Progress
from trainables.config import TrialConfig

KD = TrialConfig.from_mapping({"method": "kd", "teacher": "wrn_16_2", "epochs": 20})


def row(number, status="completed", **columns):
    values = {
        "trial_id": f"s-{number:05d}",
        "method": "kd",
        "student": "wrn_10_1",
        "status": status,
        "error": None,
        "compression_requested": 4.0,
        "compression_params": 4.1,
        "val_acc": 0.9,
        "test_acc": 0.8,
    }
    return values | columns


def run(progress):
    """Ten trials: two done before, three now, one failed, one stopped, one tried again."""
    with progress:
        progress.stage("starting Ray")
        progress.began(2, 10, replaces=True)
        for number in range(2, 9):
            progress.started(f"s-{number:05d}", KD)
        progress.ended(row(2, val_acc=0.85))
        progress.ended(row(3, val_acc=0.91, student="wrn_16_0.5"))
        progress.ended(row(4, compression_requested=16.0, compression_params=15.7, val_acc=0.7))
        progress.ended(row(5, "failed", error="Diverged: the loss became nan in epoch 1, term ce"))
        progress.ended(row(6, "stopped"))
        progress.retried(row(7, "failed", error="the worker process died; see Ray's logs"))
        progress.epoch({"trial_id": "s-00008", "epoch": 5}, 20)
        progress.answered("s-00009", "s-00003")
    return progress.console.file.getvalue()


def terminal(width):
    """A progress on a terminal of this width, and what it writes."""
    progress = Progress("s")
    progress.console = Console(
        file=io.StringIO(), force_terminal=True, width=width, height=40, legacy_windows=False
    )
    return progress


def panel(progress, width=100):
    """The panel as text."""
    console = Console(file=io.StringIO(), width=width, height=40)
    console.print(progress)
    return console.file.getvalue()


def test_plain_lines_name_every_trial_and_count():
    file = io.StringIO()
    run(Progress("s", file=file))
    text = file.getvalue()
    assert "\x1b" not in text
    lines = text.splitlines()
    assert lines[0] == "starting Ray"
    clock = r"\d\d:\d\d:\d\d "
    for line, expected in zip(
        lines[1:],
        [
            r"3/10 trials  s-00002 kd wrn_10_1 \(4.1x\)  val 85.00 %  test 80.00 %",
            r"4/10 trials  s-00003 kd wrn_16_0.5 \(4.1x\)  val 91.00 %  test 80.00 %",
            r"5/10 trials  s-00004 kd wrn_10_1 \(16x\)  val 70.00 %  test 80.00 %",
            r"6/10 trials  s-00005 kd wrn_10_1 \(4.1x\)  failed: Diverged: .* term ce",
            r"7/10 trials  s-00006 kd wrn_10_1 \(4.1x\)  stopped",
            r"s-00007: the worker process died; see Ray's logs; trying again",
            r"s-00009: same experiment as s-00003, not trained again",
        ],
        strict=False,
    ):
        assert re.fullmatch(clock + expected, line)
    assert re.fullmatch(
        r"7/10 trials, 1 running, 1 failed, 1 stopped early, 1 tried again, "
        r"1 answered from results; [\d.]+ trials/min, .* left",
        lines[-1],
    )


def test_long_lines_stay_whole_in_a_pipe():
    file = io.StringIO()
    progress = Progress("s", file=file)
    progress.began(0, 1, replaces=True)
    progress.ended(row(0, "failed", error="x" * 300))
    assert len(file.getvalue().splitlines()) == 1


def test_a_pipe_gets_counts_now_and_then(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    file = io.StringIO()
    progress = Progress("s", file=file)
    progress.began(0, 2, replaces=True)
    progress.started("s-00000", KD)
    for second in range(31):
        now[0] = float(second)
        progress.epoch({"trial_id": "s-00000", "epoch": second}, 20)
    assert file.getvalue().splitlines() == ["0/2 trials, 1 running"]


def test_rate_and_time_left(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    progress = Progress("s", file=io.StringIO())
    progress.began(4, 10, replaces=True)
    now[0] += 30
    progress.ended(row(4))
    progress.ended(row(5))
    assert "6/10 trials, 0 running; 4.0 trials/min, 1 min 00 s left" in panel(progress)


def test_answers_shorten_a_list_but_not_a_search():
    for replaces, total in ((True, 10), (False, 9)):
        progress = Progress("s", file=io.StringIO())
        progress.began(0, 10, replaces=replaces)
        progress.answered("s-00001", "s-00000")
        assert progress.total == total


def test_the_panel_shows_counts_running_trials_and_the_best_per_compression():
    progress = terminal(100)
    run(progress)
    text = panel(progress)
    assert "7/10 trials, 1 running, 1 failed, 1 stopped early, 1 tried again" in text
    assert "00008 kd 5/20" in text
    best = [line.split() for line in text.splitlines() if " %" in line]
    assert best == [
        ["4.1x", "91.00", "%", "kd", "wrn_16_0.5"],
        ["16x", "70.00", "%", "kd", "wrn_10_1"],
    ]


def test_students_of_one_chain_share_a_line_of_the_panel():
    progress = terminal(100)
    chains = [("factor", None, 0.9), ("factor+prune", 0.5, 0.7), ("factor+prune", 0.5, 0.8)]
    for number, (kind, amount, acc) in enumerate(chains):
        words = {"compression_kind": kind, "config": json.dumps({"prune": amount})}
        student = f"wrn_16_0.5~{number:012x}"
        progress.ended(row(number, status="completed", val_acc=acc, student=student, **words))
    lines = [line.split()[1] for line in panel(progress).splitlines() if " %" in line]
    assert lines == ["80.00", "90.00"]


def test_running_trials_are_shown_before_any_has_ended():
    progress = terminal(100)
    progress.began(0, 4, replaces=True)
    progress.started("s-00000", KD)
    assert "00000 kd 0/20" in panel(progress)


def test_a_terminal_gets_a_live_panel():
    text = run(terminal(100))
    assert "\x1b[" in text
    assert "starting Ray" in text or "7/10 trials" in text


@pytest.mark.parametrize("width", [1, 5, 20, 40])
def test_narrow_terminals(width):
    progress = terminal(width)
    run(progress)
    assert all(len(line) <= width for line in panel(progress, width).splitlines())


def test_nothing_is_counted_before_the_trials_begin():
    file = io.StringIO()
    with Progress("s", file=file) as progress:
        progress.stage("starting Ray")
    assert file.getvalue() == "starting Ray\n"


def test_of_passing_stages_a_pipe_gets_the_first_and_a_few(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    file = io.StringIO()
    progress = Progress("s", file=file)
    progress.stage("training the teacher")
    for epoch in range(1, 41):
        now[0] += 1
        progress.stage(f"epoch {epoch}", passing=True)
    progress.stage("trained")
    lines = file.getvalue().splitlines()
    assert lines == ["training the teacher", "epoch 1", "epoch 16", "epoch 32", "trained"]


def test_what_is_left_is_judged_by_what_was_done_since(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    pace = Pace()
    assert pace.left(0.5) == "", "what an earlier run did says nothing of this one"
    now[0] += 10
    assert pace.left(0.6) == ", 0 min 40 s left"
    now[0] += 7
    assert pace.left(0.6) == ", 1 min 08 s left", "of a part that takes long"
    assert pace.left(1.0) == ", 0 min 00 s left"
