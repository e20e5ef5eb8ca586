"""Every loss against an independent float64 reference and against values worked out by hand."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from trainables.methods.at import at_loss, attention_map
from trainables.methods.dist import dist_loss, pearson_distance
from trainables.methods.kd import KD, KDConfig, bernoulli_kd_loss, kd_loss
from trainables.methods.term import Batch
from trainables.models.outputs import Outputs, Shapes

LOGITS = [(1, 2), (3, 10), (16, 7), (8, 100)]
Array = np.ndarray


def draw(*shape: int, seed: int = 0, scale: float = 1.0) -> Array:
    return scale * np.random.default_rng([seed, *shape]).standard_normal(shape)


def tensor(values: Array, *, grad: bool = False) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32, requires_grad=grad)


def softmax(logits: Array, temperature: float) -> Array:
    powers = np.exp((logits - logits.max(axis=1, keepdims=True)) / temperature)
    return powers / powers.sum(axis=1, keepdims=True)


class TestKD:
    @pytest.mark.parametrize("shape", LOGITS)
    @pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
    def test_value_and_gradient(self, shape: tuple[int, int], temperature: float) -> None:
        z_s, z_t = draw(*shape, seed=1, scale=2), draw(*shape, seed=2, scale=2)
        p_s, p_t = softmax(z_s, temperature), softmax(z_t, temperature)
        expected = temperature**2 * (p_t * (np.log(p_t) - np.log(p_s))).sum() / shape[0]

        student = tensor(z_s, grad=True)
        loss = kd_loss(student, tensor(z_t), temperature)
        loss.backward()

        assert loss.item() == pytest.approx(expected, rel=1e-4, abs=1e-6)
        # Section 2 of the paper, eq. (2), times T²: T (softmax(z_s/T) - softmax(z_t/T)) / B.
        gradient = temperature * (p_s - p_t) / shape[0]
        np.testing.assert_allclose(student.grad.numpy(), gradient, rtol=1e-4, atol=1e-6)

    def test_two_classes_by_hand(self) -> None:
        # Teacher (3/4, 1/4), student (1/2, 1/2): 3/4 ln(3/2) + 1/4 ln(1/2) nats.
        nats = 0.75 * math.log(1.5) - 0.25 * math.log(2)
        logits = torch.tensor([[2 * math.log(3), 0.0]])
        assert kd_loss(torch.zeros(1, 2), logits / 2, 1.0).item() == pytest.approx(nats)
        assert kd_loss(torch.zeros(1, 2), logits, 2.0).item() == pytest.approx(4 * nats)

    @pytest.mark.parametrize("temperature", [0.1, 1.0, 4.0, 100.0])
    def test_zero_where_both_agree_up_to_a_shift(self, temperature: float) -> None:
        logits = tensor(draw(5, 10, scale=3))
        shift = torch.tensor([[1.0], [-2.0], [0.0], [4.0], [8.0]])
        assert kd_loss(logits, logits, temperature).item() == 0
        # A shift costs one rounding of the logits, which T² = 10⁴ amplifies.
        assert abs(kd_loss(logits + shift, logits, temperature).item()) < 1e-6 * max(
            1, temperature**2
        )

    def test_direction_is_from_teacher_to_student(self) -> None:
        sure, unsure = torch.tensor([[4.0, 0.0]]), torch.tensor([[0.0, 0.0]])
        assert kd_loss(unsure, sure, 1.0).item() != pytest.approx(
            kd_loss(sure, unsure, 1.0).item(), rel=0.1
        )

    def test_high_temperature_compares_centred_logits(self) -> None:
        # Section 2.1: the gradient tends to (z_s - z_t) / C for logits with zero mean, the loss
        # to half the sum of squared differences over C.
        z_s, z_t = draw(6, 10, seed=1), draw(6, 10, seed=2)
        difference = z_s - z_s.mean(1, keepdims=True) - z_t + z_t.mean(1, keepdims=True)
        limit = (difference**2).sum() / (2 * 10 * 6)
        student = tensor(z_s, grad=True)
        loss = kd_loss(student, tensor(z_t), 100.0)
        loss.backward()
        assert loss.item() == pytest.approx(limit, rel=0.02)
        assert abs(kd_loss(student, tensor(z_t), 2.0).item() / limit - 1) > 0.1
        np.testing.assert_allclose(
            student.grad.numpy(), difference / (10 * 6), rtol=0.03, atol=3e-4
        )


class TestBernoulliKD:
    @pytest.mark.parametrize("shape", LOGITS)
    @pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
    def test_value_and_gradient(self, shape: tuple[int, int], temperature: float) -> None:
        z_s, z_t = draw(*shape, seed=1, scale=2), draw(*shape, seed=2, scale=2)
        p, q = (1 / (1 + np.exp(-z / temperature)) for z in (z_s, z_t))
        divergence = q * np.log(q / p) + (1 - q) * np.log((1 - q) / (1 - p))
        expected = temperature**2 * divergence.mean()

        student = tensor(z_s, grad=True)
        loss = bernoulli_kd_loss(student, tensor(z_t), temperature)
        loss.backward()

        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(expected, rel=1e-4, abs=1e-6)
        gradient = temperature * (p - q) / z_s.size
        np.testing.assert_allclose(student.grad.numpy(), gradient, rtol=1e-4, atol=1e-7)

    def test_by_hand(self) -> None:
        # Teacher 3/4, student 1/2: 3/4 ln(3/2) + 1/4 ln(1/2) nats; a second class that agrees.
        nats = 0.75 * math.log(1.5) - 0.25 * math.log(2)
        student, teacher = torch.tensor([[0.0, 7.0]]), torch.tensor([[math.log(3), 7.0]])
        assert bernoulli_kd_loss(student, teacher, 1.0).item() == pytest.approx(nats / 2)
        assert bernoulli_kd_loss(2 * student, 2 * teacher, 2.0).item() == pytest.approx(2 * nats)

    def test_two_classes_of_a_softmax_are_one_question(self) -> None:
        z_s, z_t = tensor(draw(6, 1, seed=1)), tensor(draw(6, 1, seed=2))
        both = [torch.cat([z, torch.zeros_like(z)], dim=1) for z in (z_s, z_t)]
        torch.testing.assert_close(bernoulli_kd_loss(z_s, z_t, 3.0), kd_loss(*both, 3.0))

    @pytest.mark.parametrize("temperature", [0.1, 1.0, 4.0, 100.0])
    def test_zero_where_the_logits_agree_and_only_there(self, temperature: float) -> None:
        logits = tensor(draw(5, 10, scale=3))
        assert bernoulli_kd_loss(logits, logits, temperature).item() == 0
        assert bernoulli_kd_loss(logits + 1, logits, temperature).item() > 1e-3

    @pytest.mark.parametrize("temperature", [1.0, 4.0])
    def test_extreme_logits(self, temperature: float) -> None:
        """A sure and wrong student pays its logit; nobody divides by a probability of 0."""
        sure = torch.tensor([[1e4, -1e4, 1e4, -1e4]])
        student = torch.tensor([[1e4, -1e4, -1e4, 1e4]], requires_grad=True)
        loss = bernoulli_kd_loss(student, sure, temperature)
        loss.backward()
        assert loss.item() == pytest.approx(temperature * 1e4 / 2)
        expected = temperature * torch.tensor([[0.0, 0.0, -1.0, 1.0]]) / 4
        torch.testing.assert_close(student.grad, expected)

    def test_high_temperature_compares_logits(self) -> None:
        z_s, z_t = draw(6, 10, seed=1), draw(6, 10, seed=2)
        limit = ((z_s - z_t) ** 2).mean() / 8
        found = bernoulli_kd_loss(tensor(z_s), tensor(z_t), 100.0).item()
        assert found == pytest.approx(limit, rel=1e-3)
        assert abs(bernoulli_kd_loss(tensor(z_s), tensor(z_t), 1.0).item() / limit - 1) > 0.05

    @pytest.mark.parametrize(
        ("form", "loss"), [("softmax", kd_loss), ("bernoulli", bernoulli_kd_loss)]
    )
    def test_the_form_of_the_term(self, form: str, loss: Callable[..., torch.Tensor]) -> None:
        logits = [tensor(draw(4, 3, seed=seed)) for seed in (1, 2)]
        features = torch.zeros(4, 2)
        shapes = Shapes(3, 2, ())
        term = KD(KDConfig(alpha=0.6, temperature=3.0, form=form), shapes, shapes)
        student, teacher = (Outputs(one, features, ()) for one in logits)
        target = torch.zeros(4, dtype=torch.int64)
        found = term(student, teacher, Batch(target, target, epoch=0.0, progress=0.0))
        torch.testing.assert_close(found, 0.6 * loss(*logits, 3.0))
        assert term.ce_share == 0.6


def pooled(maps: Array, size: tuple[int, int]) -> Array:
    """Adaptive average pooling: bin i of n covers floor(i·N/n) to ceil((i+1)·N/n)."""
    _, height, width = maps.shape
    result = np.empty((len(maps), *size))
    for i in range(size[0]):
        for j in range(size[1]):
            rows = slice(i * height // size[0], -(-(i + 1) * height // size[0]))
            columns = slice(j * width // size[1], -(-(j + 1) * width // size[1]))
            result[:, i, j] = maps[:, rows, columns].mean(axis=(1, 2))
    return result


def reference_map(features: Array, power: float, size: tuple[int, int]) -> Array:
    maps = pooled((np.abs(features) ** power).mean(axis=1), size).reshape(len(features), -1)
    return maps / np.sqrt((maps**2).sum(axis=1, keepdims=True))


FEATURES = [
    ((2, 3, 4, 4), (2, 3, 4, 4)),
    ((1, 1, 8, 8), (1, 16, 8, 8)),
    ((4, 6, 8, 8), (4, 2, 4, 4)),
    ((3, 5, 3, 4), (3, 2, 7, 9)),
    ((2, 4, 7, 3), (2, 4, 5, 6)),
]


class TestAT:
    @pytest.mark.parametrize("shapes", FEATURES)
    @pytest.mark.parametrize("power", [1.0, 2.0, 3.0])
    @pytest.mark.parametrize("form", ["paper", "mean"])
    def test_value(self, shapes: tuple, power: float, form: str) -> None:
        student, teacher = draw(*shapes[0], seed=1), draw(*shapes[1], seed=2)
        size = (min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3]))
        difference = reference_map(student, power, size) - reference_map(teacher, power, size)
        if form == "paper":
            norms = np.sqrt((difference**2).sum(axis=1))
            expected = norms.mean() / 2 / (size[0] * size[1])
        else:
            expected = (difference**2).mean()
        loss = at_loss(tensor(student), tensor(teacher), power, form)
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(expected, rel=1e-5)

    def test_map(self) -> None:
        features = draw(3, 5, 4, 6)
        found = attention_map(tensor(features), 2.0, (2, 3))
        assert found.shape == (3, 6)
        np.testing.assert_allclose(
            found.numpy(), reference_map(features, 2.0, (2, 3)), rtol=1e-5, atol=1e-7
        )

    def test_a_map_by_hand(self) -> None:
        # Channel means of squares: (9 + 0)/2, (16 + 0)/2 ... with norm 5 after dividing by 9/2.
        features = torch.tensor([[[[3.0, 2.0]], [[0.0, -2.0]]]]) * 1.7
        expected = torch.tensor([[9.0, 8.0]]) / math.hypot(9, 8)
        torch.testing.assert_close(attention_map(features), expected)

    def test_disjoint_attention_by_hand(self) -> None:
        # Unit maps on different pixels of a 2x2 map lie √2 apart.
        here, there = torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)
        here[..., 0, 0], there[..., 1, 1] = 5.0, 0.1
        assert at_loss(here, there, form="paper").item() == pytest.approx(math.sqrt(2) / 2 / 4)
        assert at_loss(here, there, form="mean").item() == pytest.approx(2 / 4)

    @pytest.mark.parametrize("form", ["paper", "mean"])
    def test_zero_where_the_maps_agree(self, form: str) -> None:
        features = tensor(draw(2, 4, 5, 5))
        shuffled = -3 * features[:, [2, 0, 3, 1]]  # channels, sign and scale do not matter
        assert at_loss(features, features, form=form).item() == 0
        assert at_loss(shuffled, features, form=form).item() < 1e-6

    @pytest.mark.parametrize("form", ["paper", "mean"])
    @pytest.mark.parametrize("power", [1.0, 1.5, 2.0])
    def test_dead_or_equal_features_give_finite_gradients(self, form: str, power: float) -> None:
        for student in (torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4)):
            student.requires_grad_()
            at_loss(student, torch.ones(2, 3, 4, 4), power, form).backward()
            assert student.grad.isfinite().all()


def reference_pearson(first: Array, second: Array) -> float:
    return 1 - float(np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(first, second, strict=True)]))


class TestDIST:
    @pytest.mark.parametrize("shape", LOGITS[1:])
    @pytest.mark.parametrize("temperature", [1.0, 4.0])
    def test_value(self, shape: tuple[int, int], temperature: float) -> None:
        z_s, z_t = draw(*shape, seed=1, scale=2), draw(*shape, seed=2, scale=2)
        y_s, y_t = softmax(z_s, temperature), softmax(z_t, temperature)
        inter, intra = dist_loss(tensor(z_s), tensor(z_t), temperature)
        scale = temperature**2
        assert inter.item() == pytest.approx(scale * reference_pearson(y_s, y_t), rel=1e-4)
        assert intra.item() == pytest.approx(scale * reference_pearson(y_s.T, y_t.T), rel=1e-4)

    @pytest.mark.parametrize("shape", [(2, 3), (5, 10), (7, 2)])
    def test_pearson_value(self, shape: tuple[int, int]) -> None:
        first, second = draw(*shape, seed=1), draw(*shape, seed=2)
        found = pearson_distance(tensor(first), tensor(second)).item()
        assert found == pytest.approx(reference_pearson(first, second), rel=1e-4)

    def test_pearson_by_hand(self) -> None:
        rows = torch.tensor([[1.0, 2.0, 3.0]])
        assert pearson_distance(rows, torch.tensor([[1.0, 3.0, 2.0]])).item() == pytest.approx(0.5)
        assert pearson_distance(rows, -rows).item() == pytest.approx(2)
        assert pearson_distance(rows, torch.ones(1, 3)).item() == pytest.approx(1)

    def test_pearson_ignores_positive_affine_maps(self) -> None:
        # Section 4.1 of the paper: a relation is matched, whatever its scale and offset.
        rows = tensor(softmax(draw(6, 10, scale=2), 1.0))
        slope = torch.linspace(0.1, 9, 6)[:, None]
        moved = slope * rows + torch.linspace(-1, 1, 6)[:, None]
        assert pearson_distance(moved, rows).item() == pytest.approx(0, abs=1e-5)

    def test_zero_where_both_agree_up_to_a_shift(self) -> None:
        logits = tensor(draw(5, 10, scale=3))
        for student in (logits, logits + torch.arange(5.0)[:, None]):
            inter, intra = dist_loss(student, logits, 1.0)
            assert abs(inter.item()) < 1e-6
            assert abs(intra.item()) < 1e-6

    def test_batch_of_one_has_no_relation_between_images(self) -> None:
        student = tensor(draw(1, 10, seed=1), grad=True)
        inter, intra = dist_loss(student, tensor(draw(1, 10, seed=2)), 4.0)
        assert intra.item() == pytest.approx(16)
        (inter + intra).backward()
        assert student.grad.isfinite().all()
