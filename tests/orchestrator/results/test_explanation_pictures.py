"""Pictures of explanations: every map as it is, and readable however many there are."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from orchestrator.results.explanation_pictures import Block, Column, draw_explanations


def drawn(tmp_path: Path, **columns: tuple[np.ndarray, bool]) -> tuple[np.ndarray, str]:
    """The picture of one image, and its words."""
    images = np.full((1, 3, 8, 8), 120, dtype=np.uint8)
    made = [Column(title=name, values=v, signed=signed) for name, (v, signed) in columns.items()]
    block = Block(title=("net", "90 %"), said=("cat",), columns=made)
    for ending in ("png", "svg"):
        draw_explanations(images, ("cat",), [block], tmp_path / f"a.{ending}", "title")
    return imread(tmp_path / "a.png")[..., :3], (tmp_path / "a.svg").read_text()


def colours(picture: np.ndarray, colour: tuple[float, float, float]) -> int:
    return int((np.abs(picture - colour).max(axis=-1) < 0.02).sum())


BLUE, RED, YELLOW = (0.02, 0.19, 0.38), (0.40, 0.0, 0.12), (0.99, 0.91, 0.14)


def test_empty_maps_are_called_so(tmp_path):
    empty, flat = np.zeros((1, 8, 8)), np.ones((1, 8, 8))
    none = np.full((1, 8, 8), np.nan)
    _, text = drawn(tmp_path, a=(empty, False), b=(flat, True), c=(none, False))
    for word in ("empty", "constant", "no numbers"):
        assert text.count(f"<!-- {word} -->") == 1


def test_signed_maps_have_0_in_the_middle(tmp_path):
    """However lopsided: what is weakly against is not drawn as strongly so."""
    values = np.zeros((1, 8, 8))
    values[0, :4], values[0, 4:6] = 1.0, -0.01
    picture, text = drawn(tmp_path, lrp=(values, True))
    assert colours(picture, RED) > 1000 > colours(picture, BLUE)
    assert "signed maps" in text
    assert "positive maps" not in text
    picture, text = drawn(tmp_path, ebp=(np.abs(values), False))
    assert colours(picture, YELLOW) > 1000
    assert "positive maps" in text
    assert "says" not in text


def test_many_networks_stand_in_bands(tmp_path):
    """Each as wide as a screen is, with the images again; all maps are of one size."""
    images, maps = np.full((2, 3, 8, 8), 120, dtype=np.uint8), np.eye(8)[None].repeat(2, 0)
    wide = [Column(title="lrp", values=maps, signed=True)] * 10
    blocks = [Block(title=(f"net {i}",), said=("cat", "dog"), columns=wide) for i in range(3)]
    sizes = {}
    for count in (1, 2, 3):
        file = tmp_path / f"{count}.png"
        draw_explanations(images, ("cat", "dog"), blocks[:count], file, "title")
        picture = imread(file)[..., :3]
        sizes[count] = picture.shape[1]
        assert colours(picture, (120 / 255,) * 3) == pytest.approx(
            (count + 1) // 2 * 2 * 143**2, rel=0.03
        ), "two images in each band"
        assert colours(picture, RED) == pytest.approx(count * 20 * 143**2 / 8, rel=0.1)
    assert sizes[2] == sizes[3] > sizes[1]


def test_long_titles_are_broken_and_not_cut(tmp_path):
    """None reaches into the next network's or past the picture."""
    images, maps = np.full((1, 3, 8, 8), 120, dtype=np.uint8), np.eye(8)[None]
    name = "explainer_of_somebody_with_a_long_name"
    columns = [Column(title=name, values=maps)]
    title = "a student whose channels were cut to 12-24-53-64-128-256, int8 and float behind it"
    blocks = [Block(title=(title, "90 %"), said=("cat",), columns=columns)] * 2
    for ending in ("png", "svg"):
        file = tmp_path / f"a.{ending}"
        draw_explanations(images, ("cat",), blocks, file, "title", "what must be known " * 20)
    text = file.read_text()
    for part in (
        "explainer of somebody",
        "with a long name",
        "12-24-53-64-128-256, int8",
    ):
        assert text.count(part) >= 2, part
    picture = imread(tmp_path / "a.png")[..., :3]
    assert (picture[:, -8:] == 1).all(), "nothing touches the right edge"
