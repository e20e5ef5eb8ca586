"""Training with compiled passes is training without them."""

import copy
import gc
import logging
import shutil
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.utils import counters

from trainables.config import TrialConfig
from trainables.data.dataset import Dataset
from trainables.engine import compiling as engine
from trainables.engine import places
from trainables.engine.compiling import CompiledNetwork
from trainables.models.blueprint import Blueprint, build
from trainables.training import Training
from trainables.worker import WORKER

CPU = torch.device("cpu")
MOBILE = "mobilenetv2-minus16_x0.25"  # it has dropout
Train = Callable[..., Training]

inductor = pytest.param(
    "inductor",
    marks=[
        pytest.mark.slow,
        pytest.mark.skipif(
            not (shutil.which("g++") or shutil.which("clang++")), reason="needs a C++ compiler"
        ),
    ],
)


@pytest.fixture(autouse=True)
def nothing_compiled() -> Iterator[None]:
    """No test finds what another one compiled or gave up."""
    yield
    WORKER.release()
    gc.freeze()  # or the next release would look at all that a compiler is made of once more


@pytest.fixture
def train(digits: Dataset, quick: Callable[..., TrialConfig], digits_teacher: Any) -> Train:
    """A training of two short epochs; ``backend`` None trains as without the switch."""

    def make(backend: Any, epochs: int = 2, device: torch.device = CPU, **changes: Any) -> Training:
        config = quick(**{"epochs": 2, "lr": 0.02, "train_fraction": 0.1, **changes})
        teacher = digits_teacher.load() if config.teacher else None
        training = Training(config, digits, config.student, teacher, device)
        assert training.learner.networks.forward is training.student
        if backend is not None:
            compiled = CompiledNetwork(training.student, backend)
            training.learner.networks.forward = compiled
        training.losses = [training.run_epoch()["train_loss"] for _ in range(epochs)]  # type: ignore[attr-defined]
        return training

    return make


def graphs() -> int:
    """How many were compiled in this process."""
    return int(counters["stats"]["unique_graphs"])


def assert_same_weights(first: Training, second: Training) -> None:
    ours, theirs = first.student.state_dict(), second.student.state_dict()
    assert ours.keys() == theirs.keys()
    assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []


MAPS = {"method": "kd+at", "teacher": "resnet8", "at.beta": 1.0}
DROPOUT = {"student": MOBILE, "lr": 0.3}


@pytest.mark.parametrize(
    ("backend", "changes"),
    [
        pytest.param("aot_eager", MAPS, id="aot_eager-feature maps"),
        pytest.param("aot_eager", DROPOUT, marks=pytest.mark.soak, id="aot_eager-dropout"),
        pytest.param(
            "inductor",
            MAPS,
            marks=[*inductor.marks, pytest.mark.soak],
            id="inductor-feature maps",
        ),
        pytest.param("inductor", DROPOUT, marks=inductor.marks, id="inductor-dropout"),
    ],
)
def test_losses_agree(train: Train, backend: str, changes: dict[str, Any]) -> None:
    plain, before = train(None, **changes), graphs()
    compiled = train(backend, **changes)
    assert graphs() == before + 1
    assert not engine._FAILED
    assert compiled.losses == pytest.approx(plain.losses, rel=1e-4)
    assert compiled.val_score().loss == pytest.approx(  # type: ignore[union-attr]
        plain.val_score().loss,  # type: ignore[union-attr]
        rel=1e-3,
    )


@pytest.mark.parametrize(
    ("backend", "model"),
    [
        ("aot_eager", "wrn_10_0.5"),
        ("aot_eager", "resnet8-eca"),
        pytest.param("inductor", "wrn_10_0.5", marks=inductor.marks),
        pytest.param("inductor", "resnet8-eca", marks=[*inductor.marks, pytest.mark.soak]),
    ],
)
def test_every_output_and_gradient(backend: str, model: str) -> None:
    plain = build(Blueprint(model), 10, (1, 8, 8)).to(memory_format=torch.channels_last)
    exact, compiled = copy.deepcopy(plain).double(), copy.deepcopy(plain)
    images = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    found = []
    forwards = (exact, CompiledNetwork(compiled, backend))
    for network, forward in zip((exact, compiled), forwards, strict=True):
        outputs = forward(images.to(next(network.parameters()).dtype))
        maps = [outputs.logits, outputs.embedding, *outputs.stages, *outputs.shortcuts]
        generator = torch.Generator().manual_seed(2)
        wanted = [torch.randn(one.shape, generator=generator).to(one.dtype) for one in maps]
        torch.autograd.backward(maps, wanted)
        gradients = [weight.grad for weight in network.parameters()]
        found.append([*maps, *gradients, *network.buffers()])
    assert not engine._FAILED
    for theirs, ours in zip(*found, strict=True):
        assert (ours - theirs).double().norm() <= 2e-5 * theirs.double().norm()


