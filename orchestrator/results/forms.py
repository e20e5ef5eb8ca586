"""Tables as text: plain, Markdown, or LaTeX with booktabs.

A grid is a list of rows of cells, its header first. Several grids of one table stand below each
other, each with its header; they have the same number of columns.
"""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from trainables.errors import unknown

Grid = list[list[str]]

ABSENT = "–"
"""A cell of which nothing is known."""


class Form(NamedTuple):
    """How a table is written.

    Attributes:
        write: from a caption and grids to text.
        bold: format of an emphasised part of a cell.
    """

    write: Callable[[str, Sequence[Grid]], str]
    bold: str


def _text(caption: str, grids: Sequence[Grid]) -> str:
    widths = [max(map(len, column)) for column in zip(*_rows(grids), strict=True)]
    rule = "  ".join("-" * width for width in widths)
    blocks = []
    for grid in grids:
        header, *rows = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in grid]
        blocks.append("\n".join([header, rule, *rows, ""]))
    return "\n".join([caption, "", *blocks])


def _markdown(caption: str, grids: Sequence[Grid]) -> str:
    blocks = []
    for grid in grids:
        header, *rows = [[cell.replace("|", r"\|") for cell in row] for row in grid]
        lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
        blocks.append("\n".join(["| " + " | ".join(row) + " |" for row in lines] + [""]))
    return "\n".join([caption, "", *blocks])


_TEX = {char: rf"\{char}" for char in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "†": r"$^\dagger$",
    "–": "--",
    "<": "$<$",
    ">": "$>$",
}


def _latex(caption: str, grids: Sequence[Grid]) -> str:
    body = [r"    \toprule"]
    for grid in grids:
        header, *rows = (" & ".join(map(_latex_cell, row)) for row in grid)
        body += [rf"    {header} \\", r"    \midrule", *(rf"    {row} \\" for row in rows)]
        body.append(r"    \midrule")
    body[-1] = r"    \bottomrule"
    return "\n".join(
        [
            r"\begin{table}",
            r"  \centering",
            rf"  \caption{{{_escaped(caption)}}}",
            rf"  \begin{{tabular}}{{l{'r' * (len(grids[0][0]) - 1)}}}",
            *body,
            r"  \end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _escaped(text: str) -> str:
    text = re.sub(".", lambda match: _TEX.get(match.group(), match.group()), text)
    return text.replace("-$>$", r"$\to$")


def _latex_cell(text: str) -> str:
    text = re.sub(r"(^| )([+-])([\d.]+)(?= \$\\pm|$)", r"\1$\2\3$", _escaped(text))
    return re.sub("\0(.*)\0", r"\\textbf{\1}", text)


def _rows(grids: Sequence[Grid]) -> list[list[str]]:
    return [row for grid in grids for row in grid]


FORMS = {
    "text": Form(_text, "*{}*"),
    "markdown": Form(_markdown, "**{}**"),
    "latex": Form(_latex, "\0{}\0"),
}


def form_of(name: str) -> Form:
    """A form by its name.

    Raises:
        UserError: there is none; ``csv`` is not among them, since every table has its own.
    """
    if name not in FORMS:
        raise unknown("table format", name, [*FORMS, "csv"])
    return FORMS[name]
