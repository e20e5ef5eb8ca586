"""AT, FitNet and ReviewKD against float64 references and hand-made limits."""

import numpy as np
import pytest
import torch
from drawn_features import SHAPES, WIDER, Array, batch, draw, outputs, tensor
from torch import nn

from trainables.errors import UserError
from trainables.methods.adaptors import BatchNorm
from trainables.methods.at import AT, ATConfig, at_loss
from trainables.methods.fitnet import FitNet, FitNetConfig, fitnet_loss
from trainables.methods.method import Method
from trainables.methods.registry import resolve_settings
from trainables.methods.reviewkd import AttentionFusion, ReviewKD, ReviewKDConfig, hcl_loss
from trainables.models.outputs import Shapes
from trainables.models.registry import create_model
from trainables.models.shapes import output_shapes


class TestAT:
    @pytest.mark.parametrize(
        ("stages", "numbers"), [("all", [0, 1, 2]), ("last", [2]), ("1", [1]), ("0,2", [0, 2])]
    )
    def test_the_weighted_sum_over_the_chosen_stages(self, stages: str, numbers: list[int]) -> None:
        student, teacher = outputs(SHAPES, 1), outputs(WIDER, 2)
        term = AT(ATConfig(beta=7, stages=stages), SHAPES, WIDER)
        expected = 7 * sum(at_loss(student.stages[n], teacher.stages[n]) for n in numbers)
        torch.testing.assert_close(term(student, teacher, batch()), expected)

    def test_a_stage_that_is_not_there_is_named(self) -> None:
        with pytest.raises(UserError, match=r"at\.stages: .*got '3'.* 2 \(6x2x2 and 8x2x2\)"):
            Method("at", resolve_settings("at", {"at.stages": "3"}), SHAPES, WIDER)

    def test_one_late_map_of_mobilenetv2(self) -> None:
        """As Hernandez et al. have it: γ times the mean square on an 8x8 map."""
        shapes = []
        with torch.device("meta"):
            for name in ("mobilenetv2-minus5", "mobilenetv2"):
                shapes.append(output_shapes(create_model(name, 10, (3, 32, 32)), (3, 32, 32)))
        values = {"at.stages": "last", "at.form": "mean", "at.beta": 0.8}
        made = Method("at", resolve_settings("at", values), *shapes)
        student, teacher = (outputs(one, seed) for seed, one in enumerate(shapes))
        assert student.stages[-1].shape[2:] == teacher.stages[2].shape[2:] == (8, 8)
        maps = [
            stage.square().mean(dim=1).flatten(1)
            for stage in (student.stages[-1], teacher.stages[2])
        ]
        ours, theirs = (one / one.norm(dim=1, keepdim=True) for one in maps)
        expected = 0.8 * (ours - theirs).square().mean()
        torch.testing.assert_close(made(student, teacher, batch())[1], expected)


