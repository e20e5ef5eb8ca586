"""Steps of a chain in a training: when they come, what they see, what is made anew behind them."""

import io
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from short_training import epochs
from some_steps import Halve, Mask, Narrow, Nothing, Spoil, Watch, train

from trainables.compression.measure import count_params
from trainables.compression.step import Scene, Step
from trainables.config import TrialConfig
from trainables.data.dataset import Dataset
from trainables.data.views import to_float
from trainables.errors import Diverged, UserError
from trainables.models.blueprint import Edit
from trainables.models.edits import Bits
from trainables.training import Training
from trainables.training.steps import calls

CPU = torch.device("cpu")
Quick = Callable[..., TrialConfig]


@pytest.mark.parametrize(
    ("moments", "epochs", "expected"),
    [
        ((0,), 4, [0]),
        ((1,), 4, [4]),
        ((0.5,), 4, [2]),
        ((0.26,), 4, [2]),  # between two epochs: the next beginning of one
        ((0.7,), 10, [7]),  # 0.7 * 10 is 7.000000000000001
        ((0.99,), 4, [4]),  # no beginning is left
        ((0, 0.1, 0.5, 1), 2, [0, 1, 1, 2]),
    ],
)
def test_when_a_moment_comes(moments: tuple[float, ...], epochs: int, expected: list[int]) -> None:
    steps = [Halve(*moments)]
    found = [done for done in range(epochs + 1) for _ in calls(steps, epochs, done)]
    assert found == expected


def test_moments_of_several_steps() -> None:
    """By time, and at one time in the order of the chain."""
    first, second = Halve(0.5, 1), Watch(0.4, 0.5, 1)
    order = [[(c.moment, c.step) for c in calls([first, second], 2, done)] for done in range(3)]
    assert order == [
        [],
        [(0.4, second), (0.5, first), (0.5, second)],
        [(1, first), (1, second)],
    ]


def test_no_step_no_difference(digits: Dataset, quick: Quick, digits_teacher) -> None:
    """A step that only looks leaves the training as it is to the last bit."""
    config = quick(method="kd+mixup", teacher="resnet8", epochs=2)
    plain = train(config, digits, digits_teacher.load())
    watched = train(config, digits, digits_teacher.load(), Watch(0, 0.5, 1))
    assert epochs(plain, 2) == epochs(watched, 2)
    ours, theirs = plain.student.state_dict(), watched.student.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_what_a_step_sees(digits: Dataset, quick: Quick) -> None:
    watch = Watch(0, 0.5, 1)
    config = quick(epochs=2, seed=3)
    training = train(config, digits, None, watch)
    epochs(training, 2)
    assert [moment for moment, _ in watch.seen] == [0, 0.5, 1]
    held_out = {*training.stream.val_indices.tolist()}
    drawn = []
    for _, scene in watch.seen:
        assert scene.network is training.student
        assert (scene.image_shape, scene.device) == (digits.image_shape, CPU)
        drawn.append(torch.rand(2, generator=scene.generator))
        batches = [*scene.batches(70)]
        assert [len(images) for images, _ in batches] == [32, 32, 6]
        images, target = (torch.cat(parts) for parts in zip(*batches, strict=True))
        every = to_float(digits.train.images, digits.mean, digits.std)
        for image, label in zip(images, target, strict=True):
            (place,) = (every == image).all((1, 2, 3)).nonzero()[:1, 0].tolist()
            assert digits.train.labels[place] == label
            assert place not in held_out
        assert torch.equal(images, torch.cat([part for part, _ in watch.seen[0][1].batches(70)]))
        assert sum(len(part) for part, _ in scene.batches(10**6)) == len(
            training.stream.train_indices
        )
    assert not torch.equal(drawn[0], drawn[1])
    other = Watch(0)
    train(config, digits, None, other).run_epoch()
    assert torch.equal(torch.rand(2, generator=other.seen[0][1].generator), drawn[0])


