"""What every term and modifier promises, checked on all that are registered.

A new term is covered by its line in the registry; nothing here names one.
"""

import copy
import dataclasses
import functools
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from trainables.errors import UserError
from trainables.methods.method import Method
from trainables.methods.registry import parse_method, resolve_settings, term_class, term_names
from trainables.methods.term import (
    STUDENT,
    Batch,
    InputModifier,
    LogitModifier,
    Term,
    cross_entropy,
)
from trainables.models.features import CLASS_WEIGHTS, STAGE_GRADIENT, with_features
from trainables.models.outputs import Network, Outputs, Shapes
from trainables.models.registry import create_model
from trainables.models.shapes import output_shapes
from trainables.settings import read, settings_of

PARTS = frozenset(Outputs._fields)
TERMS = [name for name in term_names() if issubclass(term_class(name), Term)]
MODIFIERS = [name for name in term_names() if issubclass(term_class(name), LogitModifier)]
PEERED = [name for name in TERMS if term_class(name).peers(term_class(name).Config())]
INPUT_MODIFIERS = [name for name in term_names() if issubclass(term_class(name), InputModifier)]
SOFTMAX = [name for name in TERMS if term_class(name).reads_softmax()]
IMAGE = (3, 32, 32)
CLASSES = 10

PAIRS = [  # teacher, student: with equal and different numbers, sizes and widths of stages
    ("wrn_16_1", "resnet8"),
    ("wrn_10_1", "mobilenetv2_s2_x0.5"),
    ("vgg11_x0.25", "resnet8"),
    ("resnet8", "vgg11_x0.25"),
    ("resnet8", "mobilenetv2-minus15_x0.25"),
]


class Pair:
    """A teacher and a student of the zoo, and a fixed batch."""

    def __init__(self, teacher: str, student: str, batch: int = 4) -> None:
        torch.manual_seed(0)
        self.teacher = create_model(teacher, CLASSES, IMAGE).eval().requires_grad_(False)
        self.student = create_model(student, CLASSES, IMAGE)
        self.images = torch.randn(batch, *IMAGE)
        self.target = torch.arange(batch) % CLASSES
        everything = output_shapes(self.teacher, IMAGE).features
        slopes = [key for key in everything if key.startswith(STAGE_GRADIENT)]
        self.taught = with_features(self.teacher, self.images, slopes, None, learning=False)

    def term(self, name: str, seed: int = 1) -> Term:
        """The term with its defaults, its adaptors drawn from ``seed``."""
        torch.manual_seed(seed)
        shapes = output_shapes(self.student, IMAGE), output_shapes(self.teacher, IMAGE)
        return build(name, *shapes, network=self.teacher)


def said(networks: Pair, term: Term) -> Outputs:
    """What the student says to the images, as a learner asks it."""
    chosen = networks.taught.logits.argmax(1)
    return with_features(
        networks.student, networks.images, term.student_needs, None, learning=True, chosen=chosen
    )


@functools.cache
def pair(teacher: str, student: str) -> Pair:
    return Pair(teacher, student)


def build(name: str, student: Shapes, teacher: Shapes, network: Network | None = None) -> Term:
    kind = term_class(name)
    return attached(kind(kind.Config(), student, teacher), network or Classifier(teacher))


def attached(term: Term, teacher: Network) -> Term:
    """The term with a training set of 60 images, the last ten of them held out."""
    term.attach(teacher, labels=torch.arange(60) % CLASSES, indices=torch.arange(50))
    return term


