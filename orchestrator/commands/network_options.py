"""The options of the verbs that are about trained networks: export, inspect and explain."""

import argparse


def network_options(
    exporting: argparse.ArgumentParser, inspecting: argparse.ArgumentParser
) -> None:
    """Adds them, but for ``--results``.

    Args:
        exporting, inspecting: the parsers of the two verbs.
    """
    for parser in (exporting, inspecting):
        parser.add_argument("sweep", nargs="?", metavar="SWEEP")
        parser.add_argument(
            "trial_id", nargs="?", metavar="TRIAL_ID", help="see kdsweep front SWEEP"
        )
        parser.add_argument("--teacher", metavar="NAME", help="a teacher instead of a student")
    exporting.add_argument("--onnx", metavar="FILE", help="write ONNX, checked with ONNX Runtime")
    exporting.add_argument(
        "--pt2", metavar="FILE", help="write what torch.export.load reads, checked with it"
    )
    exporting.add_argument(
        "--normalise",
        "--normalize",
        action="store_true",
        help="inside the file: it takes uint8 pixels, 0 to 255; default: float32, normalised "
        "already by the mean and std in its metadata",
    )
    inspecting.add_argument("--csv", action="store_true", help="comma-separated values")
    inspecting.add_argument(
        "-o",
        "--output",
        metavar="FOLDER",
        help="draw features.png, kernels.png and graph.svg there",
    )
    for parser in (exporting, inspecting):
        _data(parser)


def explaining_options(parser: argparse.ArgumentParser) -> None:
    """Adds those of explain, but for ``--results``."""
    parser.add_argument("sweep", metavar="SWEEP")
    parser.add_argument(
        "trials",
        nargs="*",
        metavar="TRIAL_ID",
        help="default: the best trials on validation, one of each method",
    )
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help=".png, .svg or .pdf")
    parser.add_argument(
        "--explainers",
        default="grad_cam+integrated_gradients",
        metavar="A+B",
        help="see kdsweep explainers; none: attention maps alone; default: %(default)s",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a setting of an explainer, for example integrated_gradients.steps=20",
    )
    parser.add_argument(
        "--images", type=int, default=10, metavar="N", help="at most, one of a class; default: 10"
    )
    _data(parser)


def _data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data",
        type=place,
        metavar="DIR",
        help="where data sets are; default: where the sweep had them, $KDSWEEP_DATA",
    )


def place(text: str) -> str:
    """A folder as somebody named it: an empty name is a variable of a script that was not set."""
    if not text:
        raise argparse.ArgumentTypeError("expected a folder, got an empty name")
    return text