class TestFitNet:
    @pytest.mark.parametrize("shape", [(1, 2, 1, 1), (3, 4, 5, 2)])
    def test_value(self, shape: tuple[int, ...]) -> None:
        guided, hint = draw(*shape, seed=1), draw(*shape, seed=2)
        loss = fitnet_loss(tensor(guided), tensor(hint))
        assert loss.item() == pytest.approx(((guided - hint) ** 2).mean(), rel=1e-5)
        assert fitnet_loss(tensor(hint), tensor(hint)).item() == 0

    @pytest.mark.parametrize(("hint", "pair"), [(None, (1, 1)), (0, (0, 0)), (2, (2, 2))])
    def test_which_stage(self, hint: int | None, pair: tuple[int, int]) -> None:
        assert FitNet(FitNetConfig(hint=hint), SHAPES, WIDER).pair == pair

    def test_a_stage_that_is_not_there_is_named(self) -> None:
        with pytest.raises(UserError, match=r"fitnet\.hint: .* 3 pairs .*; got 3"):
            FitNet(FitNetConfig(hint=3), SHAPES, WIDER)

    def test_the_weighted_loss_of_the_regressed_stage(self) -> None:
        student, teacher = outputs(SHAPES, 1), outputs(WIDER, 2)
        term = FitNet(FitNetConfig(beta=3, hint=2), SHAPES, WIDER).eval()
        regressed = term.regressor(student.stages[2])
        assert regressed.shape == teacher.stages[2].shape
        assert (regressed < 0).any()  # the regressor does not rectify
        expected = 3 * fitnet_loss(regressed, teacher.stages[2])
        torch.testing.assert_close(term(student, teacher, batch()), expected)

    def test_two_stages(self) -> None:
        """Alone up to its share of the training, absent after it."""
        values = {"schedule": "two_stage", "hint_fraction": 0.25}
        made = Method("kd+fitnet", resolve_settings("kd+fitnet", values), SHAPES, WIDER)
        student, teacher = outputs(SHAPES, 1), outputs(WIDER, 2)
        assert made.parts == ("ce", "kd", "fitnet")
        for progress in (0.0, 0.1, 0.2499):
            losses = made(student, teacher, batch(progress=progress))
            assert losses[:2].tolist() == [0, 0]
            assert losses[2] > 0
        for progress in (0.25, 0.6, 0.99):
            losses = made(student, teacher, batch(progress=progress))
            assert losses[2] == 0
            assert (losses[:2] > 0).all()

    def test_the_first_stage_trains_up_to_the_hint_only(self) -> None:
        values = {"schedule": "two_stage", "hint": 1}
        made = Method("fitnet", resolve_settings("fitnet", values), SHAPES, WIDER)
        student = outputs(SHAPES, 1)
        for part in (student.logits, *student.stages):
            part.requires_grad_()
        made(student, outputs(WIDER, 2), batch(progress=0.1)).sum().backward()
        assert student.stages[1].grad.abs().sum() > 0
        assert student.logits.grad is None
        assert student.stages[2].grad is None

    def test_one_stage_trains_everything_throughout(self) -> None:
        made = Method("fitnet", resolve_settings("fitnet", {}), SHAPES, WIDER)
        for progress in (0.0, 0.9):
            losses = made(outputs(SHAPES, 1), outputs(WIDER, 2), batch(progress=progress))
            assert (losses > 0).all()


