"""The parser of the command line: its verbs, their options, an example of each."""

import argparse
from collections.abc import Sequence
from typing import NoReturn

from orchestrator.commands.examples import EXAMPLES
from orchestrator.commands.network_options import explaining_options, network_options, place
from trainables.tasks.metrics import SHOWN

VERBS = {
    "run": "start a sweep of a study",
    "resume": "continue a sweep after any interruption",
    "confirm": "train the best configs again with several seeds, on all training data",
    "trial": "one trial in this process, without Ray",
    "table": "accuracy by method and compression",
    "front": "the trials that no other trial beats in both accuracy and compression",
    "plot": "a picture of accuracy versus compression",
    "query": "SQL over the results",
    "studies": "the shipped studies, or one of them",
    "methods": "the distillation methods, or one of them",
    "compressions": "the ways to make a student small, or one of them",
    "optimizers": "the update rules, or one of them",
    "explainers": "what shows why a network answers as it does, or one of them",
    "models": "the networks",
    "datasets": "the data sets",
    "teacher": "train, import, adopt or list teachers",
    "export": "a trained network as a file: ONNX, or torch.export's",
    "inspect": "the layers of a trained network: what each is, costs and computes",
    "explain": "a picture of why teacher and students answer as they do",
    "cache": "what this machine keeps of the teachers' outputs and attribution maps",
}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of a command; exits with 2 at a mistake."""
    parser = build_parser()
    options, rest = parser.parse_known_args(arguments)
    if options.verb == "trial" and not any(word.startswith("-") for word in rest):
        options.set += rest  # KEY=VALUE behind an option
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return options


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as every other mistake is said."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"kdsweep: {message}; see `{self.prog} --help`\n")


def build_parser() -> argparse.ArgumentParser:
    """The parser of all verbs; a test freezes their options."""
    parser = _Parser(
        prog="kdsweep",
        description="Which distillation method loses least accuracy at the compression you need?",
        epilog="examples:\n  kdsweep run digits\n  kdsweep table digits\n  kdsweep run --help",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=_version())
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    made = {name: _verb(verbs, name) for name in VERBS}

    made["run"].add_argument("study", metavar="STUDY", help="a shipped study, or a YAML file")
    made["run"].add_argument("--trials", type=int, metavar="N", help="configs to train")
    made["run"].add_argument("--name", metavar="SWEEP", help="of the sweep; default: the study's")
    _set(made["run"])
    made["run"].add_argument(
        "--dry-run", action="store_true", help="check all, say what would run, and start nothing"
    )
    for name in ("resume", "confirm"):
        made[name].add_argument("sweep", metavar="SWEEP")
    made["confirm"].add_argument("--seeds", type=int, default=3, metavar="K", help="default: 3")
    made["confirm"].add_argument(
        "--top", type=int, metavar="N", help="only the N configs with the best validation accuracy"
    )
    for name in ("run", "resume", "confirm"):
        _where(made[name])
        _ray(made[name])

    trial = made["trial"]
    trial.add_argument("study", nargs="?", metavar="STUDY", help="a shipped study, or a YAML file")
    trial.add_argument("set", nargs="*", metavar="KEY=VALUE", help="what to try")
    trial.add_argument("--replay", nargs=2, metavar=("SWEEP", "TRIAL_ID"), help="a trial again")
    trial.add_argument("--pdb", action="store_true", help="a debugger where an exception is raised")
    trial.add_argument(
        "--debug", action="store_true", help="the traceback of a failure, too (or KDSWEEP_DEBUG=1)"
    )
    trial.add_argument("--profile", metavar="FILE", help="write a torch profile of one epoch")
    _where(trial)

    for name in ("table", "front", "plot"):
        made[name].add_argument(
            "sweeps", nargs="*", metavar="SWEEP", help="default: the one begun last"
        )
    made["table"].add_argument(
        "--format", choices=("text", "markdown", "latex", "csv"), default="text"
    )
    made["table"].add_argument("--metric", choices=SHOWN, default=SHOWN[0])
    made["table"].add_argument(
        "--against", choices=("published",), help="beside the published numbers of the study"
    )
    made["front"].add_argument(
        "--objective",
        action="append",
        metavar="COLUMN=max|min",
        help="default: the study's own",
    )
    made["front"].add_argument("--csv", action="store_true", help="comma-separated values")
    made["plot"].add_argument("-o", "--output", metavar="FILE", help=".png or .svg")
    made["plot"].add_argument(
        "--x",
        default="compression_params",
        choices=("compression_params", "compression_macs", "compression_bytes"),
    )
    made["plot"].add_argument("--metric", choices=SHOWN, default=SHOWN[0])
    made["query"].add_argument(
        "sql", nargs="?", metavar="SQL", help="over the views trials and epochs"
    )
    made["query"].add_argument(
        "--columns", action="store_true", help="what every column of the views means"
    )
    made["query"].add_argument("--csv", action="store_true", help="comma-separated values")
    for name in ("table", "front", "plot", "query"):
        _results(made[name])

    made["studies"].add_argument("name", nargs="?", metavar="NAME")
    made["studies"].add_argument("--schema", action="store_true", help="a study's JSON schema")
    for name in ("methods", "compressions", "optimizers", "explainers"):
        made[name].add_argument("name", nargs="?", metavar="NAME")
    made["models"].add_argument("name", nargs="?", metavar="NAME")
    made["models"].add_argument("--classes", type=int, default=10, metavar="N")
    made["models"].add_argument(
        "--image", default="3x32x32", metavar="CxHxW", help="default: 3x32x32"
    )
    made["datasets"].add_argument("name", nargs="?", metavar="NAME")
    made["datasets"].add_argument("--data", type=place, metavar="DIR", help="where data sets are")
    made["datasets"].add_argument("--download", action="store_true", help="fetch it if missing")

    _teacher(made["teacher"])
    network_options(made["export"], made["inspect"])
    explaining_options(made["explain"])
    for name in ("export", "inspect", "explain"):
        _results(made[name])
    actions = made["cache"].add_subparsers(dest="action", required=True, metavar="ACTION")
    actions.add_parser("list", help="tables and maps, their size and how full they are")
    clearing = actions.add_parser("clear", help="delete tables and maps")
    clearing.add_argument("names", nargs="*", metavar="TABLE", help="default: all of them")
    return parser


def _teacher(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    train = actions.add_parser("train", help="train the teachers of a study")
    train.add_argument("study", metavar="STUDY")
    _set(train)
    importing = actions.add_parser("import", help="read weights that somebody else trained")
    importing.add_argument("model", metavar="MODEL", help="its architecture: see kdsweep models")
    importing.add_argument("file", metavar="FILE", help=".pt, .pth, .th or .safetensors")
    importing.add_argument("--dataset", metavar="NAME", help="default: cifar10")
    importing.add_argument(
        "--image-size", type=int, metavar="N", help="pixels per side, for folders of images and VOC"
    )
    importing.add_argument("--name", metavar="NAME", help="default: the architecture's")
    importing.add_argument(
        "--normalisation",
        "--normalization",
        default="auto",
        metavar="NAME",
        help="dataset, per-image, imagenet, half, none, bytes, or MEAN,../STD,..; "
        "default: found on training images, or asked for",
    )
    importing.add_argument(
        "--class-names",
        metavar="A,B,..|FILE",
        help="the classes in the order of its outputs (a file has one a line); "
        "default: as the file says, else the data set's order",
    )
    importing.add_argument(
        "--force", action="store_true", help="file it even if it gets no more right than chance"
    )
    adopting = actions.add_parser("adopt", help="make a sweep's finished student a teacher")
    adopting.add_argument("sweep", metavar="SWEEP")
    adopting.add_argument("trial_id", metavar="TRIAL_ID", help="see kdsweep front SWEEP")
    adopting.add_argument("--name", metavar="NAME", help="default: the trial's")
    for action in (train, importing, adopting):
        action.add_argument(
            "--replace",
            action="store_true",
            help="take the name of another teacher, which is kept under another one",
        )
    listing = actions.add_parser("list", help="the teachers of a results folder")
    for action in (train, importing):
        _where(action)
    for action in (adopting, listing):
        _results(action)


def _verb(verbs: "argparse._SubParsersAction[_Parser]", name: str) -> argparse.ArgumentParser:
    return verbs.add_parser(
        name,
        help=VERBS[name],
        description=VERBS[name][0].upper() + VERBS[name][1:] + ".",
        epilog="examples:" + EXAMPLES[name],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _results(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--results",
        type=place,
        default="./results",
        metavar="DIR_OR_URI",
        help="default: ./results",
    )


def _where(parser: argparse.ArgumentParser) -> None:
    _results(parser)
    parser.add_argument(
        "--data", type=place, metavar="DIR", help="where data sets are; default: $KDSWEEP_DATA"
    )


def _set(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="fix a setting for all trials and the teacher (teacher.KEY: for it alone; "
        "pair=NAME: one of the study's pairs)",
    )


def _ray(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--address", metavar="auto|ADDRESS", help="a Ray cluster; default: here")
    parser.add_argument("--max-concurrent", type=int, metavar="N", help="trials at once")
    parser.add_argument(
        "--gpus-per-trial", default="auto", metavar="auto|F", help="a fraction packs trials"
    )
    parser.add_argument(
        "--fresh-workers",
        action="store_true",
        help="a new process for every trial, which costs seconds each; default: reused",
    )


def _version() -> str:
    import importlib.metadata

    return f"kdsweep {importlib.metadata.version('kdsweep')}"
