"""The SRD family against float64 references and hand-made limits."""

import numpy as np
import pytest
import torch
from drawn_features import SHAPES, WIDER, Array, batch, draw, outputs, tensor
from torch import nn

from trainables.methods.registry import term_class
from trainables.methods.srd import SRD, SRDConfig, srd_loss
from trainables.methods.srd_dist import srd_dist_loss
from trainables.methods.srd_pmse import srd_pmse_loss
from trainables.methods.term import Term
from trainables.models.outputs import Network, Shapes


def network(embedding: int, seed: int = 5) -> Network:
    torch.manual_seed(seed)
    made = Network()
    made.classifier = nn.Linear(embedding, 10)
    return made


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
