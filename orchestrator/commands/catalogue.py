"""The verbs that list what there is: studies, methods, explainers, models, data sets, columns."""

import json
import sys
from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from orchestrator.commands.printing import print_pairs, print_table
from trainables.errors import UserError


def studies(options: Namespace) -> int:
    from search_spaces.load import known_study, study_names

    if options.schema:
        from search_spaces.schema import study_schema

        print(json.dumps(study_schema(), indent=2))
    elif options.name:
        study = known_study(options.name)
        print(f"{study.name}: {study.description.strip()}\n")
        teacher = study.teacher.model_dump(exclude_none=True) if study.teacher else "none"
        if study.pairs:
            teacher = f"of every pair; they share {teacher if study.teacher else 'nothing'}"
        print(f"dataset    {study.dataset}\nteacher    {teacher}")
        print(f"objectives {study.objectives}")
        if study.constraints:
            bounds = ", ".join(f"{name} {bound}" for name, bound in study.constraints.items())
            print(f"constraints {bounds}")
        print(
            f"budget     {study.trials or len(study.first_points()) or 'any number of'} configs, "
            f"{study.repeats} seeds each, sampler {study.sampler}\n"
        )
        if study.teachers:
            further = study.teachers.items()
            print_pairs("teachers", {role: t.model_dump(exclude_none=True) for role, t in further})
        if study.pairs:
            print_pairs(
                "pairs",
                {name: pair.model_dump(exclude_none=True) for name, pair in study.pairs.items()},
            )
        print_pairs("fixed", study.fixed)
        print_pairs(
            "dimensions",
            {
                key: dimension.model_dump(exclude_defaults=True)
                for key, dimension in study.dimensions.items()
            },
        )
    else:
        rows = [(name, known_study(name).description.strip()) for name in study_names()]
        print_table(("study", "what for"), rows)
    return 0


def methods(options: Namespace) -> int:
    from orchestrator.commands.kept_rows import kept_rows
    from trainables.methods.registry import PARTS, PLAIN, TERMS
    from trainables.methods.typical import SETTING

    if options.name is not None:
        return _method(options.name)
    ours = {PLAIN, *(name for name, place in TERMS.items() if place.startswith("trainables."))}
    rows = kept_rows("methods", [PLAIN, *sorted(PARTS)], ours, _listed)
    header = ("method", "kind", "reads of the teacher", "CE", "cost", "looked up", "what it is")
    print_table(header, rows)
    print(
        "\nJoin them by '+': kd+at. A term adds a loss. A modifier changes the logits that terms "
        "read (its cost is with kd),\nor the images that networks see. CE: what the default "
        "settings leave of the cross-entropy. cost: floating-point\noperations of a training step "
        f"over those of a plain student's ({SETTING});\n"
        "looked up: the same where the teacher's answers are known (-: never). `kdsweep methods "
        "NAME` shows formula and\nsettings, and measures the time."
    )
    return 0


def _listed(name: str) -> tuple[str, ...]:
    """The row of a method of one part."""
    from trainables.methods.registry import PARTS, PLAIN

    if name == PLAIN:
        return name, "", "nothing", *_costs(PLAIN), "cross-entropy alone"
    return name, _kind(name), _reads(name), *_costs(_whole_method((name,))), PARTS.title(name)


