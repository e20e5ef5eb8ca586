"""Our accuracies beside published ones: cells, captions, four forms, and what has no number."""

import csv
import io

import pytest

from orchestrator.cli import main
from orchestrator.results.against import against_published, compare, render
from orchestrator.results.record import read_study
from orchestrator.results.store import Store
from search_spaces.load import load_study, parse_study
from search_spaces.published import Published
from trainables.errors import UserError

PUBLISHED = {
    "source": "A paper, table 3.",
    "dataset": "cifar100",
    "note": "one run,\nlast epoch",
    "protocol": {"epochs": 20, "val_fraction": 0.1},
    "test_acc": {
        "student": {"wrn_16_2->wrn_10_1": 60.0},
        "kd": {"wrn_16_2->wrn_10_1": 61.0, "wrn_16_2->wrn_10_2": 64.5},
        "dist": {"wrn_16_2->wrn_10_1": 62.5},
    },
    "teacher": {"wrn_16_2": 70.0},
    "others": {"best known": {"wrn_16_2->wrn_10_1": 63.0}},
}


def study(**changes):
    content = {
        "name": "own",
        "dataset": "cifar100",
        "pairs": {"wrn_16_2->wrn_10_1": {}, "wrn_16_4->wrn_10_2": {}},
        "fixed": {"epochs": 20},
        "dimensions": {"method": ["student", "at", "kd"]},
        "sampler": "grid",
        "repeats": 2,
        "published": PUBLISHED,
    }
    return parse_study({**content, **changes})


def accuracy(config):
    """Of two seeds with mean 0.6 (kd: 0.62) and standard deviation 0.01."""
    return (0.62 if config.method == "kd" else 0.6) + (config.seed - 0.5) * 2**0.5 / 100


def lines(comparison, teacher="wrn_16_2", student="wrn_10_1"):
    (block,) = (b for b in comparison.blocks if (b.teacher, b.student) == (teacher, student))
    return {line.method: line for line in block.lines}


def test_ours_stand_beside_the_published_numbers(booked):
    (comparison,) = against_published(booked(study(), accuracy), ["s"])
    found = lines(comparison)
    assert list(found) == ["teacher", "student", "kd", "dist", "at", "best known"]
    kd = found["kd"]
    assert (kd.ours, kd.sd, kd.n, kd.published) == (
        *(pytest.approx(0.62), pytest.approx(0.01), 2),
        pytest.approx(0.61),
    )
    assert (kd.diff, kd.sds) == (pytest.approx(0.01), pytest.approx(1.0))
    assert (found["student"].diff, found["student"].n) == (pytest.approx(0), 2)
    # Ours where the source has none, theirs where we have none.
    assert (found["at"].ours, found["at"].published, found["at"].diff) == (
        *(pytest.approx(0.6), None),
        None,
    )
    assert (found["dist"].ours, found["dist"].published, found["dist"].sds) == (None, 0.625, None)
    assert (found["best known"].ours, found["best known"].published) == (None, 0.63)
    teacher = found["teacher"]
    assert (teacher.ours, teacher.n, teacher.sd) == (pytest.approx(0.758), 1, None)
    assert teacher.diff == pytest.approx(0.058)


def test_bit_widths_have_lines_of_their_own(booked):
    """Each beside the number of its bit width; the full precision beside its own."""
    pair, four = "wrn_16_2->wrn_10_1", "wrn_16_2->wrn_10_1 + gpfq 4"
    numbers = {"kd": {pair: 61.0, four: 58.0}}
    others = {"the teacher, quantised": {four: 69.0}}
    chains = {"method": ["kd"], "compression": ["explicit", "gpfq"], "gpfq": [4, 2]}
    (comparison,) = against_published(
        booked(
            study(
                pairs={pair: {}},
                dimensions=chains,
                published={**PUBLISHED, "test_acc": numbers, "others": others},
            ),
            lambda config: 0.6 - 0.04 / config.chain.get("gpfq", 99),
        ),
        ["s"],
    )
    kinds = {" + gpfq 4": (0.59, 0.58), "": (0.6 - 0.04 / 99, 0.61), " + gpfq 2": (0.58, None)}
    for steps, (ours, theirs) in kinds.items():
        line = lines(comparison, student=f"wrn_10_1{steps}")["kd"]
        assert (line.ours, line.published) == (
            pytest.approx(ours),
            theirs and pytest.approx(theirs),
        )
    quantised = lines(comparison, student="wrn_10_1 + gpfq 4")["the teacher, quantised"]
    assert quantised.published == pytest.approx(0.69)


