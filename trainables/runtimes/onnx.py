"""ONNX Runtime on the CPU: what a file of `kdsweep export --onnx` runs like."""

import importlib.util

from torch import Tensor

from trainables.errors import UserError
from trainables.models.outputs import Network
from trainables.runtimes.runtime import Answer, Runtime

_NEEDED = ("onnx", "onnxscript", "onnxruntime")


class Onnx(Runtime):
    """Exports the network as the file would be, and answers with a session of it.

    The batch stays dynamic, as it is in the file; threads are as many as torch has.
    """

    def unavailable(self) -> str | None:
        missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
        return f"not installed: {', '.join(missing)}" if missing else None

    def ready(self, network: Network, images: Tensor) -> Answer:
        from trainables.runtimes.onnx_file import onnx_bytes, open_session, session_answer

        if images.device.type != "cpu":
            raise UserError(f"runtime 'onnx': runs on the CPU, and not on {images.device.type}")
        _, channels, height, width = images.shape
        data = onnx_bytes(network, (channels, height, width), None, {})
        answer = session_answer(open_session(data))
        answer(images)
        return answer
