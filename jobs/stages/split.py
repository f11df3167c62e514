"""The split of prepared scans into parts, and the manifest of all scans."""

import json
from collections import defaultdict
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from data_prep.errors import UserError
from data_prep.files import digest_json, write_atomic, write_json
from data_prep.ledger import Ledger
from data_prep.manifest import read_manifest
from data_prep.noise_table import FILE as NOISE
from data_prep.noise_table import PARTNERS, noise_table, partner_rows, read_noise
from data_prep.partners import FULL_DOSE
from data_prep.paths import SPLIT_FILES
from data_prep.progress import Progress
from data_prep.sources.series import Exclusion, PassedOver, Series
from data_prep.split import Split, patients_of, split
from jobs.engine.outcome import check_stage
from jobs.engine.stage import Ref, Stage
from jobs.stages.prepare import Prepare
from pipeline.settings.cells import cells_of
from pipeline.training.world import World

_STUDIES = "studies"  # key of a used scan's row; the manifest has the patient whom they tell
_TURNED_AWAY = "turned away"
_NO_IMAGE = "no image"  # state of a source's files that are none: a row for all of them


class SplitScans(Stage):
    """Write the manifest of all scans, used or turned away, and the split of those that are used.

    The manifest is written in any case: if too many scans were turned away, or if those that are used cannot be
    split, it says why. ``is_needed``: whether the run ends then; preparation alone goes without a split.
    """

    name: str = "split"
    version: ClassVar[int] = 5
    accepts_failed_inputs: ClassVar[bool] = True
    keeps_refusals: ClassVar[bool] = True
    gathers: ClassVar[str] = Prepare.name
    concludes: ClassVar[bool] = True

    def __init__(self, prepare: Prepare, *, is_needed: bool = True) -> None:
        super().__init__(prepare.folder)
        self.prepare, self.is_needed = prepare, is_needed

    def items(self) -> list[str]:
        return ["split"]

    @cached_property
    def min_slices(self) -> int:
        """Number of slices that a scan must have: those of the thickest volume that is trained or validated on."""
        return max(max(cell.slices, cell.validated) for cell in cells_of(self.settings))

    def reads(self, item: str) -> Mapping[str, Any]:
        exclusions = digest_json(sorted(exclusion.row for exclusion in self.prepare.exclusions))
        settings = self.settings.data.split.model_dump(mode="json")
        joined = {"shared studies": self._shared_studies()} if self._shared_studies() else {}
        return {**settings, "least": self.min_slices, "set aside": exclusions, **joined}

    def _shared_studies(self) -> dict[str, list[str]]:
        """Return the subjects of each study that has several; most runs have none."""
        subjects = defaultdict[str, set[str]](set)
        for series in self.prepare.series.values():
            for study in series.studies:
                subjects[study].add(series.subject)
        return {study: sorted(members) for study, members in sorted(subjects.items()) if len(members) > 1}

    def inputs(self, item: str) -> list[Ref]:
        return [(self.gathers, scan) for scan in self.prepare.items()]

    def outputs(self, item: str) -> list[Path]:
        """List manifest and split; of several partners also the table of their noise."""
        count = 3 if len(self.settings.data.low_dose.partners) > 1 else 2
        return [self.folder.data / name for name in SPLIT_FILES[:count]]

    def product(self, result: Mapping[str, Any], outputs: Mapping[str, str]) -> Any:
        return result["trained on"]

    def partly_written(self, item: str) -> Mapping[Path, str]:
        return dict.fromkeys((self.folder.data, self.folder.data / "contact"), ".*")

    def check_replaceable(self, item: str) -> None:
        ledger = Ledger(self.folder.data)
        if ledger.exists():  # versions before kept none here
            ledger.check(SPLIT_FILES)

    def allowed_failures(self, count: int) -> int:
        return 0 if self.is_needed else count

    def run(self, item: str, world: World, progress: Progress) -> dict[str, Any]:
        """Write the manifest, then the split.

        Raises:
            RunFailed: too many scans were turned away.
            UserError: the others cannot be split.
        """
        with Ledger(self.folder.data).recording(SPLIT_FILES):
            (self.folder.data / NOISE).unlink(missing_ok=True)  # of several partners before: of a single one it is none
            return self._write(*self.outputs(item))

    def _write(self, manifest: Path, split_file: Path, *noise: Path) -> dict[str, Any]:
        used = self._write_manifest(manifest, *noise)
        check_stage(self.prepare)
        if not used:
            raise UserError(_describe_refusals(manifest))
        parts = split(used, self.settings.data.split, self.min_slices)
        write_json(split_file, parts.to_json())
        slices = {part: sum(map(len, segments)) for part, segments in parts.parts.items()}
        pairs = {row["scan"]: [row[f"sha256_{name}"] for name in _arrays(row)] for row in used}
        return {"by": parts.by, "slices": slices, "trained on": digest_json([parts.to_json(), pairs])}

    def _write_manifest(self, manifest: Path, *noise: Path) -> list[dict[str, Any]]:
        """Write the manifest, ``noise`` and the contact sheets of data sets; return the rows of the used scans."""
        import pandas as pd

        from data_prep.overview import draw_pages

        rows = [self._row(scan) for scan in self.prepare.items()]
        used = [row for row in rows if row["state"] == "kept"]
        patients = patients_of(used)
        for row in used:
            row["patient"] = patients[row["subject"]]
        for dataset in sorted({row["dataset"] for row in used}):
            draw_pages(self.folder.data, [row for row in used if row["dataset"] == dataset])
        excluded = [_turned_away(series, series.reason, series.images) for series in self.prepare.exclusions]
        passed_over = [_no_image(files) for files in self.prepare.passed_over]
        for path in noise:
            write_atomic(path, noise_table(used).to_csv(index=False))
        table = pd.DataFrame(rows + excluded + passed_over).drop(columns=[PARTNERS, _STUDIES], errors="ignore")
        write_atomic(manifest, table.to_csv(index=False))
        return used

    def _row(self, scan: str) -> dict[str, Any]:
        marker = self.prepare.markers.read(scan)
        if marker is None or marker.state != "done":
            series = self.prepare.series[scan]
            return _turned_away(series, marker.reason if marker else "not prepared", len(series.files))
        slices = marker.result["slices"]
        is_short = slices < self.min_slices
        reason = f"{slices} slices, a volume of the study takes {self.min_slices}" if is_short else ""
        state = _TURNED_AWAY if is_short else "kept"
        return {**marker.result, "state": state, "reason": reason, _STUDIES: self.prepare.series[scan].studies}