def test_pairs_are_matched_by_both_networks(booked):
    """A pair that the source has and we have not, and the other way round."""
    (comparison,) = against_published(booked(study(), accuracy), ["s"])
    assert [(b.teacher, b.student) for b in comparison.blocks] == [
        ("wrn_16_2", "wrn_10_1"),
        ("wrn_16_2", "wrn_10_2"),
        ("wrn_16_4", "wrn_10_2"),
    ]
    missing = lines(comparison, "wrn_16_2", "wrn_10_2")["kd"]
    assert (missing.ours, missing.published) == (None, 0.645)
    further = lines(comparison, "wrn_16_4", "wrn_10_2")
    assert list(further) == ["teacher", "student", "kd", "at"]
    assert all(line.published is None and line.ours for line in further.values())


def test_the_plain_student_comes_first_though_it_was_not_published(booked):
    block = {**PUBLISHED, "test_acc": {"kd": {"wrn_16_2->wrn_10_1": 61.0}}}
    (comparison,) = against_published(booked(study(published=block), accuracy), ["s"])
    assert list(lines(comparison)) == ["teacher", "student", "kd", "at", "best known"]


def test_of_two_requests_for_one_network_the_better_stands(recorded, trial_row):
    rows = [
        trial_row(i, "kd", factor, val_acc=val, test_acc=test, student="wrn_10_1")
        for i, (factor, val, test) in enumerate([(4, 0.5, 0.61), (5, 0.6, 0.62), (6, 0.4, 0.63)])
    ]
    comparison = compare(recorded(rows), Published.model_validate(PUBLISHED))
    assert lines(comparison, "wrn_40_2")["kd"].ours == pytest.approx(0.62)


def test_one_seed_has_no_standard_deviation(booked):
    (comparison,) = against_published(booked(study(repeats=1), accuracy), ["s"])
    kd = lines(comparison)["kd"]
    assert (kd.n, kd.sd, kd.sds) == (1, None, None)
    assert kd.diff is not None


def test_the_caption_says_what_the_numbers_are(booked):
    (comparison,) = against_published(booked(study(), accuracy), ["s"])
    for part in (
        "cifar100. Ours: test accuracy in %, mean ± sd over seeds (number of seeds)",
        "Published: A paper, table 3 (one run, last epoch).",
        "in standard deviations of ours over seeds",
        "nothing was chosen",
    ):
        assert part in comparison.caption
    assert "differ" not in comparison.caption
    assert "has none" not in comparison.caption


def test_the_caption_says_where_our_protocol_differs(booked):
    short = study(fixed={"epochs": 2, "val_fraction": 0.1})
    (comparison,) = against_published(booked(short, accuracy), ["s"])
    assert "Ours differ from the published protocol: epochs 2 instead of 20." in comparison.caption


def test_other_data_have_no_published_numbers(booked):
    (comparison,) = against_published(booked(study(dataset="cifar10"), accuracy), ["s"])
    assert "The published numbers are for cifar100: cifar10 has none" in comparison.caption
    assert [(b.teacher, b.student) for b in comparison.blocks] == [
        ("wrn_16_2", "wrn_10_1"),
        ("wrn_16_4", "wrn_10_2"),
    ]
    found = lines(comparison)
    assert list(found) == ["teacher", "student", "kd", "at"]
    assert all(line.ours and line.published is None for line in found.values())


def test_sweeps_of_one_study_stand_together(booked):
    booked(study(dimensions={"method": ["student"]}), accuracy)
    booked(study(dimensions={"method": ["kd"]}), accuracy, sweep="t")
    other = study(published={**PUBLISHED, "source": "Another paper"})
    results = booked(other, accuracy, sweep="u")
    first, second = against_published(results, ["s", "t", "u"])
    assert all(lines(first)[method].n == 2 for method in ("student", "kd"))
    assert "at" not in lines(first)
    assert "Another paper" in second.caption
    assert lines(second)["at"].n == 2


# Forms


def test_text(booked):
    text = render(against_published(booked(study(), accuracy), ["s"]))
    assert text.splitlines()[2:12] == [
        "wrn_16_2->wrn_10_1  ours              published  points  sds",
        "------------------  ----------------  ---------  ------  ----",
        "teacher             75.80 (1)         70.00      +5.80   –",
        "student             60.00 ± 1.00 (2)  60.00      +0.00   +0.0",
        "kd                  62.00 ± 1.00 (2)  61.00      +1.00   +1.0",
        "dist                –                 62.50      –       –",
        "at                  60.00 ± 1.00 (2)  –          –       –",
        "best known          –                 63.00      –       –",
        "",
        "wrn_16_2->wrn_10_2  ours              published  points  sds",
    ]


def test_markdown(booked):
    text = render(against_published(booked(study(), accuracy), ["s"]), "markdown")
    assert text.splitlines()[2:7] == [
        "| wrn_16_2->wrn_10_1 | ours | published | points | sds |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| teacher | 75.80 (1) | 70.00 | +5.80 | – |",
        "| student | 60.00 ± 1.00 (2) | 60.00 | +0.00 | +0.0 |",
        "| kd | 62.00 ± 1.00 (2) | 61.00 | +1.00 | +1.0 |",
    ]
    assert text.count("\n| --- |") == 3


