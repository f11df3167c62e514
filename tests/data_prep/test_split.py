import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.errors import UserError
from data_prep.pseudonym import pseudonym
from data_prep.settings import SplitSettings
from data_prep.split import Split, patients_of, split


def rows(subjects: int, scans: int = 1, slices: int = 100) -> list[dict[str, object]]:
    return [
        {"dataset": "d", "subject": f"p{p}", "scan": f"p{p}-{s}", "slices": slices}
        for p in range(subjects) for s in range(scans)
    ]  # fmt: skip


@given(subjects=st.integers(3, 60), scans=st.integers(1, 3), seed=st.integers(0, 5))
def test_no_patient_is_in_two_parts_and_none_is_lost(subjects: int, scans: int, seed: int) -> None:
    division = split(rows(subjects, scans), SplitSettings(seed=seed), 1)
    patients = [{s.scan.split("-")[0] for s in segments} for segments in division.parts.values()]
    assert division.by == "patients"
    assert all(patients)
    assert sum(map(len, patients)) == len(set.union(*patients)) == subjects
    assert sum(map(len, division.parts.values())) == subjects * scans
    assert {(s.start, s.stop) for segments in division.parts.values() for s in segments} == {(0, 100)}
    assert division == split(rows(subjects, scans), SplitSettings(seed=seed), 1)
    assert division == Split.from_json(division.to_json())


@given(subjects=st.integers(60, 120), newcomers=st.integers(1, 60), seed=st.integers(0, 5))
def test_a_patient_stays_in_its_part_when_others_come(subjects: int, newcomers: int, seed: int) -> None:
    before, after = (
        split(rows(count), SplitSettings(seed=seed), 1).parts for count in (subjects, subjects + newcomers)
    )
    for part, segments in before.items():
        assert {s.scan for s in segments} <= {s.scan for s in after[part]}


def test_shares_are_as_asked_for() -> None:
    division = split(rows(1219), SplitSettings(validation=0.15, test=0.1), 1)
    counts = {part: len(segments) / 1219 for part, segments in division.parts.items()}
    assert counts == pytest.approx({"test": 0.1, "validation": 0.15, "train": 0.75}, abs=0.03)


def test_a_patient_whose_id_is_hidden_in_another_data_set_is_not_split() -> None:
    shown = rows(40)
    hidden = [{**row, "dataset": "e", "subject": f"p-{pseudonym(str(row['subject']))}"} for row in shown]
    division = split([*shown, *hidden], SplitSettings(), 1)
    for segments in division.parts.values():
        by_dataset = [{s.scan for s in segments if s.dataset == name} for name in "de"]
        assert by_dataset[0] == by_dataset[1]


@given(subjects=st.integers(6, 30), seed=st.integers(0, 5), data=st.data())
def test_no_study_is_parted_whatever_the_ids(subjects: int, seed: int, data: st.DataObject) -> None:
    studies = data.draw(st.lists(st.integers(0, subjects - 3), min_size=subjects, max_size=subjects))
    scans = [{**row, "studies": (f"s{study}",)} for row, study in zip(rows(subjects), studies, strict=True)]
    drawn = split(scans, SplitSettings(seed=seed), 1)
    if drawn.by == "slabs":
        assert len({*studies}) < 3
        return
    study_of = {row["scan"]: row["studies"] for row in scans}
    parts = [{study_of[segment.scan] for segment in segments} for segments in drawn.parts.values()]
    assert sum(map(len, parts)) == len({*studies})


def test_studies_of_one_patient_join_others_of_each_study() -> None:
    """A chain: a and b share a study, b and c share another one."""
    scans = [
        {"dataset": "d", "subject": "a", "scan": "1", "slices": 9, "studies": ("s",)},
        {"dataset": "d", "subject": "b", "scan": "2", "slices": 9, "studies": ("s", "t")},
        {"dataset": "d", "subject": "c", "scan": "3", "slices": 9, "studies": ("t",)},
        {"dataset": "d", "subject": "d", "scan": "4", "slices": 9, "studies": ()},
    ]
    assert patients_of(scans) == {"a": "a", "b": "a", "c": "a", "d": "d"}


def test_a_part_that_would_be_empty_gets_a_single_patient() -> None:
    parts = split(rows(9), SplitSettings(validation=1e-9, test=1e-9), 1).parts
    assert {part: len(segments) for part, segments in parts.items()} == {"test": 1, "validation": 1, "train": 7}


def test_copies_of_a_scan_are_one_patient() -> None:
    scans = [{**row, "sha256_full_dose": digest} for row, digest in zip(rows(4), ("x", "y", "x", ""), strict=True)]
    assert patients_of([*scans, *rows(5)[4:]]) == {"p0": "p0", "p1": "p1", "p2": "p0", "p3": "p3", "p4": "p4"}


def test_scans_without_shared_studies_are_split_as_without_studies() -> None:
    plain = rows(30, 2)
    scans = [{**row, "studies": (f"{row['scan']}-study",)} for row in plain]
    assert split(scans, SplitSettings(), 1) == split(plain, SplitSettings(), 1)


@given(slices=st.integers(10, 400), gap=st.integers(0, 3))
def test_slabs_of_one_scan_are_disjoint_with_a_gap(slices: int, gap: int) -> None:
    division = split(rows(1, 1, slices), SplitSettings(validation=0.25, test=0.25, gap=gap), 1)
    slabs = sorted((s.start, s.stop) for segments in division.parts.values() for s in segments)
    assert division.by == "slabs"
    assert slabs[0][0] == 0
    assert slabs[-1][1] == slices
    assert all(b[0] - a[1] == gap for a, b in zip(slabs, slabs[1:], strict=False))


def test_the_sample_gets_32_slices_to_test_and_to_validate() -> None:
    division = split(rows(1, 1, 133), SplitSettings(validation=0.25, test=0.25, gap=2), 1)
    assert {part: sum(map(len, segments)) for part, segments in division.parts.items()} == {
        "train": 65, "validation": 32, "test": 32,
    }  # fmt: skip


def test_too_few_slices_are_refused() -> None:
    with pytest.raises(UserError, match=r"p0-0 has 7 slices; data.split leaves 0 to test, but a volume takes 1"):
        split(rows(1, 1, 7), SplitSettings(validation=0.3, test=0.1), 1)


@pytest.mark.parametrize(("share", "patients"), [(0.44, 8), (0.44, 3), (0.3, 3), (0.44, 100)])
def test_someone_is_left_to_train_on(share: float, patients: int) -> None:
    division = split(rows(patients), SplitSettings(validation=share, test=share), 1)
    assert all(division.parts.values())