class Classifier(Network):
    """All that a term may take of a teacher's weights."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(5)
        self.classifier = torch.nn.Linear(shapes.embedding, shapes.classes)
        with torch.no_grad():
            for weight in self.classifier.parameters():
                weight.copy_(torch.randn(weight.shape, generator=draw) / 4)


def random_outputs(shapes: Shapes, batch: int, seed: int) -> Outputs:
    """Outputs as of a network: leaves with gradients, features not negative."""
    draw = torch.Generator().manual_seed(seed)

    def leaf(*shape: int) -> Tensor:
        return torch.randn(batch, *shape, generator=draw)

    outputs = Outputs(
        logits=leaf(shapes.classes),
        embedding=leaf(shapes.embedding).abs(),
        stages=tuple(leaf(*shape).abs() for shape in shapes.stages),
        shortcuts=tuple(leaf(*shape) for shape in shapes.shortcuts),
        features={CLASS_WEIGHTS: torch.randn(shapes.classes, shapes.embedding, generator=draw)}
        | {f"{STAGE_GRADIENT}{i}": leaf(*shape) for i, shape in enumerate(shapes.stages)},
    )
    for part in tensors(outputs):
        part.requires_grad_()
    return outputs


def tensors(outputs: Outputs) -> Iterator[Tensor]:
    yield outputs.logits
    yield outputs.embedding
    yield from outputs.stages
    yield from outputs.shortcuts
    yield from outputs.features.values()


def converted(outputs: Outputs, dtype: torch.dtype) -> Outputs:
    return Outputs(
        outputs.logits.detach().to(dtype),
        outputs.embedding.detach().to(dtype),
        tuple(stage.detach().to(dtype) for stage in outputs.stages),
        tuple(shortcut.detach().to(dtype) for shortcut in outputs.shortcuts),
        {key: values.detach().to(dtype) for key, values in outputs.features.items()},
    )


def some_images(batch: int) -> Tensor:
    return torch.randn(batch, *IMAGE, generator=torch.Generator().manual_seed(6))


PEERS = ("1", "2")


def batch_of(target: Tensor) -> Batch:
    """The middle of a training, with what two peers say, should somebody have any."""
    return Batch(
        target,
        torch.arange(len(target)),
        epoch=30.0,
        progress=0.5,
        inputs=some_images(len(target)),
        peers={name: random_outputs(OURS, len(target), 6 + int(name)) for name in PEERS},
        maps=some_images(len(target))[:, :1].abs(),
        normalisation=((0.5,) * IMAGE[0], (0.25,) * IMAGE[0]),
    )


def loss_of(term: Term, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
    torch.manual_seed(2)  # a term may draw, but only from torch's generator
    loss: Tensor = term(student, teacher, batch_of(target))
    return loss


def peer_losses(term: Term, student: Outputs, batch: Batch) -> list[Tensor]:
    """Of the batch's peers, when the student's update has added 0.1 to its first logit."""
    if not term.peers(term.config):
        return []
    updated = student._replace(logits=student.logits + 0.1 * torch.eye(1, CLASSES))
    said = {STUDENT: updated if term.takes_turns else student, **batch.peers}
    return [
        term.peer_loss(own, {other: said[other] for other in said if other != name}, batch)
        for name, own in batch.peers.items()
    ]


def all_losses(term: Term, student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
    loss = loss_of(term, student, teacher, target)
    return torch.stack([loss, *peer_losses(term, student, batch_of(target))])


def weights_of(network: Network) -> list[Tensor]:
    return [value.clone() for value in network.state_dict().values()]


_OUR_STAGES = ((8, 16, 16), (16, 8, 8), (32, 4, 4))
_THEIR_STAGES = ((6, 16, 16), (12, 8, 8), (24, 4, 4), (48, 2, 2))


def shapes_of(width: int, stages: tuple[tuple[int, int, int], ...]) -> Shapes:
    features: dict[str, tuple[int, ...]] = {CLASS_WEIGHTS: (CLASSES, width)}
    features |= {f"{STAGE_GRADIENT}{number}": shape for number, shape in enumerate(stages)}
    return Shapes(CLASSES, width, stages, stages, pooled=True, features=features)


OURS = shapes_of(32, _OUR_STAGES)
THEIRS = shapes_of(48, _THEIR_STAGES)
LATE = shapes_of(32, _OUR_STAGES[1:])
"""Pairs of stages with `THEIRS`: 0 with 1, 1 with 2."""


@pytest.fixture(params=TERMS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def term(name: str) -> Term:
    torch.manual_seed(1)
    return build(name, OURS, THEIRS)


def test_declares_what_it_reads_of_the_teacher(name: str) -> None:
    needs = term_class(name).needs
    assert isinstance(needs, frozenset)
    assert needs <= PARTS


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_a_finite_float32_scalar(term: Term, batch: int) -> None:
    student, teacher = random_outputs(OURS, batch, 1), random_outputs(THEIRS, batch, 2)
    loss = loss_of(term, student, teacher, torch.arange(batch))
    assert loss.shape == ()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    loss.backward()
    gradients = [part.grad for part in tensors(student) if part.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_agreeing_networks_give_finite_gradients(name: str) -> None:
    term = build(name, OURS, OURS)
    student = random_outputs(OURS, 3, 1)
    loss = loss_of(term, student, converted(student, torch.float32), torch.arange(3))
    loss.backward()
    assert loss.isfinite()
    assert all(part.grad.isfinite().all() for part in tensors(student) if part.grad is not None)


def test_reads_no_more_of_the_teacher_than_it_declares(name: str, term: Term) -> None:
    student, teacher = random_outputs(OURS, 3, 1), random_outputs(THEIRS, 3, 2)
    target = torch.arange(3)
    twin = copy.deepcopy(term)  # a term may remember what it saw
    whole = loss_of(term, student, teacher, target)
    missing: dict[str, object] = dict.fromkeys(PARTS - term.needs)
    missing["features"] = {key: teacher.features[key] for key in term.needs - PARTS}
    assert torch.equal(loss_of(twin, student, teacher._replace(**missing), target), whole)


def test_reads_all_of_the_teacher_that_it_declares(name: str, term: Term) -> None:
    student, teacher = random_outputs(OURS, 3, 1), random_outputs(THEIRS, 3, 2)
    other = random_outputs(THEIRS, 3, 3)
    target = torch.arange(3)
    whole = loss_of(copy.deepcopy(term), student, teacher, target)
    for part in term.needs:
        if part in PARTS:
            changed = teacher._replace(**{part: getattr(other, part)})
        else:
            changed = teacher._replace(features={**teacher.features, part: other.features[part]})
        assert not torch.equal(loss_of(copy.deepcopy(term), student, changed, target), whole), part


@pytest.mark.parametrize("student", [OURS, LATE], ids=["three stages", "two stages"])
def test_reads_no_deeper_than_it_says(name: str, student: Shapes) -> None:
    torch.manual_seed(1)
    term = build(name, student, THEIRS)
    whole_only = not term.needs or bool(term.needs & {"logits", "embedding"})
    assert (term.depth is None) == whole_only, "a term of feature maps says how deep it reads"
    if term.depth is not None:
        assert reads_to_its_depth(term, student, THEIRS)


def reads_to_its_depth(term: Term, student: Shapes, teacher: Shapes) -> bool:
    """Whether the term's loss is that of the whole teacher, and its last stage decides, too."""
    ours, theirs, other = (
        random_outputs(shapes, 3, seed) for seed, shapes in enumerate((student, teacher, teacher))
    )
    depth, target = term.depth, torch.arange(3)
    early = Outputs.early(theirs.stages[:depth], theirs.shortcuts[:depth])
    less = (depth or 0) - 1
    changed = Outputs.early(
        early.stages[:less] + other.stages[less:depth],
        early.shortcuts[:less] + other.shortcuts[less:depth],
    )
    whole, cut, moved = (
        loss_of(copy.deepcopy(term), ours, taught, target) for taught in (theirs, early, changed)
    )
    return torch.equal(cut, whole) and not torch.equal(moved, whole)


