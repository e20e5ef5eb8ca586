"""What a step is fed with does not depend on how batches are prepared, and nothing waits."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from trainables import cost
from trainables.config import TrialConfig
from trainables.data.dataset import Dataset
from trainables.data.resident import ImagesOnDevice, ImagesOnHost
from trainables.methods.registry import PLAIN, term_class, term_names
from trainables.methods.term import Term
from trainables.teachers.teacher import load_teacher
from trainables.training import Training
from trainables.training.feeding import Feeder
from trainables.worker import WORKER

CPU = torch.device("cpu")
Quick = Callable[..., TrialConfig]


def trained(
    digits: Dataset, config: TrialConfig, digits_teacher: Any, device: torch.device = CPU
) -> Training:
    teacher = load_teacher(digits_teacher.results, digits_teacher.file, str(device))
    return Training(config, digits, config.student, teacher, device)


@pytest.mark.parametrize("sizes", [[32, 32, 32], [96], [1, 60, 35]])
def test_batches_show_the_views_of_the_plan(
    digits: Dataset, quick: Quick, digits_teacher: Any, sizes: list[int]
) -> None:
    training = trained(digits, quick(method="kd", teacher="resnet8", flip=True), digits_teacher)
    batches = training.stream.train_indices[:96].split(sizes)
    feeds = list(training.stream(5, batches))
    for feed, indices in zip(feeds, batches, strict=True):
        assert torch.equal(feed.indices, indices)
        assert torch.equal(feed.there, indices)
        assert torch.equal(
            feed.views, training.stream.views.images(digits.train.images, 5, indices)
        )
        assert feed.known == {}
        again = training.stream.views.show(digits.train.images[indices], feed.offsets)
        assert torch.equal(feed.views, again)


def test_without_augmentation_images_are_as_they_are(digits: Dataset, quick: Quick) -> None:
    config = quick(crop_padding=0, flip=False)
    training = Training(config, digits, config.student, None, CPU)
    (feed,) = training.stream(0, [torch.tensor([5, 3])])
    assert torch.equal(feed.views, digits.train.images[[5, 3]])


def test_images_may_stay_on_the_host(digits: Dataset, quick: Quick, digits_teacher: Any) -> None:
    """Then batches are gathered ahead by another thread; all else is the same."""
    rows, states = [], []
    for images in ("device", "host"):
        config = quick(method="kd", teacher="resnet8", flip=True, images=images)
        training = trained(digits, config, digits_teacher)
        assert type(training.stream.feeder.images) is (
            ImagesOnHost if images == "host" else ImagesOnDevice
        )
        row = training.run_epoch()
        rows.append({key: value for key, value in row.items() if "second" not in key})
        states.append(training.student.state_dict())
    assert rows[0] == rows[1]
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key]), key


def test_looking_up_ahead_finds_the_same(
    digits: Dataset, quick: Quick, digits_teacher: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"teacher": "resnet8", "teacher_cache": "float32", "view_seed": 77}
    training = trained(digits, quick(method="kd+rkd", **settings), digits_teacher)
    batches = training.stream.train_indices[:100].split(25)
    answers = training.learner.lessons["teacher"].answers
    assert answers

    def ask(asking: Training, *some: Tensor) -> None:
        for feed in asking.stream(0, some):
            asking.learner.lessons["teacher"](feed)

    ask(training, batches[0], batches[1][:10], batches[3])
    # Of the third batch only the logits are known, which is not enough.
    ask(trained(digits, quick(method="kd", **settings), digits_teacher), batches[2])

    def looked_up() -> list[tuple[Tensor, ...]]:
        """As on a GPU: by look-ups for many batches. Nothing is asked of the teacher."""
        return [
            (known.found, known.view_ids, *known.values.values())
            for feed in training.stream(0, batches)
            for known in [feed.known[answers]]
        ]

    one_by_one = looked_up()
    monkeypatch.setattr(Feeder, "_ahead", 3)
    ahead = looked_up()
    assert [int(found.sum()) for found, *_ in ahead] == [25, 10, 0, 25]
    for ours, theirs in zip(ahead, one_by_one, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert torch.equal(one.nan_to_num(-1.0), other.nan_to_num(-1.0))


class Unhurried(TorchDispatchMode):
    """Finds copies to the device for which the host would wait."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        to = kwargs.get("device")
        if func is torch.ops.aten._to_copy.default and to is not None:
            hurried = kwargs.get("non_blocking", False)
            if torch.device(to).type != args[0].device.type and not hurried:
                self.waits.append(f"{func} of {list(args[0].shape)} to {to}")
        return func(*args, **kwargs)


@contextmanager
def unhurried() -> Iterator[None]:
    with Unhurried() as mode:
        yield
    assert not mode.waits


LOSSES = [name for name in term_names() if issubclass(term_class(name), Term)]


@pytest.fixture(scope="module")
def small_networks() -> Iterator[None]:
    """Those of a step whose operations are counted, with fewer layers."""
    (teachers,) = (one for one in WORKER.stores if one.what == "teachers of the count")
    teachers.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cost, "STUDENT", "wrn_10_1")
        patch.setattr(cost, "TEACHER", "wrn_10_2")
        yield
    teachers.clear()


@pytest.mark.usefixtures("small_networks")
@pytest.mark.parametrize("method", [PLAIN, "kd+at", "kd+ls", *LOSSES])
def test_a_whole_step_runs_on_the_device(method: str) -> None:
    """On a device without values: nothing can be read there, nor meet what lies on the CPU."""
    training = cost.training_of(method, torch.device("meta"))
    cost.step(training)  # what is made once may wait
    with unhurried():
        cost.step(training)


def test_a_copy_that_waits_is_found() -> None:
    with pytest.raises(AssertionError), unhurried():
        torch.ones(3).to("meta")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("cache", ["off", "float16"])
@pytest.mark.parametrize("method", ["student", "kd", "kd+rkd", "at", "kd+mixup", "dml", "crd"])
def test_a_gpu_is_never_waited_for(
    digits: Dataset, quick: Quick, digits_teacher: Any, method: str, cache: str, precision: str
) -> None:
    """While a table is filled, and when it is full."""
    config = quick(
        method=method,
        teacher="resnet8",
        teacher_cache=cache,
        precision=precision,
        batch_size=16,
        flip=True,
    )
    for _ in range(2):
        training = trained(digits, config, digits_teacher, torch.device("cuda", 0))
        training.learner.train()
        batches = training.stream.train_indices[: 8 * 16].split(16)
        for step, feed in enumerate(training.stream(0, batches)):
            torch.cuda.set_sync_debug_mode("error" if step > 2 else "default")
            try:
                training.learner.step(feed, 0.0)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        training.stream.flush()
    if training.hit_rate is not None:
        assert training.hit_rate == 1.0
