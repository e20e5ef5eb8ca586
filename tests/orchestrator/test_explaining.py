"""`kdsweep explain` on a teacher and students that were trained, and what the picture shows."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from orchestrator.cli import main
from orchestrator.results import views
from orchestrator.results.record import teacher_file, write_record
from orchestrator.results.store import Store
from search_spaces.load import load_study
from trainables.attribution.explaining import explain
from trainables.attribution.pictured import explained, first_of_each_class
from trainables.attribution.registry import resolve_explainers
from trainables.config import TrialConfig
from trainables.data.dataset import Images
from trainables.data.sources import load_dataset
from trainables.job import Job, Run
from trainables.methods.ig import IGConfig
from trainables.models.weights import SUFFIX, save_network
from trainables.students import read_student
from trainables.teachers.overlaid import overlaid
from trainables.teachers.teacher import Teacher, teacher_folder


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A sweep with three finished trials, one of them without a teacher, and one under way."""
    folder = str(tmp_path_factory.mktemp("results"))
    store = Store(folder, "s")
    notes = {"data_dir": None, "data_fingerprint": load_dataset("digits").fingerprint}
    notes["teacher_file"] = "t-recipe"  # as a sweep files a teacher that it trained
    write_record(store, load_study("digits"), notes)
    for number, method in enumerate(("kd", "kd+swa", "student", "kd")):
        values = {"dataset": "digits", "student": "wrn_10_0.5", "epochs": 2, "lr": 0.1}
        config = TrialConfig.from_mapping(values | {"precision": "fp32", "train_fraction": 0.3})
        facts = {"sweep": "s", "trial_id": f"s-{number}", "results": folder}
        run = Run(Job(config=config.to_dict(), checkpoint_seconds=0, **facts), torch.device("cpu"))
        run.run_epoch()
        if number < 3:
            run.run_epoch()
        row = run.row("completed" if number < 3 else "failed") | {"method": method}
        row |= {"val_score": number / 10}
        row |= {"compression_params": 4.0} | ({} if method == "student" else {"teacher": "t"})
        store.add_trial(row)
    store.flush()
    card, network = read_student(folder, "s", "s-0")
    save_network(teacher_folder(folder), f"t-recipe{SUFFIX}", network, replace(card, name="t"))
    return folder


def test_files_of_teachers_are_as_the_sweep_noted_them(tmp_path):
    for name, notes, expected in (
        ("one", {"teacher_file": "wrn-1a2b"}, "wrn-1a2b"),
        ("pairs", {"teacher_files": {"wrn": "wrn-1a2b", "vgg": "vgg-3c4d"}}, "wrn-1a2b"),
        ("old", {}, "wrn"),
    ):
        store = Store(str(tmp_path), name)
        write_record(store, load_study("digits"), notes)
        assert teacher_file(store, "wrn") == expected


def test_each_question_of_many_has_an_answer(results):
    card, network = read_student(results, "s", "s-0")
    many = replace(card, task="multi-label")
    images = load_dataset("digits").train.images[:2]
    with torch.no_grad():
        network.classifier.weight.zero_()
        network.classifier.bias.copy_(torch.arange(10.0) - 4.5)
    shown = explained(many, network, images, ["2", "7"], [str(n) for n in range(10)], {})
    assert shown.said == ("not 2", "7")


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_a_picture_of_the_best_trials(results, tmp_path, capsys, ending):
    file = tmp_path / f"why.{ending}"
    words = ["--explainers", "grad_cam+gradients", "--images", "3", "--results", results]
    assert main(["explain", "s", "-o", str(file), *words]) == 0
    said = capsys.readouterr()
    assert said.out == f"{file}\n"
    assert "no trial named: s-2 s-1 s-0, the best on validation, one of a method" in said.err
    passes = "grad_cam (1 pass a map), gradients (1): 24 passes of an image"
    assert f"3 images, 4 networks, by {passes}\n" in said.err
    assert "min more" not in said.err, "this takes no minute"
    assert [line for line in said.err.splitlines() if line.startswith("explaining")] == [
        f"explaining {name}" for name in ("t", "s-2", "s-1", "s-0")
    ]
    start = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}
    assert file.read_bytes().startswith(start[ending])


