"""What a sweep is asked to train: proposals, and the sources that they come from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from trainables.config import TrialConfig

Row = Mapping[str, Any]

TRAINED, ANSWERED = "trained", "answered"
"""States of a proposal that was told: by a trial of its own, or by those of others alone."""


def refused(row: Row) -> bool:
    """Whether a trial was not trained because of what its student costs."""
    return row["status"] == "infeasible" and row.get("violations") is not None


@dataclass(frozen=True)
class Proposal:
    """A config to train, once per repeat.

    Attributes:
        number: counts the proposals of a source from 0.
        configs: one per repeat, alike but for their seeds.
        row: of the store's ``proposals``, from which it can be made again; None where that needs
            no row.
    """

    number: int
    configs: tuple[TrialConfig, ...]
    row: Row | None = None


@dataclass(frozen=True)
class Known:
    """A proposal of an earlier run.

    Attributes:
        row: of the store's ``proposals``.
        told: the ``trials`` rows that its source was told, one per repeat; None: none yet.
    """

    row: Row
    told: Sequence[Row] | None = None

    @property
    def answered(self) -> bool:
        """Whether those rows were all of earlier, equal trials."""
        return self.told is not None and self.row["state"] == ANSWERED


class Source(Protocol):
    """Gives configs and is told how they did.

    Attributes:
        total: trials that it will have given in the end, as far as it knows now.
        replaces: whether a further proposal follows one that earlier results answer.
    """

    total: int
    replaces: bool

    def unfinished(self) -> list[Proposal]:
        """Proposals of an interrupted run that were never told."""

    def ask(self) -> Proposal | None:
        """The next proposal; None where there is none left."""

    def tell(self, number: int, rows: Sequence[Row], *, answered: bool) -> None:
        """How a proposal did: its ``trials`` rows, one per repeat.

        Args:
            number: the proposal's.
            rows: any that is not ``completed`` decides for all.
            answered: whether the rows are those of earlier, equal trials.
        """

    def keep(self) -> None:
        """Brings what others look at up to date."""


class ListSource:
    """Given configs, in order."""

    def __init__(self, groups: Sequence[Sequence[TrialConfig]]) -> None:
        self._proposals = [Proposal(i, tuple(group)) for i, group in enumerate(groups)]
        self._next = 0
        self.total = sum(len(group) for group in groups)
        self.replaces = False

    def unfinished(self) -> list[Proposal]:
        return []

    def ask(self) -> Proposal | None:
        if self._next == len(self._proposals):
            return None
        self._next += 1
        return self._proposals[self._next - 1]

    def tell(self, number: int, rows: Sequence[Row], *, answered: bool) -> None:
        pass

    def keep(self) -> None:
        pass
