"""Which trials are one experiment: the settings that decide, the key of a config, a row's begin."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from trainables.attribution.registry import explainer_of
from trainables.columns import TrialRow
from trainables.compression.registry import chain_settings, parse_chain
from trainables.config import TrialConfig, settings_with
from trainables.methods.registry import OTHERS, method_settings, needs_teacher
from trainables.optimizers.registry import rule_settings
from trainables.settings import Role, settings_of
from trainables.trial_settings import SCRATCH

# In rows of before there were chains, amounts that were not asked for.
_WERE_NULL = ("depth", "width", "factor")

# What rows of before these could be set do not say.
_WERE_UNSAID = {
    "start": SCRATCH,
    "resample": False,
    "optimizer.beta1": 0.9,
    "optimizer.beta2": 0.999,
    "optimizer.eps": 1e-8,
}


def decisive(config: Mapping[str, Any], *less: Role) -> dict[str, Any]:
    """The settings that decide a trial's result: those with which two are one experiment.

    Args:
        config: flat, as a row has it. It may be of another version, or of terms that are not
            installed here: what is not known decides. One without ``start`` began from scratch.
        less: roles that do not count either. Repeats have the same settings less ``"seed"``,
            and their confirmation the same less ``"seed"`` and ``"split"``.
    """
    without = {*settings_with("stage", "place", "measurement", *less)}
    without |= {key for key in _WERE_NULL if config.get(key) is None}
    without |= {key for key, value in _WERE_UNSAID.items() if config.get(key) == value}
    without |= {key for key in config if explainer_of(key)}
    if "words" in less:
        without |= {key for key in config if key.startswith(OTHERS)}
    return {key: value for key, value in config.items() if key not in without}


def config_key(
    config: TrialConfig,
    *,
    student: str,
    data_fingerprint: str,
    teacher_fingerprint: str | None,
    start_fingerprint: str | None = None,
    others: Mapping[str, str | None] | None = None,
) -> str:
    """The hash of everything that decides a trial's result.

    Two configs that ask for the same network in different words (a factor, or its nearest
    member by name) have the same key; so have two that differ in the teacher of a method
    which reads none. The steps of a chain decide, in their order and with their settings.

    Args:
        config: the trial.
        student: canonical name of the network that is built.
        data_fingerprint: of the data set.
        teacher_fingerprint: of the teacher's weights; None without a teacher.
        start_fingerprint: of the weights that the student begins with; None for fresh ones.
        others: fingerprints of the further teachers of the config, by role.

    Returns:
        16 hexadecimal digits.
    """
    taught = needs_teacher(config.method)
    less: tuple[Role, ...] = ("words",) if taught else ("words", "teacher")
    known = {
        **settings_of(TrialConfig),
        **chain_settings(config.compression),
        **method_settings(config.method),
        **rule_settings(config.optimizer),
    }
    values: dict[str, Any] = {
        key: value
        for key, value in decisive(config.to_dict(), *less).items()
        if known[key].role not in less and value not in known[key].implied
    }
    if steps := parse_chain(config.compression)[1]:
        values["steps"] = steps
    values |= {
        "student": student,
        "data": data_fingerprint,
        "teacher": teacher_fingerprint if taught else None,
    }
    if start_fingerprint is not None:
        values["start"] = start_fingerprint
    if config.teachers:
        values["teachers"] = {role: (others or {})[role] for role in config.teachers}
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
    amount = config.chain.get(parse_chain(config.compression)[0])
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
        compression_requested=float(amount) if isinstance(amount, int | float) else None,
        seed=config.seed,
        view_seed=config.view_seed,
        config=config.to_json(),
    )