def test_latex(booked):
    text = render(against_published(booked(study(), accuracy), ["s"]), "latex")
    body = text[text.index(r"\toprule") : text.index(r"\bottomrule")].split("\n    ")
    assert [line.strip() for line in body[:6]] == [
        r"\toprule",
        r"wrn\_16\_2$\to$wrn\_10\_1 & ours & published & points & sds \\",
        r"\midrule",
        r"teacher & 75.80 (1) & 70.00 & $+5.80$ & -- \\",
        r"student & 60.00 $\pm$ 1.00 (2) & 60.00 & $+0.00$ & $+0.0$ \\",
        r"kd & 62.00 $\pm$ 1.00 (2) & 61.00 & $+1.00$ & $+1.0$ \\",
    ]
    assert text.count(r"\begin{tabular}{lrrrr}") == text.count(r"\end{table}") == 1
    assert body[-1].strip() == ""
    assert body[-3].strip() != r"\midrule"
    assert text.count("{") == text.count("}")


def test_csv_has_a_row_per_line(booked):
    text = render(against_published(booked(study(), accuracy), ["s"]), "csv")
    rows = list(csv.DictReader(io.StringIO(text)))
    kd = next(row for row in rows if row["method"] == "kd")
    assert (kd["dataset"], kd["teacher"], kd["student"], kd["n"]) == (
        *("cifar100", "wrn_16_2", "wrn_10_1"),
        "2",
    )
    numbers = [float(kd[key]) for key in ("ours", "sd", "published", "diff", "sds")]
    assert numbers == pytest.approx([0.62, 0.01, 0.61, 0.01, 1.0])
    dist = next(row for row in rows if row["method"] == "dist")
    assert (dist["ours"], dist["n"], dist["published"], dist["diff"]) == ("", "0", "0.625", "")


# The command, with shipped studies


def said(capsys, *arguments):
    code = main(arguments)
    return code, capsys.readouterr()


@pytest.mark.parametrize("form", ["text", "markdown", "latex", "csv"])
def test_the_command_shows_a_shipped_study(booked, capsys, form):
    shipped = load_study("compare_kd_cifar100", ["repeats=1"])
    results = booked(shipped, lambda config: 0.75)
    code, captured = said(
        capsys, "table", "s", "--against", "published", "--results", results, "--format", form
    )
    assert (code, captured.err) == (0, "")
    numbers = ("80.39", "79.16") if form != "csv" else ("0.8039", "0.7916")
    assert all(number in captured.out for number in numbers)
    assert "instead of" not in captured.out


def test_a_shortened_run_says_so(booked, capsys):
    changed = load_study("compare_kd_cifar100", ["repeats=1", "epochs=2", "dataset=cifar10"])
    results = booked(changed, lambda config: 0.75)
    _, captured = said(capsys, "table", "--against", "published", "--results", results)
    assert "epochs 2 instead of 240" in captured.out
    assert "The published numbers are for cifar100" in captured.out
    assert "80.39" not in captured.out


def test_the_plain_student_of_a_shared_network_is_compared_for_both_teachers(booked):
    shipped = load_study("compare_kd_cifar100", ["repeats=1"])
    (comparison,) = against_published(booked(shipped, lambda config: 0.7), ["s"])
    for teacher in ("wrn_40_4", "resnet18"):
        line = lines(comparison, teacher, "mobilenetv2_s2")["student"]
        assert (line.ours, line.published) == (pytest.approx(0.7), pytest.approx(0.6966))
    empty = lines(comparison, "resnet18", "mobilenetv2_s2")["srd"]
    assert (empty.ours, empty.published) == (pytest.approx(0.7), None)


def test_the_study_is_read_with_the_notes_of_its_sweep(booked, tmp_path):
    results = booked(study(), accuracy)
    store = Store(results, "s")
    store.save_study(store.read_study() + "kdsweep: {sweep: s, versions: {torch: '2'}}\n")
    assert read_study(store) == study()


@pytest.mark.parametrize(
    ("changes", "arguments", "expected"),
    [
        ({"published": None}, [], "study 'own' of sweep 's' has no published numbers"),
        ({}, ["--metric", "val_acc"], "published numbers are test accuracies"),
        ({}, ["t"], "unknown sweep 't'"),
    ],
)
def test_mistakes_get_one_line(booked, capsys, changes, arguments, expected):
    results = booked(study(**changes), accuracy)
    code, captured = said(
        capsys, "table", *arguments, "--against", "published", "--results", results
    )
    assert (code, captured.out) == (2, "")
    assert expected in captured.err
    assert captured.err.count("\n") == 1


def test_unknown_forms_and_unfinished_sweeps(booked):
    results = booked(study(), accuracy)
    with pytest.raises(UserError, match="unknown table format 'html'"):
        render(against_published(results, ["s"]), "html")
    results = booked(study(), accuracy, sweep="broken", status="failed")
    with pytest.raises(UserError, match="no finished trial: 12 failed"):
        against_published(results, ["broken"])
