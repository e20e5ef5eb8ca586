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
    path = Path(file).expanduser()
    _check_target(path, kind)
    card, network, data_dir = found(options)
    from trainables.exporting import export as write

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
    size = f"{done.size_bytes:,}"
    if done.packed_bytes is not None:
        size += f"; weights of few bits are float32 in it, packed ({done.packed_bytes:,}) in rows"
    facts = {
        "bytes": size,
        "images": done.takes,
        "logits": f"float32 [batch, {card.classes}]",
        "differs by": f"{done.difference:.1e} from the network, in batches of 1, 2, 7 and 64",
        "test set": tested,
    }
    if done.needs:
        facts["to load it"] = f"first {done.needs}"
    print_pairs(str(done.path), facts)
    return 0


def _check_target(path: Path, kind: str) -> None:
    """Refuses a file that could not be written, before anything is loaded for it.

    Raises:
        UserError: another ending, no such folder, or one that cannot be written.
    """
    import tempfile

    option = f"--{kind} {path}"
    if path.suffix != f".{kind}":
        raise UserError(f"{option}: expected a file that ends in .{kind}")
    if not path.parent.is_dir():
        raise UserError(f"{option}: there is no folder {path.parent}")
    if path.is_dir():
        raise UserError(f"{option}: is a folder; expected a file")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise UserError(f"{option}: cannot be written: {error.strerror}") from error
