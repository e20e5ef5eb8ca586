"""Published: the numbers of a published table, beside the study that repeats its experiment."""

from typing import Annotated

from pydantic import Field

from search_spaces.dimension import Strict, Value, setting_of
from search_spaces.pairs import ARROW
from trainables.compression.registry import PARTS
from trainables.errors import UserError
from trainables.methods.registry import canonical_method

STEP = " + "
"""Stands before each step of a student's compression."""

Percent = Annotated[float, Field(gt=0, le=100)]
ByPair = dict[str, Percent]


class Published(Strict):
    """Test accuracies in percent as somebody published them, by method and by pair.

    A pair is called TEACHER->STUDENT: as the rows of its trials name the teacher, and the
    student's network; behind it the steps of a compression with their amounts, as tables write
    them: ``resnet50->resnet18 + gpfq 4``. A cell that the source leaves empty is absent.
    """

    source: str = Field(min_length=1, description="where the numbers are from")
    dataset: str = Field(description="the data set that they are for")
    note: str = Field("", description="how they came about: runs, which epoch, chosen by what")
    protocol: dict[str, Value] = Field(
        default_factory=dict,
        description="settings of the published trials; a table says where ours differ",
    )
    test_acc: dict[str, ByPair] = Field(
        min_length=1, description="by method, then by pair, in percent"
    )
    teacher: dict[str, Percent] = Field(
        default_factory=dict, description="of the teachers, in percent"
    )
    others: dict[str, ByPair] = Field(
        default_factory=dict,
        description="of what no method here is or another protocol had, by a name and by pair",
    )

    def check(self) -> None:
        """Checks the names of methods, of networks and of settings.

        Raises:
            UserError: one is unknown, or not in its one spelling; a value is out of its range.
        """
        for method, row in self.test_acc.items():
            _check_method(method)
            _check_pairs(f"test_acc.{method}", row)
        for name, row in self.others.items():
            _check_pairs(f"others.{name}", row)
        for key, value in self.protocol.items():
            setting_of(key).check(f"protocol.{key}", value)

    def pairs(self) -> list[tuple[str, str]]:
        """Teacher and student of every pair, in the written order."""
        rows = [*self.test_acc.values(), *self.others.values()]
        return list(dict.fromkeys(split_pair(name) for row in rows for name in row))

    def of_pair(self, teacher: str, student: str) -> tuple[dict[str, float], dict[str, float]]:
        """The numbers of one pair in percent: by method, and those of `others` by name."""
        pair = join_pair(teacher, student)
        methods, others = (
            {name: row[pair] for name, row in rows.items() if pair in row}
            for rows in (self.test_acc, self.others)
        )
        return methods, others


def split_pair(name: str) -> tuple[str, str]:
    """Teacher and student of TEACHER->STUDENT."""
    teacher, _, student = name.partition(ARROW)
    return teacher, student


def join_pair(teacher: str, student: str) -> str:
    """TEACHER->STUDENT."""
    return f"{teacher}{ARROW}{student}"


def _check_method(method: str) -> None:
    try:
        canonical = canonical_method(method)
    except UserError as error:
        raise UserError(f"test_acc.{method}: {error}") from error
    if canonical != method:
        raise UserError(f"test_acc.{method}: expected the spelling {canonical}")


def _check_pairs(key: str, row: ByPair) -> None:
    from trainables.models.registry import canonical_name

    for name in row:
        teacher, student = split_pair(name)
        if not teacher or not student:
            raise UserError(f"{key}.{name}: expected TEACHER{ARROW}STUDENT")
        model, *steps = student.split(STEP)
        try:
            canonical = canonical_name(model)
            for step in steps:
                PARTS.check(step.partition(" ")[0])
        except UserError as error:
            raise UserError(f"{key}.{name}: {error}") from error
        if canonical != model:
            raise UserError(f"{key}.{name}: the student's name is {canonical}")
