"""DKD, TTM, WTTM and LS against float64 references and against values worked out by hand."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from trainables.methods.dkd import DKD, DKDConfig, dkd_loss
from trainables.methods.kd import kd_loss
from trainables.methods.ls import standardise
from trainables.methods.method import Method
from trainables.methods.registry import resolve_settings
from trainables.methods.term import Batch
from trainables.methods.ttm import power_sum, ttm_loss
from trainables.models.outputs import Network, Outputs, Shapes

Array = np.ndarray
LOGITS = [(1, 2), (3, 10), (16, 7), (8, 100)]


def draw(*shape: int, seed: int = 0, scale: float = 2.0) -> Array:
    return scale * np.random.default_rng([seed, *shape]).standard_normal(shape)


def tensor(values: Array) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32)


def softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def divergence(teacher: Array, student: Array) -> float:
    return float((teacher * (np.log(teacher) - np.log(student))).sum())


def decoupled(z_s: Array, z_t: Array, target: int) -> tuple[float, float, float]:
    """TCKD, NCKD and the teacher's 1 − p_y of one image, logits already divided by T."""
    p_s, p_t = softmax(z_s), softmax(z_t)
    binary_s, binary_t = (np.array([p[target], 1 - p[target]]) for p in (p_s, p_t))
    others_s, others_t = (softmax(np.delete(z, target)) for z in (z_s, z_t))
    return divergence(binary_t, binary_s), divergence(others_t, others_s), 1 - p_t[target]


def outputs(logits: torch.Tensor) -> Outputs:
    return Outputs(logits, torch.zeros(len(logits), 1), ())


def batch(target: torch.Tensor, epoch: float = 30.0) -> Batch:
    return Batch(target, indices=torch.arange(len(target)), epoch=epoch, progress=0.5)


