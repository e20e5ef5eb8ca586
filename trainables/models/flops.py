"""How many floating-point operations a computation takes, by torch's formulas."""

from typing import Any

from torch._ops import HigherOrderOperator
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from trainables.models.dispatching import Uncompiled


class FlopCounter(Uncompiled):
    """Counts what is computed inside it: convolutions, matrix products and attention, at two
    operations per multiply-accumulate, also in backward passes.

    The sums are those of `torch.utils.flop_counter.FlopCounterMode`, which notes of every operation
    in which module it was; on the ``meta`` device that takes a quarter of the time.

    Attributes:
        flops: counted so far.
    """

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if isinstance(func, HigherOrderOperator):  # branches, loops and the like
            with FlopCounterMode(display=False) as inside:
                result = func(*args, **kwargs)
            self.flops += inside.get_total_flops()
            return result
        formula = flop_registry.get(func._overloadpacket)
        if formula is None:
            with self:  # in inference mode operations come whole that consist of others
                result = func.decompose(*args, **kwargs)
            return func(*args, **kwargs) if result is NotImplemented else result
        result = func(*args, **kwargs)
        self.flops += formula(*args, **kwargs, out_val=result)
        return result