def _method(name: str) -> int:
    """Describes a method part by part, then counts and times it as a whole."""
    from trainables.cost import count
    from trainables.methods.registry import PLAIN, term_class, term_settings
    from trainables.methods.typical import SETTING
    from trainables.timing import measure

    names = () if name == PLAIN else tuple(part.strip() for part in name.split("+"))
    whole = _whole_method(names)
    for part in names:
        kind = term_class(part)
        print((sys.modules[kind.__module__].__doc__ or "").strip() + "\n")
        print(f"{part} is a {_kind(part)} and reads of the teacher: {_reads(part)}.\n")
        print_table(
            ("setting", "default", "expected", "search", "weight", "meaning"),
            [
                (
                    key,
                    str(s.default),
                    s.expected(),
                    _range(s),
                    "yes" if s.weight else "",
                    s.help,
                )
                for key, s in term_settings(part).items()
            ],
        )
        print()
    sys.stdout.flush()
    print(f"timing steps of {whole} here, some 5 to 15 s ...", file=sys.stderr)
    cost, times = count(whole), measure(whole)
    known = "not possible" if cost.looked_up is None else f"{cost.looked_up:.2f}"
    low, high = times.ratios
    print(
        f"{whole} leaves {cost.ce_share:.3g} of the cross-entropy at the default settings.\n"
        f"A training step of {whole} over one of {PLAIN} ({SETTING}):\n"
        f"  operations  {cost.live:.2f}; with the teacher's answers looked up: {known}\n"
        f"  time        {times.method_ms / times.student_ms:.2f}: {times.method_ms:.1f} ms over "
        f"{times.student_ms:.1f} ms, medians of {times.steps} steps in turn "
        f"({low:.2f} to {high:.2f} from turn to turn)\n"
        f"              in fp32 on {times.device}, threads: {times.threads}"
    )
    return 0


def compressions(options: Namespace) -> int:
    from trainables.compression.registry import PARTS, is_choice, part_class, part_settings

    if options.name is None:
        kinds = {name: "choice" if is_choice(name) else "step" for name in PARTS}
        parts = [(name, kind, PARTS.title(name)) for name, kind in kinds.items()]
        print_table(("name", "kind", "what it is"), parts)
        print(
            "\nJoin them by '+': factor+prune. A choice, of which a chain has at most one, comes "
            "first: it picks the architecture.\nSteps change the network in the order in which "
            "they stand. `kdsweep compressions NAME` shows source and settings."
        )
        return 0
    for name in (part.strip() for part in options.name.split("+")):
        print((sys.modules[part_class(name).__module__].__doc__ or "").strip() + "\n")
        _print_settings(part_settings(name))
        print()
    return 0


def _print_settings(settings: Mapping[str, Any]) -> None:
    rows = [(key, str(s.default), s.expected(), _range(s), s.help) for key, s in settings.items()]
    print_table(("setting", "default", "expected", "search", "meaning"), rows)


def optimizers(options: Namespace) -> int:
    import inspect

    from trainables.optimizers.registry import OPTIMIZERS, rule_settings

    if options.name is None:
        print_table(("name", "what it is"), [(name, OPTIMIZERS.title(name)) for name in OPTIMIZERS])
        print(
            "\nA study chooses by `optimizer: NAME`, as a dimension too; a rule's own settings are "
            "written optimizer.KEY.\n`kdsweep optimizers NAME` shows source and settings. A row's "
            "optimizer_groups says which rule updated what."
        )
        return 0
    module = sys.modules[OPTIMIZERS[options.name].__module__]
    print((inspect.getdoc(module) or "").strip() + "\n")
    if settings := rule_settings(options.name):
        _print_settings(settings)
    else:
        print("It has no settings of its own: the trial's lr, momentum and so on serve it.")
    return 0


def explainers(options: Namespace) -> int:
    import inspect

    from trainables.attribution.registry import EXPLAINERS, explainer_settings

    if options.name is None:
        print_table(("name", "what it is"), [(name, EXPLAINERS.title(name)) for name in EXPLAINERS])
        print(
            "\nJoin them by '+': grad_cam+lrp. Each says what in an image speaks for a class, as a "
            "map of the image's size;\nwhat it says of an image does not depend on the others. "
            "`kdsweep explainers NAME` shows source and settings."
        )
        return 0
    for name in (part.strip() for part in options.name.split("+")):
        kind = EXPLAINERS[name]
        print((inspect.getdoc(sys.modules[kind.__module__]) or "").strip() + "\n")
        against = "positive and negative (against the class)" if kind.signed else "at least 0"
        print(f"Values of a map: {against}.")
        print(f"What is attributed sums to: {kind.completeness or 'nothing in particular'}.\n")
        if settings := explainer_settings(name):
            _print_settings(settings)
        else:
            print("It has no settings.")
        print()
    return 0


