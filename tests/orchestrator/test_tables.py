"""The compression table: what is chosen, what is shown, and its four forms."""

import csv
import io

import pytest

from orchestrator.results.tables import compression_table, render
from trainables.errors import UserError


@pytest.fixture
def frame(recorded, trial_row):
    """Two factors; KD has two configs at 4x, and is missing at 16x."""

    def seeds(number, method, factor, val, *tests, temperature=1.0):
        return [
            trial_row(
                number + seed,
                method,
                factor,
                seed=seed,
                val_acc=val,
                test_acc=test,
                settings={"kd.temperature": temperature},
            )
            for seed, test in enumerate(tests)
        ]

    return recorded(
        [
            *seeds(0, "student", 4, 0.70, 0.700, 0.704),
            *seeds(10, "kd", 4, 0.72, 0.720, 0.722, 0.724),
            *seeds(20, "kd", 4, 0.71, 0.999, 0.999, temperature=9.0),  # better on test only
            *seeds(30, "srd_dist", 4, 0.69, 0.69),
            *seeds(40, "student", 16, 0.50, 0.51),
            *seeds(50, "srd_dist", 16, 0.52, 0.53),
        ]
    )


def cells(table):
    return {(cell.method, cell.compression): cell for cell in table.panels[0].cells}


def test_cells_choose_on_validation_and_show_test(frame):
    found = cells(compression_table(frame))
    kd = found["kd", "4.1x"]
    assert (kd.mean, kd.sd, kd.n) == (pytest.approx(0.722), pytest.approx(0.002), 3)
    assert kd.diff == pytest.approx(0.722 - 0.702)
    assert (kd.val_acc, kd.trial_id, kd.best) == (pytest.approx(0.72), "s-00010", True)
    assert found["srd_dist", "4.1x"].diff == pytest.approx(0.69 - 0.702)
    assert found["srd_dist", "4.1x"].sd is None
    assert found["student", "4.1x"].diff is None
    assert not found["student", "4.1x"].best
    assert ("kd", "16.5x") not in found


def test_the_caption_says_where_nothing_could_be_chosen_by(recorded, trial_row):
    """Without a validation split the first config stands, never the one with the best test."""
    rows = [
        trial_row(i, method, test_acc=i / 10, settings={"kd.temperature": float(i)})
        for i, method in enumerate(["student", "kd", "kd", "dkd"])
    ]
    table = compression_table(recorded(rows))
    assert cells(table)["kd", "4.1x"].mean == pytest.approx(0.1)
    assert "Of 1 cells no config has one: they show the first" in table.panels[0].caption


def test_ties_go_to_the_lower_config_key(recorded, trial_row):
    rows = [
        trial_row(i, val_acc=0.5, test_acc=i / 10, settings={"kd.temperature": float(i)})
        for i in (3, 1, 2)
    ]
    (cell,) = compression_table(recorded(rows)).panels[0].cells
    assert cell.trial_id == "s-00001"


def test_text(frame):
    text = render(compression_table(frame))
    assert text.splitlines()[2:] == [
        "method    4.1x                      16.5x",
        "--------  ------------------------  -----------------",
        "student   70.20 ± 0.28 (2)          51.00 (1)",
        "kd        *72.20 ± 0.20* (3) +2.00  –",
        "srd_dist  69.00 (1) -1.20           *53.00* (1) +2.00",
    ]


def test_caption_says_what_the_numbers_are(frame):
    caption = compression_table(frame).panels[0].caption
    for part in (
        "cifar100, teacher wrn_40_2 (75.61 % test accuracy)",
        "Test accuracy in %",
        "10 finished trials, seeds 0, 1, 2",
        "best validation accuracy",
    ):
        assert part in caption
    assert "†" not in caption


