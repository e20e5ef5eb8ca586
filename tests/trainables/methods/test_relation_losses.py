"""RKD and SP against float64 references in plain loops and against values worked out by hand."""

import math

import numpy as np
import pytest
import torch

from trainables.methods.rkd import RKD, RKDConfig, relations, rkd_loss
from trainables.methods.sp import SP, SPConfig, similarity, sp_loss
from trainables.methods.term import Batch
from trainables.models.outputs import Outputs, Shapes

Array = np.ndarray


def draw(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def tensor(values: Array) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32)


def huber(difference: float) -> float:
    return 0.5 * difference**2 if abs(difference) < 1 else abs(difference) - 0.5


def reference_relations(points: Array) -> tuple[Array, Array]:
    count = len(points)
    distances, angles = np.zeros((count, count)), np.zeros((count, count, count))
    for i in range(count):
        for j in range(count):
            distances[i, j] = math.dist(points[i], points[j])
            for k in range(count):
                one, two = points[i] - points[j], points[k] - points[j]
                if i != j and k != j:
                    angles[j, i, k] = one @ two / np.linalg.norm(one) / np.linalg.norm(two)
    return distances / distances[~np.eye(count, dtype=bool)].mean(), angles


def rotation(width: int, seed: int = 3) -> Array:
    return np.linalg.qr(draw(width, width, seed=seed))[0]


BATCH = Batch(torch.arange(4), torch.arange(4), epoch=30.0, progress=0.5)


class TestRKD:
    @pytest.mark.parametrize("shape", [(2, 3), (5, 4), (8, 16)])
    def test_relations(self, shape: tuple[int, int]) -> None:
        points = 4 * draw(*shape) + 2
        found = relations(tensor(points))
        for ours, expected in zip(found, reference_relations(points), strict=True):
            np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("shape", [(2, 3), (5, 4), (8, 16)])
    def test_value(self, shape: tuple[int, int]) -> None:
        student, teacher = draw(*shape, seed=1), 9 * draw(shape[0], 7, seed=2)
        expected = [
            np.mean([huber(difference) for difference in (ours - theirs).flat])
            for ours, theirs in zip(
                reference_relations(student), reference_relations(teacher), strict=True
            )
        ]
        found = rkd_loss(tensor(student), tensor(teacher))
        assert [part.dtype for part in found] == [torch.float32] * 2
        assert [part.item() for part in found] == pytest.approx(expected, rel=1e-4, abs=1e-7)

    def test_a_triangle_by_hand(self) -> None:
        # Sides 3, 4, 5: mean 4; the right angle stands at the first point.
        distances, angles = relations(torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]]))
        expected = torch.tensor([[0, 3, 4], [3, 0, 5], [4, 5, 0]]) / 4
        torch.testing.assert_close(distances, expected)
        assert angles[0, 1, 2].item() == pytest.approx(0, abs=1e-6)
        assert angles[1, 0, 2].item() == pytest.approx(3 / 5)
        assert angles[2, 0, 1].item() == pytest.approx(4 / 5)
        assert angles[0, 1, 1].item() == pytest.approx(1)
        assert angles[0, 0, 2].item() == 0

    def test_zero_up_to_scale_rotation_and_shift(self) -> None:
        teacher = draw(6, 5)
        student = 7 * teacher @ rotation(5) + 2
        for part in rkd_loss(tensor(student), tensor(teacher)):
            assert part.item() < 1e-9
        for part in rkd_loss(tensor(teacher), tensor(teacher)):
            assert part.item() == 0

    def test_wider_student_that_contains_the_teacher(self) -> None:
        teacher = draw(6, 5)
        student = np.concatenate([teacher, np.full((6, 3), 4.0)], axis=1)
        for part in rkd_loss(tensor(student), tensor(teacher)):
            assert part.item() < 1e-9

    def test_coinciding_images_give_moderate_gradients(self) -> None:
        for student in (torch.zeros(4, 3), torch.tensor([[1.0, 2.0, 0.0]] * 2 + [[0.0, 1.0, 5.0]])):
            student.requires_grad_()
            sum(rkd_loss(student, tensor(draw(len(student), 3)))).backward()
            assert student.grad.isfinite().all()
            assert student.grad.abs().max() < 10

    def test_weights(self) -> None:
        student, teacher = tensor(draw(4, 5, seed=1)), tensor(draw(4, 6, seed=2))
        term = RKD(RKDConfig(), Shapes(10, 5, ()), Shapes(10, 6, ()))
        loss = term(Outputs(student, student, ()), Outputs(teacher, teacher, ()), BATCH)
        distance, angle = rkd_loss(student, teacher)
        torch.testing.assert_close(loss, 25 * distance + 50 * angle)


def reference_similarity(features: Array) -> Array:
    rows = []
    for one in features:
        row = np.array([(one * other).sum() for other in features])
        rows.append(row / math.sqrt((row**2).sum()))
    return np.array(rows)


class TestSP:
    @pytest.mark.parametrize("shape", [(2, 3, 4, 4), (5, 4, 2, 3), (1, 2, 1, 1)])
    def test_value(self, shape: tuple[int, ...]) -> None:
        student, teacher = draw(*shape, seed=1), draw(shape[0], 6, 2, 2, seed=2)
        difference = reference_similarity(student) - reference_similarity(teacher)
        expected = (difference**2).sum() / shape[0] ** 2
        loss = sp_loss(tensor(student), tensor(teacher))
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(expected, rel=1e-4, abs=1e-7)

    def test_by_hand(self) -> None:
        # Orthogonal images against equal ones: rows (1, 0) and (√½, √½).
        apart, together = torch.eye(2), torch.ones(2, 2)
        torch.testing.assert_close(similarity(apart), torch.eye(2))
        torch.testing.assert_close(similarity(together), torch.full((2, 2), math.sqrt(0.5)))
        expected = ((1 - math.sqrt(0.5)) ** 2 + 0.5) / 2
        assert sp_loss(apart, together).item() == pytest.approx(expected)

    def test_zero_up_to_scale_and_rotation(self) -> None:
        teacher = draw(6, 5)
        for student in (3 * teacher, teacher @ rotation(5), -teacher):
            assert sp_loss(tensor(student), tensor(teacher)).item() < 1e-9
        scaled = teacher * np.arange(1, 7)[:, None]  # a scale per image is a difference
        assert sp_loss(tensor(scaled), tensor(teacher)).item() > 1e-3

    def test_which_stages(self) -> None:
        shapes = Shapes(10, 2, ((2, 4, 4), (3, 2, 2)))
        ours, theirs = (
            tuple(tensor(draw(4, *shape, seed=seed)) for shape in shapes.stages) for seed in (1, 2)
        )
        student, teacher = Outputs(ours[0], ours[0], ours), Outputs(ours[0], ours[0], theirs)
        each = [sp_loss(one, other) for one, other in zip(ours, theirs, strict=True)]
        last = SP(SPConfig(), shapes, shapes)(student, teacher, BATCH)
        torch.testing.assert_close(last, 3000 * each[1])
        both = SP(SPConfig(stages="all", gamma=2), shapes, shapes)(student, teacher, BATCH)
        torch.testing.assert_close(both, 2 * (each[0] + each[1]))
