"""How terms, their weights and the cross-entropy become one loss."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from trainables.errors import UserError
from trainables.methods import registry
from trainables.methods.at import at_loss
from trainables.methods.dml import DML
from trainables.methods.kd import KD, kd_loss
from trainables.methods.method import Method
from trainables.methods.registry import (
    TERMS,
    WITHOUT_TEACHER,
    canonical_method,
    method_settings,
    needs_teacher,
    parse_method,
    resolve_settings,
    term_class,
    term_names,
)
from trainables.methods.term import Batch, Term
from trainables.models.features import CLASS_WEIGHTS
from trainables.models.outputs import Network, Outputs, Shapes
from trainables.settings import settings_of

ASKED = {CLASS_WEIGHTS: (10, 8)}
SHAPES = Shapes(10, 8, ((4, 8, 8), (8, 4, 4)), pooled=True, features=ASKED)


def outputs(seed: int) -> Outputs:
    draw = torch.Generator().manual_seed(seed)
    return Outputs(
        torch.randn(5, 10, generator=draw),
        torch.randn(5, 8, generator=draw),
        tuple(torch.randn(5, *shape, generator=draw) for shape in SHAPES.stages),
        features={key: torch.randn(*shape, generator=draw) for key, shape in ASKED.items()},
    )


STUDENT, TEACHER, TARGET = outputs(1), outputs(2), torch.arange(5)
BATCH = Batch(
    TARGET, indices=torch.arange(5), epoch=30.0, progress=0.5, peers={"dml.1": outputs(4)}
)

CLASSIFIER = Network()
CLASSIFIER.classifier = torch.nn.Linear(8, 10)


def method(name: str, **settings: object) -> Method:
    values = {key.replace("__", "."): value for key, value in settings.items()}
    return Method(name, resolve_settings(name, values), SHAPES, SHAPES)


def test_plain_training_is_cross_entropy() -> None:
    plain = Method("student", {}, SHAPES, None)
    assert plain.parts == ("ce",)
    assert plain.needs == frozenset()
    losses = plain(STUDENT, None, BATCH)
    torch.testing.assert_close(losses, F.cross_entropy(STUDENT.logits, TARGET)[None])


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.9, 1.0])
def test_kd_shares_with_the_labels(alpha: float) -> None:
    found = method("kd", alpha=alpha, temperature=3)(STUDENT, TEACHER, BATCH)
    ce = (1 - alpha) * F.cross_entropy(STUDENT.logits, TARGET)
    kd = alpha * kd_loss(STUDENT.logits, TEACHER.logits, 3.0)
    torch.testing.assert_close(found, torch.stack([ce, kd]))


def test_a_softmax_that_a_setting_takes_away_cannot_be_changed() -> None:
    with pytest.raises(UserError, match=r"ls changes logits before a softmax.*bernoulli"):
        method("kd+ls", kd__form="bernoulli")
    losses = method("kd+dist+ls", kd__form="bernoulli")(STUDENT, TEACHER, BATCH)
    kd = method("kd", form="bernoulli")(STUDENT, TEACHER, BATCH)
    torch.testing.assert_close(losses[1], kd[1])


def test_weights_are_listed_one_by_one() -> None:
    made = method("kd+at+dist", kd__alpha=0.8, kd__temperature=2, at__beta=500, dist__gamma=3)
    expected = {"ce": 0.2, "kd.alpha": 0.8, "at.beta": 500, "dist.beta": 2, "dist.gamma": 3}
    assert made.weights == pytest.approx(expected)
    assert Method("student", {}, SHAPES, None).weights == {"ce": 1.0}


@pytest.mark.parametrize("name", term_names())
def test_every_weighted_loss_says_which_setting_is_its_weight(name: str) -> None:
    kind = term_class(name)
    if issubclass(kind, Term):
        assert any(found.weight for found in settings_of(kind.Config).values())


def test_kd_and_at_add_up() -> None:
    made = method("kd+at", kd__alpha=0.8, kd__temperature=2, at__beta=500)
    assert made.parts == ("ce", "kd", "at")
    assert made.needs == {"logits", "stages"}
    attention = sum(
        at_loss(ours, theirs) for ours, theirs in zip(STUDENT.stages, TEACHER.stages, strict=True)
    )
    expected = [
        0.2 * F.cross_entropy(STUDENT.logits, TARGET),
        0.8 * kd_loss(STUDENT.logits, TEACHER.logits, 2.0),
        500 * attention,
    ]
    losses = made(STUDENT, TEACHER, BATCH)
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, torch.stack(expected))


def test_terms_without_a_share_leave_the_cross_entropy_whole() -> None:
    losses = method("at+dist")(STUDENT, TEACHER, BATCH)
    torch.testing.assert_close(losses[0], F.cross_entropy(STUDENT.logits, TARGET))


class SecondKD(KD):
    """Takes a share of the cross-entropy, as KD does."""


def test_shares_above_the_whole_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.TERMS, "second", f"{__name__}:SecondKD")
    try:
        assert method("kd+second", kd__alpha=0.5, second__alpha=0.5).ce_weight == 0
        with pytest.raises(UserError, match=r"take over 1\.1 of the cross-entropy.*alpha"):
            method("kd+second", kd__alpha=0.5, second__alpha=0.6)
    finally:
        term_class.cache_clear()


class SecondDML(DML):
    """Has peers, as DML has."""


def test_peers_of_two_terms_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.TERMS, "second", f"{__name__}:SecondDML")
    try:
        with pytest.raises(UserError, match="'dml\\+second': dml and second both have networks"):
            method("dml+second")
    finally:
        term_class.cache_clear()


def test_a_teacher_is_asked_for() -> None:
    with pytest.raises(UserError, match="'kd' needs a teacher"):
        Method("kd", resolve_settings("kd", {}), SHAPES, None)


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("at+kd", "kd+at"),
        ("kd+at", "kd+at"),
        ("dist+at", "at+dist"),
        ("dist + kd + at", "kd+at+dist"),
        ("student", "student"),
        ("kd", "kd"),
        ("ls+at+kd", "kd+at+ls"),
        ("ls+dkd", "dkd+ls"),
    ],
)
def test_one_spelling(written: str, canonical: str) -> None:
    assert canonical_method(written) == canonical
    assert canonical_method(canonical) == canonical
    assert sorted(method_settings(written)) == sorted(method_settings(canonical))


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("dst", "unknown method 'dst'; did you mean dist"),
        ("xyz", "unknown method 'xyz'; known: "),
        ("kd+", "unknown method ''"),
        ("kd+student", "'student' is cross-entropy alone"),
        ("kd+at+kd", "named twice"),
        ("ls", "'ls' changes the logits that another term reads; .*kd\\+ls"),
        ("at+ls", "method 'at\\+ls': 'ls' changes"),
    ],
)
def test_wrong_methods(written: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_method(written)


def test_every_pair_of_terms_composes() -> None:
    terms = [name for name in term_names() if issubclass(term_class(name), Term)]
    for first, second in itertools.combinations(terms, 2):
        share = sum(1 - method(name).ce_weight for name in (first, second))
        if share <= 1:
            made = method(f"{first}+{second}")
            made.attach(CLASSIFIER, labels=torch.arange(20) % 10, indices=torch.arange(20))
            losses = made(STUDENT, TEACHER, BATCH)
            assert losses.shape == (3,)
            assert losses.isfinite().all()
        else:
            with pytest.raises(UserError, match="cross-entropy"):
                method(f"{first}+{second}")


def test_settings_are_completed_and_typed() -> None:
    found = resolve_settings("kd", {"temperature": 7})
    assert found == {
        "kd.alpha": 0.9,
        "kd.temperature": 7.0,
        "kd.form": "softmax",
        "kd.teacher": "teacher",
    }
    assert isinstance(found["kd.temperature"], float)


def test_a_bare_name_goes_to_every_term_and_the_full_key_wins() -> None:
    found = resolve_settings("kd+dist", {"temperature": 2, "dist.temperature": 5})
    assert found["kd.temperature"] == 2
    assert found["dist.temperature"] == 5


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kd.temperatur": 1}, r"unknown key for method 'kd' 'kd.temperatur'; did you mean"),
        ({"at.beta": 1}, "unknown key for method 'kd' 'at.beta'"),
        ({"kd.alpha": 1.5}, "kd.alpha: expected a number from 0 to 1, got 1.5"),
        ({"alpha": -0.1}, "alpha: expected a number from 0 to 1, got -0.1"),
        ({"temperature": 0}, "temperature: expected a number > 0, got 0"),
        ({"temperature": "hot"}, "temperature: expected a number > 0, got 'hot'"),
        ({"temperature": None}, "temperature: expected a number > 0, got None"),
    ],
)
def test_wrong_settings_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve_settings("kd", values)


def test_which_terms_read_no_teacher_is_known_before_they_are_loaded() -> None:
    kinds = {name: term_class(name) for name in TERMS}
    reading = {name for name, one in kinds.items() if one.needs or getattr(one, "reads_maps", 0)}
    assert TERMS.keys() - reading == WITHOUT_TEACHER
    for name in TERMS:
        assert needs_teacher(name) == (name not in WITHOUT_TEACHER)
