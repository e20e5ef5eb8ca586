"""Latencies by runtime, which rows hold as JSON, as columns."""

from collections.abc import Collection

import pandas as pd

from trainables.objectives import timed_with, value_of


def with_latencies(frame: pd.DataFrame, names: Collection[str]) -> pd.DataFrame:
    """The trials with the latencies by runtime that are asked for, as columns of their own."""
    if "latencies" not in frame:
        return frame
    taken = {
        name: pd.Series(
            [value_of({"latencies": text}, name) for text in frame["latencies"]],
            frame.index,
            dtype=float,
        )
        for name in names
        if timed_with(name)
    }
    return frame.assign(**taken)