def cells(maps: Array, level: int) -> Array:
    """Average pooling where ``level`` divides the size."""
    images, channels, height, width = maps.shape
    split = (images, channels, level, height // level, level, width // level)
    return maps.reshape(split).mean(axis=(3, 5))


class TestReviewKD:
    @pytest.mark.parametrize(
        ("size", "levels"),
        [(16, (4, 2, 1)), (8, (4, 2, 1)), (4, (2, 1)), (2, (1,)), (1, ())],
    )
    def test_context_loss(self, size: int, levels: tuple[int, ...]) -> None:
        student, teacher = draw(3, 5, size, size, seed=1), draw(3, 5, size, size, seed=2)
        terms = [((student - teacher) ** 2).mean()]
        terms += [((cells(student, n) - cells(teacher, n)) ** 2).mean() for n in levels]
        weights = 0.5 ** np.arange(len(terms))
        loss = hcl_loss(tensor(student), tensor(teacher))
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(weights @ terms / weights.sum(), rel=1e-5)

    def test_context_loss_by_hand(self) -> None:
        # A constant difference is the same at every level; one that averages out counts once.
        zero = torch.zeros(1, 1, 4, 4)
        assert hcl_loss(zero + 3, zero).item() == pytest.approx(9)
        checked = torch.tensor([1.0, -1.0]).repeat(8).reshape(1, 1, 4, 4)
        assert hcl_loss(checked, zero).item() == pytest.approx(1 / (1 + 1 / 2 + 1 / 4))
        assert hcl_loss(checked, checked).item() == 0

    def test_no_level_is_larger_than_a_narrow_map(self) -> None:
        student, teacher = draw(2, 3, 8, 2, seed=1), draw(2, 3, 8, 2, seed=2)
        terms = [((a - b) ** 2).mean() for a, b in ((student, teacher),)]
        terms.append(((cells(student, 1) - cells(teacher, 1)) ** 2).mean())
        expected = (terms[0] + terms[1] / 2) / 1.5
        assert hcl_loss(tensor(student), tensor(teacher)).item() == pytest.approx(
            expected, rel=1e-5
        )

    def test_fusion_by_hand(self) -> None:
        """Identity convolutions and an attention of ½ each: the mean of both features."""
        fusion = AttentionFusion(2, 2, 2, fuse=True).eval()
        with torch.no_grad():
            for weights in (fusion.reduce[0].weight, fusion.expand[0].weight):
                nn.init.dirac_(weights)
            for weights in (fusion.attention.weight, fusion.attention.bias):
                weights.zero_()
        features, deeper = tensor(draw(3, 2, 4, 4, seed=1)), tensor(draw(3, 2, 2, 2, seed=2))
        fused, handed_on = fusion(features, deeper, (8, 8))
        expected = (features + deeper.repeat_interleave(2, 2).repeat_interleave(2, 3)) / 2
        torch.testing.assert_close(handed_on, expected, rtol=1e-4, atol=1e-4)
        upsampled = expected.repeat_interleave(2, 2).repeat_interleave(2, 3)
        torch.testing.assert_close(fused, upsampled, rtol=1e-4, atol=1e-4)

    def test_every_stage_reviews_the_deeper_ones(self) -> None:
        student, teacher = outputs(SHAPES, 1), outputs(WIDER, 2)
        term = ReviewKD(ReviewKDConfig(), SHAPES, WIDER).eval()
        parts = (*student.stages, student.embedding)
        for part in parts:
            part.requires_grad_()
        first, deeper = term.fusions[0], None
        for fusion, part in zip(term.fusions[:0:-1], parts[:0:-1], strict=True):
            maps = part if part.ndim == 4 else part[:, :, None, None]
            _, deeper = fusion(maps, deeper, (1, 1))
        fused, _ = first(parts[0], deeper, (8, 8))
        fused.sum().backward()
        assert all(part.grad.abs().sum() > 0 for part in parts)
        assert term(student, teacher, batch()) > 0

    def test_the_embedding_is_one_more_stage(self) -> None:
        student, teacher = outputs(SHAPES, 1), outputs(WIDER, 2)
        torch.manual_seed(0)
        whole = ReviewKD(ReviewKDConfig(weight=1), SHAPES, WIDER).eval()
        assert [fusion.attention is None for fusion in whole.fusions] == [False] * 3 + [True]
        adapted, _ = whole.fusions[3](student.embedding[:, :, None, None], None, (1, 1))
        own = ((adapted[:, :, 0, 0] - teacher.embedding) ** 2).mean()
        other = teacher._replace(embedding=adapted[:, :, 0, 0])
        difference = whole(student, teacher, batch()) - whole(student, other, batch())
        torch.testing.assert_close(difference, own)
        without = ReviewKD(ReviewKDConfig(embedding=False), SHAPES, WIDER)
        assert len(without.fusions) == 3
        assert without.needs == {"stages"}

    @pytest.mark.parametrize(("epoch", "share"), [(0.0, 0), (5.0, 0.25), (20, 1), (50, 1)])
    def test_warmup(self, epoch: float, share: float) -> None:
        student, teacher = outputs(SHAPES, 1), outputs(WIDER, 2)
        term = ReviewKD(ReviewKDConfig(weight=2), SHAPES, WIDER).eval()
        full = term(student, teacher, batch(epoch=100))
        torch.testing.assert_close(term(student, teacher, batch(epoch=epoch)), share * full)

    @pytest.mark.parametrize(("progress", "share"), [(0.0, 0), (0.1, 0.4), (0.25, 1), (0.9, 1)])
    def test_warmup_over_a_share_of_the_training(self, progress: float, share: float) -> None:
        student, teacher = outputs(SHAPES, 1), outputs(WIDER, 2)
        full = ReviewKD(ReviewKDConfig(weight=2, warmup=0), SHAPES, WIDER).eval()
        term = ReviewKD(ReviewKDConfig(weight=2, warmup_fraction=0.25), SHAPES, WIDER).eval()
        term.load_state_dict(full.state_dict())
        found = term(student, teacher, batch(epoch=1, progress=progress))
        torch.testing.assert_close(found, share * full(student, teacher, batch()))

    def test_as_many_channels_as_the_student_has(self) -> None:
        wide = Shapes(10, 700, ((600, 4, 4),))
        term = ReviewKD(ReviewKDConfig(), wide, wide)
        assert {fusion.reduce[0].out_channels for fusion in term.fusions} == {512}
        term = ReviewKD(ReviewKDConfig(), SHAPES, wide)
        assert {fusion.reduce[0].out_channels for fusion in term.fusions} == {6}


class TestBatchNorm:
    def test_is_batch_norm_where_there_is_a_variance(self) -> None:
        features = tensor(draw(3, 4, 2, 2))
        torch.testing.assert_close(BatchNorm(4)(features), nn.BatchNorm2d(4)(features))

    def test_one_value_per_channel_goes_by_the_running_statistics(self) -> None:
        layer = BatchNorm(4)
        layer(5 + tensor(draw(8, 4, 2, 2)))
        seen = layer.running_mean.clone()
        single = tensor(draw(1, 4, 1, 1))
        found = layer(single)
        assert torch.equal(layer.running_mean, seen)
        torch.testing.assert_close(found, layer.eval()(single))
