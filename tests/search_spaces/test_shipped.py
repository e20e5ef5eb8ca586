"""What the shipped studies promise."""

from search_spaces.load import load_study
from trainables.methods.registry import PLAIN, parse_method, term_names


def test_the_mission_searches_every_method_there_is() -> None:
    methods = load_study("pareto_cifar10").dimensions["method"].choices
    assert methods is not None
    used = {term for method in methods for term in parse_method(str(method))}
    assert used == set(term_names())
    assert PLAIN in methods


def test_the_demonstration_has_four_methods_at_four_factors() -> None:
    study = load_study("digits")
    cells = {(point["method"], point["factor"]) for point in study.first_points()}
    assert len({method for method, _ in cells}) >= 4
    assert len({factor for _, factor in cells}) >= 4
    assert len(cells) == len(study.first_points()) <= (study.trials or 0)
