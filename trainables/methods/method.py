"""A method: cross-entropy and any number of terms, each with its weight, and their modifiers."""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from trainables.errors import UserError
from trainables.methods.registry import method_settings, needs_teacher, parse_method, term_class
from trainables.methods.term import Batch, InputModifier, LogitModifier, Term, cross_entropy
from trainables.models.outputs import Network, Outputs, Shapes
from trainables.settings import Scalar, read


class Method(nn.Module):
    """The whole training loss: ``(1 − Σ shares) · CE + Σ terms``.

    Args:
        method: ``+``-joined terms and modifiers, or ``student``.
        settings: as `registry.resolve_settings` returns them.
        student, teacher: shapes of the networks' outputs; adaptors are built from them.

    Attributes:
        needs: what all terms together read of the teacher; empty without a teacher.
        weights: of every summand, by full key (``kd.alpha``), and of the cross-entropy (``ce``).
        parts: names of the summands, ``ce`` first, as `forward` returns them; a modifier is none.
        plain_teacher: whether the teacher sees the views as they are.

    Raises:
        UserError: no teacher, weights that leave the cross-entropy a negative share, or a term
            that needs more of the teacher than a modifier leaves.
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
        if needs_teacher(method) and teacher is None:
            raise UserError(f"method '{method}' needs a teacher; set 'teacher'")
        terms: dict[str, Term] = {}
        logit_modifiers: dict[str, LogitModifier] = {}
        input_modifiers: dict[str, InputModifier] = {}
        for name in names:
            kind = term_class(name)
            own = {
                key.partition(".")[2]: value
                for key, value in settings.items()
                if key.startswith(name + ".")
            }
            config = kind.Config(**read(kind.Config, own, prefix=name + "."))
            if issubclass(kind, LogitModifier):
                logit_modifiers[name] = kind(config)
            elif issubclass(kind, InputModifier):
                input_modifiers[name] = kind(config)
            else:
                terms[name] = kind(config, student, teacher)  # type: ignore[arg-type]
        if logit_modifiers and not any(term.modifiable for term in terms.values()):
            raise UserError(
                f"method '{method}': {', '.join(logit_modifiers)} changes logits before a "
                f"softmax, and no term has one at these settings (kd.form: bernoulli)"
            )
        self.terms = nn.ModuleDict(terms)
        self.modifiers = nn.ModuleDict(logit_modifiers)
        self.input_modifiers = nn.ModuleDict(input_modifiers)
        self.needs = frozenset[str]().union(*(term.needs for term in terms.values()))
        plain = {modifier.plain_teacher for modifier in input_modifiers.values()}
        if len(plain) > 1:
            raise UserError(
                f"method '{method}': {' and '.join(input_modifiers)} do not agree on whether the "
                f"teacher sees the images unchanged"
            )
        self.plain_teacher = plain != {False}
        if input_modifiers and self.plain_teacher and self.needs - {"logits"}:
            (name, *_) = input_modifiers
            raise UserError(
                f"method '{method}': {name} with the teacher's logits of the plain images serves "
                f"terms that read logits only; this one reads {', '.join(sorted(self.needs))}"
            )
        self.parts = ("ce", *terms)
        self.factor = math.prod(modifier.factor for modifier in logit_modifiers.values())
        self.ce_weight = 1.0 - sum(term.ce_share for term in terms.values())
        if self.ce_weight < -1e-9:
            raise UserError(
                f"method '{method}': the terms take over {1 - self.ce_weight:.3g} of the "
                f"cross-entropy; at most 1 can be taken (lower an alpha)"
            )

        self.weights = {"ce": self.ce_weight} | {
            key: float(settings[key])  # type: ignore[arg-type]
            for key, found in method_settings(method).items()
            if found.weight
        }

    # Before training

    def attach(self, teacher: Network, labels: Tensor, indices: Tensor) -> None:
        """Gives every term what it needs of the teacher and the training set: `Term.attach`."""
        for term in self._terms.values():
            term.attach(teacher, labels, indices)

    def recruit(self, create: Callable[[str | None], Network]) -> None:
        """Makes the networks that learn beside the student: `Term.recruit`."""
        for term in self._terms.values():
            term.recruit(create)

    @property
    def depth(self) -> int | None:
        """How many of the teacher's stages all terms together read; None: the whole teacher."""
        depths = [term.depth for term in self._terms.values() if term.needs]
        known = [depth for depth in depths if depth is not None]
        return max(known) if known and len(known) == len(depths) else None

    @property
    def peers(self) -> dict[str, Network]:
        """The networks that learn beside the student, by term and name: ``dml.1``."""
        return {
            f"{key}.{name}": peer
            for key, term in self._terms.items()
            for name, peer in term.peers.items()
        }

    def adaptors(self) -> list[nn.Parameter]:
        """The parameters that are trained together with the student's."""
        theirs = {id(weight) for peer in self.peers.values() for weight in peer.parameters()}
        return [weight for weight in self.parameters() if id(weight) not in theirs]

    # In a step

    def draw(self, batch: Batch) -> Batch:
        """The batch with the random choices of this step."""
        for modifier in self._input_modifiers:
            batch = modifier.draw(batch)
        return batch

    def images(self, images: Tensor, batch: Batch) -> Tensor:
        """Normalised images of a drawn batch as the student sees them."""
        for modifier in self._input_modifiers:
            images = modifier(images, batch)
        return images

    def taught(self, teacher: Outputs, batch: Batch) -> Outputs:
        """The teacher's outputs in line with what the student sees."""
        if self.plain_teacher:
            for modifier in self._input_modifiers:
                teacher = modifier.taught(teacher, batch)
        return teacher

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Tensor:
        """The weighted summands ``[len(parts)]``, float32; their sum is the training loss."""
        alone = self._alone(batch.progress)
        zero = torch.zeros((), device=student.logits.device)
        losses = [zero if alone else self.ce_weight * cross_entropy(student.logits, batch)]
        changed = [self._modified(outputs) for outputs in (student, teacher)]
        for name, term in self._terms.items():
            if alone and name not in alone:
                losses.append(zero)
            elif term.modifiable:
                losses.append(self.factor * term(*changed, batch))
            else:
                losses.append(term(student, teacher, batch))
        return torch.stack(losses)

    def learners(self, progress: float) -> list[str]:
        """Names of the `peers` that learn now: those of a term wait while another is alone."""
        alone = self._alone(progress)
        return [name for name in self.peers if not alone or name.partition(".")[0] in alone]

    def peer_loss(self, name: str, student: Callable[[], Outputs], batch: Batch) -> Tensor:
        """The loss of one of `learners`, in their order: `Term.peer_loss`."""
        key, _, own = name.partition(".")
        return self._terms[key].peer_loss(own, student, batch)

    def _alone(self, progress: float) -> list[str]:
        """Names of the terms that now are the only ones; empty where all of the method count."""
        return [name for name, term in self._terms.items() if term.alone(progress)]

    def _modified(self, outputs: Outputs | None) -> Outputs | None:
        """The outputs as the terms with a softmax read them."""
        for modifier in self.modifiers.values():
            assert outputs is not None
            outputs = outputs._replace(logits=modifier(outputs.logits))
        return outputs

    @property
    def _terms(self) -> dict[str, Term]:
        return {name: term for name, term in self.terms.items() if isinstance(term, Term)}

    @property
    def _input_modifiers(self) -> list[InputModifier]:
        return [one for one in self.input_modifiers.values() if isinstance(one, InputModifier)]
