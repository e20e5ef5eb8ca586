"""Space: the dimensions of a study, and which of them a trial has."""

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from search_spaces.dimension import MAX_GRID, Dimension, Value, applies, grid_values
from search_spaces.form import decides_first
from search_spaces.pairs import PAIR
from trainables.errors import UserError

if TYPE_CHECKING:
    from search_spaces.spec import Study

Draw = Callable[[str, Dimension], Value]

MAX_CORNERS = 2000


class Space(dict[str, Dimension]):
    """All dimensions by key: the choice of a pair, where there are pairs, and the written ones.

    A setting of a term exists where the method has the term, one of a compression's part where the
    trial's compression has the part, one of an update rule where the trial has the rule, anything
    else where its ``when`` holds.

    Args:
        study: says them, and what its trials share.
    """

    def __init__(self, study: "Study") -> None:
        choice = {"choices": list(study.pairs)}
        super().__init__({PAIR: Dimension.model_validate(choice)} if study.pairs else {})
        self.update(study.dimensions)
        self._study = study

    def draw(self, draw: Draw) -> dict[str, Value]:
        """Draws every dimension that exists in a trial, those that decide others first.

        Args:
            draw: gives a value for a dimension, by its key.
        """
        values: dict[str, Value] = {}
        for key in sorted(self, key=decides_first):
            if self._exists(key, values):
                values[key] = draw(key, self[key])
        return values

    def corner(self, chosen: Mapping[str, Value]) -> dict[str, Value]:
        """The point of some chosen values, and of the first end of every other dimension."""
        return self.draw(lambda key, dimension: chosen.get(key, dimension.ends()[0]))

    def corners(self, parts: Collection[str]) -> Iterator[dict[str, Value]]:
        """The points of every combination of some dimensions' ends; `MAX_CORNERS` at most.

        Of a study that tries listed points alone, the combinations that these have.

        Args:
            parts: the keys of those dimensions, or the terms, steps, ... whose settings they are.
        """
        keys = [key for key in self if key in parts or key.partition(".")[0] in parts]
        found: Iterable[dict[str, Value]]
        if self and self._study.sampler == "points":
            points = self._study.first_points()
            listed = (tuple((key, p[key]) for key in keys if key in p) for p in points)
            found = map(dict, dict.fromkeys(listed))
        else:
            ends = itertools.product(*(self[key].ends() for key in keys))
            found = (dict(zip(keys, values, strict=True)) for values in ends)
        yield from map(self.corner, itertools.islice(found, MAX_CORNERS))

    def grid(self, keys: Iterable[str] | None = None) -> list[dict[str, Value]]:
        """Every combination of choices, each once, in the written order.

        Args:
            keys: of the dimensions to combine, of which those count that exist together; None: all.

        Raises:
            UserError: they are too many.
        """
        ordered = sorted(self if keys is None else keys, key=decides_first)
        found: dict[tuple[tuple[str, Value], ...], dict[str, Value]] = {}
        for combination in itertools.product(*(grid_values(self[key], key) for key in ordered)):
            values: dict[str, Value] = {}
            for key, value in zip(ordered, combination, strict=True):
                if self._exists(key, values):
                    values[key] = value
            found.setdefault(tuple(values.items()), values)
            if len(found) > MAX_GRID:
                raise UserError(f"dimensions: the grid has more than {MAX_GRID:,} points")
        return list(found.values())

    def _exists(self, key: str, values: Mapping[str, Value]) -> bool:
        """Whether a trial with these values has a dimension."""
        if key == PAIR:
            return True
        known = {**self._study.shared(values.get(PAIR)), **values}
        if any(known.get(other) not in allowed for other, allowed in self[key].when.items()):
            return False
        return applies(key, {**dict.fromkeys(self._study.dimensions), **known})
