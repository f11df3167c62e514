"""Table 2 of the paper, measured again: each kind of training with the paper's row."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pandas as pd

from pipeline.quality.measures import Measure, names, slice_measures
from pipeline.report.paper import TABLE_2, PaperRow
from pipeline.report.tables import records
from pipeline.scaling.disturbance import YES
from pipeline.scaling.points import CONDITIONS
from pipeline.settings.architectures import architecture_of
from pipeline.settings.names import LOW_DOSE_INPUT

_TRAINING = ["architecture", "network", "transfer", "epochs", "slices", "ranks", *CONDITIONS]
_KEY = ["architecture", "slices", "ranks"]
_TOLD_APART_BY = {"network": "{}", "transfer": "{}", **CONDITIONS}
_COUNTS = ("epochs", "slices", "ranks", "seeds", "paper_epochs", "paper_seconds")
_MEASURES = slice_measures("paper")
_TITLES, _MEANS = [measure.title for measure in _MEASURES], [f"{measure.name}_mean" for measure in _MEASURES]
HEADER = ("Architecture", "Epochs", "Slices", "Ranks", "Time", *_TITLES,
          "Paper: Epochs", "Paper: Time", *(f"Paper: {title}" for title in _TITLES))  # fmt: skip
SORTED_BY = ("architecture", "epochs", "slices", "ranks", "seconds", *_MEANS,
             "paper_epochs", "paper_seconds", *(f"paper_{mean}" for mean in _MEANS))  # fmt: skip
"""The column of the table that each column of the shown table is sorted by."""
_PAPER_DECIMALS = 4
_PAPER_NAMES = {"3D-DDnet TL+SDL": "3D-DDnet TL"}
_SAMPLING = {"strided": "SDL", "grouped": "GDL", "window": "window"}


def table2(cells: pd.DataFrame, judged: pd.DataFrame) -> pd.DataFrame:
    """Put each kind of training, over its seeds, into a row with the paper's numbers; the untouched input first.

    Seeds that were trained on unlike devices, or with an unlike precision, torch or version, have rows of their own.
    ``seconds`` is the mean training time of the seeds; ``disturbed`` names those that other work disturbed. MSE (on
    -1024 to 3072 HU as [0, 1]) and MS-SSIM are mean and SD over all held-out slices. The paper's row is that of the
    same architecture, slices and ranks. Of several, it is that with as many epochs, else that of the same rank when
    both tables are sorted by epochs, most first. The paper's rows without a training of ours come last.
    """
    trained = cells[(cells["state"] == "done") & (cells["arm"] == "full")].copy()
    trained["architecture"] = [architecture(row) for row in records(trained)]
    trained["position"] = trained.groupby(_KEY)["epochs"].rank("dense", ascending=False) - 1
    rows: list[dict[str, Any]] = [
        {"architecture": "low-dose input", "disturbed": "", **_quality(judged, [LOW_DOSE_INPUT])}
    ]
    matched = set[PaperRow | None]()
    for kind, group in trained.groupby(_TRAINING, sort=False):
        row = dict(zip(_TRAINING, kind, strict=True))
        row |= {"seeds": len(group), "seconds": group["training_seconds"].mean(),
                "disturbed": " ".join(group.loc[group["disturbed"] == YES, "cell"])}  # fmt: skip
        paper_row = _paper_row(row, int(group["position"].iloc[0]))
        matched.add(paper_row)
        rows.append({**row, **_quality(judged, list(group["cell"])), **_paper_columns(paper_row)})
    rows += [_unmeasured(paper_row) for paper_row in TABLE_2 if paper_row not in matched]
    columns = [*_TRAINING, "seeds", "seconds", "disturbed", *_quality(judged, []), *_paper_columns(None)]
    return pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(_COUNTS, "Int64"))


def architecture(cell: dict[str, Any]) -> str:
    """Name the architecture of a row of the cells' table as the paper does.

    SDL: strided slices, GDL: grouped slices, TL: weights transferred from 2D.
    """
    title = architecture_of(cell["model"]).title_in(cell["dims"])
    if cell["dims"] == 2:
        return title
    return f"{title} {'' if cell['transfer'] == 'none' else 'TL+'}{_SAMPLING[cell['sampling']]}"


def _quality(judged: pd.DataFrame, models: list[str]) -> dict[str, float]:
    slices = judged[judged["model"].isin(models)]
    return {f"{name}_{column}": slices[name].agg(statistic)
            for name in names(_MEASURES) for column, statistic in (("mean", "mean"), ("sd", "std"))}  # fmt: skip


def _paper_row(row: dict[str, Any], position: int) -> PaperRow | None:
    """Find the paper's row of a training; ``position``: of its epochs among those of its key, most first."""
    key = {**row, "architecture": _PAPER_NAMES.get(row["architecture"], row["architecture"])}
    candidates = [paper_row for paper_row in TABLE_2 if all(getattr(paper_row, name) == key[name] for name in _KEY)]
    exact = [paper_row for paper_row in candidates if paper_row.epochs == row["epochs"]]
    return next(iter(exact or candidates[position:] or candidates[-1:]), None)