@pytest.mark.parametrize(
    ("name", "settings", "student", "depth"),
    [
        ("fitnet", {}, OURS, 2),
        ("fitnet", {"hint": 0}, OURS, 1),
        ("fitnet", {"hint": 2}, OURS, 3),
        ("fitnet", {"hint": 0}, LATE, 2),
        ("at", {}, OURS, 3),
        ("at", {"stages": "0"}, OURS, 1),
        ("at", {"stages": "1, 0"}, OURS, 2),
        ("at", {"stages": "0"}, LATE, 2),
        ("skip", {}, OURS, 3),
        ("skip", {"stage": 0}, OURS, 1),
        ("skip", {"stage": 0}, LATE, 2),
        ("ewa", {}, OURS, 3),
        ("ewa", {"stages": "0"}, LATE, 2),
        ("swa", {"stages": "0"}, OURS, None),
        ("sp", {}, OURS, 3),
        ("sp", {"stages": "all"}, LATE, 3),
        ("reviewkd", {"embedding": False}, OURS, 3),
        ("reviewkd", {"embedding": True}, OURS, None),
        ("srd", {"features": "full_map"}, OURS, None),
    ],
)
@pytest.mark.parametrize("shortcuts", [True, False], ids=["shortcuts", "no shortcuts"])
def test_the_depth_follows_the_settings(
    name: str, settings: dict[str, object], student: Shapes, depth: int | None, shortcuts: bool
) -> None:
    teacher = THEIRS if shortcuts else THEIRS._replace(shortcuts=())
    kind = term_class(name)
    torch.manual_seed(1)
    term = kind(kind.Config(**settings), student, teacher)
    assert term.depth == depth
    assert depth is None or reads_to_its_depth(term, student, teacher)