def test_what_the_picture_says(results, tmp_path, capsys):
    file = tmp_path / "why.svg"
    words = ["s-1", "s-0", "-o", str(file), "--explainers", "none", "--results", results]
    assert main(["explain", "s", *words]) == 0
    text = file.read_text()
    for part in ("teacher t", "s-1: kd+swa", "s-0: kd", "4x fewer parameters", "attention 3"):
        assert f"<!-- {part}" in text or part in text, part
    assert text.index("s-1: kd+swa") < text.index("s-0: kd -->")
    assert "first image of each class in the test set" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("s -o a.jpg", "-o a.jpg: expected a file that ends in .png, .svg, .pdf"),
        ("s -o no/a.png", "-o no/a.png: there is no folder no"),
        ("s -o a.png --explainers grad_can", "unknown explainer 'grad_can'; did you mean grad_cam"),
        (
            "s -o a.png --set grad_cam.layer=1 --explainers lrp",
            "grad_cam.layer: has no effect with",
        ),
        ("s -o a.png --set grad_cam.layr=1", "did you mean grad_cam.layer"),
        (
            "s -o a.png --set integrated_gradient.steps=3",
            "unknown key 'integrated_gradient.steps'; did you mean integrated_gradients.steps",
        ),
        (
            "s -o a.png --set steps=3 --explainers smooth_grad",
            "unknown key 'steps'; known: smooth_grad.noise, smooth_grad.samples, smooth_grad.seed",
        ),
        ("s -o a.png --set steps=3 --explainers none", "steps: has no effect with explainers none"),
        ("s -o a.png --set integrated_gradients.steps=0", "integrated_gradients.steps: expected"),
        (
            "s -o a.png --set integrated_gradients.steps",
            "--set integrated_gradients.steps: expected",
        ),
        ("s -o a.png --images 0", "--images 0: expected a whole number >= 1"),
        ("s s-7 -o a.png", "unknown trial 's-7'"),
        ("s s-3 -o a.png", "trial 's-3' has no student: it has not completed"),
        ("s s-0 s-0 -o a.png", "explain: a trial is named twice in s-0 s-0"),
        ("r -o a.png", "unknown sweep 'r'"),
    ],
)
def test_refusals(results, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    assert main(["explain", *words.split(), "--results", results]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_maps_are_of_the_network_as_it_sees_the_image(results):
    card, network = read_student(results, "s", "s-0")
    data = load_dataset("digits")
    test = data.read_test()
    chosen, classes = first_of_each_class(test, data.classes, 4)
    assert [data.classes[int(test.labels[i])] for i in chosen] == list(classes)
    turned = replace(card, class_names=tuple(reversed(data.classes)))
    asked = resolve_explainers("gradients", {})
    found, other = (
        explained(one, network, test.images[chosen], classes, data.classes, asked)
        for one in (card, turned)
    )
    pixels = ((test.images[chosen] / 255 - card.mean[0]) / card.std[0]).requires_grad_()
    logits = network.eval()(pixels).logits
    assert found.said == tuple(data.classes[i] for i in logits.argmax(1).tolist())
    assert other.said == tuple(data.classes[-1 - i] for i in logits.argmax(1).tolist())
    for said, targets in ((found, test.labels[chosen]), (other, 9 - test.labels[chosen])):
        wanted = logits.gather(1, targets[:, None]).sum()
        (slope,) = torch.autograd.grad(wanted, pixels, retain_graph=True)
        maps, _ = said.maps["gradients"]
        torch.testing.assert_close(maps.abs(), slope.sum(1).abs(), rtol=1e-3, atol=1e-5)
    assert len(found.attention) == 3


def test_a_baseline_that_needs_the_normalisation_has_it(results):
    """Of the card, whose images the network sees: black is 0 before, and another map than mean."""
    card, network = read_student(results, "s", "s-0")
    card = replace(card, mean=(0.3,), std=(0.4,))
    data = load_dataset("digits")
    images, classes = data.train.images[:2], [data.classes[i] for i in data.train.labels[:2]]
    network.eval()
    for baseline, dark in (("black", -0.75), ("white", 1.75), ("mean", 0.0)):
        asked = {"integrated_gradients.steps": 300, "integrated_gradients.baseline": baseline}
        asked = resolve_explainers("integrated_gradients", asked)
        shown = explained(card, network, images, classes, data.classes, asked)
        maps, _ = shown.maps["integrated_gradients"]
        pixels = (images / 255 - 0.3) / 0.4
        with torch.no_grad():
            said, silent = (network(one).logits for one in (pixels, torch.full_like(pixels, dark)))
        differences = (said - silent).gather(1, data.train.labels[:2, None])[:, 0]
        torch.testing.assert_close(maps.sum((1, 2)), differences, rtol=0.03, atol=0.02)


@pytest.mark.parametrize("alignment", ["aligned", "shuffled"])
def test_overlays_are_as_trained_on(results, alignment):
    card, network = read_student(results, "s", "s-0")
    data = load_dataset("digits")
    images = Images(data.train.images[:3], data.train.labels[:3])
    config = IGConfig(share=0.25, exponent=3.0, steps=20, alignment=alignment)
    found = overlaid(Teacher(network, card, torch.device("cpu")), data, images, config)
    assert list(found) == [1.0, 3.0]
    explainer = resolve_explainers("integrated_gradients", {"integrated_gradients.steps": 20})
    pixels = (images.images / 255 - card.mean[0]) / card.std[0]
    maps = explain(network, explainer, pixels, images.labels)["integrated_gradients"].abs()
    for number, image in enumerate(images.images):
        own = maps[number if alignment == "aligned" else (number + 1) % 3].numpy()
        for exponent, shown in found.items():
            power = (own / own.max()) ** exponent
            over = (power - power.min()) / (power.max() - power.min())
            expected = 0.25 * image[0].numpy() + 0.75 * 255 * over
            assert np.abs(shown[number, 0].numpy() - expected).max() < 1.5


def test_a_trial_of_ig_is_shown_under_its_overlays(results, tmp_path, capsys):
    """Beside the maps of the default explainers; alone it cannot have another image's map."""
    config = TrialConfig.from_mapping({"dataset": "digits", "teacher": "t", "method": "kd+ig"})
    for number, changed in enumerate(({}, {"ig.alignment": "shuffled"})):
        store = Store(results, f"ig{number}")
        notes = {"data_dir": None, "data_fingerprint": load_dataset("digits").fingerprint}
        write_record(store, load_study("digits"), notes | {"teacher_file": "t-recipe"})
        (row,) = views.trials(results, ["s"]).query("trial_id == 's-0'").to_dict("records")
        whole = json.dumps(config.replace(**changed).to_dict())
        row |= {"sweep": f"ig{number}", "method": "kd+ig", "config": whole}
        store.add_trial({key: value for key, value in row.items() if value == value})
        store.flush()
        shutil.copytree(f"{results}/s/checkpoints", f"{results}/ig{number}/checkpoints")
        file = tmp_path / f"why{number}.svg"
        words = ["s-0", "-o", str(file), "--images", "2" if not number else "1"]
        words += ["--set", "integrated_gradients.steps=4", "--results", results]
        assert main(["explain", f"ig{number}", *words]) == 0
    said = capsys.readouterr().err
    text = (tmp_path / "why0.svg").read_text()
    for part in ("overlay, e = 1", "overlay, e = 2", "grad cam", "integrated gradients"):
        assert text.count(f"<!-- {part} -->") == (2 if "overlay" not in part else 1), part
    for part in (
        "in training s-0 saw training images like these test images",
        "a probability of 0.1 in every epoch",
        "0.5 of the image, the rest its own map by the teacher",
        "(100 steps from mean) to a power e from 1 to 2",
    ):
        assert part in text.replace("&#x27;", "'"), part
    assert "overlay, e" not in (tmp_path / "why1.svg").read_text()
    assert "no overlay: of one image alone there is no other whose map it could have" in said


def test_images_of_several_classes_are_shown_once():
    labels = torch.tensor([[1, 1, 0], [0, 1, 0], [255, 0, 0]], dtype=torch.uint8)
    images = Images(torch.zeros(3, 3, 4, 4, dtype=torch.uint8), labels)
    assert first_of_each_class(images, ("a", "b", "c"), 5) == ([0, 1], ("a", "b"))
    assert first_of_each_class(images, ("a", "b", "c"), 1) == ([0], ("a",))
