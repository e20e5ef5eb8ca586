"""AT, FitNet, ReviewKD and the SRD family against float64 references and hand-made limits."""

import numpy as np
import pytest
import torch
from torch import nn

from trainables.errors import UserError
from trainables.methods.adaptors import BatchNorm
from trainables.methods.at import AT, ATConfig, at_loss
from trainables.methods.fitnet import FitNet, FitNetConfig, fitnet_loss
from trainables.methods.method import Method
from trainables.methods.registry import resolve_settings, term_class
from trainables.methods.reviewkd import (
    AttentionFusion,
    ReviewKD,
    ReviewKDConfig,
    hcl_loss,
)
from trainables.methods.srd import SRD, SRDConfig, srd_loss
from trainables.methods.srd_dist import srd_dist_loss
from trainables.methods.srd_pmse import srd_pmse_loss
from trainables.methods.term import Batch, Term
from trainables.models.outputs import Network, Outputs, Shapes
from trainables.models.registry import create_model
from trainables.models.shapes import output_shapes

Array = np.ndarray
SHAPES = Shapes(10, 6, ((3, 8, 8), (4, 4, 4), (6, 2, 2)), pooled=True)
WIDER = Shapes(10, 8, ((5, 8, 8), (7, 4, 4), (8, 2, 2)), pooled=True)


def draw(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def tensor(values: Array) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32)


def outputs(shapes: Shapes, seed: int, batch: int = 4) -> Outputs:
    """Rectified features, the embedding being the last stage's channel means."""
    stages = tuple(tensor(draw(batch, *shape, seed=seed)).relu() for shape in shapes.stages)
    logits = tensor(draw(batch, shapes.classes, seed=seed))
    return Outputs(logits, stages[-1].mean(dim=(2, 3)), stages)


def batch(epoch: float = 30.0, progress: float = 0.5) -> Batch:
    return Batch(torch.arange(4), torch.arange(4), epoch, progress)


def network(embedding: int, seed: int = 5) -> Network:
    torch.manual_seed(seed)
    made = Network()
    made.classifier = nn.Linear(embedding, 10)
    return made


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


def reference_pearson(first: Array, second: Array) -> float:
    return 1 - float(np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(first, second, strict=True)]))


def reference_softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


FAMILY = ["srd", "srd_dist", "srd_kl", "srd_pmse"]


