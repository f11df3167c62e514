"""Every column of the report's tables stands in docs/tables.md, and no other does."""

import re
from pathlib import Path

import pandas as pd

from jobs.stages.accounting import COLUMNS as ACCOUNTING
from pipeline.quality.measures import MEASURES, names
from pipeline.report.write import collect
from pipeline.search.importance import COLUMNS as IMPORTANCE
from pipeline.search.outcome import COLUMNS as TRIALS
from pipeline.search.outcome import networks_table
from pipeline.settings.cells import cells_of
from tests.pipeline.runs import fill, settings_of

DOCUMENT = Path(__file__).parents[2] / "docs" / "tables.md"
OF_ALL = "Columns of many tables"


def documented() -> dict[str, set[str]]:
    """Columns by section; of a section without a table there are none."""
    sections = re.split(r"^## ", DOCUMENT.read_text(), flags=re.MULTILINE)[1:]
    return {section.split("\n")[0].strip("`"): columns_of(section) for section in sections}


def columns_of(section: str) -> set[str]:
    listed = {name for cell in re.findall(r"^\| (`.+?) \|", section, re.MULTILINE) for name in cell.split(", ")}
    plain = {name.strip("`") for name in listed}
    return {name.replace("MEASURE", measure) for name in plain for measure in names(MEASURES)}


def test_every_column_is_documented(tmp_path: Path) -> None:
    settings = settings_of(study={"ranks": [1, 2], "slices": [16], "control_steps": 30})
    cells = cells_of(settings)
    ids = [cell.id for cell in cells]
    fill(tmp_path, cells, ids, lines=4)
    states = dict.fromkeys(ids, ("done", ""))
    judged, hours = ["low-dose", *ids], pd.DataFrame(columns=list(ACCOUNTING))
    tables = collect(tmp_path, settings, cells, states, judged, hours).tables
    sections = documented()
    shared, manifest = sections.pop(OF_ALL), sections.pop("manifest.csv")
    search = {name: sections.pop(f"search/{name}.csv") | shared for name in ("trials", "networks", "importance")}
    assert set(TRIALS) <= search["trials"]
    assert set(networks_table(["a"], [])) <= search["networks"]
    assert set(IMPORTANCE) <= search["importance"]
    sections["cells.csv"].remove("validation_loss")  # of validations by crops, which made-up trainings do not have
    assert set(sections) == {f"{name}.csv" for name in tables}
    for name, table in tables.items():
        assert set(table) - shared == sections[f"{name}.csv"] - shared, name
        assert sections[f"{name}.csv"] <= set(table), name
    assert shared <= {str(column) for table in tables.values() for column in table}
    assert {"subject", "patient", "state"} <= manifest
