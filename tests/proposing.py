"""Sources of proposals that are kept as in a store, and a small study for them."""

from orchestrator.sweeps.journal import Journal
from orchestrator.sweeps.proposal import ANSWERED, TRAINED, Known
from orchestrator.sweeps.source import OptunaSource
from search_spaces.load import parse_study
from trainables.files import open_folder


def study(**changes):
    """A grid of two methods at three factors, unless ``changes`` say otherwise."""
    content = {
        "name": "s",
        "dataset": "digits",
        "teacher": {"model": "wrn_16_2"},
        "fixed": {"student": "wrn", "compression": "factor"},
        "dimensions": {"method": ["student", "kd"], "factor": [2, 4, 9]},
        "sampler": "grid",
    }
    return parse_study(content | changes)


NAMED = {"student": "wrn_10_1"}


class Remembering(OptunaSource):
    """A source whose proposals are kept as a store would."""

    def __init__(self, folder, spec, kept):
        super().__init__(spec, Journal(open_folder(folder)), "s", kept)
        self.kept = kept

    def ask(self):
        proposal = super().ask()
        if proposal is not None:
            self.kept.append(Known(proposal.row))
        return proposal

    def tell(self, number, rows, *, answered):
        super().tell(number, rows, answered=answered)
        state = ANSWERED if answered else TRAINED
        self.kept[number] = Known({**self.kept[number].row, "state": state}, rows)


def completed(number=0, **columns):
    """The row of a trial that ended well."""
    row = {"trial_id": f"s-{number}", "status": "completed", "val_acc": 0.5}
    return row | {"compression_params": 4.0} | columns


def proposals(optuna_source, limit=100):
    """All that it asks for, up to so many."""
    found = []
    while len(found) < limit and (proposal := optuna_source.ask()) is not None:
        found.append(proposal)
    return found


def pairs(found):
    """Method and factor of each proposal's first config."""
    return [(p.configs[0].method, p.configs[0].chain["factor"]) for p in found]


ALL = [(method, factor) for method in ("student", "kd") for factor in (2.0, 4.0, 9.0)]