class TestDKD:
    @pytest.mark.parametrize("shape", LOGITS)
    @pytest.mark.parametrize("temperature", [1.0, 4.0])
    def test_value(self, shape: tuple[int, int], temperature: float) -> None:
        z_s, z_t = draw(*shape, seed=1), draw(*shape, seed=2)
        target = np.arange(shape[0]) % shape[1]
        parts = [
            decoupled(ours / temperature, theirs / temperature, label)
            for ours, theirs, label in zip(z_s, z_t, target, strict=True)
        ]
        tckd, nckd, _ = temperature**2 * np.mean(parts, axis=0)
        found = dkd_loss(tensor(z_s), tensor(z_t), torch.from_numpy(target), temperature)
        assert [part.dtype for part in found] == [torch.float32] * 2
        assert found[0].item() == pytest.approx(tckd, rel=1e-4, abs=1e-6)
        assert found[1].item() == pytest.approx(nckd, rel=1e-4, abs=1e-6)

    def test_both_parts_make_up_the_classical_kd(self) -> None:
        """Section 3: KD = TCKD + (1 − p_y of the teacher) · NCKD, image by image."""
        z_s, z_t = tensor(draw(20, 10, seed=1)), tensor(draw(20, 10, seed=2))
        target = torch.arange(20) % 10
        for ours, theirs, label in zip(z_s.split(1), z_t.split(1), target.split(1), strict=True):
            tckd, nckd = dkd_loss(ours, theirs, label, 3.0)
            wrong = 1 - F.softmax(theirs / 3, dim=1)[0, label]
            torch.testing.assert_close(tckd + wrong[0] * nckd, kd_loss(ours, theirs, 3.0))

    def test_two_classes_have_one_other(self) -> None:
        z_s, z_t = tensor(draw(6, 2, seed=1)), tensor(draw(6, 2, seed=2))
        tckd, nckd = dkd_loss(z_s, z_t, torch.tensor([0, 1, 0, 1, 0, 1]), 2.0)
        assert nckd.item() == 0
        torch.testing.assert_close(tckd, kd_loss(z_s, z_t, 2.0))

    def test_by_hand(self) -> None:
        # Teacher (1/2, 1/4, 1/4), student (1/3, 1/3, 1/3), target 0: the others agree, and the
        # binary (1/2, 1/2) against (1/3, 2/3) gives ½ ln(3/2) + ½ ln(3/4) nats.
        teacher = torch.tensor([[math.log(2), 0.0, 0.0]])
        tckd, nckd = dkd_loss(torch.zeros(1, 3), teacher, torch.tensor([0]), 1.0)
        assert tckd.item() == pytest.approx(0.5 * math.log(9 / 8))
        assert nckd.item() == pytest.approx(0, abs=1e-7)
        # Target 1: binary (1/4, 3/4) against (1/3, 2/3); others (2/3, 1/3) against (1/2, 1/2).
        tckd, nckd = dkd_loss(torch.zeros(1, 3), teacher, torch.tensor([1]), 1.0)
        assert tckd.item() == pytest.approx(
            0.25 * math.log(3 / 4) + 0.75 * math.log(9 / 8), abs=1e-6
        )
        assert nckd.item() == pytest.approx(2 / 3 * math.log(4 / 3) + 1 / 3 * math.log(2 / 3))

    def test_zero_where_both_agree_up_to_a_shift(self) -> None:
        logits = tensor(draw(5, 10))
        shifted = logits + torch.arange(5.0)[:, None]
        for part in dkd_loss(shifted, logits, torch.arange(5), 4.0):
            assert abs(part.item()) < 1e-5

    def test_a_sure_teacher_still_teaches_the_others(self) -> None:
        """What decoupling is for; and p_y near 1 costs no precision."""
        teacher = torch.tensor([[60.0, 2.0, 0.0, -1.0]])
        student = torch.tensor([[55.0, 0.5, 1.0, 3.0]]).requires_grad_()
        tckd, nckd = dkd_loss(student, teacher, torch.tensor([0]), 1.0)
        ours, theirs = softmax(np.array([0.5, 1.0, 3.0])), softmax(np.array([2.0, 0.0, -1.0]))
        assert nckd.item() == pytest.approx(divergence(theirs, ours), rel=1e-5)
        (tckd + nckd).backward()
        assert student.grad.isfinite().all()
        assert student.grad[0, 1:].abs().min() > 1e-3

    @pytest.mark.parametrize(
        ("epoch", "share"), [(0.0, 0), (5.0, 0.25), (7.5, 0.375), (20, 1), (90, 1)]
    )
    def test_warmup(self, epoch: float, share: float) -> None:
        student, teacher = (
            outputs(tensor(draw(4, 10, seed=1))),
            outputs(tensor(draw(4, 10, seed=2))),
        )
        shapes, target = Shapes(10, 1, ()), torch.arange(4)
        term = DKD(DKDConfig(alpha=2, beta=3, temperature=1.5), shapes, shapes)
        tckd, nckd = dkd_loss(student.logits, teacher.logits, target, 1.5)
        loss = term(student, teacher, batch(target, epoch))
        torch.testing.assert_close(loss, share * (2 * tckd + 3 * nckd))
        # The same as a share of the training, of which half is done.
        config = DKDConfig(alpha=2, beta=3, temperature=1.5, warmup_fraction=0.8)
        half = batch(target, epoch)._replace(progress=0.5)
        shared = DKD(config, shapes, shapes)(student, teacher, half)
        torch.testing.assert_close(shared, 0.625 * (2 * tckd + 3 * nckd))
        whole = DKD(DKDConfig(alpha=2, beta=3, temperature=1.5, warmup=0), shapes, shapes)
        torch.testing.assert_close(whole(student, teacher, batch(target, 0.0)), 2 * tckd + 3 * nckd)


