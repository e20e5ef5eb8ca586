"""Skip-connection distillation against a float64 reference, its limits, and every kind of pair."""

import functools

import numpy as np
import pytest
import torch

from trainables.errors import UserError
from trainables.methods.method import Method
from trainables.methods.registry import resolve_settings
from trainables.methods.skip import Skip, SkipConfig, skip_loss
from trainables.methods.term import Batch
from trainables.models.outputs import Outputs, Shapes
from trainables.models.registry import create_model
from trainables.models.shapes import output_shapes

STAGES = ((3, 8, 8), (4, 4, 4), (6, 2, 2))
RESIDUAL = Shapes(10, 6, STAGES, STAGES)
PLAIN = Shapes(10, 6, STAGES)
WIDER = ((5, 8, 8), (7, 4, 4), (8, 2, 2))
WIDER_RESIDUAL, WIDER_PLAIN = Shapes(10, 8, WIDER, WIDER), Shapes(10, 8, WIDER)
BATCH = Batch(torch.arange(4), torch.arange(4), 30.0, 0.5)
IMAGE = (3, 32, 32)


def draw(*shape: int, seed: int) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def outputs(shapes: Shapes, seed: int) -> Outputs:
    """Rectified stages; shortcuts of either sign."""

    def maps(of: tuple[tuple[int, int, int], ...], seed: int) -> tuple[torch.Tensor, ...]:
        return tuple(torch.tensor(draw(4, *shape, seed=seed)).float() for shape in of)

    stages = tuple(stage.relu() for stage in maps(shapes.stages, seed))
    logits = torch.tensor(draw(4, 10, seed=seed)).float()
    return Outputs(logits, stages[-1].mean((2, 3)), stages, maps(shapes.shortcuts, seed + 100))


@pytest.mark.parametrize("shape", [(1, 2, 1, 1), (3, 4, 5, 2)])
def test_value(shape: tuple[int, ...]) -> None:
    ours, theirs = draw(*shape, seed=1), draw(*shape, seed=2)
    loss = skip_loss(torch.tensor(ours), torch.tensor(theirs))
    assert loss.item() == pytest.approx(((ours - theirs) ** 2).mean(), rel=1e-5)


@pytest.mark.parametrize("stage", [None, 0, 1, 2])
def test_networks_of_one_shape_are_compared_as_they_are(stage: int | None) -> None:
    term = Skip(SkipConfig(alpha=0.7, stage=stage), RESIDUAL, RESIDUAL)
    assert not list(term.parameters())
    student, teacher = outputs(RESIDUAL, 1), outputs(RESIDUAL, 2)
    index = 2 if stage is None else stage
    ours = draw(4, *STAGES[index], seed=101)
    theirs = draw(4, *STAGES[index], seed=102)
    loss = term(student, teacher, BATCH).item()
    assert loss == pytest.approx(0.7 * ((ours - theirs) ** 2).mean(), rel=1e-5)
    assert term(student, student, BATCH).item() == 0


def test_the_whole_loss_of_the_repository() -> None:
    """CE + 0.3 · mean (S_s − S_t)², the cross-entropy whole."""
    made = Method("skip", resolve_settings("skip", {}), RESIDUAL, RESIDUAL)
    student, teacher = outputs(RESIDUAL, 1), outputs(RESIDUAL, 2)
    logits = student.logits.double().numpy()
    ce = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(4), np.arange(4)]
    square = (draw(4, 6, 2, 2, seed=101) - draw(4, 6, 2, 2, seed=102)) ** 2
    found = made(student, teacher, BATCH)
    np.testing.assert_allclose(found, [ce.mean(), 0.3 * square.mean()], rtol=1e-5)


def test_other_shapes_go_through_an_adaptor_without_relu() -> None:
    term = Skip(SkipConfig(alpha=2, stage=1), RESIDUAL, WIDER_RESIDUAL).eval()
    student, teacher = outputs(RESIDUAL, 1), outputs(WIDER_RESIDUAL, 2)
    adapted = term.adaptor(student.shortcuts[1])
    assert adapted.shape == teacher.shortcuts[1].shape
    assert (adapted < 0).any()
    expected = 2 * skip_loss(adapted, teacher.shortcuts[1])
    torch.testing.assert_close(term(student, teacher, BATCH), expected)


