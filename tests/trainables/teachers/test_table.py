"""The teacher table: what is found is what was filled."""

from pathlib import Path
from typing import Any

import pytest
import torch
from small_table import every_entry, key, one, outputs

from trainables.data.dataset import Dataset
from trainables.data.views import ViewPlan
from trainables.teachers.table import TeacherTable


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("width", [1, 5, 10, 128])
def test_found_is_what_was_filled_and_nothing_else(tmp_path: Path, dtype: str, width: int) -> None:
    with TeacherTable.open(tmp_path, key(dtype=dtype, width=width)) as table:
        images, views = every_entry(table)
        values = outputs(len(images), width)
        some = torch.randperm(len(images), generator=torch.Generator().manual_seed(1))[:100]
        assert table.fill(images[some], views[some], values[some]) == 100
        found_values, found = table.lookup(images, views)
    assert found_values.dtype == torch.float32
    assert found.nonzero().flatten().tolist() == some.sort().values.tolist()
    rounded = values.to(getattr(torch, dtype)).float()
    assert torch.equal(found_values[found], rounded[found])
    assert found_values[~found].isnan().all()


def test_entries_outlive_the_process_that_filled_them(tmp_path: Path) -> None:
    values = outputs(18)
    views = torch.arange(18)
    with TeacherTable.open(tmp_path, key()) as table:
        table.fill(torch.full((18,), 7), views, values)
    with TeacherTable.open(tmp_path, key()) as table:
        again, found = table.lookup(torch.full((18,), 7), views)
        assert found.all()
        assert torch.equal(again, values.half().float())
        assert not table.lookup(torch.full((18,), 8), views)[1].any()


def test_other_processes_see_an_entry_at_once(tmp_path: Path) -> None:
    with TeacherTable.open(tmp_path, key()) as ours, TeacherTable.open(tmp_path, key()) as theirs:
        assert not ours.lookup(one(3), one(4))[1]
        theirs.fill(one(3), one(4), outputs(1))
        values, found = ours.lookup(one(3), one(4))
    assert found
    assert torch.equal(values, outputs(1).half().float())


def test_the_table_answers_like_the_live_teacher(
    tmp_path: Path, digits: Dataset, digits_teacher: Any
) -> None:
    plan = ViewPlan(padding=digits.crop_padding, flip=digits.flip, seed=5)
    teacher = digits_teacher.load()
    facts = {"padding": 1, "flip": False, "images": len(digits.train)}
    order = torch.randperm(len(digits.train), generator=torch.Generator().manual_seed(2))
    for what, width in (("logits", 10), ("embedding", 64)):
        with TeacherTable.open(tmp_path, key(what=what, width=width, **facts)) as table:
            for indices in order.split(100):
                live = getattr(teacher(plan.images(digits.train.images, 3, indices)), what)
                table.fill(indices, plan.view_ids(3, indices), live)
            for indices in order.flip(0).split(64):
                live = getattr(teacher(plan.images(digits.train.images, 3, indices)), what)
                values, found = table.lookup(indices, plan.view_ids(3, indices))
                assert found.all()
                torch.testing.assert_close(values, live, rtol=2**-10, atol=1e-5)


def test_lookup_writes_to_a_given_tensor(tmp_path: Path) -> None:
    with TeacherTable.open(tmp_path, key()) as table:
        table.fill(one(1), one(2), outputs(1))
        out = torch.zeros(2, 5)
        values, found = table.lookup(torch.tensor([1, 1]), torch.tensor([2, 3]), out=out)
    assert values is out
    assert found.tolist() == [True, False]
    assert torch.equal(out[0], outputs(1)[0].half().float())
    assert out[1].isnan().all()


def test_an_empty_batch(tmp_path: Path) -> None:
    none = torch.zeros(0, dtype=torch.int64)
    with TeacherTable.open(tmp_path, key()) as table:
        assert table.fill(none, none, torch.zeros(0, 5)) == 0
        values, found = table.lookup(none, none)
    assert values.shape == (0, 5)
    assert found.shape == (0,)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_what_is_not_finite_stays_live(tmp_path: Path, dtype: str) -> None:
    values = torch.tensor([[65504.0, -65504.0], [65536.0, 0], [0, -7e4], [torch.nan, 0], [1e39, 0]])
    images = torch.arange(5)
    with TeacherTable.open(tmp_path, key(dtype=dtype, width=2)) as table:
        stored = table.fill(images, images, values)
        found = table.lookup(images, images)[1]
        assert table.fill(images[3:4], images[3:4], values[3:4]) == 0
    beyond = dtype == "float16"
    assert found.tolist() == [True, not beyond, not beyond, False, False]
    assert stored == int(found.sum())


@pytest.mark.parametrize(("image", "view"), [(20, 0), (-1, 0), (0, 18), (0, -1), (1 << 60, 0)])
def test_there_is_no_entry_outside_the_table(tmp_path: Path, image: int, view: int) -> None:
    with TeacherTable.open(tmp_path, key()) as table:
        with pytest.raises(IndexError, match="20 images with 18 views"):
            table.lookup(torch.tensor([0, image]), torch.tensor([0, view]))
        with pytest.raises(IndexError, match="20 images with 18 views"):
            table.fill(torch.tensor([0, image]), torch.tensor([0, view]), outputs(2))


def test_wrong_tensors_are_refused(tmp_path: Path) -> None:
    with TeacherTable.open(tmp_path, key()) as table:
        with pytest.raises(ValueError, match="int64"):
            table.lookup(torch.tensor([1], dtype=torch.int32), one(1))
        with pytest.raises(ValueError, match=r"\[1, 5\], not \[1, 4\]"):
            table.fill(one(1), one(1), outputs(1, 4))
    table.close()
    with pytest.raises(ValueError, match="closed"):
        table.lookup(one(1), one(1))