class TestTTM:
    @pytest.mark.parametrize("shape", LOGITS)
    @pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
    @pytest.mark.parametrize("weighted", [False, True])
    def test_value(self, shape: tuple[int, int], temperature: float, weighted: bool) -> None:
        z_s, z_t = draw(*shape, seed=1), draw(*shape, seed=2)
        powers = softmax(z_t) ** (1 / temperature)  # the power transform itself
        sums = powers.sum(axis=1)
        losses = [
            divergence(power / total, student)
            for power, total, student in zip(powers, sums, softmax(z_s), strict=True)
        ]
        expected = np.mean(losses * sums if weighted else losses)
        loss = ttm_loss(tensor(z_s), tensor(z_t), temperature, weighted=weighted)
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(expected, rel=1e-4, abs=1e-6)

    def test_without_temperature_both_are_plain_kl(self) -> None:
        z_s, z_t = tensor(draw(6, 10, seed=1)), tensor(draw(6, 10, seed=2))
        plain = kd_loss(z_s, z_t, 1.0)
        for weighted in (False, True):
            torch.testing.assert_close(ttm_loss(z_s, z_t, 1.0, weighted=weighted), plain)
        torch.testing.assert_close(power_sum(z_t, 1.0), torch.ones(6))

    def test_zero_where_the_student_is_the_softened_teacher(self) -> None:
        logits = tensor(draw(5, 10))
        assert ttm_loss(logits / 4, logits, 4.0).item() == pytest.approx(0, abs=1e-6)
        assert ttm_loss(logits, logits, 4.0).item() > 0.1  # the student itself is not softened

    def test_weight_by_hand(self) -> None:
        sure, uniform = torch.tensor([[50.0, 0.0, 0.0, 0.0]]), torch.zeros(1, 4)
        assert power_sum(sure, 2.0).item() == pytest.approx(1)
        assert power_sum(uniform, 2.0).item() == pytest.approx(2)  # 4^(1 − ½)
        # (3/4, 1/4) to the power ½: (√3 + 1) / 2.
        found = power_sum(torch.tensor([[math.log(3), 0.0]]), 2.0).item()
        assert found == pytest.approx((math.sqrt(3) + 1) / 2)

    def test_the_weight_is_per_image(self) -> None:
        z_s, z_t = tensor(draw(2, 10, seed=1)), tensor(draw(2, 10, seed=2))
        each = torch.stack([ttm_loss(z_s[i : i + 1], z_t[i : i + 1], 5.0) for i in range(2)])
        whole = ttm_loss(z_s, z_t, 5.0, weighted=True)
        torch.testing.assert_close(whole, (each * power_sum(z_t, 5.0)).mean())


class TestLS:
    @pytest.mark.parametrize("shape", LOGITS)
    def test_value(self, shape: tuple[int, int]) -> None:
        logits = 5 * draw(*shape) + 3
        centred = logits - logits.mean(axis=1, keepdims=True)
        expected = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True))
        np.testing.assert_allclose(
            standardise(tensor(logits)).numpy(), expected, rtol=1e-4, atol=1e-5
        )

    def test_by_hand(self) -> None:
        found = standardise(torch.tensor([[1.0, 3.0], [4.0, -6.0], [2.0, 2.0]]))
        torch.testing.assert_close(found, torch.tensor([[-1.0, 1.0], [1.0, -1.0], [0.0, 0.0]]))

    def test_a_positive_affine_map_of_the_logits_changes_nothing(self) -> None:
        logits = tensor(draw(5, 10))
        slope, offset = torch.tensor([[0.2], [1.0], [3.0], [7.0], [0.9]]), torch.randn(5, 1)
        moved = slope * logits + offset
        torch.testing.assert_close(standardise(moved), standardise(logits), rtol=1e-4, atol=1e-5)
        made = method("kd+ls")
        loss = made(outputs(moved), outputs(logits), batch(torch.arange(5)))
        assert loss[1].item() == pytest.approx(0, abs=1e-4)
        usual = method("kd")(outputs(moved), outputs(logits), batch(torch.arange(5)))
        assert usual[1].item() > 0.1

    def test_kd_with_the_weights_of_the_paper(self) -> None:
        """λ_CE = 0.1, λ_KD = 9, base temperature 2; the cross-entropy of the plain logits."""
        z_s, z_t = tensor(draw(5, 10, seed=1)), tensor(draw(5, 10, seed=2))
        made = method("kd+ls", temperature=2)
        assert made.parts == ("ce", "kd")
        losses = made(outputs(z_s), outputs(z_t), batch(torch.arange(5)))
        ce = 0.1 * F.cross_entropy(z_s, torch.arange(5))
        kd = 9 * kd_loss(standardise(z_s), standardise(z_t), 2.0)
        torch.testing.assert_close(losses, torch.stack([ce, kd]))


def method(name: str, **settings: object) -> Method:
    shapes = Shapes(10, 1, ())
    made = Method(name, resolve_settings(name, settings), shapes, shapes)
    made.attach(Network(), labels=torch.arange(10), indices=torch.arange(10))
    return made
