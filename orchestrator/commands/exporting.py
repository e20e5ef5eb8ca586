"""`kdsweep export`: a trained network as a file for others to run."""

from argparse import Namespace
from pathlib import Path

from orchestrator.commands.networks import check_names, found, say
from orchestrator.commands.printing import print_pairs
from trainables.errors import UserError
from trainables.tasks.metrics import percent


def export(options: Namespace) -> int:
    asked = {"onnx": options.onnx, "pt2": options.pt2}
    given = {kind: file for kind, file in asked.items() if file is not None}
    if len(given) != 1:
        got = "both" if given else "neither"
        raise UserError(f"export: expected one of --onnx FILE and --pt2 FILE, got {got}")
    ((kind, file),) = given.items()
    check_names(options)
    from trainables.exporting import check_target
    from trainables.exporting import export as write

    path = Path(file).expanduser()
    check_target(path, kind)
    card, network, data_dir = found(options)
    done = write(
        card,
        network,
        path,
        kind,
        sweep=None if options.teacher else options.sweep,
        normalise=options.normalise,
        data_dir=data_dir,
        must_test=options.data is not None,
        say=say,
    )
    tested = f"not checked on the test set: {done.unchecked}"
    if done.tested is not None:
        tested = f"{percent(done.tested, card.metric)}; {card.name}: {card.tested}"
    print_pairs(
        str(done.path),
        {
            "bytes": f"{done.size_bytes:,}",
            "images": done.takes,
            "logits": f"float32 [batch, {card.classes}]",
            "differs by": f"{done.difference:.1e} from the network, in batches of 1, 2, 7 and 64",
            "test set": tested,
        },
    )
    return 0
