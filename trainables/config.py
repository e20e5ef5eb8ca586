"""TrialConfig: everything that decides what one trial does, as a flat record of scalars."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trainables.columns import TrialRow
from trainables.errors import UserError, unknown
from trainables.methods.registry import (
    canonical_method,
    method_settings,
    needs_teacher,
    resolve_settings,
)
from trainables.optimizers.registry import OPTIMIZERS
from trainables.settings import Role, Scalar, read, setting, settings_of

COMPRESSIONS = ("explicit", "depth", "width", "factor")

MAX_SEED = 2**32 - 1


@dataclass(frozen=True, kw_only=True)
class TrialConfig:
    """One student trained once.

    Besides the fields, the settings of the method's terms belong to it: ``terms`` holds
    them by full key (``kd.temperature``), complete and checked.
    """

    dataset: str = setting("digits", "data set: see `kdsweep datasets`", role="words")
    teacher: str | None = setting(None, "the teacher's model: see `kdsweep models`", role="words")
    student: str = setting(
        "wrn_16_1", "the student's model, or its family for a factor", role="words"
    )
    compression: str = setting(
        "explicit", "how the student becomes small", choices=COMPRESSIONS, role="words"
    )
    depth: int | None = setting(None, "blocks to remove from the end", at_least=0, role="words")
    width: float | None = setting(
        None, "multiplier of every layer's channels", above=0, role="words"
    )
    factor: float | None = setting(None, "teacher's parameters / student's", above=0, role="words")
    method: str = setting("student", "terms joined by '+': see `kdsweep methods`")

    epochs: int = setting(30, "passes over the training set", at_least=1)
    batch_size: int = setting(64, "images per step", at_least=1)
    optimizer: str = setting("sgd", "update rule", choices=OPTIMIZERS)
    lr: float = setting(0.05, "peak learning rate", above=0, search=(0.005, 0.5), log=True)
    momentum: float = setting(0.9, "of SGD", at_least=0, at_most=0.999)
    nesterov: bool = setting(False, "Nesterov's form of the momentum")
    weight_decay: float = setting(5e-4, "L2 penalty", at_least=0, search=(1e-5, 1e-2), log=True)
    schedule: str = setting(
        "cosine", "how the learning rate falls", choices=("cosine", "step", "constant")
    )
    milestones: str = setting(
        "0.625,0.75,0.875", "of schedule step: fractions of the epochs, joined by commas"
    )
    lr_decay: float = setting(0.1, "of schedule step: factor per milestone", above=0, at_most=1)
    warmup_epochs: float = setting(0.0, "linear rise of the learning rate", at_least=0)

    val_fraction: float = setting(
        0.1, "of the training set, held out for selection", at_least=0, at_most=0.9, role="split"
    )
    split_seed: int = setting(0, "fixes the validation split", at_least=0, at_most=MAX_SEED)
    train_fraction: float = setting(
        1.0, "of the training images that are used (stratified)", above=0, at_most=1
    )
    image_size: int | None = setting(None, "pixels per side, for folders of images", at_least=1)
    crop_padding: int | None = setting(
        None, "pixels of zero padding before the crop; none: the data set's own", at_least=0
    )
    flip: bool | None = setting(None, "horizontal flips; none: the data set's own")

    images: str = setting(
        "auto",
        "where the training images are: on the device, or on the host, which sends their batches",
        choices=("auto", "device", "host"),
        role="place",
    )
    precision: str = setting(
        "auto",
        "of the networks' arithmetic; auto: bf16 for a network that it makes faster here",
        choices=("auto", "fp32", "bf16"),
    )
    teacher_precision: str | None = setting(
        None,
        "of the teacher's; none: as precision",
        choices=("auto", "fp32", "bf16"),
        role="teacher",
    )
    channels_last: bool = setting(
        True,
        "memory layout of the student's feature maps; results differ by rounding alone",
        implied=(True,),
    )
    teacher_cache: str = setting(
        "float16",
        "how the teacher's outputs are kept for the next trials, or off",
        choices=("off", "float16", "bfloat16", "float32"),
        role="teacher",
    )
    compile: bool = setting(
        False, "the student's training passes, once per architecture; on GPUs as CUDA graphs"
    )

    seed: int = setting(
        0, "initialisation and order of the images", at_least=0, at_most=MAX_SEED, role="seed"
    )
    view_seed: int = setting(
        0,
        "augmented views; shared by the configs of a repeat",
        at_least=0,
        at_most=MAX_SEED,
        role="seed",
    )
    stage: str = setting(
        "search", "search, or confirm a choice", choices=("search", "confirm"), role="stage"
    )

    terms: Mapping[str, Scalar] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "method", canonical_method(self.method))
        object.__setattr__(self, "terms", resolve_settings(self.method, self.terms))
        if needs_teacher(self.method) and self.teacher is None:
            raise UserError(f"teacher: method '{self.method}' needs one")
        if self.compression != "explicit" and self.amount is None:
            raise UserError(f"{self.compression}: compression '{self.compression}' needs its value")
        self.milestone_epochs()

    @classmethod
    def from_mapping(cls, values: Mapping[str, object]) -> "TrialConfig":
        """Reads a flat mapping, as in a study's ``fixed`` block or a row's ``config``.

        ``compression`` may be left out where exactly one of its amounts is given. Amounts of
        other kinds of compression, and settings of terms that the method does not use, are
        refused: a config says nothing that has no effect.

        Raises:
            UserError: an unknown key, a value out of its range, a missing amount, by name.
        """
        own = settings_of(TrialConfig)
        fields = {key: value for key, value in values.items() if key in own}
        rest: dict[str, Any] = {key: value for key, value in values.items() if key not in own}
        checked = read(cls, fields)
        method = str(checked.get("method", own["method"].default))
        known = method_settings(method)
        for key in rest:
            if key not in known and key not in {full.partition(".")[2] for full in known}:
                raise unknown("key", key, [*own, *known, *known_bare(known)])
        if "compression" not in checked:
            checked["compression"] = _implied_compression(checked)
        for kind in COMPRESSIONS[1:]:
            if kind != checked["compression"] and checked.get(kind) is not None:
                raise UserError(f"{kind}: has no effect with compression {checked['compression']}")
        return cls(**checked, terms=rest)

    @property
    def amount(self) -> float | None:
        """How much to compress, in the unit of ``compression``; None for ``explicit``."""
        return None if self.compression == "explicit" else getattr(self, self.compression)

    def milestone_epochs(self) -> tuple[float, ...]:
        """The milestones of the step schedule, in epochs.

        Raises:
            UserError: ``milestones`` is no list of fractions in [0, 1].
        """
        try:
            fractions = [float(part) for part in self.milestones.split(",")]
        except ValueError:
            fractions = [-1.0]
        if not all(0 <= fraction <= 1 for fraction in fractions):
            raise UserError(
                f"milestones: expected fractions from 0 to 1 joined by commas, "
                f"got {self.milestones!r}"
            )
        # Rounded, because 0.55 * 100 is 55.00000000000001 and would come a step late.
        return tuple(round(fraction * self.epochs, 6) for fraction in fractions)

    def to_dict(self) -> dict[str, Scalar]:
        """A flat dict of scalars that `from_mapping` reads back."""
        values = {
            entry.name: getattr(self, entry.name)
            for entry in dataclasses.fields(self)
            if entry.name != "terms"
        }
        return {**values, **self.terms}

    def to_json(self) -> str:
        """Canonical JSON of `to_dict`: sorted keys, no white space."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))

    def replace(self, **changes: Any) -> "TrialConfig":
        """A copy with some keys changed, checked anew."""
        return TrialConfig.from_mapping({**self.to_dict(), **changes})


