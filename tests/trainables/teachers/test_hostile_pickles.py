"""Pickles that would run code are read all the same, and none of it runs."""

import collections
import contextlib
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from trainables.errors import UserError
from trainables.models import create_model
from trainables.teachers.checkpoint import read_checkpoint

SHAPE = (3, 32, 32)
Weights = dict[str, Tensor]


@pytest.fixture(scope="module")
def weights() -> Weights:
    torch.manual_seed(0)
    return create_model("resnet8", 10, SHAPE).state_dict()


class Trap:
    """Calls what it was made with when it is unpickled in the usual way."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


class Stateful:
    """Runs code of its own where its state is set."""

    def __setstate__(self, state: Any) -> None:
        Path(state["mark"]).touch()

    def __getstate__(self) -> Any:
        return {"mark": os.environ["KDSWEEP_TEST_MARK"]}


def traps(mark: Path) -> dict[str, Any]:
    code = f"open({str(mark)!r}, 'w').close()"
    return {
        "os.system": Trap(os.system, f"touch {mark}"),
        "eval": Trap(eval, code),
        "exec": Trap(exec, code),
        "open": Trap(open, str(mark), "w"),
        "nested": {"deep": [Trap(collections.OrderedDict, [("a", Trap(eval, code))])]},
        "through torch": Trap(torch._utils._rebuild_parameter, Trap(eval, code), True, {}),
        "a state": Stateful(),
        "through a map": Trap(list, Trap(map, eval, [code])),
        "through getattr": Trap(getattr, Trap(__import__, "os"), "system"),
        "through a pickle": Trap(pickle.loads, pickle.dumps(Trap(eval, code))),
        "as the file of another": Trap(np.load, str(mark)),
        "touch of pathlib": Trap(Path.touch, mark),
    }


TRAPS = list(traps(Path("x")))


@pytest.mark.parametrize("layout", ["zip", "legacy", "protocol 0", "protocol 5"])
@pytest.mark.parametrize("trap", TRAPS)
def test_nothing_of_a_pickle_is_ever_called(
    weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trap: str, layout: str
) -> None:
    mark, file = tmp_path / "mark", tmp_path / "net.pth"
    monkeypatch.setenv("KDSWEEP_TEST_MARK", str(mark))
    content = {"state_dict": weights, "trap": traps(mark)[trap], trap: 1}
    if layout.startswith("protocol"):
        file.write_bytes(pickle.dumps(content, protocol=int(layout[-1])))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=layout == "zip")
    with contextlib.suppress(UserError):
        read_checkpoint(str(file))
    assert not mark.exists()


def test_the_traps_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the test above would show nothing."""
    mark = tmp_path / "mark"
    monkeypatch.setenv("KDSWEEP_TEST_MARK", str(mark))
    for trap in ("os.system", "eval", "nested", "through torch", "a state", "through a pickle"):
        data = pickle.dumps(traps(mark)[trap])
        with contextlib.suppress(TypeError, AttributeError, ValueError):
            pickle.loads(data)  # what a call returns is of no use to the next
        assert mark.exists(), trap
        mark.unlink()


def test_commands_are_refused_by_name(weights: Weights, tmp_path: Path) -> None:
    content = {"state_dict": weights, "x": Trap(os.system, "true")}
    torch.save(content, tmp_path / "net.pth")
    with pytest.raises(UserError, match=r"^it would run posix\.system when it is loaded \("):
        read_checkpoint(str(tmp_path / "net.pth"))
