"""A method: cross-entropy and any number of terms, each with its weight, and their modifiers."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from trainables.errors import UserError, unknown
from trainables.methods.phases import CE, Phase, phases_of
from trainables.methods.registry import (
    config_of,
    method_settings,
    needs_teacher,
    parse_method,
    peer_models,
    term_class,
)
from trainables.methods.term import (
    STUDENT,
    Batch,
    InputModifier,
    LogitModifier,
    Term,
    cross_entropy,
)
from trainables.models.features import FIELDS
from trainables.models.outputs import Network, Outputs, Shapes
from trainables.settings import Scalar
from trainables.tasks.single_label import SINGLE_LABEL
from trainables.tasks.task import Task


class Method(nn.Module):
    """The whole training loss: ``(1 − Σ shares) · CE + Σ terms``.

    Args:
        method: ``+``-joined terms and modifiers, or ``student``.
        settings: as `registry.resolve_settings` returns them.
        student, teacher: shapes of the networks' outputs; adaptors are built from them.
        task: of the data set.

    Attributes:
        needs: what all terms together read of the teacher; empty without a teacher.
        weights: of every summand, by full key (``kd.alpha``), and of the cross-entropy (``ce``).
        parts: names of the summands, ``ce`` first, as `forward` returns them; a modifier is none.
        phases: which parts count when.
        peers: models of the networks that learn beside the student, by term and name (``dml.1``),
            in the order in which they learn; None for the student's own.
        plain_teacher: whether the teacher sees the views as they are.
        map_settings: which of the teacher's maps are read; empty where none are.

    Raises:
        UserError: no teacher, weights that leave the cross-entropy a negative share, a term that
            needs more of the teacher than a modifier leaves, or what a network does not have, two
            terms with peers, or a part that means nothing to the task.
    """

    def __init__(
        self,
        method: str,
        settings: Mapping[str, Scalar],
        student: Shapes,
        teacher: Shapes | None,
        task: Task = SINGLE_LABEL,
    ) -> None:
        super().__init__()
        names = parse_method(method)
        if needs_teacher(method) and teacher is None:
            raise UserError(f"method '{method}' needs a teacher; set 'teacher'")
        terms, logit_modifiers, input_modifiers = _built(names, settings, student, teacher)
        if task.independent:
            _check_independent(method, task, terms, logit_modifiers)
        if logit_modifiers and not any(term.modifiable for term in terms.values()):
            raise UserError(
                f"method '{method}': {', '.join(logit_modifiers)} changes logits before a "
                f"softmax, and no term has one at these settings (kd.form: bernoulli)"
            )
        self.terms = nn.ModuleDict(terms)
        self.modifiers = nn.ModuleDict(logit_modifiers)
        self.input_modifiers = nn.ModuleDict(input_modifiers)
        self.needs = frozenset[str]().union(*(term.needs for term in terms.values()))
        for term in terms.values():
            check_readable(method, "teacher", term.needs, teacher)
            check_readable(method, STUDENT, term.student_needs, student)
        plain = {modifier.plain_teacher for modifier in input_modifiers.values()}
        if len(plain) > 1:
            raise UserError(
                f"method '{method}': {' and '.join(input_modifiers)} do not agree on whether the "
                f"teacher sees the images unchanged"
            )
        self.plain_teacher = plain != {False}
        for name, modifier in input_modifiers.items():
            served = modifier.plain_serves
            if self.plain_teacher and served is not None and self.needs - served:
                raise UserError(
                    f"method '{method}': {name} with the teacher's logits of the plain images "
                    f"serves terms that read logits only; this one reads "
                    f"{', '.join(sorted(self.needs))}"
                )
        self.map_settings = _map_settings(method, input_modifiers)
        self.parts = (CE, *terms)
        self.phases = phases_of({name: term.stretches for name, term in terms.items()})
        self.peers = peer_models(method, settings)
        _check_peers(method, self.peers)
        self.factor = math.prod(modifier.factor for modifier in logit_modifiers.values())
        self.ce_weight = 1.0 - sum(term.ce_share for term in terms.values())
        if self.ce_weight < -1e-9:
            raise UserError(
                f"method '{method}': the terms take over {1 - self.ce_weight:.3g} of the "
                f"cross-entropy; at most 1 can be taken (lower an alpha)"
            )

        self.weights = {CE: self.ce_weight} | {
            key: float(settings[key])  # type: ignore[arg-type]
            for key, found in method_settings(method).items()
            if found.weight
        }

    # Before training

    def attach(self, teacher: Network, labels: Tensor, indices: Tensor) -> None:
        """Gives every term what it needs of the teacher and the training set: `Term.attach`."""
        for term in self._terms.values():
            term.attach(teacher, labels, indices)

    @property
    def depth(self) -> int | None:
        """How many of the teacher's stages all terms together read; None: the whole teacher."""
        if self.needs - FIELDS:
            return None
        depths = [term.depth for term in self._terms.values() if term.needs]
        known = [depth for depth in depths if depth is not None]
        return max(known) if known and len(known) == len(depths) else None

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
        """The weighted summands ``[len(parts)]``, float32; their sum is the training loss.

        Args:
            student, teacher: outputs for the batch; no teacher where nobody `reads` it.
            batch: with ``inputs`` and with what the `learners` say to them, by name.
        """
        parts = self.phase(batch.progress).parts
        zero = torch.zeros((), device=student.logits.device)
        changed = [_modified(outputs, self.modifiers) for outputs in (student, teacher)]
        losses = [self.ce_weight * cross_entropy(student.logits, batch) if CE in parts else zero]
        for name, term in self._terms.items():
            if name not in parts:
                losses.append(zero)
            elif term.modifiable:
                losses.append(self.factor * term(*changed, batch))
            else:
                losses.append(term(student, teacher, batch))
        return torch.stack(losses)

    def phase(self, progress: float) -> Phase:
        """The phase in which a training is after a share of it, in [0, 1)."""
        return next(phase for phase in self.phases if progress < phase.until)

    def reads(self, progress: float) -> bool:
        """Whether anything is read of the teacher now."""
        return any(term.needs for term in self._counting(progress).values())

    def learners(self, progress: float) -> list[str]:
        """Names of the ``peers`` that learn now: those of a term that does not count wait."""
        counting = self._counting(progress)
        return [name for name in self.peers if _term_of(name) in counting]

    def asked(self, name: str, progress: float | None = None) -> frozenset[str]:
        """The keys that are read of the student, or of one of the ``peers``.

        Args:
            name: of the network.
            progress: when; None: at any time.
        """
        terms = self._terms if progress is None else self._counting(progress)
        reading = terms.values() if name == STUDENT else [terms[_term_of(name)]]
        return frozenset[str]().union(*(term.student_needs for term in reading)) - FIELDS

    def takes_turns(self, peer: str) -> bool:
        """Whether a peer's loss is of outputs that are computed anew: `Term.takes_turns`."""
        return self._terms[_term_of(peer)].takes_turns

    def peer_loss(self, name: str, said: Mapping[str, Outputs], batch: Batch) -> Tensor:
        """The loss of one of the `learners`, in their order: `Term.peer_loss`.

        Args:
            name: of the peer.
            said: outputs of all networks by name, the student's first; that of the network which
                has just had its update is a new one where the peer `takes_turns`.
            batch: as for `forward`.
        """
        others = {other: outputs for other, outputs in said.items() if other != name}
        return self._terms[_term_of(name)].peer_loss(said[name], others, batch)

    @torch.no_grad()
    def after_step(self, batch: Batch) -> None:
        """Called when all networks have had their updates: `Term.after_step`."""
        for term in self._counting(batch.progress).values():
            term.after_step(batch)

    def _counting(self, progress: float) -> dict[str, Term]:
        parts = self.phase(progress).parts
        return {name: term for name, term in self._terms.items() if name in parts}

    @property
    def _terms(self) -> dict[str, Term]:
        return {name: term for name, term in self.terms.items() if isinstance(term, Term)}

    @property
    def _input_modifiers(self) -> list[InputModifier]:
        return [one for one in self.input_modifiers.values() if isinstance(one, InputModifier)]


