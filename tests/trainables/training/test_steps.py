"""Steps of a chain in a training: when they come, what they see, what is made anew behind them."""

import functools
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from trainables.compression.measure import count_params
from trainables.compression.step import Scene, Step
from trainables.config import TrialConfig
from trainables.data.dataset import Dataset
from trainables.data.views import to_float
from trainables.engine import compiling, places
from trainables.engine.compiling import CompiledNetwork
from trainables.errors import Diverged, UserError
from trainables.models.blueprint import Edit
from trainables.models.edits import Bits, Channels
from trainables.models.outputs import Network
from trainables.training import Training
from trainables.training.steps import calls
from trainables.worker import WORKER

CPU = torch.device("cpu")
Quick = Callable[..., TrialConfig]


@dataclass(frozen=True)
class Nothing:
    """No settings."""


class Halve(Step):
    """Keeps the larger half of the channels inside every block of a WRN."""

    Config, name = Nothing, "halve"

    def __init__(self, *moments: float) -> None:
        super().__init__(Nothing())
        self.moments = moments

    def check(self, network: Network, image_shape: tuple[int, int, int]) -> None:
        if not blocks(network):
            raise UserError("halve: expected a student of residual blocks")

    def at(self, moment: float, scene: Scene) -> Sequence[Edit]:
        outputs, inputs = {}, {}
        for name, conv in blocks(scene.network).items():
            norms = conv.weight.detach().abs().sum((1, 2, 3))
            kept = norms.topk(len(norms) // 2).indices
            outputs |= {f"{name}.conv1": kept, f"{name}.bn2": kept}
            inputs[f"{name}.conv2"] = kept
        return [Channels.kept(outputs, inputs)]


class Narrow(Halve):
    """Cuts what the classifier reads: the shapes of the outputs are others then."""

    name = "narrow"

    def at(self, moment: float, scene: Scene) -> Sequence[Edit]:
        kept = range(scene.network.classifier.in_features - 3)
        last = [name for name in blocks(scene.network) if name.startswith("group3")]
        outputs = dict.fromkeys([*(f"{name}.conv2" for name in last), "bn"], kept)
        outputs[f"{last[0]}.shortcut"] = kept
        return [Channels.kept(outputs, {"classifier": kept})]


class Mask(Step):
    """Sets weights of the first convolution to zero and keeps them there."""

    Config, name = Nothing, "mask"
    moments = (0.3,)
    mask: torch.Tensor | None = None

    def at(self, moment: float, scene: Scene) -> Sequence[Edit]:
        weight = scene.network.get_parameter("conv1.weight")
        self.mask = torch.rand(weight.shape, generator=scene.generator) < 0.5
        weight *= self.mask
        return ()

    def after_update(self, network: Network) -> None:
        assert not torch.is_grad_enabled()
        if self.mask is not None:
            network.get_parameter("conv1.weight").mul_(self.mask)

    def state_dict(self) -> dict[str, Any]:
        return {} if self.mask is None else {"mask": self.mask}

    def load_state_dict(self, state: Any) -> None:
        self.mask = state.get("mask")


class Spoil(Step):
    """Makes the student say nothing: before the training's end, or in training mode alone."""

    Config, name = Nothing, "spoil"

    def __init__(self, moment: float, tensor: str) -> None:
        super().__init__(Nothing())
        self.moments, self.tensor = (moment,), tensor

    def at(self, moment: float, scene: Scene) -> Sequence[Edit]:
        if self.tensor == "momentum":
            scene.network.register_forward_hook(
                lambda network, _, outputs: (
                    outputs._replace(logits=outputs.logits * torch.nan)
                    if network.training
                    else outputs
                )
            )
        else:
            scene.network.get_parameter(self.tensor)[0] = torch.nan
        return ()


class Watch(Step):
    """Writes down what it is shown."""

    Config, name = Nothing, "watch"

    def __init__(self, *moments: float) -> None:
        super().__init__(Nothing())
        self.moments = moments
        self.seen: list[tuple[float, Scene]] = []

    def at(self, moment: float, scene: Scene) -> Sequence[Edit]:
        assert not scene.network.training
        assert not torch.is_grad_enabled()
        self.seen.append((moment, scene))
        return ()


def blocks(network: Network) -> dict[str, nn.Conv2d]:
    """First convolutions of the residual blocks, by the block's name."""
    return {
        name.removesuffix(".conv1"): module
        for name, module in network.named_modules()
        if name.endswith(".conv1") and isinstance(module, nn.Conv2d)
    }


def train(config: TrialConfig, dataset: Dataset, teacher: Any, *steps: Step) -> Training:
    return Training(config, dataset, config.student, teacher, CPU, steps)


def epochs(training: Training, count: int) -> list[dict[str, Any]]:
    """Rows without what the clock decides."""
    rows = [training.run_epoch() for _ in range(count)]
    return [{key: value for key, value in row.items() if "second" not in key} for row in rows]


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


@pytest.mark.parametrize(("method", "steps", "values"), INTERRUPTED)
@pytest.mark.parametrize("stop", [1, 2])
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


@pytest.fixture
def compiled(quick: Quick, monkeypatch: pytest.MonkeyPatch) -> Iterator[Quick]:
    """Trials that compile, by the shortest way."""
    make = functools.partial(CompiledNetwork, backend="aot_eager")
    monkeypatch.setattr("trainables.training.participants.CompiledNetwork", make)
    WORKER.release()
    yield functools.partial(quick, compile=True, lr=0.02)
    WORKER.release()


def test_a_compiled_student_is_compiled_anew(
    digits: Dataset, quick: Quick, compiled: Quick
) -> None:
    """Once for all students that keep equally many channels, whichever these are."""
    before = counters["stats"]["unique_graphs"]
    found = []
    for seed in (1, 2):
        training = train(compiled(epochs=2, seed=seed), digits, None, Halve(0.5))
        found.append(training.student)
        losses = [row["train_loss"] for row in epochs(training, 2)]
        assert counters["stats"]["unique_graphs"] == before + 2
        plain = train(quick(epochs=2, seed=seed, lr=0.02), digits, None, Halve(0.5))
        assert losses == pytest.approx([row["train_loss"] for row in epochs(plain, 2)], rel=1e-4)
    assert found[0].blueprint != found[1].blueprint
    assert not compiling._FAILED


def test_a_cut_student_leaves_its_places(digits: Dataset, compiled: Quick) -> None:
    """Another one takes them, and neither computes in the weights of the other."""

    def addresses(training: Training) -> set[int]:
        return {weight.data_ptr() for weight in training.student.parameters()}

    first = train(compiled(epochs=2), digits, None, Halve(0.5))
    whole = addresses(first)
    epochs(first, 2)
    assert not addresses(first) & whole
    second = train(compiled(epochs=2, seed=1), digits, None, Halve(0.5))
    assert addresses(second) == whole
    halved = addresses(first)
    epochs(second, 2)
    assert not addresses(second) & (halved | whole), "the first one is still in its places"


def test_places_of_many_kinds_are_not_kept_for_ever() -> None:
    WORKER.release()
    for size in range(places.MOST + 9):
        places.settle(nn.Linear(1, 1 + size), size)
    assert len(places._PLACES) == places.MOST
    kept = nn.Linear(1, 1)
    places.settle(kept, "in use")
    for size in range(places.MOST + 9):
        places.settle(nn.Linear(1, 1 + size), size)
    assert "in use" in places._PLACES
    WORKER.release()