def test_a_method_reads_as_deep_as_its_deepest_term() -> None:
    def depth(method: str, **settings: object) -> int | None:
        return Method(method, resolve_settings(method, settings), OURS, THEIRS).depth

    assert depth("fitnet", hint=0) == 1
    assert depth("fitnet+at", **{"fitnet.hint": 0, "at.stages": "1"}) == 2
    assert depth("at+fitnet", **{"fitnet.hint": 2, "at.stages": "1"}) == 3
    assert depth("kd+fitnet") is None
    assert depth("fitnet+dml", hint=0) == 1, "a term that reads nothing asks for nothing"
    assert depth("student") is None


def test_bfloat16_outputs(term: Term) -> None:
    """As under autocast: half of the mantissa is lost in the inputs, none in the loss."""
    student, teacher = random_outputs(OURS, 4, 1), random_outputs(THEIRS, 4, 2)
    low = [converted(outputs, torch.bfloat16) for outputs in (student, teacher)]
    exact = [converted(outputs, torch.float32) for outputs in low]
    target = torch.arange(4)
    twin = copy.deepcopy(term)
    with torch.autocast("cpu", torch.bfloat16):
        loss = loss_of(twin, *low, target)
    assert loss.dtype == torch.float32
    tolerance = 0.05 if list(term.parameters()) else 1e-5  # adaptors compute in bfloat16
    torch.testing.assert_close(loss, loss_of(term, *exact, target), rtol=tolerance, atol=1e-6)


def test_is_deterministic(name: str, term: Term) -> None:
    torch.manual_seed(1)
    twin = build(name, OURS, THEIRS)
    student, teacher = random_outputs(OURS, 4, 1), random_outputs(THEIRS, 4, 2)
    losses = [all_losses(one, student, teacher, torch.arange(4)) for one in (term, twin)]
    assert torch.equal(*losses)


def test_state_dict_round_trip(name: str, term: Term) -> None:
    student, teacher = random_outputs(OURS, 4, 1), random_outputs(THEIRS, 4, 2)
    target = torch.arange(4)
    # Past its first state, as in the middle of a training.
    optimizer = torch.optim.SGD([*term.parameters(), *tensors(student)], lr=0.01)
    all_losses(term, student, teacher, target).sum().backward()
    optimizer.step()
    torch.manual_seed(99)
    twin = build(name, OURS, THEIRS)
    twin.load_state_dict(term.state_dict())
    losses = [all_losses(one.eval(), student, teacher, target) for one in (term, twin)]
    assert torch.equal(*losses)