def known_bare(known: Mapping[str, object]) -> list[str]:
    """The settings' names without their term: ``kd.temperature -> temperature``."""
    return sorted({full.partition(".")[2] for full in known})


def settings_with(*roles: Role) -> list[str]:
    """The trial's own settings that have one of these roles."""
    return [key for key, setting in settings_of(TrialConfig).items() if setting.role in roles]


def decisive(config: Mapping[str, Any], *less: Role) -> dict[str, Any]:
    """The settings that decide a trial's result: those with which two are one experiment.

    Args:
        config: flat, as a row has it. It may be of another version, or of terms that are not
            installed here: what is not known decides.
        less: roles that do not count either. Repeats have the same settings less ``"seed"``,
            and their confirmation the same less ``"seed"`` and ``"split"``.
    """
    without = settings_with("stage", "place", *less)
    return {key: value for key, value in config.items() if key not in without}


def config_key(
    config: TrialConfig, *, student: str, data_fingerprint: str, teacher_fingerprint: str | None
) -> str:
    """The hash of everything that decides a trial's result.

    Two configs that ask for the same network in different words (a factor, or its nearest
    member by name) have the same key; so have two that differ in the teacher of a method
    which reads none.

    Args:
        config: the trial.
        student: canonical name of the network that is built.
        data_fingerprint: of the data set.
        teacher_fingerprint: of the teacher's weights; None without a teacher.

    Returns:
        16 hexadecimal digits.
    """
    taught = needs_teacher(config.method)
    less: tuple[Role, ...] = ("words",) if taught else ("words", "teacher")
    values = decisive(config.to_dict(), *less)
    known = {**settings_of(TrialConfig), **method_settings(config.method)}
    values = {key: value for key, value in values.items() if value not in known[key].implied}
    values |= {
        "student": student,
        "data": data_fingerprint,
        "teacher": teacher_fingerprint if taught else None,
    }
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def asked(
    config: TrialConfig, sweep: str, trial_id: str, attempt: int, key: str | None
) -> TrialRow:
    """The row of an attempt as far as it is known without its networks.

    Args:
        config: what is asked for.
        sweep, trial_id, attempt: of whom.
        key: the config's key; None where the config leads to no network.
    """
    return TrialRow(
        sweep=sweep,
        trial_id=trial_id,
        attempt=attempt,
        config_key=key,
        stage=config.stage,
        method=config.method,
        dataset=config.dataset,
        student_requested=config.student,
        compression_kind=config.compression,
        compression_requested=None if config.amount is None else float(config.amount),
        seed=config.seed,
        view_seed=config.view_seed,
        config=config.to_json(),
    )


def _implied_compression(checked: Mapping[str, object]) -> str:
    given = [kind for kind in COMPRESSIONS[1:] if checked.get(kind) is not None]
    if len(given) > 1:
        raise UserError(f"compression: {' and '.join(given)} are both given; choose one")
    return given[0] if given else "explicit"
