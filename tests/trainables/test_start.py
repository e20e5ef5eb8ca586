"""Students that begin with a trained network: its weights, its edits, its normalisation."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from trainables.adopting import adopt_student
from trainables.compression.lockstep import layers
from trainables.compression.measure import count_macs
from trainables.config import TrialConfig
from trainables.data.dataset import Dataset
from trainables.data.views import to_float
from trainables.errors import UserError
from trainables.job import STUDENT, Job, Run
from trainables.models.blueprint import Blueprint, build, edit
from trainables.models.edits import Bits, Channels
from trainables.models.masks import Masked, masks
from trainables.models.outputs import Network
from trainables.models.weights import Card, read_network, save_network
from trainables.teachers.start import check_start, load_start
from trainables.teachers.teacher import made_how, teacher_folder

CPU = torch.device("cpu")
Quick = Callable[..., TrialConfig]

OTHER_MEAN, OTHER_STD = (0.5,), (0.25,)


def begin(job: Job) -> Run:
    return Run(job, CPU, keep=False)


@pytest.fixture
def digits_teacher(digits_teacher, tmp_path: Path):
    """In a folder of its own, since other networks come beside it."""
    results = tmp_path / "results"
    shutil.copytree(digits_teacher.results, results)
    return digits_teacher._replace(results=str(results))


@pytest.fixture
def start_job(digits_teacher, quick: Quick) -> Callable[..., Job]:
    """A job whose student begins with a file of the teacher's folder, by default the teacher's."""

    def make(file: str | None = None, trial_id: str = "t", **values: Any) -> Job:
        config = quick(**{"student": "resnet8", "teacher": "resnet8", "start": "teacher"} | values)
        return Job(
            config=config.to_dict(),
            sweep="starts",
            trial_id=trial_id,
            results=digits_teacher.results,
            teacher=digits_teacher.file,
            start=file or digits_teacher.file,
            checkpoint_seconds=0.0,
        )

    return make


@pytest.fixture
def file(digits_teacher) -> Callable[..., str]:
    """Files a changed copy of the teacher; returns the name of its file."""

    def write(name: str, change: Callable[[Network], None] = lambda _: None, **facts: Any) -> str:
        folder = teacher_folder(digits_teacher.results)
        card, network = read_network(folder, digits_teacher.file + ".safetensors")
        change(network)
        made = replace(card, name=name, edits=network.blueprint.edits, **facts)
        save_network(folder, f"{name}.safetensors", network, made)
        return name

    return write


def cut(network: Network) -> None:
    """Half of the channels inside every block."""
    outputs, inputs = {}, {}
    for name, module in layers(network).items():
        block, _, leaf = name.rpartition(".")
        if leaf == "conv1" and block:
            kept = range(module.weight.shape[0] // 2)
            outputs |= {name: kept, f"{block}.bn1": kept}
            inputs[f"{block}.conv2"] = kept
    edit(network, Channels.kept(outputs, inputs), (1, 8, 8))


def mask_half(network: Network) -> None:
    edit(network, Masked(tuple(sorted(layers(network)))), (1, 8, 8))
    drawn = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, mask in masks(network).items():
            mask.copy_(torch.rand(mask.shape, generator=drawn) < 0.5)
            network.get_parameter(f"{name}.weight").mul_(mask)


def logits(run: Run, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        learner = run.training.learner
        return learner.student.eval()(learner.floats(images)).logits


# What it is


def test_the_student_is_a_copy_that_learns_and_the_teacher_stays(
    start_job, digits: Dataset, digits_teacher
) -> None:
    run = begin(start_job(method="kd", epochs=1))
    images = digits.train.images[:32]
    assert torch.equal(logits(run, images), run.teacher(images).logits)
    assert all(weight.requires_grad for weight in run.training.student.parameters())
    before = {key: one.clone() for key, one in run.teacher.network.state_dict().items()}
    run.run_epoch()
    assert not torch.equal(logits(run, images), run.teacher(images).logits)
    after = run.teacher.network.state_dict()
    assert [key for key in after if not torch.equal(after[key], before[key])] == []
    assert begin(start_job(method="kd")).row("stopped")["start"] == digits_teacher.card.name


def test_trials_do_not_share_a_start(start_job, digits: Dataset) -> None:
    first = begin(start_job(method="student", epochs=1))
    first.run_epoch()
    second = begin(start_job(method="student", epochs=1))
    assert torch.equal(
        logits(second, digits.train.images[:8]), second.teacher(digits.train.images[:8]).logits
    )


def test_edits_come_along_and_further_ones_stack(start_job, file, digits: Dataset) -> None:
    """Twice smaller than the start, which is smaller than its model."""
    name = file("narrow", cut)
    run = begin(start_job(name, start=name, compression="prune", prune=2, epochs=2))
    begun = run.training.student
    macs = count_macs(begun, digits.image_shape)
    assert [one.kind for one in begun.blueprint.edits] == ["channels"]
    assert macs < count_macs(build(Blueprint("resnet8"), 10, (1, 8, 8)), (1, 8, 8))
    run.run_epoch()
    student = run.training.student
    assert [one.kind for one in student.blueprint.edits] == ["channels", "channels"]
    assert macs / count_macs(student, digits.image_shape) == pytest.approx(2, rel=0.05)
    row = run.row("stopped")
    assert row["student"] == student.blueprint.label
    assert row["student"].startswith("resnet8~")


def test_masks_of_a_start_hold_without_a_step(start_job, file) -> None:
    run = begin(start_job(file("sparse", mask_half), start="sparse", epochs=1, weight_decay=0.01))
    kept = {name: mask.clone() for name, mask in masks(run.training.student).items()}
    run.run_epoch()
    for name, mask in masks(run.training.student).items():
        weight = run.training.student.get_parameter(f"{name}.weight")
        assert torch.equal(mask, kept[name])
        assert torch.equal(weight != 0, mask)


def test_a_masked_start_stays_masked_in_further_rounds(start_job, file) -> None:
    name = file("sparse", mask_half)
    values = {"start": name, "compression": "sparsify", "epochs": 2}
    with pytest.raises(UserError, match=r"sparsify: 0.3 of the weights are to be zero, and 0\.\d+"):
        begin(start_job(name, sparsify=0.3, **values))
    with pytest.raises(UserError, match="sparsify"):
        begin(start_job(name, sparsify=0.5, **values, **{"sparsify.pattern": "2:3"}))
    run = begin(start_job(name, sparsify=0.8, **values))
    before = {name: mask.clone() for name, mask in masks(run.training.student).items()}
    run.run_epoch()
    after = masks(run.training.student)
    assert all((after[name] <= before[name]).all() for name in after)
    total = sum(mask.numel() for mask in after.values())
    assert sum(int((~mask).sum()) for mask in after.values()) == round(0.8 * total)
    assert [one.kind for one in run.training.student.blueprint.edits] == ["masked"]


# Its images and classes


def test_another_normalisation_is_the_students_own(
    start_job, file, digits: Dataset, digits_teacher
) -> None:
    name = file("bright", mean=OTHER_MEAN, std=OTHER_STD, normalisation="half")
    job = replace(start_job(name, start=name, method="student", epochs=1), trial_id="bright-1")
    run = Run(job, CPU)
    images = digits.train.images[:16]
    network = digits_teacher.load().network
    with torch.no_grad():
        wanted = network(to_float(images, OTHER_MEAN, OTHER_STD)).logits
    torch.testing.assert_close(logits(run, images), wanted, rtol=1e-6, atol=1e-6)
    run.run_epoch()
    row = run.row("completed")
    card, again = read_network(job.folder, STUDENT)
    assert (card.mean, card.std, card.normalisation) == (OTHER_MEAN, OTHER_STD, "half")
    adopted = adopt_student(job.results, job.sweep, job.trial_id, "bright-2")
    assert "start bright" in made_how(adopted)
    test = digits.read_test()
    with torch.no_grad():
        said = again.eval()(to_float(test.images, card.mean, card.std)).logits
    right = (said.argmax(1) == test.labels).float().mean().item()
    assert row["test_acc"] == pytest.approx(right, abs=2e-3)


def test_classes_in_another_order_are_mapped_by_name(
    start_job, file, digits: Dataset, digits_teacher
) -> None:
    """The rows of a mask with those of the weights."""
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0))

    def shuffle(network: Network) -> None:
        edit(network, Masked(("classifier",)), (1, 8, 8))
        with torch.no_grad():
            masks(network)["classifier"][0, :4] = False
            network.classifier.weight[0, :4] = 0
            for tensor in (*network.classifier.parameters(), masks(network)["classifier"]):
                tensor.copy_(tensor[order])

    name = file("shuffled", shuffle, class_names=tuple(digits.classes[i] for i in order))
    run = begin(start_job(name, start=name, method="student", epochs=1))
    classifier = run.training.student.classifier
    assert (classifier.weight[0, :4] == 0).all()
    assert not masks(run.training.student)["classifier"][0, :4].any()
    plain = digits_teacher.load().network.classifier
    assert torch.equal(classifier.weight[1:], plain.weight[1:])
    run.run_epoch()
    assert torch.equal(classifier.weight == 0, ~masks(run.training.student)["classifier"])


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"class_names": tuple("abcdefghij")}, "start: other: .* has other classes than dataset"),
        ({"classes": 11}, "start: other: .* was made for 11 classes"),
        ({"image_shape": (3, 8, 8)}, "start: other: .* of images"),
        ({"task": "multi_label"}, "start: other: .* was made for multi_label images"),
    ],
)
def test_other_classes_images_or_tasks_are_refused(
    digits: Dataset, tmp_path, facts: dict[str, Any], words: str
) -> None:
    shape = facts.get("image_shape", digits.image_shape)
    network = build(Blueprint("resnet8"), facts.get("classes", 10), shape)
    known = {"classes": 10, "class_names": digits.classes, "image_shape": shape} | facts
    if len(known["class_names"]) != known["classes"]:
        known["class_names"] = tuple(map(str, range(known["classes"])))
    channels = shape[0]
    card = Card(
        name="other", model="resnet8", dataset="x", data_fingerprint="x", mean=(0.5,) * channels,
        std=(1.0,) * channels, test_acc=0.5, params=1, macs=1, origin="x", **known,
    )  # fmt: skip
    save_network(teacher_folder(str(tmp_path)), "other.safetensors", network, card)
    with pytest.raises(UserError, match=words):
        load_start(str(tmp_path), "other", digits)


# Which it is


def test_the_student_is_the_start(start_job, file) -> None:
    said = "student: wrn_16_1: start: teacher begins with resnet8; write student: resnet8"
    with pytest.raises(UserError, match=said):
        begin(start_job(student="wrn_16_1"))
    with pytest.raises(UserError, match="unknown start 'gone'"):
        begin(start_job("gone", start="gone"))
    quantised = Blueprint("resnet8", (Bits.of({"conv1": 4}),))
    with pytest.raises(UserError, match="start: q: its weights are settled by edit 'bits'"):
        check_start("q", "resnet8", quantised)
    check_start("q", "resnet8", Blueprint("resnet8", (Masked(("conv1",)),)))


def test_another_network_under_the_name_is_not_taken(start_job, file) -> None:
    name = file("taken")
    job = replace(start_job(name, start=name), start_fingerprint="0" * 64)
    with pytest.raises(UserError, match="teacher 'taken' has changed since the sweep began"):
        begin(job)


# Interruptions


def test_an_interrupted_trial_goes_on(start_job, digits: Dataset) -> None:
    """From its progress, cut and masked as it was, to the same student."""
    values: dict[str, Any] = {"method": "kd+at", "compression": "prune+sparsify", "epochs": 4}
    values |= {"prune": 1.5, "sparsify": 0.6, "sparsify.rounds": 2, "optimizer": "adam", "lr": 1e-3}
    straight = Run(start_job(trial_id="straight", **values), CPU)
    for _ in range(4):
        straight.run_epoch()
    job = start_job(trial_id="killed", **values)
    first = Run(job, CPU)
    first.run_epoch()
    first.run_epoch()
    second = Run(job, CPU)
    assert second.note is None
    assert second.training.epoch == 2
    second.run_epoch()
    second.run_epoch()
    ours, theirs = (one.training.student for one in (second, straight))
    assert ours.blueprint == theirs.blueprint
    found, wanted = ours.state_dict(), theirs.state_dict()
    assert [key for key in wanted if not torch.equal(found[key], wanted[key])] == []
    moved = Run(replace(job, start=job.start, config={**job.config, "lr": 0.5}), CPU)
    assert "is of another config" in str(moved.note)


def test_peers_begin_afresh(start_job, digits: Dataset) -> None:
    run = begin(start_job(method="dml", epochs=1))
    networks = run.training.learner.networks
    student, peer = networks["student"], networks["dml.1"]
    assert not torch.equal(peer.conv1.weight, student.conv1.weight)
    assert torch.equal(student.conv1.weight, run.teacher.network.conv1.weight)
    assert isinstance(peer.classifier, nn.Linear)
    run.run_epoch()