def test_a_step_never_waits_for_the_device(
    term: Term, no_waiting: Callable[[], AbstractContextManager[object]]
) -> None:
    student, teacher = random_outputs(OURS, 4, 1), random_outputs(THEIRS, 4, 2)
    target = torch.arange(4)
    with no_waiting():
        for _ in range(2):
            loss_of(term, student, teacher, target).backward()
            for loss in peer_losses(term, student, batch_of(target)):
                loss.backward()


@pytest.mark.parametrize(("teacher", "student"), PAIRS)
def test_real_pairs_and_where_the_gradient_goes(name: str, teacher: str, student: str) -> None:
    networks = pair(teacher, student)
    term = networks.term(name).train()
    networks.student.train().zero_grad()
    outputs = said(networks, term)
    for part in tensors(outputs):
        part.retain_grad()
    loss = loss_of(term, outputs, networks.taught, networks.target)
    loss.backward()

    assert loss.isfinite()
    gradients = [part.grad for part in tensors(outputs) if part.grad is not None]
    assert any(gradient.abs().sum() > 0 for gradient in gradients)
    first = next(networks.student.parameters())
    assert first.grad is not None
    assert first.grad.abs().sum() > 0
    silent = [
        key
        for key, weight in term.named_parameters()
        if weight.requires_grad and (weight.grad is None or not weight.grad.abs().sum() > 0)
    ]
    assert silent == []
    assert all(weight.grad is None for weight in networks.teacher.parameters())


@pytest.mark.parametrize(
    ("teacher", "student"), [PAIRS[0], pytest.param(*PAIRS[1], marks=pytest.mark.soak)]
)
def test_its_loss_falls_in_training(name: str, teacher: str, student: str) -> None:
    networks = Pair(teacher, student)
    term = networks.term(name).train()
    networks.student.train()
    before = weights_of(networks.teacher)
    optimizer = torch.optim.Adam([*networks.student.parameters(), *term.parameters()], lr=3e-3)
    losses = []
    for _ in range(30):
        loss = loss_of(term, said(networks, term), networks.taught, networks.target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-3:]) / 3 < 0.9 * losses[0]
    after = weights_of(networks.teacher)
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))


def test_takes_a_share_of_the_cross_entropy_or_none(term: Term) -> None:
    assert 0 <= term.ce_share <= 1


@pytest.mark.parametrize("name", term_names())
def test_settings_are_complete(name: str) -> None:
    kind = term_class(name).Config
    assert dataclasses.is_dataclass(kind)
    assert set(settings_of(kind)) == {field.name for field in dataclasses.fields(kind)}
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(kind(), dataclasses.fields(kind)[0].name, 0)
    for key, found in settings_of(kind).items():
        assert len(found.help) > 3, key
        assert found.check(key, found.default) == found.default
        if found.search is not None:
            low, high = found.search
            assert low < high, key
            assert not found.log or low > 0, key
            assert read(kind, {key: low}) == {key: low}
            assert read(kind, {key: high}) == {key: high}


def test_the_loss_follows_every_number_of_its_config(name: str) -> None:
    """No setting is without effect: another choice gives another loss, or counts at other times."""
    kind = term_class(name)
    student, teacher = random_outputs(OURS, 4, 1), random_outputs(THEIRS, 4, 2)

    def made(config: object) -> Term:
        torch.manual_seed(1)
        return attached(kind(config, OURS, THEIRS), Classifier(THEIRS))

    def loss(term: Term) -> Tensor:
        return all_losses(term, student, teacher, torch.arange(4))

    usual = made(kind.Config())
    expected = loss(usual)
    for key, found in settings_of(kind.Config).items():
        values = [choice for choice in found.choices if choice != found.default]
        if found.search is not None:
            values = [value for value in found.search if value != found.default]
        for value in values:
            changed = made(kind.Config(**read(kind.Config, {key: value})))
            same = torch.equal(loss(changed), expected)
            assert changed.stretches != usual.stretches or not same, (key, value)