@pytest.mark.parametrize(
    "backend",
    ["aot_eager", pytest.param("inductor", marks=[*inductor.marks, pytest.mark.soak])],
)
def test_bf16(train: Train, backend: str) -> None:
    plain, compiled = (train(each, precision="bf16") for each in (None, backend))
    assert not engine._FAILED
    assert compiled.losses == pytest.approx(plain.losses, rel=0.02)
    assert compiled.losses != train(None).losses
    images = compiled.dataset.train.images[:32].float().to(memory_format=torch.channels_last)
    compiled.student.train()
    with torch.autocast("cpu", torch.bfloat16):
        assert compiled.learner.networks.forward(images).logits.dtype == torch.bfloat16
    assert {v.dtype for v in compiled.student.state_dict().values()} == {torch.float32, torch.int64}


def test_the_setting(digits: Dataset, quick: Callable[..., TrialConfig]) -> None:
    config = quick(compile=True)
    training = Training(config, digits, config.student, None, CPU)
    forward = training.learner.networks.forward
    assert isinstance(forward, CompiledNetwork)
    assert forward.network is training.student
    assert forward.backend == "inductor"


def test_checkpoints_do_not_show_it(train: Train) -> None:
    plain, compiled = train(None, epochs=1), train("aot_eager", epochs=1)
    assert plain.state_dict().keys() == compiled.state_dict().keys()
    assert plain.student.state_dict().keys() == compiled.student.state_dict().keys()
    half = copy.deepcopy(compiled.state_dict())
    compiled.run_epoch()
    for backend in (None, "aot_eager"):
        other = train(backend, epochs=0)
        other.load_state_dict(copy.deepcopy(half))
        other.run_epoch()
        for ours, theirs in zip(
            compiled.student.parameters(), other.student.parameters(), strict=True
        ):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def test_the_next_trial_compiles_nothing(train: Train) -> None:
    first, before = train("aot_eager", seed=1), graphs()
    gone = weakref.ref(first.student)
    del first
    gc.collect()
    assert gone() is None
    second = train("aot_eager", seed=2)
    second.test()
    assert graphs() == before
    assert second.losses == pytest.approx(train(None, seed=2).losses, rel=1e-4)


def addresses(training: Training) -> list[int]:
    tensors = [*training.student.parameters(), *training.student.buffers()]
    return [tensor.data_ptr() for tensor in tensors]


def test_trials_in_turn_take_each_others_places(train: Train) -> None:
    """A recorded graph then serves the next trial as well."""
    WORKER.release()
    first = train("aot_eager", seed=1)
    where, learned = addresses(first), copy.deepcopy(first.student.state_dict())
    beside = train("aot_eager", seed=1)  # while the first one lives
    assert not set(where) & set(addresses(beside))
    assert_same_weights(first, beside)
    del first
    after = train("aot_eager", seed=2)
    assert addresses(after) == where
    assert after.losses == pytest.approx(train(None, seed=2).losses, rel=1e-4)
    del after
    again = train("aot_eager", seed=1)
    assert addresses(again) == where
    for key, value in again.student.state_dict().items():
        assert torch.equal(value, learned[key]), key


@pytest.mark.parametrize("change", [{"student": "resnet8"}, {"channels_last": False}])
def test_other_networks_have_other_places(train: Train, change: dict[str, Any]) -> None:
    WORKER.release()
    first = train("aot_eager", epochs=0, student="wrn_16_0.5")
    where = addresses(first)
    del first
    other = train("aot_eager", epochs=0, **{"student": "wrn_16_0.5", **change})
    assert not set(where) & set(addresses(other))


def test_values_are_brought_to_one_place() -> None:
    WORKER.release()
    values = torch.arange(6.0).view(2, 3)
    first = places.brought(values, "kind")
    assert torch.equal(first, values)
    assert first.data_ptr() != values.data_ptr()
    second = places.brought(values + 1, "kind")
    assert second.data_ptr() == first.data_ptr()
    assert torch.equal(second, values + 1)
    assert places.brought(values, "another").data_ptr() != first.data_ptr()


