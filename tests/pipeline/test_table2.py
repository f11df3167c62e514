"""Table 2 of the paper with ours, in each of its formats."""

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.report.latex import as_latex, escape
from pipeline.report.paper import TABLE_2
from pipeline.report.table2 import as_markdown, table2

SPECIAL = r'50% of #1 & $x_1$ {a} \input{b} ~ ^ < > | "q" ± -5'


def training(**changes: object) -> dict[str, object]:
    return {"state": "done", "arm": "full", "network": "3d", "model": "ddnet", "dims": 3, "slices": 16, "ranks": 2,
            "sampling": "grouped", "transfer": "zero", "epochs": 50, "precision": "float32", "device": "cpu",
            "torch": "2.8.0", "version": "0.1.0", "data": "d" * 64, "disturbed": "no", **changes}  # fmt: skip


def table2_of(**changes: object) -> pd.DataFrame:
    """Table 2 of one 3D training with two seeds, 100 and 200 s, and one 2D network that was not judged."""
    deep = training(**changes)
    flat = {
        **deep,
        "cell": "2d",
        "network": "2d",
        "dims": 2,
        "slices": 1,
        "ranks": 1,
        "transfer": "none",
        "training_seconds": 3725.0,
    }
    seeds = [{**deep, "cell": f"a{seed}", "training_seconds": 100.0 * seed} for seed in (1, 2)]
    judged = [("low-dose", 4e-4, 0.90), ("a1", 1e-4, 0.92), ("a1", 2e-4, 0.94), ("a2", 3e-4, 0.96)]
    return table2(pd.DataFrame([flat, *seeds]), pd.DataFrame(judged, columns=["model", "mse", "ms_ssim"]))


def test_table_2_has_the_papers_row_beside_ours() -> None:
    table = table2_of().set_index("architecture")
    ours = table.loc["3D-DDnet TL+GDL"].iloc[0]
    assert (ours["seeds"], ours["seconds"]) == (2, 150)
    assert ours["mse_mean"] == pytest.approx(2e-4)
    assert ours["ms_ssim_sd"] == pytest.approx(np.std([0.92, 0.94, 0.96], ddof=1))
    assert ours["paper_seconds"] == 5 * 3600 + 24 * 60 + 7
    assert ours["paper_ms_ssim_mean"] == 0.9258
    assert table.loc["low-dose input", "ms_ssim_mean"] == 0.90
    assert table.loc["2D-DDnet", "paper_seconds"] == 8 * 3600 + 44 * 60 + 32
    assert table["mse_mean"].isna()["2D-DDnet"]
    assert len(table) == 3 + len(TABLE_2) - 2  # no row of the paper's is lost or told twice


def test_table_2_takes_the_papers_row_of_as_many_epochs() -> None:
    rows = table2_of(slices=32, epochs=25)
    ours = rows[rows["seeds"] == 2].iloc[0]
    assert (ours["paper_epochs"], ours["paper_seconds"]) == (25, 10 * 3600 + 52 * 60 + 32)
    unmatched = table2_of(slices=32, epochs=7)
    assert unmatched[unmatched["seeds"] == 2].iloc[0]["paper_epochs"] == 50


def test_table_2_at_a_small_size_takes_the_papers_rows_in_their_order() -> None:
    """Three and two epochs stand beside 50 and 25; a transfer into strided slices is the paper's TL."""
    several = [training(cell=f"e{epochs}", slices=32, epochs=epochs, training_seconds=1.0) for epochs in (2, 3)]
    strided = training(cell="tl", slices=32, sampling="strided", epochs=1, training_seconds=1.0)
    judged = pd.DataFrame([("low-dose", 4e-4, 0.90)], columns=["model", "mse", "ms_ssim"])
    table = table2(pd.DataFrame([*several, strided]), judged)
    measured = table[table["seeds"].notna()]
    assert dict(zip(measured["epochs"], measured["paper_epochs"], strict=True)) == {2: 25, 3: 50, 1: 15}
    assert len(table) == 1 + len(TABLE_2)


