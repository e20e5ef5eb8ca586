"""What a method costs, against operations counted by hand."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from trainables.compression.measure import count_macs
from trainables.cost import Cost, count, step, training_of
from trainables.errors import UserError
from trainables.methods.registry import term_class, term_names
from trainables.methods.term import LogitModifier
from trainables.methods.typical import BATCH, CLASSES, IMAGE, STUDENT, TEACHER
from trainables.models.registry import create_model
from trainables.timing import measure

METHODS = [
    f"kd+{name}" if issubclass(term_class(name), LogitModifier) else name for name in term_names()
]
FIRST_CONVOLUTION = 3 * 16 * 9 * 32 * 32  # whose input needs no gradient


def macs(model: str) -> int:
    with torch.device("meta"):
        return count_macs(create_model(model, CLASSES, IMAGE), IMAGE)


FORWARD, TEACHING = macs(STUDENT), macs(TEACHER)
STEP = 3 * FORWARD - FIRST_CONVOLUTION  # a backward pass is two forward passes


def test_the_plain_student() -> None:
    assert count("student") == Cost(needs=frozenset(), ce_share=1.0, live=1.0, looked_up=1.0)


@pytest.mark.parametrize(("method", "left"), [("kd", 0.1), ("kd+ls", 0.1), ("dist", 1.0)])
def test_a_loss_of_logits_costs_a_forward_pass_of_the_teacher(method: str, left: float) -> None:
    cost = count(method)
    assert cost.needs == {"logits"}
    assert cost.ce_share == pytest.approx(left)
    assert cost.live == pytest.approx(1 + TEACHING / STEP)
    assert cost.looked_up == 1


def test_an_adaptor_costs_its_products() -> None:
    # SRD: a 1x1 convolution 128 -> 128 at 8x8 and the classifier 128 -> 100. Nobody trains the
    # classifier, so its backward pass is one product.
    own = 3 * 128 * 128 * 8 * 8 + 2 * 128 * CLASSES
    cost = count("srd")
    assert cost.needs == {"logits", "embedding"}
    assert cost.looked_up == pytest.approx(1 + own / STEP)
    assert cost.live == pytest.approx(1 + (own + TEACHING) / STEP)


def test_the_training_set_is_as_large_as_cifar() -> None:
    # CRD: heads 128 -> 128, of which the teacher's has no gradient for its input; both embeddings
    # against 50,000 entries of 128, which are not trained.
    own = (3 + 2) * 128 * 128 + 2 * 2 * 50_000 * 128
    assert count("crd").looked_up == pytest.approx(1 + own / STEP)


def test_feature_maps_cannot_be_looked_up() -> None:
    cost = count("kd+at")
    assert cost.needs == {"logits", "stages"}
    assert cost.looked_up is None
    assert cost.live == pytest.approx(1 + TEACHING / STEP)


def test_a_teacher_costs_as_far_as_it_is_read() -> None:
    # FitNet reads the second of WRN-40-2's three groups: what is left out is the third one, from
    # 64 channels at 16x16 to 128 at 8x8, twelve convolutions and a shortcut, and the classifier.
    # Its own is a 1x1 convolution 64 -> 64 at 16x16.
    left_out = 8 * 8 * 128 * (64 * 9 + 11 * 128 * 9 + 64) + 128 * CLASSES
    own = 3 * 64 * 64 * 16 * 16
    cost = count("fitnet")
    assert cost.looked_up is None
    assert cost.live == pytest.approx(1 + (own + TEACHING - left_out) / STEP)


def test_peers_are_trained() -> None:
    # The peer's own step, for which the student answers once more; no teacher.
    cost = count("dml")
    assert cost.needs == frozenset()
    assert cost.live == cost.looked_up == pytest.approx(2 + FORWARD / STEP)


def test_new_images_cannot_be_looked_up() -> None:
    assert count("mixup").live == 1
    mixed = count("kd+mixup")
    assert mixed.live == pytest.approx(1 + TEACHING / STEP)
    assert mixed.looked_up is None


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_counted(method: str) -> None:
    cost = count(method)
    assert cost.live >= 1
    teaching = 0.5 * TEACHING / STEP  # at least two of the three groups
    assert bool(cost.needs) == (cost.live > (cost.looked_up or 1) + teaching)
    assert cost.looked_up is None or 1 <= cost.looked_up <= cost.live


def test_a_whole_step_is_counted_where_more_than_outputs_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kind = term_class("kd")
    usual = kind.forward

    def reading(self, student, teacher, batch):
        product = teacher.embedding @ teacher.features["class_weights"].T  # as its logits
        return usual(self, student, teacher, batch) + 0 * product.sum()

    monkeypatch.setattr(kind, "needs", frozenset({"logits", "embedding", "class_weights"}))
    monkeypatch.setattr(kind, "forward", reading)
    cost = count("kd")
    assert cost.live == pytest.approx(1 + (TEACHING + 128 * CLASSES) / STEP)
    assert cost.looked_up is None


def test_the_number_of_threads_is_what_it_was() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        count("kd")
        assert torch.get_num_threads() == 2
        with pytest.raises(UserError):
            count("nope")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_an_unknown_method() -> None:
    with pytest.raises(UserError, match="unknown method 'nope'"):
        count("nope")


@pytest.mark.parametrize("method", ["crd", "dml", "fitnet", "kd+mixup", "reviewkd", "rkd+srd"])
def test_the_sum_of_the_parts_is_a_whole_step(method: str) -> None:
    training = training_of(method, torch.device("cpu" if "mixup" in method else "meta"))
    with FlopCounterMode(display=False) as counter:
        step(training)
    assert count(method).live == pytest.approx(counter.get_total_flops() / (2 * BATCH * STEP))


@pytest.mark.usefixtures("few_images_timed")
def test_steps_are_timed_in_turn() -> None:
    threads = torch.get_num_threads()
    times = measure("kd")
    low, high = times.ratios
    assert times.steps == 5
    assert times.student_ms < times.method_ms < 10 * times.student_ms
    assert 0 < low <= high
    assert times.threads == threads == torch.get_num_threads()