def test_what_an_edit_leaves(digits: Dataset, quick: Quick, digits_teacher) -> None:
    """The optimizer holds the weights that there are, without momentum; the method stays."""
    config = quick(method="kd+fitnet", teacher="resnet8", epochs=2)
    training = train(config, digits, digits_teacher.load(), Halve(0.5), Watch(0.5))
    training.run_epoch()
    method, before = training.method, count_params(training.student)
    momentum = []

    class Look(Step):
        moments = (0.5,)

        def at(self, moment: float, scene: Scene) -> Sequence[Edit]:
            optimizer = training.learner.updates.optimizers["student"]
            momentum.extend(one["momentum_buffer"].abs().max() for one in optimizer.state.values())
            return ()

    training.learner.steps = (*training.learner.steps, Look(None))
    training.run_epoch()
    assert count_params(training.student) < 0.7 * before
    assert training.method is method
    held = training.learner.updates.optimizers["student"].param_groups[0]["params"]
    assert [*map(id, held)] == [
        id(weight) for weight in (*training.student.parameters(), *method.parameters())
    ]
    assert set(map(float, momentum)) == {0.0}
    assert training.student.blueprint.model == "wrn_10_0.5"
    assert len(training.student.blueprint.edits) == 1


def test_other_shapes_have_other_adaptors(digits: Dataset, quick: Quick, digits_teacher) -> None:
    """The hints of FitNets are regressed from the stage that is narrower now."""
    config = quick(method="srd_dist", teacher="resnet8", epochs=2)
    training = train(config, digits, digits_teacher.load(), Narrow(0.5))
    training.run_epoch()
    wide = {weight.shape for weight in training.method.parameters()}
    training.run_epoch()
    narrow = {weight.shape for weight in training.method.parameters()}
    assert wide != narrow
    assert {size - 3 if size == 32 else size for shape in wide for size in shape} == {
        size for shape in narrow for size in shape
    }
    held = training.learner.updates.optimizers["student"].param_groups[0]["params"]
    assert {id(weight) for weight in training.method.parameters()} <= {*map(id, held)}


INTERRUPTED = [
    ("kd+at", (Halve(0.5),), {}),
    ("kd+at", (Halve(0.3, 0.6), Mask(Nothing())), {"optimizer": "adam", "lr": 1e-3}),
    ("srd_dist+mixup", (Narrow(0.3),), {"nesterov": True}),
    ("dml", (Halve(0, 1),), {"dml.peer": "resnet8_x0.25"}),
]


# After one epoch or two, by turns; `make soak` takes both.
@pytest.mark.parametrize(
    ("method", "steps", "values", "stop"),
    [
        pytest.param(*case, stop, marks=[] if place % 2 == stop % 2 else pytest.mark.soak)
        for place, case in enumerate(INTERRUPTED)
        for stop in (1, 2)
    ],
)
def test_an_interruption_leaves_no_trace(
    digits: Dataset,
    quick: Quick,
    digits_teacher,
    method: str,
    steps: tuple[Step, ...],
    values: dict[str, Any],
    stop: int,
) -> None:
    config = quick(method=method, teacher="resnet8", epochs=3, train_fraction=0.1, **values)

    def fresh() -> Training:
        own = [type(s)(*s.moments) if isinstance(s, Halve) else Mask(Nothing()) for s in steps]
        return train(config, digits, digits_teacher.load(), *own)

    undisturbed = fresh()
    rows = epochs(undisturbed, 3)

    first = fresh()
    interrupted = epochs(first, stop)
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    torch.manual_seed(1234)
    second = fresh()
    second.load_state_dict(torch.load(io.BytesIO(buffer.getvalue()), weights_only=True))
    interrupted += epochs(second, 3 - stop)

    assert interrupted == rows
    assert second.student.blueprint == undisturbed.student.blueprint
    for one, other in (
        *zip(second.learner.networks.values(), undisturbed.learner.networks.values(), strict=True),
        (second.method, undisturbed.method),
    ):
        ours, theirs = one.state_dict(), other.state_dict()
        assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []
    assert second.test() == undisturbed.test()


