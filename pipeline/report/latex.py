"""Table 2 for a paper, as LaTeX that needs booktabs alone."""

import re
from collections.abc import Iterator, Sequence

import pandas as pd

from pipeline.report.captions import TABLE_CAPTIONS
from pipeline.report.table2 import HEADER, shown_rows

_PAPER = HEADER.index("Paper: Epochs")  # where the paper's columns begin
_TIME = HEADER.index("Time")
_WIDEST = 26  # characters of a title beside which the numbers fit on a page
_BREAK = "\N{ZERO WIDTH SPACE}"
_SPECIAL = {_BREAK: r"\allowbreak{}",
            "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
            ">": r"\textgreater{}", "|": r"\textbar{}", '"': "''", "±": r"$\pm$", "\n": " ",
            **{character: f"\\{character}" for character in "{}$&#_%"}}  # fmt: skip
_RAISED = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")


def as_latex(table: pd.DataFrame, run: str) -> str:
    r"""Write Table 2 as a float, with the paper's rows below ours, so that it fits the width of a page.

    Titles that are too long for that, as ids in them are, are set in lines.

    ``run``: the run's name, which is also in the label, ``\ref{tab:quarterdose-<run>}``.
    """
    rows = [line for row in shown_rows(table, "±") for line in _lines(row)]
    is_wide = any(len(row[0]) > _WIDEST for row in rows)
    titles = r"p{.28\textwidth}" if is_wide else "l"
    caption = f"Table 2 of the 3D-DDnet paper, measured again by the run {run}. {TABLE_CAPTIONS['table2']}"
    lines = [
        r"\begin{table*}", r"\centering", r"\footnotesize", r"\setlength{\tabcolsep}{2pt}",
        r"\setlength{\belowcaptionskip}{6pt}",
        rf"\caption{{{escape(caption)}}}",
        rf"\label{{tab:quarterdose-{run}}}",
        rf"\begin{{tabular}}{{@{{}}{titles}{'r' * (_PAPER - 1)}@{{}}}}", r"\toprule",
        _line(HEADER[:_PAPER]), r"\midrule",
        *(_in_lines(row) if is_wide else _line(row) for row in rows),
        r"\bottomrule", r"\end{tabular}", r"\end{table*}",
    ]  # fmt: skip
    return "\n".join(["% needs \\usepackage{booktabs}", *lines]) + "\n"


def _lines(row: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yield a row of what was measured, then a row of the paper's, as far as there are such numbers."""
    measured, paper = row[:_PAPER], row[_PAPER:]
    is_measured = set(measured[_TIME:]) != {"-"}
    if is_measured:
        yield measured
    if set(paper) != {"-"}:
        epochs, *numbers = paper
        yield [row[0] + ", paper", epochs, *row[2:_TIME], *numbers]


def _in_lines(row: Sequence[str]) -> str:
    """Let a row's title be broken between words, behind underscores, and within words that are as long as a line."""
    title = re.sub(r"([^\s_]{12}|_)(?=\w)", rf"\1{_BREAK}", row[0])
    return rf"\raggedright {_line([title, *row[1:]])}"


def _line(texts: Sequence[str]) -> str:
    return " & ".join("--" if text == "-" else escape(text) for text in texts) + r" \\"


def escape(text: str) -> str:
    """Write a text so that LaTeX sets it as it is; raised figures become an exponent, a hyphen of a number a minus."""
    plain = "".join(_SPECIAL.get(character, character) for character in text)
    plain = re.sub(r"(?<!\S)-(?=\d)", "$-$", plain)
    return re.sub(r"[⁻⁰¹²³⁴-⁹]+", lambda raised: f"$^{{{raised[0].translate(_RAISED)}}}$", plain)
