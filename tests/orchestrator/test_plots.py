"""The picture: written whole, with the marks it promises, or refused by name."""

import re
import xml.etree.ElementTree as ElementTree

import pytest
from PIL import Image

from orchestrator.results.plots import accuracy_versus_compression
from trainables.errors import UserError


@pytest.fixture
def frame(recorded, search_rows, trial_row):
    rows = search_rows(["student", "kd", "at", "kd+at"], [2, 4, 8], configs=2)
    return recorded([*rows, trial_row(9999, "kd", 4, val_acc=0.01, test_acc=0.01)])


def texts(path) -> list[str]:
    """What the SVG says: matplotlib leaves each text as a comment beside its glyphs."""
    return [text.strip() for text in re.findall(r"<!--(.*?)-->", path.read_text(), re.DOTALL)]


def test_png_is_a_picture(frame, tmp_path):
    accuracy_versus_compression(frame, tmp_path / "front.png")
    with Image.open(tmp_path / "front.png") as image:
        assert image.width > 1000
        assert len(set(image.convert("RGB").resize((200, 200)).getdata())) > 50


def test_a_sweep_without_validation_images_has_no_front(frame, tmp_path):
    accuracy_versus_compression(frame.assign(val_acc=float("nan")), tmp_path / "all.png")
    with Image.open(tmp_path / "all.png") as image:
        assert image.width > 1000


def test_svg_says_what_is_drawn(frame, tmp_path):
    path = tmp_path / "front.svg"
    accuracy_versus_compression(frame, path, title="All methods")
    ElementTree.parse(path)
    found = texts(path)
    for text in (
        *("All methods", "cifar100, teacher wrn_40_2", "teacher 75.61 % (test)"),
        *("student", "kd", "at", "kd+at", "front (on validation)", "2x", "4x", "8x"),
        "test accuracy (%)",
    ):
        assert text in found
    assert any(re.fullmatch(r"1 more below \d+ %", text) for text in found)
    assert any("parameters of the teacher / student" in text for text in found)


def test_axis_and_metric_can_be_chosen(frame, tmp_path):
    path = tmp_path / "macs.svg"
    accuracy_versus_compression(frame, path, metric="val_acc", axis="macs")
    assert "validation accuracy (%)" in texts(path)
    assert any("multiply-accumulates" in text for text in texts(path))


def test_each_dataset_has_a_panel(recorded, search_rows, trial_row, tmp_path):
    rows = search_rows(["student", "kd"], [2, 4], configs=1)
    rows.append(
        trial_row(
            5000,
            "kd",
            4,
            val_acc=0.9,
            test_acc=0.9,
            dataset="digits",
            teacher=None,
            teacher_test_acc=None,
        )
    )
    path = tmp_path / "two.svg"
    accuracy_versus_compression(recorded(rows), path)
    assert {"cifar100, teacher wrn_40_2", "digits"} <= set(texts(path))
    assert sum("teacher 75.61" in text for text in texts(path)) == 1


def test_twenty_methods_look_different(recorded, search_rows, tmp_path):
    methods = [f"m{i}" for i in range(20)]
    path = tmp_path / "many.svg"
    accuracy_versus_compression(recorded(search_rows(methods, [4], configs=1, seeds=1)), path)
    shapes = dict(re.findall(r'<path id="(\w+)" d="([^"]+)"', path.read_text()))
    legend = path.read_text().partition('id="legend_1"')[2]
    marks = re.findall(r'<use xlink:href="#(\w+)"[^>]*style="fill: (#\w+)', legend)
    assert len({(shapes[name], colour) for name, colour in marks}) >= 20
    assert len({shapes[name] for name, _ in marks}) >= 10


@pytest.mark.parametrize("suffix", ["pdf", "jpg", ""])
def test_other_suffixes_are_refused(frame, tmp_path, suffix):
    with pytest.raises(UserError, match=r"expected a file that ends in \.png or \.svg"):
        accuracy_versus_compression(frame, tmp_path / f"front.{suffix}".rstrip("."))
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


def test_mistakes_are_named(frame, tmp_path):
    path = tmp_path / "front.png"
    with pytest.raises(UserError, match="unknown metric 'accuracy'"):
        accuracy_versus_compression(frame, path, metric="accuracy")
    with pytest.raises(UserError, match="unknown compression axis 'flops'"):
        accuracy_versus_compression(frame, path, axis="flops")
    with pytest.raises(UserError, match=r"no finished trial: \d+ failed"):
        accuracy_versus_compression(frame.assign(status="failed"), path)
    with pytest.raises(UserError, match="cannot be written"):
        accuracy_versus_compression(frame, tmp_path / "no" / "front.png")