@pytest.mark.parametrize("name", term_names())
def test_cites_its_paper(name: str) -> None:
    text = sys.modules[term_class(name).__module__].__doc__ or ""
    assert re.search(r"arXiv:? ?\d{4}\.\d{4,5}|\b[A-Z][A-Za-z]*[A-Z]\w* (19|20)\d\d\b", text)
    title = text.splitlines()[0]
    assert ": " in title, "`kdsweep methods` shows what stands after the colon"


@pytest.fixture(params=MODIFIERS)
def modifier_name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def modifier(modifier_name: str) -> LogitModifier:
    kind = term_class(modifier_name)
    return kind(kind.Config())


def some_logits(*shape: int, seed: int = 1) -> Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) + 1


@pytest.mark.parametrize("shape", [(1, 2), (4, 10), (3, 100)])
def test_a_modifier_keeps_the_shape_and_changes_logits(
    modifier: LogitModifier, shape: tuple[int, int]
) -> None:
    logits = some_logits(*shape).requires_grad_()
    changed = modifier(logits)
    assert changed.shape == shape
    assert changed.dtype == torch.float32
    assert not torch.equal(changed, logits)
    assert torch.equal(changed, modifier(logits))
    changed.square().sum().backward()
    assert logits.grad.isfinite().all()


def test_a_modifier_treats_images_one_by_one(modifier: LogitModifier) -> None:
    logits = some_logits(5, 10)
    rows = torch.cat([modifier(row) for row in logits.split(1)])
    torch.testing.assert_close(modifier(logits), rows)


def test_a_modifier_takes_equal_logits(modifier: LogitModifier) -> None:
    logits = torch.ones(2, 10, requires_grad=True)
    changed = modifier(logits)
    changed.square().sum().backward()
    assert changed.isfinite().all()
    assert logits.grad.isfinite().all()


def test_a_modifier_of_bfloat16_logits(modifier: LogitModifier) -> None:
    logits = some_logits(4, 10).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        changed = modifier(logits)
    assert changed.dtype == torch.float32
    torch.testing.assert_close(changed, modifier(logits.float()))


def joined(method: str, **settings: object) -> Method:
    torch.manual_seed(1)
    made = Method(method, resolve_settings(method, settings), OURS, THEIRS)
    made.attach(Classifier(THEIRS), labels=torch.arange(60) % CLASSES, indices=torch.arange(50))
    return made


def summands(method: Method, student: Outputs, teacher: Outputs) -> Tensor:
    torch.manual_seed(2)
    losses: Tensor = method(student, teacher, batch_of(torch.arange(4)))
    return losses


@pytest.mark.parametrize("name", TERMS)
def test_a_modifier_changes_the_terms_with_a_softmax_only(modifier_name: str, name: str) -> None:
    method = (
        f"{SOFTMAX[0]}+{name}+{modifier_name}" if name != SOFTMAX[0] else f"{name}+{modifier_name}"
    )
    student, teacher = random_outputs(OURS, 4, 1), random_outputs(THEIRS, 4, 2)
    found = joined(method)
    plain = joined(method.removesuffix(f"+{modifier_name}"))
    assert found.parts == plain.parts
    assert found.needs == plain.needs
    losses, usual = summands(found, student, teacher), summands(plain, student, teacher)
    assert losses.isfinite().all()
    assert losses[0] == usual[0]  # the cross-entropy
    changed = {part for part, a, b in zip(found.parts, losses, usual, strict=True) if a != b}
    assert changed == {SOFTMAX[0], name} & set(SOFTMAX)


