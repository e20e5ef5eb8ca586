"""CRD: its loss in float64 loops, its negatives, its memory, and that it survives interruptions."""

import math
from collections import Counter

import numpy as np
import pytest
import torch

from trainables.config import TrialConfig
from trainables.data.dataset import Dataset
from trainables.errors import UserError
from trainables.methods.crd import CRD, CRDConfig, crd_loss, project, similarities
from trainables.methods.term import Batch
from trainables.models.outputs import Network, Outputs, Shapes
from trainables.training import Training

Array = np.ndarray
OURS, THEIRS = Shapes(3, 5, ()), Shapes(3, 7, ())
LABELS = torch.tensor([0, 1, 2, 1, 0, 0, 2, 1, 0, 2, 2, 1])
TRAINED = torch.tensor([9, 0, 1, 2, 3, 4, 5, 8])  # classes 2 0 1 2 1 0 0 0


def unit(*shape: int, seed: int = 0) -> Array:
    values = np.random.default_rng([seed, *shape]).standard_normal(shape)
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


def made(**settings: object) -> CRD:
    torch.manual_seed(0)
    term = CRD(CRDConfig(dimension=4, **settings), OURS, THEIRS)
    term.attach(Network(), LABELS, TRAINED)
    return term


def outputs(width: int, seed: int, batch: int = 3) -> Outputs:
    embedding = torch.randn(batch, width, generator=torch.Generator().manual_seed(seed))
    return Outputs(torch.zeros(batch, 3), embedding, ())


INDICES = torch.tensor([5, 1, 9])
BATCH = Batch(LABELS[INDICES], INDICES, epoch=1.0, progress=0.1)


def reference(anchors: Array, memory: Array, candidates: Array, images: int, z: float) -> float:
    """Section 3.1 of the paper, image by image and candidate by candidate; τ = 0.5."""
    total = 0.0
    noise = (candidates.shape[1] - 1) / images
    for anchor, rows in zip(anchors, candidates, strict=True):
        for place, row in enumerate(rows):
            a = math.exp(anchor @ memory[row] / 0.5) / z
            h = a / (a + noise)
            total -= math.log(h) if place == 0 else math.log(1 - h)
    return total / len(anchors)


@pytest.mark.parametrize("z", [1.0, 37.5])
@pytest.mark.parametrize(("batch", "negatives"), [(1, 1), (3, 4), (5, 9)])
def test_loss(batch: int, negatives: int, z: float) -> None:
    anchors, memory = unit(batch, 6, seed=1), unit(11, 6, seed=2)
    candidates = np.random.default_rng(3).integers(0, 11, (batch, 1 + negatives))
    scores = similarities(
        torch.tensor(anchors).float(),
        torch.tensor(memory).float(),
        torch.from_numpy(candidates),
        0.5,
    )
    loss = crd_loss(scores, 20, torch.tensor(z))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(reference(anchors, memory, candidates, 20, z), rel=1e-4)


def test_loss_by_hand() -> None:
    # a = 1 and K / M = 1: h = ½ for the image and for both negatives.
    assert crd_loss(torch.zeros(4, 3), 2, torch.ones(())).item() == pytest.approx(3 * math.log(2))
    # The image itself found and the negatives rejected.
    far = torch.tensor([[50.0, -50.0, -50.0]])
    assert crd_loss(far, 2, torch.ones(())).item() == pytest.approx(0, abs=1e-6)


def test_negatives_are_training_images_of_other_classes() -> None:
    term = made(negatives=1000)
    assert term.negatives == 8 - 4  # no more than there are beside the largest class
    torch.manual_seed(1)
    drawn = torch.cat([term._others(BATCH.target) for _ in range(3000)], dim=1)
    allowed = {0: {9, 1, 2, 3}, 1: {9, 2, 0, 4, 5, 8}, 2: {0, 1, 3, 4, 5, 8}}
    for target, row in zip(BATCH.target.tolist(), drawn.tolist(), strict=True):
        counts = Counter(row)
        assert set(counts) == allowed[target]
        expected = len(row) / len(allowed[target])
        assert all(abs(count / expected - 1) < 0.1 for count in counts.values())


def test_fewer_negatives_where_asked() -> None:
    assert made(negatives=2)._others(BATCH.target).shape == (3, 2)


def test_one_class_has_no_negatives() -> None:
    with pytest.raises(UserError, match="'crd' needs training images of at least two classes"):
        CRD(CRDConfig(), OURS, THEIRS).attach(Network(), LABELS, torch.tensor([0, 4, 5]))