def models(options: Namespace) -> int:
    from trainables.models.registry import create_model, describe_models

    if options.name is None:
        rows = [(m.pattern, m.example, m.description) for m in describe_models()]
        print_table(("name", "example", "what it is"), rows)
        return 0
    import torch

    from trainables.compression.measure import count_macs, count_params, size_bytes
    from trainables.models.shapes import output_shapes

    shape = _image_shape(options.image)
    if options.classes < 2:
        raise UserError(f"--classes: expected at least 2, got {options.classes}")
    with torch.device("meta"):
        network = create_model(options.name, options.classes, shape)
        shapes = output_shapes(network, shape)
        macs = count_macs(network, shape)
    facts = [
        ("parameters", f"{count_params(network):,}"),
        ("MACs", f"{macs:,}"),
        ("bytes", f"{size_bytes(network):,}"),
        ("embedding", str(shapes.embedding)),
        *((f"stage {i}", "x".join(map(str, s))) for i, s in enumerate(shapes.stages)),
    ]
    print_table((options.name, f"{options.classes} classes, {options.image}"), facts)
    return 0


def datasets(options: Namespace) -> int:
    from trainables.data.sources import SOURCES, load_dataset

    if options.name is None:
        rows = [(d.name, d.description, d.expects) for d in SOURCES.values()]
        print_table(("dataset", "what it is", "expected under --data"), rows)
        return 0
    found = load_dataset(options.name, options.data, download=options.download)
    from orchestrator.commands.dataset_facts import facts_of

    print(found.name)
    for key, value in facts_of(found):
        print(f"{key:<16} {value}")
    for note in found.notes:
        print(f"- {note}")
    return 0


def columns() -> int:
    from trainables.columns import COLUMNS

    for table, found in COLUMNS.items():
        rows = [
            (name, c.kind.__name__, c.unit, c.better or "", c.role, ", ".join(c.needs), c.help)
            for name, c in found.items()
        ]
        print_table((table, "type", "unit", "better", "role", "needs", "what it is"), rows)
    return 0


def _whole_method(names: tuple[str, ...]) -> str:
    """The method of these parts; a modifier of logits alone modifies kd."""
    from trainables.methods.registry import PLAIN, canonical_method, term_class
    from trainables.methods.term import LogitModifier

    if names and all(issubclass(term_class(name), LogitModifier) for name in names):
        names = ("kd", *names)
    return canonical_method("+".join(names) or PLAIN)


def _costs(method: str) -> tuple[str, str, str]:
    from trainables.cost import count

    try:
        cost = count(method)
    except UserError:  # it reads modules that this pair of networks does not have
        return "-", "-", "-"
    known = "-" if cost.looked_up is None else f"{cost.looked_up:.2f}"
    return f"{cost.ce_share:.3g}", f"{cost.live:.2f}", known


def _kind(name: str) -> str:
    from trainables.methods.registry import term_class
    from trainables.methods.term import InputModifier, LogitModifier

    kind = term_class(name)
    if issubclass(kind, LogitModifier):
        return "modifier of logits"
    return "modifier of images" if issubclass(kind, InputModifier) else "term"


def _reads(name: str) -> str:
    from trainables.methods.registry import term_class

    words = {"stages": "feature maps", "shortcuts": "shortcut features"}
    needs = [words.get(part, part) for part in sorted(term_class(name).needs)]
    return ", ".join(needs) or "nothing"


def _range(setting: Any) -> str:
    if setting.search is None:
        return ""
    low, high = setting.search
    return f"{low:g} to {high:g}" + (", log" if setting.log else "")


def _image_shape(text: str) -> tuple[int, int, int]:
    try:
        channels, height, width = (int(part) for part in text.split("x"))
    except ValueError:
        channels = height = width = 0
    if min(channels, height, width) < 1:
        raise UserError(f"--image: expected CxHxW such as 3x32x32, got {text!r}")
    return channels, height, width
