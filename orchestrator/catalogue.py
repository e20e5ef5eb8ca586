"""The verbs that list what there is: studies, methods, models, data sets."""

import json
import sys
from argparse import Namespace
from typing import Any

from orchestrator.printing import print_pairs, print_table, rounded
from search_spaces.load import load_study, study_names
from trainables.errors import UserError


def studies(options: Namespace) -> int:
    if options.schema:
        from search_spaces.schema import study_schema

        print(json.dumps(study_schema(), indent=2))
    elif options.name:
        study = load_study(options.name)
        print(f"{study.name}: {study.description.strip()}\n")
        teacher = study.teacher.model_dump(exclude_none=True) if study.teacher else "none"
        print(f"dataset    {study.dataset}\nteacher    {teacher}")
        print(f"objectives {study.objectives}")
        print(
            f"budget     {study.trials or len(study.first_points())} configs, "
            f"{study.repeats} seeds each, sampler {study.sampler}\n"
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
        rows = [(name, load_study(name).description.strip()) for name in study_names()]
        print_table(("study", "what for"), rows)
    return 0


def methods(options: Namespace) -> int:
    from trainables.methods.registry import PLAIN, term_class, term_names
    from trainables.settings import settings_of

    if options.name is None:
        rows = [(PLAIN, "nothing", "cross-entropy alone")]
        for name in term_names():
            kind = term_class(name)
            rows.append((name, ", ".join(sorted(kind.needs)), _title(kind)))
        print_table(("method", "reads of the teacher", "what it is"), rows)
        print("\nJoin terms by '+': kd+at. `kdsweep methods NAME` shows formula and settings.")
        return 0
    for name in options.name.split("+"):
        kind = term_class(name)
        print((sys.modules[kind.__module__].__doc__ or "").strip() + "\n")
        settings = settings_of(kind.Config).items()
        print_table(
            ("setting", "default", "expected", "search", "meaning"),
            [
                (f"{name}.{key}", str(s.default), s.expected(), _range(s), s.help)
                for key, s in settings
            ],
        )
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
    from trainables.data.sources import describe_datasets, load_dataset

    if options.name is None:
        rows = [(d.name, d.description, d.expects) for d in describe_datasets()]
        print_table(("dataset", "what it is", "expected under --data"), rows)
        return 0
    found = load_dataset(options.name, options.data, download=options.download)
    facts = [
        ("training images", f"{len(found.train):,}"),
        ("classes", f"{found.num_classes}"),
        ("image", "x".join(map(str, found.image_shape))),
        ("mean, std", f"{rounded(found.mean)}, {rounded(found.std)}"),
        ("views", f"crop padding {found.crop_padding}, flip {'yes' if found.flip else 'no'}"),
        ("fingerprint", found.fingerprint),
    ]
    print_table((found.name, ""), facts)
    return 0


def _title(kind: type) -> str:
    return (sys.modules[kind.__module__].__doc__ or "").strip().split("\n")[0]


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
