"""A method: cross-entropy and any number of terms, each with its weight, and their modifiers."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from trainables.errors import UserError
from trainables.methods.parts import Parts
from trainables.methods.phases import CE, Phase, phases_of
from trainables.methods.registry import TEACHER, method_settings, needs_teacher, peer_models
from trainables.methods.term import NO_OTHERS, STUDENT, Batch, Term, cross_entropy
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
        others: shapes of further teachers' outputs, by role.

    Attributes:
        needs: what all terms together read of the teachers; empty without a teacher.
        roles: of the teachers that are read, the first one (`TEACHER`) before the others.
        chooser: that of the teacher whose likeliest class the student's gradients at its stages
            are of, where they are read beside a teacher's logits.
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
            terms with peers, a part that means nothing to the task, a teacher that there is not
            or that no term reads.
    """

    def __init__(
        self,
        method: str,
        settings: Mapping[str, Scalar],
        student: Shapes,
        teacher: Shapes | None,
        task: Task = SINGLE_LABEL,
        others: Mapping[str, Shapes] = NO_OTHERS,
    ) -> None:
        super().__init__()
        if needs_teacher(method) and teacher is None:
            raise UserError(f"method '{method}' needs a teacher; set 'teacher'")
        self._made = parts = Parts.of(method, settings, student, teacher, task, others)
        self.terms = nn.ModuleDict(parts.terms)
        self.modifiers = nn.ModuleDict(parts.logit_modifiers)
        self.input_modifiers = nn.ModuleDict(parts.input_modifiers)
        self.needs, self.plain_teacher = parts.needs, parts.plain_teacher
        self.roles = [role for role in (TEACHER, *others) if parts.readers(role)]
        self.chooser = parts.chooser
        self.map_settings = parts.map_settings
        self.parts = (CE, *parts.terms)
        self.phases = phases_of({name: term.stretches for name, term in parts.terms.items()})
        self.peers = peer_models(method, settings)
        self.factor = math.prod(one.factor for one in parts.logit_modifiers.values())
        self.ce_weight = parts.ce_weight
        self.weights = {CE: self.ce_weight} | {
            key: float(settings[key])  # type: ignore[arg-type]
            for key, found in method_settings(method).items()
            if found.weight
        }

    # Before training

    def attach(
        self,
        teacher: Network,
        labels: Tensor,
        indices: Tensor,
        others: Mapping[str, Network] = NO_OTHERS,
    ) -> None:
        """Gives every term what it needs of its teacher and the training set: `Term.attach`.

        Args:
            teacher, labels, indices: as for the terms.
            others: further teachers, by role.
        """
        teachers = {TEACHER: teacher, **others}
        for name, term in self._made.terms.items():
            term.attach(teachers[self._made.roles[name][0]], labels, indices)

    def needs_of(self, role: str) -> frozenset[str]:
        """What all terms together read of one of the teachers."""
        return frozenset[str]().union(*(term.needs for term in self._made.readers(role)))

    def depth(self, role: str = TEACHER) -> int | None:
        """How many of a teacher's stages all terms together read; None: the whole teacher."""
        if self.needs_of(role) - FIELDS:
            return None
        depths = [term.depth for term in self._made.readers(role)]
        known = [depth for depth in depths if depth is not None]
        return max(known) if known and len(known) == len(depths) else None

    # In a step

    def draw(self, batch: Batch) -> Batch:
        """The batch with the random choices of this step."""
        for modifier in self._made.input_modifiers.values():
            batch = modifier.draw(batch)
        return batch

    def images(self, images: Tensor, batch: Batch) -> Tensor:
        """Normalised images of a drawn batch as the student sees them."""
        for modifier in self._made.input_modifiers.values():
            images = modifier(images, batch)
        return images

    def taught(self, teacher: Outputs, batch: Batch) -> Outputs:
        """The teacher's outputs in line with what the student sees."""
        if self.plain_teacher:
            for modifier in self._made.input_modifiers.values():
                teacher = modifier.taught(teacher, batch)
        return teacher

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Tensor:
        """The weighted summands ``[len(parts)]``, float32; their sum is the training loss.

        Args:
            student, teacher: outputs for the batch; no teacher where nobody `reads` it.
            batch: with ``inputs`` and with what the `learners` say to them, by name, and with
                what further teachers say, as far as they are read now.
        """
        parts = self.phase(batch.progress).parts
        zero = torch.zeros((), device=student.logits.device)
        teachers: dict[str, Any] = {TEACHER: teacher, **batch.teachers}
        plain = student, teachers
        modified: dict[str, Any] = {
            role: _modified(said, self.modifiers) for role, said in teachers.items()
        }
        changed = _modified(student, self.modifiers), modified
        losses = [self.ce_weight * cross_entropy(student.logits, batch) if CE in parts else zero]
        for name, term in self._made.terms.items():
            if name not in parts:
                losses.append(zero)
                continue
            own, taught = changed if term.modifiable else plain
            first, *further = self._made.roles[name]
            others = {role: taught[role] for role in further}
            loss = term(own, taught[first], batch._replace(teachers=others) if others else batch)
            losses.append(self.factor * loss if term.modifiable else loss)
        return torch.stack(losses)

    def phase(self, progress: float) -> Phase:
        """The phase in which a training is after a share of it, in [0, 1)."""
        return next(phase for phase in self.phases if progress < phase.until)

    def reads(self, progress: float, role: str = TEACHER) -> bool:
        """Whether anything is read of a teacher now."""
        counting = self._counting(progress)
        return any(term.needs and role in self._made.roles[name] for name, term in counting.items())

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
        terms = self._made.terms if progress is None else self._counting(progress)
        reading = terms.values() if name == STUDENT else [terms[_term_of(name)]]
        return frozenset[str]().union(*(term.student_needs for term in reading)) - FIELDS

    def takes_turns(self, peer: str) -> bool:
        """Whether a peer's loss is of outputs that are computed anew: `Term.takes_turns`."""
        return self._made.terms[_term_of(peer)].takes_turns

    def peer_loss(self, name: str, said: Mapping[str, Outputs], batch: Batch) -> Tensor:
        """The loss of one of the `learners`, in their order: `Term.peer_loss`.

        Args:
            name: of the peer.
            said: outputs of all networks by name, the student's first; that of the network which
                has just had its update is a new one where the peer `takes_turns`.
            batch: as for `forward`.
        """
        others = {other: outputs for other, outputs in said.items() if other != name}
        return self._made.terms[_term_of(name)].peer_loss(said[name], others, batch)

    @torch.no_grad()
    def after_step(self, batch: Batch) -> None:
        """Called when all networks have had their updates: `Term.after_step`."""
        for term in self._counting(batch.progress).values():
            term.after_step(batch)

    def _counting(self, progress: float) -> dict[str, Term]:
        parts = self.phase(progress).parts
        return {name: term for name, term in self._made.terms.items() if name in parts}


def _modified(outputs: Outputs | None, modifiers: nn.ModuleDict) -> Outputs | None:
    """The outputs as the terms with a softmax read them."""
    if outputs is not None:
        for modifier in modifiers.values():
            outputs = outputs._replace(logits=modifier(outputs.logits))
    return outputs


def _term_of(peer: str) -> str:
    return peer.partition(".")[0]
