"""A teacher's name is its own."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from trainables.config import TrialConfig
from trainables.data.dataset import Dataset
from trainables.errors import UserError
from trainables.job import Job, Run
from trainables.models.registry import create_model
from trainables.recipes import recipe
from trainables.teacher_training import train_teacher
from trainables.teachers.importing import import_teacher
from trainables.teachers.teacher import find_teacher, list_teachers, load_teacher, made_how

CPU = torch.device("cpu")


@pytest.fixture
def weights(tmp_path: Path) -> Callable[[int], str]:
    """Files of drawn weights."""

    def write(seed: int) -> str:
        torch.manual_seed(seed)
        file = tmp_path / f"net{seed}.pth"
        torch.save(create_model("resnet8_x0.5", 10, (1, 8, 8)).state_dict(), file)
        return str(file)

    return write


def test_a_taken_name_is_refused_or_replaced(
    digits: Dataset, weights: Callable[[int], str], tmp_path: Path
) -> None:
    results, lines = str(tmp_path / "results"), list[str]()

    def imported(seed: int, **options: object):
        return import_teacher(
            "resnet8_x0.5",
            weights(seed),
            digits,
            results=results,
            name="t1",
            normalisation="dataset",
            force=True,
            say=lines.append,
            **options,  # type: ignore[arg-type]
        )

    first = imported(1)
    assert imported(1) == first, "the same again changes nothing"
    assert lines[-1] == "teacher t1 is there already, and the same"
    with pytest.raises(UserError, match=r"--name t1: is the name of another .*--replace"):
        imported(2)
    assert find_teacher(results, "t1") == first
    second = imported(2, replacing=True)
    assert lines[-1] == "the teacher that was called t1 is kept as t1.1"
    third = imported(3, replacing=True)
    kept = list_teachers(results)
    assert list(kept) == ["t1", "t1.1", "t1.2"]
    assert kept["t1"] == third
    found = {name: load_teacher(results, name, "cpu").card for name in kept}
    assert [found["t1.1"].fingerprint, found["t1.2"].fingerprint] == [
        first.fingerprint,
        second.fingerprint,
    ]
    assert (found["t1.1"].name, found["t1.1"].created_at) == ("t1.1", first.created_at)


def test_a_damaged_one_is_replaced_as_it_is(
    digits: Dataset, weights: Callable[[int], str], tmp_path: Path
) -> None:
    results = tmp_path / "results"
    (results / "teachers").mkdir(parents=True)
    (results / "teachers" / "t1.safetensors").write_bytes(b"damaged")
    options = {"results": str(results), "name": "t1", "normalisation": "none", "force": True}
    with pytest.raises(UserError, match=r"t1\.safetensors is damaged"):
        import_teacher("resnet8_x0.5", weights(1), digits, **options)
    import_teacher("resnet8_x0.5", weights(1), digits, **options, replacing=True)
    assert (results / "teachers" / "t1.1.safetensors").read_bytes() == b"damaged"
    listed = list_teachers(str(results))
    assert isinstance(listed["t1.1"], UserError)


def test_a_worker_refuses_another_teacher_than_was_meant(
    digits: Dataset, digits_teacher, quick: Callable[..., TrialConfig]
) -> None:
    config = quick(method="kd", teacher="resnet8")
    meant = {"sweep": "s", "trial_id": "s-1", "results": digits_teacher.results}
    job = Job(
        config=config.to_dict(),
        teacher=digits_teacher.file,
        teacher_fingerprint="0" * 64,
        **meant,
    )
    with pytest.raises(UserError, match=r"has changed since the sweep began: .* expected 00000"):
        Run(job, CPU)


def test_a_recipe_does_not_take_a_foreign_file_for_its_own(
    digits: Dataset, weights: Callable[[int], str], quick: Callable[..., TrialConfig], tmp_path
) -> None:
    results = str(tmp_path / "results")
    plan = recipe(quick(student="resnet8_x0.5", epochs=1), None)
    import_teacher(
        "resnet8_x0.5",
        weights(1),
        digits,
        results=results,
        name=plan.key,
        normalisation="dataset",
        force=True,
    )
    with pytest.raises(UserError, match="is not the one that is trained under this name"):
        train_teacher(plan, results, None, CPU, lambda row: None)
    card = train_teacher(plan, results, None, CPU, lambda row: None, replacing=True)
    assert plan.find(results) == card
    assert list(list_teachers(results)) == [plan.key, f"{plan.key}.1"]


def test_recipes_are_told_apart(quick: Callable[..., TrialConfig], tmp_path: Path) -> None:
    told = set()
    for changes in ({}, {"lr": 0.2}, {"seed": 3}):
        plan = recipe(quick(student="resnet8_x0.5", epochs=1, **changes), None)
        card = train_teacher(plan, str(tmp_path), None, CPU, lambda row: None)
        told.add(made_how(card))
    assert len(told) == 3
    assert any("seed 3" in text for text in told)
    assert all("epochs 1" in text for text in told)