class TestSRD:
    @pytest.mark.parametrize("shape", [(2, 3), (5, 10), (8, 100)])
    def test_losses_of_logits(self, shape: tuple[int, int]) -> None:
        cross, wanted = 2 * draw(*shape, seed=1), 2 * draw(*shape, seed=2)
        ours, theirs = tensor(cross), tensor(wanted)
        assert srd_loss(ours, theirs).item() == pytest.approx(
            ((cross - wanted) ** 2).mean(), rel=1e-5
        )
        pearson = reference_pearson(cross, wanted) + reference_pearson(cross.T, wanted.T)
        assert srd_dist_loss(ours, theirs).item() == pytest.approx(pearson, rel=1e-4)
        squares = (reference_softmax(cross) - reference_softmax(wanted)) ** 2
        assert srd_pmse_loss(ours, theirs).item() == pytest.approx(squares.mean(), rel=1e-4)

    def test_probabilities_by_hand(self) -> None:
        sure, opposite = torch.tensor([[99.0, 0.0]]), torch.tensor([[0.0, 99.0]])
        assert srd_pmse_loss(sure, opposite).item() == pytest.approx(1)  # 2 / classes
        assert srd_pmse_loss(sure, torch.zeros(1, 2)).item() == pytest.approx(0.25)

    @staticmethod
    def made(name: str, student: Shapes, teacher: Shapes, **settings: object) -> Term:
        torch.manual_seed(0)
        kind = term_class(name)
        term = kind(kind.Config(**settings), student, teacher)
        classifier = network(teacher.embedding)
        term.attach(classifier, labels=torch.arange(4), indices=torch.arange(4))
        return term.eval()

    @pytest.mark.parametrize("name", FAMILY)
    @pytest.mark.parametrize("features", ["channel_mean", "full_map"])
    def test_zero_where_the_adapted_feature_is_the_teachers(self, name: str, features: str) -> None:
        term = self.made(name, SHAPES, SHAPES, features=features)
        nn.init.dirac_(term.maps.layers[0].weight)
        student = outputs(SHAPES, 1)
        logits = network(SHAPES.embedding).classifier(student.embedding)
        teacher = student._replace(logits=logits.detach())
        assert term(student, teacher, batch()).item() == pytest.approx(0, abs=1e-4)
        assert term(outputs(SHAPES, 3), teacher, batch()).item() > 0.01

    def test_both_parts_with_their_weights(self) -> None:
        student, teacher = outputs(SHAPES, 1), outputs(WIDER, 2)
        term = self.made("srd", SHAPES, WIDER, alpha=2.0, beta=3.0)
        adapted = term.maps(student.stages[-1]).mean(dim=(2, 3))
        matching = ((adapted - teacher.embedding) ** 2).mean()
        cross = network(WIDER.embedding).classifier(adapted)
        expected = 2 * matching + 3 * ((cross - teacher.logits) ** 2).mean()
        torch.testing.assert_close(term(student, teacher, batch()), expected)

    @pytest.mark.parametrize("features", ["channel_mean", "full_map"])
    def test_an_embedding_that_is_no_average_is_matched_as_it_is(self, features: str) -> None:
        """Of as many numbers as the last map has channels: equal widths say nothing."""
        student = outputs(SHAPES, 1)
        teacher = outputs(WIDER, 2)._replace(embedding=tensor(draw(4, 8, seed=9)))
        term = self.made("srd", SHAPES, WIDER._replace(pooled=False), beta=0.0, features=features)
        assert term.needs == {"embedding", "logits"}
        wanted = (term.embeddings(student.embedding) - teacher.embedding).square().mean()
        torch.testing.assert_close(term(student, teacher, batch()), wanted)

    def test_the_whole_map(self) -> None:
        """Maps that differ at every position but not on average."""
        student = outputs(SHAPES, 1)
        teacher = student._replace(stages=(*student.stages[:2], student.stages[2].flip(3)))
        losses = {}
        for features in ("channel_mean", "full_map"):
            term = self.made("srd", SHAPES, SHAPES, features=features, beta=0.0)
            nn.init.dirac_(term.maps.layers[0].weight)
            losses[features] = term(student, teacher, batch()).item()
        assert losses["channel_mean"] == pytest.approx(0, abs=1e-6)
        expected = (student.stages[2] - teacher.stages[2]).square().mean().item()
        assert losses["full_map"] == pytest.approx(expected, rel=1e-3)
        assert self.made("srd", SHAPES, SHAPES, features="full_map").needs == {"stages", "logits"}

    @pytest.mark.parametrize("name", FAMILY)
    def test_a_teacher_whose_classifier_reads_something_else(self, name: str) -> None:
        """An embedding that is no average of the last stage: embeddings are mapped linearly."""
        flat = WIDER._replace(embedding=32, pooled=False)
        student = outputs(SHAPES, 1)
        teacher = outputs(WIDER, 2)._replace(embedding=tensor(draw(4, 32)))
        term = self.made(name, SHAPES, flat)
        assert term.needs == {"embedding", "logits"}
        mapped = term.embeddings(student.embedding)
        assert mapped.shape == (4, 32)
        cross = network(32).classifier(mapped)
        expected = term.config.alpha * ((mapped - teacher.embedding) ** 2).mean()
        expected = expected + term.config.beta * term.representational(cross, teacher.logits)
        found = term(student, teacher._replace(stages=()), batch())
        torch.testing.assert_close(found, expected)

    def test_networks_without_maps(self) -> None:
        bare = Shapes(10, 6, ())
        term = SRD(SRDConfig(), bare, bare)
        assert term.maps is None

    def test_the_teachers_classifier_is_not_trained_nor_saved(self) -> None:
        term = self.made("srd", SHAPES, WIDER).train()
        names = {name for name, _ in term.named_parameters()} | set(term.state_dict())
        assert all(name.startswith("maps.") for name in names)
        term(outputs(SHAPES, 1), outputs(WIDER, 2), batch()).backward()
        assert not term.weight.requires_grad