def test_architectures_of_one_class(train: Train) -> None:
    students = ["wrn_10_0.25", "wrn_10_0.5", "wrn_16_0.25"]
    plain = {student: train(None, epochs=1, student=student).losses for student in students}
    before = graphs()
    for student in students * 2:
        compiled = train("aot_eager", epochs=1, student=student)
        assert compiled.losses == pytest.approx(plain[student], rel=1e-4)
    assert graphs() == before + len(students)


def test_more_architectures_than_torch_keeps_for_one_function() -> None:
    limit = 3
    images = torch.rand(2, 1, 8, 8)
    with torch._dynamo.config.patch(recompile_limit=limit):
        for round in range(2):
            before = graphs()
            for width in range(1, limit + 3):
                name = f"wrn_10_{width / 16}"
                CompiledNetwork(build(Blueprint(name), 10, (1, 8, 8)), "eager")(images)
            assert graphs() - before == (0 if round else limit + 2)


def fails(*_: Any) -> Any:
    raise NotImplementedError("no code for this machine")


def eager(graph: torch.fx.GraphModule, _: Any) -> Any:
    return torch._functorch.aot_autograd.make_boxed_func(graph.forward)


BROKEN = {
    "forward": fails,
    "backward": aot_autograd(fw_compiler=eager, bw_compiler=fails),
    "running": lambda graph, _: fails,
}


@pytest.mark.parametrize("where", BROKEN)
def test_what_cannot_be_compiled_trains_as_it_is(
    train: Train, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    plain = train(None, student=MOBILE)
    caplog.clear()
    for _ in range(2):
        other = train(BROKEN[where], student=MOBILE)
        assert other.losses == plain.losses
        assert_same_weights(plain, other)
    (warning,) = [one for one in caplog.records if one.name == engine.__name__]
    assert warning.levelno == logging.WARNING
    assert f"{MOBILE} cannot be compiled" in warning.message
    assert "no code for this machine" in warning.message


def test_without_a_compiler(train: Train, caplog: pytest.LogCaptureFixture) -> None:
    from torch._inductor import config
    from torch._inductor.utils import fresh_cache

    plain = train(None)
    with fresh_cache(), config.patch({"cpp.cxx": (None, "no-such-compiler")}):
        assert train("inductor").losses == plain.losses
    assert caplog.text.count("cannot be compiled") == 1


def test_networks_of_other_libraries(train: Train, caplog: pytest.LogCaptureFixture) -> None:
    """They are read by hooks that come and go, which no compiler takes."""
    changes = {"student": "torchvision:shufflenet_v2_x0_5", "train_fraction": 0.1, "lr": 0.001}
    assert train("aot_eager", 1, **changes).losses == train(None, 1, **changes).losses
    assert caplog.text.count("shufflenet_v2_x0_5 cannot be compiled") == 1


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("CUDA error: out of memory"),
        torch.AcceleratorError("CUDA error: device-side assert triggered"),
    ],
)
def test_a_full_or_lost_gpu_is_no_reason_to_train_uncompiled(
    train: Train, error: Exception
) -> None:
    def full(*_: Any) -> Any:
        raise error

    with pytest.raises(type(error)):
        train(lambda graph, _: full)
    assert not engine._FAILED


def test_nothing_is_compiled_without_data() -> None:
    before = graphs()
    with torch.device("meta"):
        network, images = build(Blueprint("wrn_10_0.5"), 10, (1, 8, 8)), torch.empty(4, 1, 8, 8)
    assert CompiledNetwork(network, "aot_eager")(images).logits.is_meta
    assert graphs() == before


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("student", ["wrn_10_0.5", MOBILE])
def test_cuda_graphs(train: Train, student: str, precision: str) -> None:
    changes = {"student": student, "precision": precision}
    cuda = torch.device("cuda", 0)
    skipped = counters["inductor"]["cudagraph_skips"]
    with torch.backends.cudnn.flags(allow_tf32=False):  # whose roundings would add up differently
        plain, before = train(None, device=cuda, **changes), graphs()
        for _ in range(2):  # the second trial has weights elsewhere
            compiled = train("inductor", device=cuda, **changes)
            rel = 1e-3 if precision == "fp32" else 0.05
            assert compiled.losses == pytest.approx(plain.losses, rel=rel)
    assert graphs() == before + 1
    assert counters["inductor"]["cudagraph_skips"] == skipped
    assert not engine._FAILED