def test_table_2_in_markdown() -> None:
    lines = as_markdown(table2_of()).splitlines()
    assert "MSE (10⁻⁴) | MS-SSIM | Paper: Epochs" in lines[0]
    expected = (
        "| 3D-DDnet TL+GDL | 50 | 16 | 2 | 0:02:30 | 2.000 ± 1.000 | 0.9400 ± 0.0200 | 50 | 5:24:07 | 11 ± 6 | 0.9258"
    )
    assert any(line.startswith(expected) for line in lines)
    assert "| 2D-DDnet | 50 | - | 1 | 1:02:05 | - | - | 50 | 8:44:32 | 39 ± 15 | 0.7888 ± 0.0857 |" in lines


def test_table_2_in_latex_has_numbers_as_a_paper_has_them() -> None:
    latex = as_latex(table2_of(), "night_2")
    lines = latex.splitlines()
    ours = lines.index(r"3D-DDnet TL+GDL & 50 & 16 & 2 & 0:02:30 & 2.000 $\pm$ 1.000 & 0.9400 $\pm$ 0.0200 \\")
    assert lines[ours + 1] == (r"3D-DDnet TL+GDL, paper & 50 & 16 & 2 & 5:24:07 & 11 $\pm$ 6 & 0.9258 $\pm$ 0.0603 \\")
    assert r"low-dose input & -- & -- & -- & -- & 4.000 & 0.9000 \\" in lines
    assert not re.search(r"\de[-+]\d", latex)
    assert r"MSE (10$^{-4}$)" in latex
    assert r"by the run night\_2." in latex
    assert r"\label{tab:quarterdose-night_2}" in lines
    papers = [line for line in lines if ", paper &" in line]
    assert len(papers) == len(TABLE_2)


def test_latex_is_well_formed() -> None:
    lines = as_latex(table2_of(), "t").splitlines()
    opened = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+\*?)\}", "\n".join(lines)):
        if kind == "begin":
            opened.append(name)
        else:
            assert opened.pop() == name
    assert opened == []
    for line in lines:
        assert len(re.findall(r"(?<!\\)\{", line)) == len(re.findall(r"(?<!\\)\}", line)), line
        assert len(re.findall(r"(?<!\\)\$", line)) % 2 == 0, line
    (columns,) = (match[1] for line in lines if (match := re.match(r"\\begin\{tabular\}\{@\{\}(\w+)@\{\}\}", line)))
    rows = [line for line in lines if line.endswith(r"\\")]
    assert {len(re.findall(r"(?<!\\)&", row)) + 1 for row in rows} == {len(columns)}
    assert len(rows) == 1 + 3 + len(TABLE_2)  # the header, three rows of ours


def test_texts_are_escaped_for_latex() -> None:
    assert escape(SPECIAL) == (
        r"50\% of \#1 \& \$x\_1\$ \{a\} \textbackslash{}input\{b\} \textasciitilde{} \textasciicircum{} "
        r"\textless{} \textgreater{} \textbar{} ''q'' $\pm$ $-$5"
    )
    hostile = as_latex(table2_of().assign(architecture=r"\input{/etc/passwd} & 1 \\"), "t")
    assert r"\input" not in hostile


def table2_of_longest_ids() -> pd.DataFrame:
    """Table 2 of networks with ids as long as they may be, and of two ways of transfer of each."""
    networks = ("a_quite_long_network_id_of_mine1", "m" * 32)
    trained = [training(cell=f"{transfer}-{network}", network=network, transfer=transfer, training_seconds=1e5)
               for transfer in ("zero", "repeat") for network in networks]  # fmt: skip
    judged = [(cell["cell"], mse, 0.9 + mse) for cell in trained for mse in (1e-2, 2e-2)]
    return table2(pd.DataFrame(trained), pd.DataFrame(judged, columns=["model", "mse", "ms_ssim"]))