@pytest.mark.parametrize("critic", ["paper", "normalised"])
def test_a_step(critic: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole term with fixed negatives, twice: the loss, Z, and what the memory becomes."""
    term = made(critic=critic, temperature=0.5, beta=2.0, momentum=0.3)
    negatives = torch.tensor([[1, 3], [0, 9], [4, 4]])
    monkeypatch.setattr(term, "_others", lambda target: negatives)
    candidates = torch.cat([INDICES[:, None], negatives], dim=1).numpy()
    memory = [
        buffer.double().numpy().copy() for buffer in (term.student_memory, term.teacher_memory)
    ]
    z: list[float] = []
    for seed in (1, 2):
        student, teacher = outputs(5, seed), outputs(7, seed + 10)
        anchors = [
            project(student.embedding, term.student_head).detach().double().numpy(),
            project(teacher.embedding, term.teacher_head).detach().double().numpy(),
        ]
        if critic == "paper":
            z = [1.0, 1.0]
        elif not z:
            z = [
                8
                * np.exp(
                    np.einsum("bd,bkd->bk", anchors[i], memory[1 - i][candidates]) / 0.5
                ).mean()
                for i in range(2)
            ]
        sides = [reference(anchors[i], memory[1 - i], candidates, 8, z[i]) for i in range(2)]
        loss = term(student, teacher, BATCH)
        loss.backward()
        term.after_step(BATCH)
        assert loss.item() == pytest.approx(2 * sum(sides), rel=1e-4)
        for own, anchor in zip(memory, anchors, strict=True):
            mixed = 0.3 * own[INDICES] + 0.7 * anchor
            own[INDICES] = mixed / np.linalg.norm(mixed, axis=1, keepdims=True)
    np.testing.assert_allclose(term.student_memory.numpy(), memory[0], atol=1e-5)
    np.testing.assert_allclose(term.teacher_memory.numpy(), memory[1], atol=1e-5)
    np.testing.assert_allclose(term.constants.numpy(), z, rtol=1e-4)


def test_the_memory_changes_after_the_step_only() -> None:
    """The backward pass multiplies by it; nothing of a step is kept behind it."""
    term = made()
    buffers = {key: value.clone() for key, value in term.named_buffers()}
    loss = term(outputs(5, 1), outputs(7, 2), BATCH)
    assert all(torch.equal(value, buffers[key]) for key, value in term.named_buffers())
    loss.backward()
    with torch.no_grad():
        term.after_step(BATCH)
    changed = {key for key, value in term.named_buffers() if not torch.equal(value, buffers[key])}
    assert changed == {"constants", "student_memory", "teacher_memory"}
    assert term._seen is None


def test_nothing_is_remembered_outside_training() -> None:
    term = made().eval()
    before = {key: value.clone() for key, value in term.state_dict().items()}
    term(outputs(5, 1), outputs(7, 2), BATCH)
    assert all(torch.equal(before[key], value) for key, value in term.state_dict().items())


def test_embeddings_have_unit_length() -> None:
    found = project(outputs(5, 1).embedding, made().student_head)
    torch.testing.assert_close(found.square().sum(dim=1), torch.ones(3))


def test_an_untrained_critic_is_balanced_by_its_constant() -> None:
    """Why `normalised` is the default: with Z = 1 the K negatives swamp the loss."""
    torch.manual_seed(0)
    shapes, labels = Shapes(10, 16, ()), torch.arange(2000) % 10
    losses = {}
    for critic in ("normalised", "paper"):
        term = CRD(CRDConfig(critic=critic), shapes, shapes)
        term.attach(Network(), labels, torch.arange(2000))
        batch = Batch(labels[:8], torch.arange(8), epoch=0.0, progress=0.0)
        losses[critic] = term(outputs(16, 1, 8), outputs(16, 2, 8), batch).item()
    assert losses["normalised"] < 30
    assert losses["paper"] > 1000


@pytest.mark.parametrize("method", ["crd", "kd+ls+crd"])
def test_an_interruption_leaves_no_trace(digits: Dataset, digits_teacher, method: str) -> None:
    config = TrialConfig.from_mapping(
        {
            "method": method,
            "teacher": "resnet8",
            "train_fraction": 0.1,
            "val_fraction": 0.2,
            "epochs": 3,
            "batch_size": 32,
            "lr": 0.1,
            "crd.negatives": 50,
        }
    )

    def start() -> Training:
        torch.manual_seed(77)
        device = torch.device("cpu")
        return Training(config, digits, "wrn_10_0.5", digits_teacher.load(), device)

    undisturbed = start()
    rows = [undisturbed.run_epoch()["term_losses"] for _ in range(3)]
    interrupted = start()
    interrupted.run_epoch()
    state = interrupted.state_dict()
    torch.rand(99)
    continued = start()
    continued.load_state_dict(state)
    assert [continued.run_epoch()["term_losses"] for _ in range(2)] == rows[1:]
    ours, theirs = undisturbed.method.state_dict(), continued.method.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_held_out_images_are_never_touched(digits: Dataset, digits_teacher) -> None:
    config = TrialConfig.from_mapping(
        {"method": "crd", "teacher": "resnet8", "train_fraction": 0.1, "epochs": 1, "lr": 0.1}
    )
    training = Training(config, digits, "wrn_10_0.5", digits_teacher.load(), torch.device("cpu"))
    term = training.method.terms["crd"]
    assert set(term.order.tolist()) == set(training.stream.train_indices.tolist())
    before = term.student_memory.clone()
    training.run_epoch()
    touched = (term.student_memory != before).any(dim=1).nonzero().flatten().tolist()
    assert touched
    assert set(touched) <= set(training.stream.train_indices.tolist())
