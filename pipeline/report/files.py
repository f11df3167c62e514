"""Names of the report's files; read by the command line, so it imports neither pandas nor matplotlib."""

from pipeline.settings.names import FORMATS

TABLES = ("cells", "epochs", "speedup", "laws", "attribution", "variance", "variance_tests", "projection", "unlike",
          "quality", "quality_scans", "quality_datasets", "quality_tests", "quality_verdicts", "quality_doses", "nps",
          "transfer", "table2", "networks", "accounting")  # fmt: skip
"""Tables of the report, each a CSV file of this name."""

FILES = (*(f"{name}.csv" for name in TABLES), "table2.md", "table2.tex", "summary.txt", "index.html")
"""Files of every report; which figures it has depends on what was trained."""

FIGURE_PATTERNS = tuple(f"figures/*.{name}" for name in FORMATS)
REPORT_PATTERNS = (*FILES, *FIGURE_PATTERNS)
QUALITY_PATTERNS = ("*.csv", *(f"*.{name}" for name in FORMATS))
SEARCH_FILES = (
    "trials.csv",
    "networks.csv",
    "importance.csv",
    "found.yaml",
    "summary.txt",
    "journal.log",
    "index.html",
)
SEARCH_PATTERNS = (*SEARCH_FILES, *FIGURE_PATTERNS)
"""What a report, the tables and figures of quality alone, or the summary of a search replace in their folder."""