def _arrays(row: Mapping[str, Any]) -> list[str]:
    """List the arrays of a scan's pair."""
    return [FULL_DOSE, *(partner["array"] for partner in partner_rows(row))]


def _turned_away(series: Series | Exclusion, reason: str, slices: int) -> dict[str, Any]:
    names = {"dataset": series.dataset, "subject": series.subject, "scan": series.scan}
    return {**names, "slices": slices, "state": _TURNED_AWAY, "reason": reason}


def _describe_refusals(manifest: Path) -> str:
    """Say of a manifest without any scan that is kept why most of its series are not."""
    table = read_manifest(manifest)
    reasons = table.loc[table["state"] == _TURNED_AWAY, "reason"]
    reason = reasons.value_counts().index[0]
    return (
        f"no scan is kept of {len(reasons)} series, {(reasons == reason).sum()} of them as: {reason}; "
        f"{manifest} has the reason of each"
    )


def _no_image(files: PassedOver) -> dict[str, Any]:
    dataset, count, reason = files.row
    return {"dataset": dataset, "slices": count, "state": _NO_IMAGE, "reason": reason}


def read_split(stage: Stage) -> Split:
    """Read the split of a stage's run."""
    return Split.from_json(json.loads((stage.folder.data / "split.json").read_text()))


def describe_noise(data: Path) -> str:
    """Say how many prepared scans have noise that a person should look at, and in which files; nothing if none has."""
    from data_prep.lowdose.flags import describe_flags

    path = next(path for path in (data / NOISE, data / "manifest.csv") if path.exists())
    flags = describe_flags(read_noise(data))
    return f"{flags} (noise_remark in {path}, sheets in {data / 'contact'})" if flags else ""


def count_states(data: Path) -> list[tuple[str, str, int]]:
    """Count the series in the manifest by data set and state, and the files that are no image."""
    manifest = read_manifest(data / "manifest.csv")
    manifest["count"] = manifest["slices"].where(manifest["state"] == _NO_IMAGE, 1)
    counts = manifest.groupby(["dataset", "state"])["count"].sum().reset_index()
    return [(str(dataset), str(state), int(count)) for dataset, state, count in counts.itertuples(index=False)]
