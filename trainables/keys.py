"""Whose setting a key is that a user writes: a term's, a chain's, a rule's, an explainer's."""

from collections.abc import Iterable, Mapping
from typing import Any

from trainables.attribution.registry import explainer_of, explainer_settings, parse_explainers
from trainables.compression.registry import PARTS, chain_settings, part_settings
from trainables.errors import UserError, unknown
from trainables.methods.registry import method_settings
from trainables.optimizers.registry import OPTIMIZERS, PREFIX, rule_settings


def parted(
    values: Mapping[str, Any],
    further: Iterable[str],
    *,
    method: str,
    compression: str,
    optimizer: str,
    explainers: str,
) -> dict[str, Any]:
    """The settings of a method's ``terms``, and by full key those of its ``chain``, ``rule``, ....

    A bare name (``criterion``) is that of every term that has it, or of the one step; those of an
    update rule and of explainers (``explaining``) are written in full. Where the full key is given
    as well, that counts.

    Args:
        values: by full key or bare name.
        further: names that errors count among the right ones.
        method, compression, explainers: ``+``-joined terms, parts, explainers.
        optimizer: name of the rule.

    Raises:
        UserError: a key that none of them has, or a bare name of a step and of something else.
    """
    values, explaining = _without_explaining(values, explainers)
    of_rule = rule_settings(optimizer)
    of_terms, of_chain = method_settings(method), chain_settings(compression)
    terms: dict[str, Any] = {}
    chain: dict[str, Any] = {}
    rule: dict[str, Any] = {}
    for key in sorted(values, key=lambda key: key in of_chain):  # full keys replace bare names
        value = values[key]
        meant = [full for full in (*of_terms, *of_chain) if full.partition(".")[2] == key]
        if key in of_chain:
            chain[key] = value
        elif key in of_rule:
            rule[key] = value
        elif key in of_terms or (meant and not of_chain.keys() & meant):
            terms[key] = value
        elif len(meant) > 1:
            raise UserError(f"{key}: is a setting of several parts; write {' or '.join(meant)}")
        elif meant:
            chain[meant[0]] = value
        elif _of_another_rule(key):
            if value is not None:
                raise UserError(f"{key}: has no effect with optimizer {optimizer}")
        elif not _of_another_chain(key):
            bare = {full.rpartition(".")[2] for full in (*of_terms, *of_chain)}
            raise unknown("key", key, {*further, *of_terms, *of_chain, *of_rule, *bare})
        elif value is not None:
            raise UserError(f"{key}: has no effect with compression {compression}")
    return {"terms": terms, "chain": chain, "rule": rule, "explaining": explaining}


def _without_explaining(
    values: Mapping[str, Any], explainers: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings that are none of an explainer, and those of a trial's explainers."""
    rest: dict[str, Any] = {}
    explaining: dict[str, Any] = {}
    chosen = parse_explainers(explainers)
    for key, value in values.items():
        name = explainer_of(key)
        if name is None:
            rest[key] = value
        elif name in chosen:
            if key not in explainer_settings(name):
                raise unknown("key", key, explainer_settings(name))
            explaining[key] = value
        elif value is not None:
            raise UserError(f"{key}: has no effect with explainers {'+'.join(chosen) or 'none'}")
    return rest, explaining


def _of_another_rule(key: str) -> bool:
    return key.startswith(PREFIX) and any(key in rule_settings(name) for name in OPTIMIZERS)


def _of_another_chain(key: str) -> bool:
    name = key.partition(".")[0]
    return name in PARTS and key in part_settings(name)