@pytest.mark.parametrize("name", SOFTMAX)
def test_modified_terms_follow_the_numbers_of_the_modifier(modifier_name: str, name: str) -> None:
    student, teacher = random_outputs(OURS, 4, 1), random_outputs(THEIRS, 4, 2)
    method = f"{name}+{modifier_name}"
    usual = summands(joined(method), student, teacher)
    for key, found in settings_of(term_class(modifier_name).Config).items():
        assert found.search is not None
        for value in found.search:
            changed = summands(
                joined(method, **{f"{modifier_name}.{key}": value}), student, teacher
            )
            assert not torch.equal(changed[1:], usual[1:]), (key, value)


def test_modified_losses_reach_the_student(modifier_name: str) -> None:
    for name in SOFTMAX:
        student, teacher = random_outputs(OURS, 4, 1), random_outputs(THEIRS, 4, 2)
        summands(joined(f"{name}+{modifier_name}"), student, teacher)[1:].sum().backward()
        assert student.logits.grad.isfinite().all()
        assert student.logits.grad.abs().sum() > 0


def test_a_modifier_needs_a_term_with_a_softmax(modifier_name: str) -> None:
    others = [name for name in TERMS if name not in SOFTMAX]
    for method in (modifier_name, *(f"{name}+{modifier_name}" for name in others)):
        with pytest.raises(UserError, match=f"'{modifier_name}' changes the logits.*join it"):
            parse_method(method)
    for name in SOFTMAX:
        assert set(parse_method(f"{modifier_name}+{name}")) == {name, modifier_name}


@pytest.fixture(params=PEERED)
def peered(request: pytest.FixtureRequest) -> Term:
    torch.manual_seed(1)
    return build(request.param, OURS, THEIRS)


def gradients(network: torch.nn.Module) -> list[Tensor]:
    return [weight.grad for weight in network.parameters() if weight.grad is not None]


def test_peers_have_names_and_models(peered: Term) -> None:
    for name, model in peered.peers(peered.config).items():
        assert "." not in name
        assert name != STUDENT
        create_model(model or "wrn_10_0.5", CLASSES, IMAGE)


def reached(outputs: Outputs) -> bool:
    return any(part.grad is not None and part.grad.any() for part in tensors(outputs))


def test_the_students_loss_leaves_the_peers_alone(peered: Term) -> None:
    student, teacher = random_outputs(OURS, 4, 1), random_outputs(THEIRS, 4, 2)
    batch = batch_of(torch.arange(4))
    peered(student, teacher, batch).backward()
    assert reached(student)
    assert not any(map(reached, batch.peers.values()))


def test_a_peers_loss_reaches_that_peer_only(peered: Term) -> None:
    student = random_outputs(OURS, 4, 1)
    for name in PEERS:
        batch = batch_of(torch.arange(4))
        loss = peer_losses(peered, student, batch)[PEERS.index(name)]
        assert loss.shape == ()
        assert loss.dtype == torch.float32
        loss.backward()
        assert batch.peers[name].logits.grad.isfinite().all()
        assert [other for other, said in batch.peers.items() if reached(said)] == [name]
    assert not reached(student)


def test_no_graph_outlives_the_step(name: str, term: Term) -> None:
    student, teacher = random_outputs(OURS, 4, 1), random_outputs(THEIRS, 4, 2)
    all_losses(term, student, teacher, torch.arange(4)).sum().backward()
    copy.deepcopy(term)  # refuses tensors with a graph


class Changer(NamedTuple):
    """A modifier of images in one of its forms.

    Attributes:
        name: in the registry.
        settings: by full key; of the defaults, one is replaced by another choice.
    """

    name: str
    settings: dict[str, object]

    def build(self) -> InputModifier:
        kind = term_class(self.name)
        own = {key.partition(".")[2]: value for key, value in self.settings.items()}
        return kind(kind.Config(**own))

    def __str__(self) -> str:
        return "-".join([self.name, *(str(value) for value in self.settings.values())])


def changers() -> Iterator[Changer]:
    for name in INPUT_MODIFIERS:
        yield Changer(name, {})
        for key, found in settings_of(term_class(name).Config).items():
            for choice in found.choices:
                if choice != found.default:
                    yield Changer(name, {f"{name}.{key}": choice})