@pytest.mark.parametrize("make", [table2_of, table2_of_longest_ids])
@pytest.mark.parametrize("columns", ["onecolumn", "twocolumn"])
def test_latex_compiles_and_fits_the_page(tmp_path: Path, columns: str, make: Callable[[], pd.DataFrame]) -> None:
    engine = shutil.which("pdflatex") or shutil.which("lualatex") or shutil.which("tectonic")
    if engine is None:
        pytest.skip("needs: apt-get install texlive-latex-base texlive-latex-recommended")
    table = make()
    table.loc[0, "architecture"] = SPECIAL[:20]
    (tmp_path / "table2.tex").write_text(as_latex(table, "night_2"))
    (tmp_path / "paper.tex").write_text(
        rf"\documentclass[{columns}]{{article}}\usepackage{{booktabs}}\begin{{document}}"
        r"See Table~\ref{tab:quarterdose-night_2}.\input{table2}\end{document}"
    )
    options = [] if engine.endswith("tectonic") else ["-interaction=nonstopmode", "-halt-on-error"]
    for _ in range(2):  # the second resolves the reference
        compiled = subprocess.run([engine, *options, "paper.tex"], cwd=tmp_path, capture_output=True, text=True)
        assert compiled.returncode == 0, compiled.stdout[-2000:]
    assert (tmp_path / "paper.pdf").stat().st_size > 10_000
    if not engine.endswith("tectonic"):
        log = (tmp_path / "paper.log").read_text(errors="replace")
        assert "Overfull" not in log
        assert "undefined" not in log


def test_times_of_disturbed_trainings_have_an_asterisk() -> None:
    table = table2_of(disturbed="yes")
    assert table["disturbed"].tolist()[:3] == ["", "2d", "a1 a2"]
    assert "| 3D-DDnet TL+GDL | 50 | 16 | 2 | 0:02:30* |" in as_markdown(table)
    assert "0:02:30*" in as_latex(table, "run")
    assert "*" not in as_markdown(table2_of())


def test_networks_and_devices_of_one_architecture_are_told_apart() -> None:
    trained = pd.DataFrame([
        training(cell="a", network="wide", training_seconds=1.0),
        training(cell="b", network="slim", training_seconds=2.0),
        training(cell="c", network="flat", dims=2, transfer="none", training_seconds=3),
        training(cell="d", network="flat", dims=2, transfer="none", training_seconds=4, device="A100"),
    ])  # fmt: skip
    table = table2(trained, pd.DataFrame(columns=["model", "mse", "ms_ssim"]))
    titles = [line.split(" | ")[0].removeprefix("| ") for line in as_markdown(table).splitlines()[2:]]
    assert titles[:5] == ["low-dose input", "3D-DDnet TL+GDL (wide)", "3D-DDnet TL+GDL (slim)", "2D-DDnet (cpu)",
                          "2D-DDnet (A100)"]  # fmt: skip
    assert {title for title in titles[5:] if "(" in title} == set()


def test_seeds_under_unlike_conditions_are_rows_of_their_own() -> None:
    """A run that was continued after torch was updated, or on a GPU that computes in another precision."""
    seeds = [training(cell="a", training_seconds=1.0), training(cell="b", training_seconds=3.0)]
    newer = training(cell="c", torch="2.11.0", training_seconds=10.0)
    table = table2(pd.DataFrame([*seeds, newer]), pd.DataFrame(columns=["model", "mse", "ms_ssim"]))
    titles = [line.split(" | ")[0].removeprefix("| ") for line in as_markdown(table).splitlines()[3:5]]
    assert titles == ["3D-DDnet TL+GDL (torch 2.8.0)", "3D-DDnet TL+GDL (torch 2.11.0)"]
    assert table["seeds"].tolist()[1:3] == [2, 1]
    assert table["seconds"].tolist()[1:3] == [2.0, 10.0]
    lower = training(cell="d", precision="bfloat16", training_seconds=10.0)
    table = table2(pd.DataFrame([*seeds, lower]), pd.DataFrame(columns=["model", "mse", "ms_ssim"]))
    assert "| 3D-DDnet TL+GDL (bfloat16) |" in as_markdown(table)


def test_ways_of_transfer_are_told_apart() -> None:
    """Both are TL."""
    trained = pd.DataFrame(
        [training(cell=transfer, transfer=transfer, training_seconds=1.0) for transfer in ("none", "zero", "repeat")]
    )
    table = table2(trained, pd.DataFrame(columns=["model", "mse", "ms_ssim"]))
    titles = [line.split(" | ")[0].removeprefix("| ") for line in as_markdown(table).splitlines()[3:6]]
    assert titles == ["3D-DDnet GDL", "3D-DDnet TL+GDL (zero)", "3D-DDnet TL+GDL (repeat)"]
