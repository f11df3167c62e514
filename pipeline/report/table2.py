"""Table 2 of the paper, measured again: each training with the paper's row beside it."""

from collections.abc import Iterator
from typing import Any

import pandas as pd

from pipeline.report.paper import TABLE_2, PaperRow
from pipeline.report.tables import records
from pipeline.settings.names import LOW_DOSE_INPUT, RED_CNN

_TRAINING = ["architecture", "transfer", "epochs", "slices", "ranks", "device"]
_QUALITY = ("mse", "ms_ssim")
HEADER = ("Architecture", "Epochs", "Slices", "Ranks", "Time", "MSE", "MS-SSIM",
          "Paper: Epochs", "Paper: Time", "Paper: MSE", "Paper: MS-SSIM")  # fmt: skip
SORTED_BY = ("architecture", "epochs", "slices", "ranks", "seconds", "mse_mean", "ms_ssim_mean",
             "paper_epochs", "paper_seconds", "paper_mse_mean", "paper_ms_ssim_mean")  # fmt: skip
"""The column of the table that each column of the shown one is sorted by."""
_SAMPLING = {"strided": "SDL", "grouped": "GDL", "window": "window"}


def table2(cells: pd.DataFrame, judged: pd.DataFrame) -> pd.DataFrame:
    """A row a kind of training, over its seeds, with the paper's beside it; the untouched input first.

    ``seconds`` is the mean training time of the seeds; MSE (on -1024 to 3072 HU as [0, 1]) and MS-SSIM are mean and SD
    over all held-out slices. The paper's row is that of the same architecture, slices and ranks; of several, that with
    as many epochs, else that which comes as far down by epochs. Its rows that nothing was measured for come last.
    """
    done = cells[(cells["state"] == "done") & (cells["arm"] == "full")].copy()
    done["architecture"] = [architecture(row) for row in records(done)]
    done["longer"] = done.groupby(_KEY)["epochs"].rank("dense", ascending=False) - 1
    rows: list[dict[str, Any]] = [{"architecture": "low-dose input", **_quality(judged, [LOW_DOSE_INPUT])}]
    seen = set[PaperRow | None]()
    for kind, group in done.groupby(_TRAINING, sort=False):
        row = dict(zip(_TRAINING, kind, strict=True))
        row |= {"seeds": len(group), "seconds": group["training_seconds"].mean()}
        beside = _beside(row, int(group["longer"].iloc[0]))
        seen.add(beside)
        rows.append({**row, **_quality(judged, list(group["cell"])), **_paper(beside)})
    rows += [_unmeasured(one) for one in TABLE_2 if one not in seen]
    columns = [*_TRAINING, "seeds", "seconds", *_quality(judged, []), *_paper(None)]
    return pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(_WHOLE, "Int64"))


_WHOLE = ("epochs", "slices", "ranks", "seeds", "paper_epochs", "paper_seconds")


def architecture(cell: dict[str, Any]) -> str:
    """The paper's name of a row of the cells' table; SDL: strided, GDL: grouped slices, TL: transferred from 2D."""
    if cell["dims"] == 2:
        return "RED-CNN" if cell["model"] == RED_CNN else "2D-DDnet"
    return f"3D-DDnet {'' if cell['transfer'] == 'none' else 'TL+'}{_SAMPLING[cell['sampling']]}"


def _quality(judged: pd.DataFrame, models: list[str]) -> dict[str, float]:
    slices = judged[judged["model"].isin(models)]
    return {f"{metric}_{name}": slices[metric].agg(how)
            for metric in _QUALITY for name, how in (("mean", "mean"), ("sd", "std"))}  # fmt: skip


def _beside(row: dict[str, Any], longer: int) -> PaperRow | None:
    """``longer``: how many numbers of epochs above its own trainings have that are alike else."""
    named = {**row, "architecture": _IN_THE_PAPER.get(row["architecture"], row["architecture"])}
    alike = [one for one in TABLE_2 if all(getattr(one, name) == named[name] for name in _KEY)]
    exact = [one for one in alike if one.epochs == row["epochs"]]
    return next(iter(exact or alike[longer:] or alike[-1:]), None)


_KEY = ["architecture", "slices", "ranks"]
_IN_THE_PAPER = {"3D-DDnet TL+SDL": "3D-DDnet TL"}


def _paper(row: PaperRow | None) -> dict[str, Any]:
    return {f"paper_{name}": row and getattr(row, name) for name in PaperRow._fields if name not in _KEY}


def _unmeasured(row: PaperRow) -> dict[str, Any]:
    return {**{name: getattr(row, name) for name in _KEY}, **_paper(row)}


def as_markdown(table: pd.DataFrame) -> str:
    """The table for a README or an issue."""
    lines = [HEADER, ["---"] + ["--:"] * (len(HEADER) - 1), *shown_rows(table, "±")]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def as_latex(table: pd.DataFrame) -> str:
    """The table for a paper that uses booktabs."""
    rows = [" & ".join(line) + r" \\" for line in shown_rows(table, r"$\pm$")]
    groups = r"& & & & \multicolumn{3}{c}{Measured} & \multicolumn{4}{c}{Paper} \\"
    names = " & ".join(name.removeprefix("Paper: ") for name in HEADER) + r" \\"
    lines = [r"\begin{tabular}{lrrrrrrrrrr}", r"\toprule", groups, r"\cmidrule(lr){5-7}\cmidrule(lr){8-11}", names,
             r"\midrule", *rows, r"\bottomrule", r"\end{tabular}"]  # fmt: skip
    return "\n".join(lines) + "\n"


def shown_rows(table: pd.DataFrame, sign: str) -> Iterator[list[str]]:
    """The rows as text under ``HEADER``; ``sign`` stands between mean and SD, a dash for what is unknown."""
    for row in records(table):
        yield [
            row["architecture"], _count(row["epochs"]),
            "-" if row["slices"] == 1 else _count(row["slices"]), _count(row["ranks"]),
            *(text for prefix in ("", "paper_") for text in _figures(row, prefix, sign)),
        ]  # fmt: skip


def _figures(row: dict[str, Any], prefix: str, sign: str) -> Iterator[str]:
    if prefix:
        yield _count(row["paper_epochs"])
    yield _clock(row[f"{prefix}seconds"])
    for metric, digits in (("mse", "4f" if prefix else "2e"), ("ms_ssim", "4f")):
        mean, sd = row[f"{prefix}{metric}_mean"], row[f"{prefix}{metric}_sd"]
        yield (
            "-" if pd.isna(mean) else f"{mean:.{digits}}" if pd.isna(sd) else f"{mean:.{digits}} {sign} {sd:.{digits}}"
        )


def _count(value: Any) -> str:
    return "-" if pd.isna(value) else str(value)


def _clock(seconds: Any) -> str:
    """Hours, minutes and seconds, as the paper writes them."""
    if pd.isna(seconds):
        return "-"
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