def test_markdown(frame):
    lines = render(compression_table(frame), "markdown").splitlines()
    assert lines[2:] == [
        "| method | 4.1x | 16.5x |",
        "| --- | ---: | ---: |",
        "| student | 70.20 ± 0.28 (2) | 51.00 (1) |",
        "| kd | **72.20 ± 0.20** (3) +2.00 | – |",
        "| srd_dist | 69.00 (1) -1.20 | **53.00** (1) +2.00 |",
    ]


def test_latex(frame):
    text = render(compression_table(frame), "latex")
    assert r"teacher wrn\_40\_2 (75.61 \% test accuracy)" in text
    assert r"\begin{tabular}{lrr}" in text
    body = text[text.index(r"\toprule") : text.index(r"\bottomrule")].split("\n    ")
    assert [line.strip() for line in body] == [
        r"\toprule",
        r"method & 4.1x & 16.5x \\",
        r"\midrule",
        r"student & 70.20 $\pm$ 0.28 (2) & 51.00 (1) \\",
        r"kd & \textbf{72.20 $\pm$ 0.20} (3) $+2.00$ & -- \\",
        r"srd\_dist & 69.00 (1) $-1.20$ & \textbf{53.00} (1) $+2.00$ \\",
        "",
    ]
    assert text.count("{") == text.count("}")


def test_differences_have_an_error_where_both_have_the_same_seeds(recorded, trial_row):
    rows = [
        trial_row(10 * i + seed, method, 4, seed=seed, val_acc=0.5, test_acc=test)
        for i, (method, tests) in enumerate(
            [
                ("student", [0.70, 0.80, 0.90]),
                ("kd", [0.71, 0.82, 0.93]),  # in points 1, 2, 3: sd 1, error 1/sqrt(3)
                ("at", [0.70, 0.70]),  # a seed less
            ]
        )
        for seed, test in enumerate(tests)
    ]
    table = compression_table(recorded(rows))
    found = cells(table)
    assert found["kd", "4.1x"].diff_se == pytest.approx(0.01 / 3**0.5)
    assert found["at", "4.1x"].diff_se is None
    assert found["student", "4.1x"].diff_se is None
    assert "82.00 ± 11.00* (3) +2.00 ± 0.58" in render(table)
    assert r"(3) $+2.00$ $\pm$ 0.58" in render(table, "latex")
    assert "student of the same compression ± its standard error, paired by seed;" in render(table)


def test_csv_has_a_row_per_cell(frame):
    rows = list(csv.DictReader(io.StringIO(render(compression_table(frame), "csv"))))
    assert list(rows[0]) == [
        *("dataset", "teacher", "method", "compression", "compression_params", "student", "stage"),
        *("mean", "sd", "n", "diff", "diff_se", "val_acc", "config_key", "trial_id"),
    ]
    assert len(rows) == 5
    (kd,) = (row for row in rows if row["method"] == "kd")
    assert float(kd["mean"]) == pytest.approx(0.722)
    assert float(kd["diff"]) == pytest.approx(0.02)
    assert (kd["n"], kd["student"], kd["compression"]) == ("3", "wrn_4", "4.1x")
    (plain,) = (row for row in rows if row["method"] == "student" and row["student"] == "wrn_4")
    assert plain["diff"] == ""


def test_confirm_rows_replace_search_rows(recorded, trial_row, frame):
    hot = {"kd.temperature": 1.0}
    confirm = [
        trial_row(
            900 + i,
            method,
            4,
            seed=100 + seed,
            stage="confirm",
            settings=hot,
            val_acc=0.999,
            test_acc=test,
        )
        for i, (method, seed, test) in enumerate(
            [("kd", 0, 0.74), ("kd", 1, 0.76), ("student", 0, 0.71), ("student", 1, 0.73)]
        )
    ]
    table = compression_table(recorded(confirm, "s"))
    found = cells(table)
    kd = found["kd", "4.1x"]
    assert (kd.stage, kd.mean, kd.n, kd.trial_id) == ("confirm", pytest.approx(0.75), 2, "s-00900")
    assert kd.val_acc == pytest.approx(0.72)  # of the search: what it was chosen by
    assert kd.diff == pytest.approx(0.03)
    # A search trial beside a confirmed student learned from fewer images: no difference.
    other = found["srd_dist", "4.1x"]
    assert (other.stage, other.diff) == ("search", None)
    assert "69.00 (1)†" in render(table)
    assert "75.00 ± 1.41* (2) +3.00" in render(table)
    assert "Cells marked † have no confirm trials" in table.panels[0].caption
    shown = cells(compression_table(recorded([], "s"), "val_acc"))
    assert shown["kd", "4.1x"].mean == pytest.approx(0.72)