def _modified(outputs: Outputs | None, modifiers: nn.ModuleDict) -> Outputs | None:
    """The outputs as the terms with a softmax read them."""
    if outputs is not None:
        for modifier in modifiers.values():
            outputs = outputs._replace(logits=modifier(outputs.logits))
    return outputs


def _check_independent(
    method: str, task: Task, terms: Mapping[str, Term], modifiers: Mapping[str, LogitModifier]
) -> None:
    """Refuses what takes it that an image is of one class."""
    refused = [name for name, term in terms.items() if term.one_of_many]
    refused += [name for name, modifier in modifiers.items() if not modifier.any_task]
    if refused:
        raise UserError(
            f"method '{method}': {', '.join(refused)} takes it that an image is of one class, and "
            f"the data set is {task.name}; leave it out: kd, dml and terms of features serve it"
        )


def _built(
    names: Iterable[str], settings: Mapping[str, Scalar], student: Shapes, teacher: Shapes | None
) -> tuple[dict[str, Term], dict[str, LogitModifier], dict[str, InputModifier]]:
    """The parts of a method by name: terms, and modifiers of logits and of images."""
    terms: dict[str, Term] = {}
    logit_modifiers: dict[str, LogitModifier] = {}
    input_modifiers: dict[str, InputModifier] = {}
    for name in names:
        kind = term_class(name)
        config = config_of(name, settings)
        if issubclass(kind, LogitModifier):
            logit_modifiers[name] = kind(config)
        elif issubclass(kind, InputModifier):
            input_modifiers[name] = kind(config)
        else:
            terms[name] = kind(config, student, teacher)  # type: ignore[arg-type]
    return terms, logit_modifiers, input_modifiers


def _map_settings(method: str, modifiers: Mapping[str, InputModifier]) -> Mapping[str, Any]:
    """Which maps all modifiers read that read some."""
    readers = [modifier for modifier in modifiers.values() if modifier.reads_maps]
    if any(one.map_settings != readers[0].map_settings for one in readers):
        raise UserError(f"method '{method}': {', '.join(modifiers)} read different maps")
    return readers[0].map_settings if readers else {}


def _check_peers(method: str, peers: Iterable[str]) -> None:
    if len(peered := {_term_of(name) for name in peers}) > 1:
        raise UserError(
            f"method '{method}': {' and '.join(sorted(peered))} both have networks that learn "
            f"beside the student; leave one of them out"
        )


def check_readable(method: str, who: str, needs: frozenset[str], shapes: Shapes | None) -> None:
    """Refuses a method that reads what a network does not say.

    Args:
        method: its name.
        who: the network, in words.
        needs: fields and keys, as terms declare them.
        shapes: of its outputs; None where nothing is needed.

    Raises:
        UserError: the network has no such module.
    """
    for key in sorted(needs - FIELDS):
        if shapes is not None and key not in shapes.features:
            raise UserError(
                f"method '{method}': {unknown(f'output of the {who}', key, shapes.features)}"
            )


def _term_of(peer: str) -> str:
    return peer.partition(".")[0]
