"""A method: cross-entropy and any number of terms, each with its weight, and their modifiers."""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.errors import UserError, unknown
from trainables.methods.registry import parse_method, term_class
from trainables.methods.term import Batch, LogitModifier, Term
from trainables.models.outputs import Network, Outputs, Shapes
from trainables.settings import Scalar, Setting, read, settings_of


def method_settings(method: str) -> dict[str, Setting]:
    """Every setting of a method by its full key, for example ``kd.temperature``."""
    return {
        f"{name}.{key}": found
        for name in parse_method(method)
        for key, found in settings_of(term_class(name).Config).items()
    }


def resolve_settings(method: str, values: Mapping[str, object]) -> dict[str, Scalar]:
    """The settings of a method, complete and checked.

    Args:
        method: ``+``-joined terms.
        values: by full key (``kd.temperature``), or by a bare name (``temperature``), which
            goes to every term of the method that has such a setting; the full key wins.

    Returns:
        Every setting of the method by its full key, defaults filled in.

    Raises:
        UserError: a key that no term of the method has, or a value out of its range.
    """
    settings = method_settings(method)
    bare = {key.partition(".")[2] for key in settings}
    for key in values:
        if key not in settings and key not in bare:
            raise unknown(f"key for method '{method}'", key, [*settings, *bare])
    resolved = {}
    for full, found in settings.items():
        short = full.partition(".")[2]
        if full in values:
            resolved[full] = found.check(full, values[full])
        elif short in values:
            resolved[full] = found.check(short, values[short])
        else:
            resolved[full] = found.default
    return resolved


class Method(nn.Module):
    """The whole training loss: ``(1 − Σ shares) · CE + Σ terms``.

    Args:
        method: ``+``-joined terms and modifiers, or ``student``.
        settings: as `resolve_settings` returns them.
        student, teacher: shapes of the networks' outputs; adaptors are built from them.

    Attributes:
        needs: what all terms together read of the teacher; empty without a teacher.
        parts: names of the summands, ``ce`` first, as `forward` returns them; a modifier is none.

    Raises:
        UserError: no teacher, or weights that leave the cross-entropy a negative share.
    """

    def __init__(
        self,
        method: str,
        settings: Mapping[str, Scalar],
        student: Shapes,
        teacher: Shapes | None,
    ) -> None:
        super().__init__()
        names = parse_method(method)
        if names and teacher is None:
            raise UserError(f"method '{method}' needs a teacher; set 'teacher'")
        terms: dict[str, Term] = {}
        modifiers: dict[str, LogitModifier] = {}
        for name in names:
            kind = term_class(name)
            own = {
                key.partition(".")[2]: value
                for key, value in settings.items()
                if key.startswith(name + ".")
            }
            config = kind.Config(**read(kind.Config, own, prefix=name + "."))
            assert teacher is not None
            if issubclass(kind, LogitModifier):
                modifiers[name] = kind(config)
            else:
                terms[name] = kind(config, student, teacher)
        self.terms, self.modifiers = nn.ModuleDict(terms), nn.ModuleDict(modifiers)
        self.needs = frozenset[str]().union(*(term.needs for term in terms.values()))
        self.parts = ("ce", *terms)
        self.factor = math.prod(modifier.factor for modifier in modifiers.values())
        self.ce_weight = 1.0 - sum(term.ce_share for term in terms.values())
        if self.ce_weight < -1e-9:
            raise UserError(
                f"method '{method}': the terms take over {1 - self.ce_weight:.3g} of the "
                f"cross-entropy; at most 1 can be taken (lower an alpha)"
            )

    def attach(self, teacher: Network, labels: Tensor, indices: Tensor) -> None:
        """Gives every term what it needs of the teacher and the training set: `Term.attach`."""
        for term in self._terms:
            term.attach(teacher, labels, indices)

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Tensor:
        """The weighted summands ``[len(parts)]``, float32; their sum is the training loss."""
        alone = [term.alone(batch.progress) for term in self._terms]
        zero = torch.zeros((), device=student.logits.device)
        if any(alone):
            ce = zero
        else:
            ce = self.ce_weight * F.cross_entropy(student.logits.float(), batch.target)
        losses = [ce]
        changed = [self._modified(outputs) for outputs in (student, teacher)]
        for term, solo in zip(self._terms, alone, strict=True):
            if any(alone) and not solo:
                losses.append(zero)
            elif term.reads_softmax():
                losses.append(self.factor * term(*changed, batch))
            else:
                losses.append(term(student, teacher, batch))
        return torch.stack(losses)

    def _modified(self, outputs: Outputs | None) -> Outputs | None:
        """The outputs as the terms with a softmax read them."""
        for modifier in self.modifiers.values():
            assert outputs is not None
            outputs = outputs._replace(logits=modifier(outputs.logits))
        return outputs

    @property
    def _terms(self) -> list[Term]:
        return [term for term in self.terms.values() if isinstance(term, Term)]