def _paper_columns(row: PaperRow | None) -> dict[str, Any]:
    return {f"paper_{name}": row and getattr(row, name) for name in PaperRow._fields if name not in _KEY}


def _unmeasured(row: PaperRow) -> dict[str, Any]:
    return {**{name: getattr(row, name) for name in _KEY}, "disturbed": "", **_paper_columns(row)}


def as_markdown(table: pd.DataFrame) -> str:
    """Write the table for a README or an issue; a rule parts no columns there, so the paper's say so."""
    lines = [HEADER, ["---"] + ["--:"] * (len(HEADER) - 1), *shown_rows(table, "±")]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def shown_rows(table: pd.DataFrame, sign: str) -> Iterator[list[str]]:
    """Yield the rows as texts under ``HEADER``; ``sign`` stands between mean and SD, a dash for a missing number."""
    for title, row in zip(_titles(table), records(table), strict=True):
        yield [
            title, _count(row["epochs"]),
            "-" if row["slices"] == 1 else _count(row["slices"]), _count(row["ranks"]),
            *(text for prefix in ("", "paper_") for text in _figures(row, prefix, sign)),
        ]  # fmt: skip


def _titles(table: pd.DataFrame) -> Iterator[str]:
    """Yield the architectures, with network, transfer and conditions in brackets where several of these share one."""
    differ = table.groupby("architecture")[list(_TOLD_APART_BY)].transform("nunique") > 1
    for row, differs in zip(records(table), records(differ), strict=True):
        differing = {name: text for name, text in _TOLD_APART_BY.items() if differs[name] and not pd.isna(row[name])}
        parts = [text.format(row[name]) for name, text in differing.items()]
        yield row["architecture"] + (f" ({', '.join(parts)})" if parts else "")


def _figures(row: dict[str, Any], prefix: str, sign: str) -> Iterator[str]:
    if prefix:
        yield _count(row["paper_epochs"])
    yield _clock(row[f"{prefix}seconds"]) + ("*" if not prefix and row["disturbed"] else "")
    for measure in _MEASURES:
        text = _as_printed(measure).text if prefix else measure.text
        numbers = [row[f"{prefix}{measure.name}_{statistic}"] for statistic in ("mean", "sd")]
        yield f" {sign} ".join(text(number) for number in numbers if not pd.isna(number)) or "-"


def _as_printed(measure: Measure) -> Measure:
    """Return the measure with as many digits as the paper prints of it."""
    return replace(measure, digits=f"{max(0, _PAPER_DECIMALS + measure.exponent)}f")


def _count(value: Any) -> str:
    return "-" if pd.isna(value) else str(value)


def _clock(seconds: Any) -> str:
    """Write hours, minutes and seconds as the paper does."""
    if pd.isna(seconds):
        return "-"
    total = round(seconds)
    return f"{total // 3600}:{total // 60 % 60:02}:{total % 60:02}"
