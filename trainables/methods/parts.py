"""What a method is made of, built for a pair of networks: its terms and modifiers."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from trainables.errors import UserError, unknown
from trainables.methods.registry import (
    TEACHER,
    check_roles,
    config_of,
    parse_method,
    role_of,
    term_class,
)
from trainables.methods.term import NO_OTHERS, STUDENT, InputModifier, LogitModifier, Term
from trainables.models.features import FIELDS, STAGE_GRADIENT
from trainables.models.outputs import Shapes
from trainables.settings import Scalar
from trainables.tasks.task import Task


class Parts(NamedTuple):
    """The parts of a method by name, in its order.

    Attributes:
        method: its name.
        terms: what adds a loss.
        logit_modifiers: what changes logits before a softmax.
        input_modifiers: what changes the images.
        roles: of each term those of the teachers that it reads.
    """

    method: str
    terms: dict[str, Term]
    logit_modifiers: dict[str, LogitModifier]
    input_modifiers: dict[str, InputModifier]
    roles: dict[str, tuple[str, ...]]

    @classmethod
    def of(
        cls,
        method: str,
        settings: Mapping[str, Scalar],
        student: Shapes,
        teacher: Shapes | None,
        task: Task,
        others: Mapping[str, Shapes] = NO_OTHERS,
    ) -> "Parts":
        """Those of a method.

        Args:
            method, settings, student, teacher, task, others: as for `Method`.

        Raises:
            UserError: parts that do not go together, that mean nothing to the task, or that read
                what a network does not have.
        """
        parts = cls(method, {}, {}, {}, {})
        teachers = {TEACHER: teacher, **others} if teacher is not None else {}
        check_roles(method, settings, others)
        for name in parse_method(method):
            kind, config = term_class(name), config_of(name, settings)
            if issubclass(kind, LogitModifier):
                parts.logit_modifiers[name] = kind(config)
            elif issubclass(kind, InputModifier):
                parts.input_modifiers[name] = kind(config)
            else:
                role = role_of(name, settings)
                parts.terms[name] = kind(config, student, teachers.get(role))  # type: ignore[arg-type]
                parts.roles[name] = tuple(teachers) if kind.reads_all else (role,)
        if task.independent:
            parts._check_independent(task)
        parts._check_softmax()
        for name, term in parts.terms.items():
            for role in parts.roles[name]:
                who = TEACHER if role == TEACHER else f"{TEACHER} {role}"
                check_readable(method, who, term.needs, teachers.get(role))
            check_readable(method, STUDENT, term.student_needs, student)
        parts._check_views()
        parts._check_together()
        return parts

    @property
    def needs(self) -> frozenset[str]:
        """What all terms together read of the teachers."""
        return frozenset[str]().union(*(term.needs for term in self.terms.values()))

    def readers(self, role: str) -> list[Term]:
        """The terms that read anything of one of the teachers."""
        return [
            term for name, term in self.terms.items() if term.needs and role in self.roles[name]
        ]

    @property
    def chooser(self) -> str:
        """The teacher whose likeliest class the student's gradients at its stages are of."""
        return next(iter(self._choosers), TEACHER)

    @property
    def _choosers(self) -> dict[str, str]:
        """The teachers whose logits are read beside such gradients, each with such a term."""
        return {
            self.roles[name][0]: name
            for name, term in self.terms.items()
            if "logits" in term.needs and any(STAGE_GRADIENT in key for key in term.student_needs)
        }

    @property
    def plain_teacher(self) -> bool:
        """Whether the teacher sees the views as they are."""
        return all(modifier.plain_teacher for modifier in self.input_modifiers.values())

    @property
    def map_settings(self) -> Mapping[str, Any]:
        """Which of the teacher's maps are read; empty where none are."""
        readers = [one for one in self.input_modifiers.values() if one.reads_maps]
        return readers[0].map_settings if readers else {}

    @property
    def ce_weight(self) -> float:
        """What the terms leave the cross-entropy."""
        return 1.0 - sum(term.ce_share for term in self.terms.values())

    def _check_independent(self, task: Task) -> None:
        """Refuses what takes it that an image is of one class."""
        refused = [name for name, term in self.terms.items() if term.one_of_many]
        refused += [name for name, one in self.logit_modifiers.items() if not one.any_task]
        if refused:
            raise UserError(
                f"method '{self.method}': {', '.join(refused)} takes it that an image is of one "
                f"class, and the data set is {task.name}; leave it out: kd, dml and terms of "
                f"features serve it"
            )

    def _check_softmax(self) -> None:
        """Refuses modifiers of logits that no term puts through a softmax."""
        if self.logit_modifiers and not any(term.modifiable for term in self.terms.values()):
            raise UserError(
                f"method '{self.method}': {', '.join(self.logit_modifiers)} changes logits before "
                f"a softmax, and no term has one at these settings (kd.form: bernoulli)"
            )

    def _check_views(self) -> None:
        """Refuses modifiers of images that disagree, or leave the terms less than they read."""
        modifiers = self.input_modifiers
        if len({modifier.plain_teacher for modifier in modifiers.values()}) > 1:
            raise UserError(
                f"method '{self.method}': {' and '.join(modifiers)} do not agree on whether the "
                f"teacher sees the images unchanged"
            )
        for name, modifier in modifiers.items():
            served = modifier.plain_serves
            if self.plain_teacher and served is not None and self.needs - served:
                raise UserError(
                    f"method '{self.method}': {name} with the teacher's logits of the plain images "
                    f"serves terms that read logits only; this one reads "
                    f"{', '.join(sorted(self.needs))}"
                )
            if modifier.reads_maps and modifier.map_settings != self.map_settings:
                raise UserError(
                    f"method '{self.method}': {', '.join(modifiers)} read different maps"
                )

    def _check_together(self) -> None:
        """Refuses terms of which each asks for what only one can have."""
        peered = [name for name, term in self.terms.items() if term.peers(term.config)]
        if len(peered) > 1:
            raise UserError(
                f"method '{self.method}': {' and '.join(sorted(peered))} both have networks that "
                f"learn beside the student; leave one of them out"
            )
        if len(self._choosers) > 1:
            raise UserError(
                f"method '{self.method}': {' and '.join(self._choosers.values())} read the "
                f"student's gradients for the answers of different teachers; expected one"
            )
        if self.ce_weight < -1e-9:
            raise UserError(
                f"method '{self.method}': the terms take over {1 - self.ce_weight:.3g} of the "
                f"cross-entropy; at most 1 can be taken (lower an alpha)"
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
