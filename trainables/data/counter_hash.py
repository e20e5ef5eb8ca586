"""Random numbers that are a pure function of what they are for: no state, no order of calls.

Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014: the SplitMix64
sequence is a bijective mix of an arithmetic progression, so its n-th number is found directly.
Written in wrapping int64 arithmetic, which CPU and CUDA compute alike.
"""

from torch import Tensor

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB


def counter_hash(purpose: int, seed: int, epoch: int, indices: Tensor) -> Tensor:
    """64 random bits for each index.

    Args:
        purpose: a constant per use, so that uses that share a seed stay independent.
        seed: any integer (taken modulo 2^64).
        epoch: any integer (taken modulo 2^64).
        indices: int64, any shape.

    Returns:
        int64 of the shape and on the device of ``indices``, uniform over all 2^64 values; a
        pure function of the four arguments, index by index.
    """
    key = 0
    for part in (purpose, seed, epoch):
        key = _mix((key + _GOLDEN) ^ (part & _MASK))
    bits = indices * _signed(_GOLDEN) + _signed(key)
    bits = (bits ^ _shift_right(bits, 30)) * _signed(_MIX_1)
    bits = (bits ^ _shift_right(bits, 27)) * _signed(_MIX_2)
    return bits ^ _shift_right(bits, 31)


def below(bits: Tensor, bound: int) -> Tensor:
    """Random bits to integers in ``[0, bound)``, for ``bound`` < 2^31.

    The high half of the product, as in Lemire, "Fast Random Integer Generation in an Interval",
    2019, without rejection: no value is off by more than ``bound`` / 2^32 of its probability.
    """
    return (_shift_right(bits, 32) * bound) >> 32


def _mix(value: int) -> int:
    value &= _MASK
    value = ((value ^ (value >> 30)) * _MIX_1) & _MASK
    value = ((value ^ (value >> 27)) * _MIX_2) & _MASK
    return value ^ (value >> 31)


def _signed(value: int) -> int:
    """The int64 with the bits of the unsigned ``value``."""
    return value - (1 << 64) if value >> 63 else value


def _shift_right(bits: Tensor, count: int) -> Tensor:
    """Logical shift: torch's ``>>`` on int64 copies the sign."""
    return (bits >> count) & ((1 << (64 - count)) - 1)
