"""The published numbers in shipped studies, where the collection of them is at hand."""

import csv
from collections.abc import Mapping
from pathlib import Path

import pytest

from search_spaces.load import load_study
from search_spaces.published import Published, join_pair
from search_spaces.spec import Study


def published_of(study: Study) -> Published:
    assert study.published is not None
    return study.published


@pytest.fixture(scope="module")
def collection() -> Path:
    folder = Path(__file__).parents[3] / "shared" / "reference" / "published"
    if not folder.is_dir():
        pytest.skip(f"needs the collected tables in {folder}")
    return folder


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def check(published: Published, wanted: Mapping[tuple[str, str], float]) -> None:
    """``wanted`` holds numbers by method, or name, and pair; none but these are published."""
    found = {
        (method, pair): number
        for rows in (published.test_acc, published.others)
        for method, row in rows.items()
        for pair, number in row.items()
    }
    assert found == dict(wanted)


def test_numbers_of_the_comparison(collection: Path) -> None:
    published = published_of(load_study("compare_kd_cifar100"))
    names = {"fitnet": "kd+fitnet", "at": "kd+at"}
    rows = [row for row in rows_of(collection / "compare_kd_cifar100.csv") if row["test_acc"]]
    teachers = {r["teacher"]: float(r["test_acc"]) for r in rows if r["method"] == "teacher"}
    assert published.teacher == teachers
    check(
        published,
        {
            (names.get(row["method"], row["method"]), join_pair(row["teacher"], student)): float(
                row["test_acc"]
            )
            for row in rows
            if row["method"] != "teacher"
            for student in [row["student"].replace("mobilenetv2", "mobilenetv2_s2")]
        },
    )


def test_numbers_of_the_crd_protocol(collection: Path) -> None:
    published = published_of(load_study("crd_protocol_cifar100"))
    names = {
        "kd+logit-standardization": "kd+ls",
        "best verified": "best of this budget (WTTM+ITRD, ReviewKD++, KD++)",
        "mlkd+ls": "MLKD+LS, 480 epochs and RandAugment",
    }
    wanted: dict[tuple[str, str], float] = {}
    for row in rows_of(collection / "crd_protocol_cifar100.csv"):
        method = names.get(row["method"], row["method"])
        for pair, number in row.items():
            if "->" in pair:
                ours = pair.replace("mobilenetv2", "mobilenetv2_s2_x0.5")
                wanted[method, ours] = float(number)
    teachers = {key: wanted.pop(key) for key in [*wanted] if key[0] == "teacher"}
    assert published.teacher == {
        pair.partition("->")[0]: number for (_, pair), number in teachers.items()
    }
    # Not in the collection, but in the tables that it names.
    further = {("rkd", pair): number for pair, number in published.test_acc["rkd"].items()}
    check(published, wanted | further)


def test_numbers_of_the_shortcut_and_attention(collection: Path) -> None:
    published = published_of(load_study("skip_eca_cifar10"))
    variants = {"none": "", "blocks": "-eca", "last": "-eca_last", "parallel": "-eca_parallel"}
    wanted: dict[tuple[str, str], float] = {}
    for row in rows_of(collection / "skip_eca_cifar10.csv"):
        method, suffix = "skip" if row["student"] else "student", variants[row["eca"]]
        pair = join_pair(row["teacher"] + suffix, (row["student"] or row["teacher"]) + suffix)
        wanted[method, pair] = float(row["best_test_acc"])
        wanted[f"{method}, last epoch", pair] = float(row["last_test_acc"])
    check(published, wanted)


def test_numbers_of_the_joint_study(collection: Path) -> None:
    published = published_of(load_study("joint_cifar10"))
    names = {"mixup-kd": "kd+mixup"}
    rows = rows_of(collection / "gpfq_bits.csv")
    names["teacher"] = "the teacher, quantised"
    numbers = {
        (names.get(row["method"], row["method"]), f"resnet50->resnet18{step}"): float(
            row["test_acc"]
        )
        for row in rows
        if row["dataset"] == "cifar10"
        for step in ["" if row["bits"] == "32" else f" + gpfq {row['bits']}"]
    }
    teacher = numbers.pop((names["teacher"], "resnet50->resnet18"))
    assert published.teacher == {"resnet50": teacher}
    check(published, numbers)
    assert len(numbers) == 4 * 8 + 7


IG_COLUMNS = {"Student": "student", "KD": "kd", "KD&IG": "kd+ig", "IG": "ig"}
IG_FACTORS = {3: 2.194, 5: 4.115, 7: 7.287, 9: 12.04, 11: 28.97, 13: 54.59, 15: 139.43, 17: 1121.7}


def test_numbers_of_integrated_gradients(collection: Path) -> None:
    """The facts have them as two tables: by factor, and ten runs at 4.12."""
    facts = collection.parent / "ig_kd_at_and_attribution.md"
    if not facts.is_file():
        pytest.skip(f"needs {facts}")
    published = published_of(load_study("ig_cifar10"))
    lines = facts.read_text().split("# PART 2")[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines]
    by_factor = rows[rows.index(["CF", "Student", "KD", "KD&IG", "IG"]) + 2 :][: len(IG_FACTORS)]
    for depth, row in zip(IG_FACTORS, by_factor, strict=True):
        assert float(row[0]) == pytest.approx(IG_FACTORS[depth], rel=2e-3)
        pair = f"mobilenetv2->mobilenetv2-minus{depth}"
        for method, number in zip(IG_COLUMNS.values(), row[1:], strict=True):
            of = f"{method}, one run, of the table by factors"
            where = published.others[of] if depth == 5 else published.test_acc[method]
            assert where[pair] == float(number)
    pair = "mobilenetv2->mobilenetv2-minus5"
    names = {"Student": "student", "KD": "kd", "IG": "ig", "AT": "at", "KD&IG": "kd+ig"}
    names |= {"KD&AT": "kd+at", "IG&AT": "at+ig", "KD&IG&AT": "kd+at+ig"}
    ten = {row[0]: row for row in rows if row[0] in names and len(row) == 6}
    assert ten.keys() == names.keys()
    for name, method in names.items():
        assert published.test_acc[method][pair] == float(ten[name][1])
        best = published.others[f"{method}, the best of ten runs on the test set"]
        assert best[pair] == float(ten[name][4])