@pytest.mark.parametrize("larger", ["student", "teacher"])
def test_the_larger_map_is_pooled(larger: str) -> None:
    small, large = Shapes(10, 6, ((6, 2, 2),)), Shapes(10, 6, ((6, 4, 4),))
    shapes = (large, small) if larger == "student" else (small, large)
    term = Skip(SkipConfig(alpha=1), *shapes).eval()
    torch.nn.init.dirac_(term.adaptor.layers[0].weight)
    ours, theirs = (outputs(one, seed) for seed, one in enumerate(shapes))
    maps = [one.stages[0].double().numpy() for one in (ours, theirs)]
    maps = [m.reshape(4, 6, 2, m.shape[2] // 2, 2, m.shape[3] // 2).mean((3, 5)) for m in maps]
    loss = term(ours, theirs, BATCH).item()
    assert loss == pytest.approx(((maps[0] - maps[1]) ** 2).mean(), rel=1e-4)


@pytest.mark.parametrize("student", [RESIDUAL, PLAIN])
@pytest.mark.parametrize("teacher", [WIDER_RESIDUAL, WIDER_PLAIN])
def test_stages_stand_in_for_shortcuts(student: Shapes, teacher: Shapes) -> None:
    term = Skip(SkipConfig(alpha=1), student, teacher).eval()
    assert term.needs == {"shortcuts" if teacher.shortcuts else "stages"}
    ours, theirs = outputs(student, 1), outputs(teacher, 2)
    adapted = term.adaptor((ours.shortcuts or ours.stages)[2])
    expected = skip_loss(adapted, (theirs.shortcuts or theirs.stages)[2])
    torch.testing.assert_close(term(ours, theirs, BATCH), expected)


def test_a_stage_that_is_not_there_is_named() -> None:
    with pytest.raises(UserError, match=r"skip\.stage: .* 3 pairs .*; got 3"):
        Skip(SkipConfig(stage=3), RESIDUAL, WIDER_PLAIN)


@functools.cache
def shapes_of(model: str) -> Shapes:
    with torch.device("meta"):
        return output_shapes(create_model(model, 10, IMAGE), IMAGE)


@pytest.mark.parametrize(
    ("teacher", "student", "stage", "values"),
    [  # values per image of the shortcut that the repository exports
        ("resnet34", "resnet18", None, 512 * 4 * 4),
        ("resnet18-eca_parallel", "resnet18-eca_parallel", None, 512 * 4 * 4),
        ("resnet152", "resnet50", 2, 1024 * 8 * 8),
    ],
)
def test_the_pairs_of_the_repository(
    teacher: str, student: str, stage: int | None, values: int
) -> None:
    term = Skip(SkipConfig(stage=stage), shapes_of(student), shapes_of(teacher))
    assert term.adaptor is None
    assert np.prod(shapes_of(student).shortcuts[term.pair[0]]) == values


@pytest.mark.parametrize(
    ("teacher", "student"),
    [
        ("resnet152", "resnet18"),
        ("resnet50", "resnet18-eca_last_x0.5"),
        ("vgg13", "mobilenetv2"),
        ("wrn_40_2", "resnet8x4"),
        ("mobilenetv2", "wrn_16_1"),
        ("timm:resnet18", "vgg11_x0.5"),
        ("resnet20", "mobilenetv2-minus17"),
    ],
)
@pytest.mark.parametrize("stage", [None, 0])
def test_every_pair_works(teacher: str, student: str, stage: int | None) -> None:
    ours, theirs = shapes_of(student), shapes_of(teacher)
    made = Method("skip", resolve_settings("skip", {"stage": stage}), ours, theirs)
    loss = made(outputs(ours, 1), outputs(theirs, 2), BATCH)
    assert loss.isfinite().all()
    assert loss[1] > 0


def test_it_trains_the_projection_of_a_real_student() -> None:
    """The loss alone reaches the last projection, and nothing behind it."""
    torch.manual_seed(0)
    student, teacher = (create_model("resnet8", 10, IMAGE) for _ in range(2))
    term = Skip(SkipConfig(), *(output_shapes(one, IMAGE) for one in (student, teacher)))
    images = torch.randn(4, *IMAGE)
    with torch.no_grad():
        taught = teacher.eval()(images)
    term(student(images), taught, BATCH).backward()
    reached = {key for key, weight in student.named_parameters() if weight.grad is not None}
    assert {"conv1.weight", "layer3.0.downsample.0.weight"} <= reached
    assert not reached & {"layer3.0.conv2.weight", "classifier.weight"}