@pytest.fixture(params=list(changers()), ids=str)
def changer(request: pytest.FixtureRequest) -> Changer:
    return request.param


def drawn(modifier: InputModifier, size: int, seed: int = 3) -> Batch:
    torch.manual_seed(seed)
    return modifier.draw(batch_of(torch.arange(size) % CLASSES))


def test_an_input_modifier_declares_what_it_reads(changer: Changer) -> None:
    assert isinstance(term_class(changer.name).needs, frozenset)
    assert term_class(changer.name).needs <= PARTS


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("size", [1, 2, 8])
def test_changed_images_keep_shape_and_dtype(
    changer: Changer, size: int, dtype: torch.dtype
) -> None:
    modifier = changer.build()
    images = some_images(size).to(dtype).to(memory_format=torch.channels_last)
    before = images.clone()
    changed = modifier(images, drawn(modifier, size))
    assert changed.shape == images.shape
    assert changed.dtype == dtype
    assert changed.isfinite().all()
    assert changed.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(images, before)
    assert size < 8 or not torch.equal(changed, images)


def test_a_draw_keeps_what_the_batch_says(changer: Changer) -> None:
    given = batch_of(torch.arange(5))
    batch = changer.build().draw(given)
    assert torch.equal(batch.target, given.target)
    assert torch.equal(batch.indices, given.indices)
    assert (batch.epoch, batch.progress) == (given.epoch, given.progress)
    assert term_class(changer.name).mixes_labels or batch.mix is None


def test_draws_come_from_torchs_generator(changer: Changer) -> None:
    first, second = changer.build(), changer.build()
    second.load_state_dict(first.state_dict())
    images = some_images(5)
    changed = [one(images, drawn(one, 5)) for one in (first, second, first)]
    assert torch.equal(changed[0], changed[1])
    assert torch.equal(changed[0], changed[2])
    state = torch.random.get_rng_state()
    first(images, drawn(first, 5))
    torch.random.set_rng_state(state)
    drawn(first, 5)
    assert torch.equal(torch.random.get_rng_state(), state), "only `draw` draws"


def test_labels_reach_a_student_that_sees_changed_images(
    changer: Changer, no_waiting: Callable[[], AbstractContextManager[object]]
) -> None:
    modifier = changer.build()
    network = create_model("wrn_10_0.5", CLASSES, IMAGE)
    with no_waiting():
        batch = drawn(modifier, 4)
        loss = cross_entropy(network(modifier(some_images(4), batch)).logits, batch)
        loss.backward()
    assert loss.shape == ()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients(network))
    assert len(gradients(network)) == len([*network.parameters()])


@pytest.mark.parametrize("name", TERMS)
def test_terms_join_a_modifier_of_images_or_say_why_not(changer: Changer, name: str) -> None:
    method = f"{name}+{changer.name}"
    kind, modifier = term_class(name), changer.build()
    if kind.one_label and modifier.mixes_labels:
        with pytest.raises(UserError, match=f"'{name}' reads the one true class"):
            parse_method(method)
        return
    serves = modifier.plain_serves
    if modifier.plain_teacher and serves is not None and kind.needs - serves:
        with pytest.raises(UserError, match="terms that read logits only"):
            joined(method, **changer.settings)
        return
    made = joined(method, **changer.settings)
    assert made.parts == ("ce", name)
    assert made.needs == made.terms[name].needs >= kind.needs
    assert made.plain_teacher == modifier.plain_teacher
    torch.manual_seed(2)
    batch = made.draw(batch_of(torch.arange(4)))
    batch = batch._replace(inputs=made.images(batch.inputs, batch))
    student, teacher = random_outputs(OURS, 4, 1), random_outputs(THEIRS, 4, 2)
    losses = made(student, made.taught(teacher, batch), batch)
    assert losses.isfinite().all()
    losses[1].backward()
    assert any(part.grad is not None and part.grad.abs().sum() > 0 for part in tensors(student))