def test_students_that_steps_changed_have_columns_of_their_own(recorded, trial_row):
    def row(number, kind, amount, val, **columns):
        requested = 4.0 if kind.startswith("factor") else None
        words = {"compression": kind} | ({} if amount is None else {"prune": amount})
        columns = {"compression_kind": kind, "compression_requested": requested} | columns
        accuracies = {"val_acc": val, "test_acc": val}
        return trial_row(number, settings=words, **columns, **accuracies)

    frame = recorded(
        [
            row(0, "factor", None, 0.8),
            row(1, "factor+prune", 0.5, 0.7, student="wrn_4~0123456789ab"),
            row(2, "factor+prune", 0.5, 0.5, student="wrn_4~ba9876543210", seed=1),
            row(3, "factor+prune", 0.75, 0.5, student="wrn_4~0a1b2c3d4e5f"),
            row(4, "prune+int8", 0.5, 0.4, student="wrn_4~000000000000"),
        ]
    )
    (panel,) = compression_table(frame).panels
    assert {cell.compression: cell.mean for cell in panel.cells} == {
        "4.1x": 0.8,
        "4.1x + prune 0.5": 0.6,  # of two seeds, which are two networks
        "4.1x + prune 0.75": 0.5,
        "wrn_4 + prune 0.5 + int8 (4.1x)": 0.4,
    }


def test_named_students_and_two_teachers(recorded, trial_row):
    def named(number, method, student, params, **columns):
        explicit = {"compression_kind": "explicit", "compression_requested": None}
        return trial_row(
            number,
            method,
            val_acc=0.5,
            test_acc=0.5,
            student=student,
            compression_params=params,
            **explicit | columns,
            settings={"student": student},
        )

    frame = recorded(
        [
            named(0, "kd", "resnet20", 6.25),
            named(1, "kd", "resnet32", 3.7),
            named(2, "kd", "resnet20", 4.0, teacher="resnet56"),
            named(3, "student", "resnet20", None, teacher=None, teacher_test_acc=None),
        ]
    )
    table = compression_table(frame)
    assert [panel.columns for panel in table.panels] == [
        ["resnet20 (4.0x)"],
        ["resnet32 (3.7x)", "resnet20 (6.2x)"],
        ["resnet20"],
    ]
    assert "teacher none." in table.panels[2].caption
    assert render(table, "markdown").count("| method |") == 3


def test_requests_that_led_to_one_size_keep_their_columns(recorded, trial_row):
    rows = [
        trial_row(i, factor=factor, val_acc=0.5, test_acc=0.5, compression_params=2.1)
        for i, factor in enumerate([2, 2.2])
    ]
    assert compression_table(recorded(rows)).panels[0].columns == ["2.1x for 2x", "2.1x for 2.2x"]


def test_mistakes_are_named(recorded, trial_row, frame):
    with pytest.raises(UserError, match="unknown metric 'acc'"):
        compression_table(frame, "acc")
    with pytest.raises(UserError, match="unknown table format 'html'"):
        render(compression_table(frame), "html")
    with pytest.raises(UserError, match="no finished trial: none has ended yet"):
        compression_table(frame[frame["status"] == "failed"])
