"""What a term reads of the teacher: what it declares, and no deeper than it says."""

import copy

import pytest
import torch
from every_term import LATE, OURS, PARTS, THEIRS, build, loss_of, random_outputs

from trainables.methods.method import Method
from trainables.methods.registry import resolve_settings, term_class
from trainables.methods.term import Term
from trainables.models.outputs import Outputs, Shapes


def test_declares_what_it_reads_of_the_teacher(name: str) -> None:
    needs = term_class(name).needs
    assert isinstance(needs, frozenset)
    assert needs <= PARTS


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
        return Method(method, resolve_settings(method, settings), OURS, THEIRS).depth()

    assert depth("fitnet", hint=0) == 1
    assert depth("fitnet+at", **{"fitnet.hint": 0, "at.stages": "1"}) == 2
    assert depth("at+fitnet", **{"fitnet.hint": 2, "at.stages": "1"}) == 3
    assert depth("kd+fitnet") is None
    assert depth("fitnet+dml", hint=0) == 1, "a term that reads nothing asks for nothing"
    assert depth("student") is None
