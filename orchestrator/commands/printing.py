"""How the command line prints tables and frames."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


def print_pairs(title: str, pairs: dict[str, Any]) -> None:
    print_table((title, ""), [(key, str(value)) for key, value in pairs.items()])


def print_table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for name in header:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*row)
    # A pipe gets whole lines; a terminal those that fit.
    width = None if sys.stdout.isatty() else 160
    Console(markup=False, highlight=False, width=width).print(table)


def print_frame(frame: pd.DataFrame, *, csv: bool) -> None:
    if csv:
        frame.to_csv(sys.stdout, index=False)
        return
    formats = dict.fromkeys(frame.select_dtypes("float").columns, "{:.4f}".format)
    print(frame.to_string(index=False, formatters=formats, na_rep="-"))


def rounded(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{value:.4f}" for value in values) + ")"