def test_back_to_before_an_edit(digits: Dataset, quick: Quick) -> None:
    """A state of earlier is taken up by a training that went on."""
    training = train(quick(epochs=2), digits, None, Halve(0.5))
    training.run_epoch()
    state = training.state_dict()
    copied = io.BytesIO()
    torch.save(state, copied)
    later = training.run_epoch()["train_loss"]
    training.load_state_dict(torch.load(io.BytesIO(copied.getvalue()), weights_only=True))
    assert training.student.blueprint.edits == ()
    assert training.run_epoch()["train_loss"] == later


def test_masks_are_kept(digits: Dataset, quick: Quick) -> None:
    step = Mask(Nothing())
    training = train(quick(epochs=2), digits, None, step)
    training.run_epoch()
    assert (training.student.get_parameter("conv1.weight") == 0).sum() == 0
    training.run_epoch()
    weight = training.student.get_parameter("conv1.weight")
    assert step.mask is not None
    assert torch.equal(weight != 0, step.mask)


def test_the_last_moment_is_scored_and_no_more_trained(digits: Dataset, quick: Quick) -> None:
    class Silence(Step):
        moments = (1,)

        def at(self, moment: float, scene: Scene) -> Sequence[Edit]:
            scene.network.classifier.weight.zero_()
            scene.network.classifier.bias.zero_()
            return [Bits.of({"classifier": 1})]

    plain, silent = (train(quick(epochs=1), digits, None, *steps) for steps in ((), [Silence(0)]))
    before, after = plain.run_epoch(), silent.run_epoch()
    assert after["train_loss"] == before["train_loss"]
    assert after["lr"] == before["lr"] < 0.1
    assert after["val_loss"] == pytest.approx(2.302585, abs=1e-5)  # ln 10
    assert silent.test()["student"].loss == pytest.approx(2.302585, abs=1e-5)


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (Spoil(0, "conv1.weight"), "says no numbers after step spoil, which changed it after 0 "),
        (Spoil(1, "classifier.bias"), "says no numbers after step spoil, which changed it after 2"),
        (Spoil(0.5, "momentum"), "the loss became nan in epoch 2, after step spoil, term ce"),
    ],
)
def test_a_step_that_spoils_the_student_is_named(
    digits: Dataset, quick: Quick, step: Step, expected: str
) -> None:
    training = train(quick(epochs=2), digits, None, Halve(0), step)
    with pytest.raises(Diverged, match=expected):
        epochs(training, 2)


def test_a_step_is_not_blamed_for_what_was_before_it(digits: Dataset, quick: Quick) -> None:
    training = train(quick(epochs=1), digits, None, Halve(0))
    training.student.classifier.bias.data.fill_(torch.inf)
    with pytest.raises(Diverged, match="says no numbers before step halve"):
        training.run_epoch()


def test_a_student_on_which_a_step_cannot_work(digits: Dataset, quick: Quick) -> None:
    config = quick(student="mobilenetv2-minus15_x0.25")
    with pytest.raises(UserError, match="halve: expected a student of residual blocks"):
        train(config, digits, None, Halve(0.5))


@pytest.mark.parametrize("moment", [-0.1, 1.01])
def test_moments_beyond_the_training(digits: Dataset, quick: Quick, moment: float) -> None:
    with pytest.raises(UserError, match="step 'halve' comes at "):
        train(quick(), digits, None, Halve(moment))


def test_peers_are_not_compressed(digits: Dataset, quick: Quick, digits_teacher) -> None:
    training = train(quick(method="dml", epochs=1), digits, digits_teacher.load(), Halve(0))
    training.run_epoch()
    peer = training.learner.networks["dml.1"]
    assert peer.blueprint.edits == ()
    assert count_params(peer) > count_params(training.student)
