import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import Tensor

from data_prep.errors import UserError
from data_prep.files import digest_json
from data_prep.progress import ignore_progress
from jobs.engine.decision import Cause, Decision, Reason
from jobs.engine.graph import Graph
from jobs.engine.marker import Marker, Markers
from jobs.engine.run_folder import RunFolder
from jobs.engine.targets import check_targets
from jobs.stages.evaluate import Evaluate
from jobs.stages.graph import graph_of
from jobs.stages.report import WriteReport
from jobs.stages.train import CellStage, Study, TrainDonors, Transfer
from pipeline.models import DDnet, read_published
from pipeline.settings.run import RunSettings
from pipeline.training.world import World
from tests.beside import shared_file
from tests.markers import mark_done
from tests.pipeline.runs import WITH_RED_CNN
from tests.pipeline.test_published import red_cnn_weights
from tests.plain_ddnet import PlainDDnet

UNLIKE = {"residual": False, "scaling": "unit", "norm": "frozen"}


def graph_with(root: Path, study: Mapping[str, Any], **fields: Any) -> Graph:
    values = {"name": "t", "runs": root, "data": {"sources": [{"kind": "sample"}]}, "study": study, **fields}
    return graph_of(RunFolder.of(RunSettings.model_validate(values)))


def donating(root: Path, donor: Path, *fills: str) -> Graph:
    deep = {"model": "ddnet", "dims": 3, "donor_file": donor, "training": UNLIKE}
    networks = {"2d": {"model": "ddnet", "dims": 2}, "3d": deep}
    return graph_with(root, {"transfer": fills or ("zero",)}, networks=networks)


def transfer_of(graph: Graph) -> Transfer:
    stage = graph.stages["transfer"]
    assert isinstance(stage, Transfer)
    return stage


def plain_weights() -> dict[str, Tensor]:
    torch.manual_seed(7)
    return PlainDDnet(2).state_dict()


def write_donor(path: Path, state: dict[str, Tensor]) -> Path:
    """As people hand weights on: bare, in a checkpoint, from several GPUs."""
    if path.suffix == ".npz":
        np.savez(path, **{name: value.numpy() for name, value in state.items()})  # type: ignore[arg-type]
    elif path.suffix == ".tar":
        wrapped = {f"module.{name}": value for name, value in state.items()}
        torch.save({"epoch": 3, "optimizer": {"state": {}}, "model_state_dict": wrapped}, path)
    else:
        torch.save(state, path)
    return path


@torch.no_grad()
@pytest.mark.parametrize("ending", ["npz", "pt", "pth", "tar"])
def test_a_donor_file_starts_the_3d_network(tmp_path: Path, ending: str) -> None:
    """A volume that does not change along z gives what the authors' 2D network gives."""
    state = plain_weights()
    transfer = transfer_of(donating(tmp_path, write_donor(tmp_path / f"donor.{ending}", state)))
    transfer.run("3d-zero", World(), ignore_progress)
    deep = DDnet(3).eval()
    deep.load_state_dict(torch.load(transfer.folder.transferred("3d-zero"), weights_only=True))
    plain, x = PlainDDnet(2).eval(), torch.rand(1, 1, 32, 16)
    plain.load_state_dict(state)
    output = deep(x.unsqueeze(2).repeat(1, 1, 16, 1, 1))
    for z in range(16):
        torch.testing.assert_close(output[:, :, z], plain(x), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_published_weights_as_donor_give_the_authors_3d_output(tmp_path: Path) -> None:
    transfer = transfer_of(donating(tmp_path, shared_file("ddnet/published_2d_weights.npz"), "none", "zero", "mean"))
    assert transfer.items() == ["3d-zero", "3d-mean"]
    for fill in transfer.items():
        transfer.run(fill, World(), ignore_progress)
    deep = DDnet(3).eval()
    deep.load_state_dict(torch.load(transfer.folder.transferred("3d-zero"), weights_only=True))
    with np.load(shared_file("ddnet/golden_forward.npz")) as golden:
        output = deep(torch.from_numpy(golden["input"])[None, None])[0, 0].numpy()
        assert np.quantile(np.abs(output - golden["output_3d_zero_inflated_eval"]), 0.99) < 1e-5
    zero, mean = (torch.load(transfer.folder.transferred(fill), weights_only=True) for fill in transfer.items())
    torch.testing.assert_close(mean["stem.weight"][:, :, 0] * 7, zero["stem.weight"][:, :, 3])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("text.npz", None, r"no file of weights that can be read"),
        ("text.pt", None, r"no file of weights that can be read"),
        ("list.pt", [1, 2], "holds no state dict"),
        ("step.pt", {"step": 3}, "holds no state dict"),
        ("less.pt", {n: v for n, v in plain_weights().items() if n != "conv1.bias"}, r"weights lack conv1\.bias"),
        ("more.npz", {**plain_weights(), "extra": torch.ones(1)}, "1 unknown arrays, first extra"),
        ("deep.pt", PlainDDnet(3).state_dict(), "have shape"),
    ],
)
def test_donors_that_are_none_are_refused_by_name(tmp_path: Path, name: str, content: Any, message: str) -> None:
    if content is None:
        (tmp_path / name).write_text("weights")
    else:
        write_donor(tmp_path / name, content)
    with pytest.raises(UserError, match=rf"networks\.3d\.donor_file \S+{name}: .*{message}"):
        transfer_of(donating(tmp_path, tmp_path / name)).run("3d-zero", World(), ignore_progress)


def test_a_donor_of_garbage_or_of_another_network_is_refused_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("weights")
    with pytest.raises(UserError, match=r"networks\.3d\.donor_file \S+text\.pt: it is no file of weights"):
        transfer_of(donating(tmp_path, tmp_path / "text.pt")).find_items(ignore_progress)
    torch.save(red_cnn_weights(), tmp_path / "redcnn.pt")
    with pytest.raises(UserError, match=r"donor_file \S+redcnn\.pt holds weights of redcnn, the network is ddnet"):
        transfer_of(donating(tmp_path, tmp_path / "redcnn.pt")).find_items(ignore_progress)


def test_a_donor_of_another_width_is_refused_before_anything_runs(tmp_path: Path) -> None:
    torch.save(red_cnn_weights(), tmp_path / "redcnn.pt")
    deep = {"model": "redcnn", "dims": 3, "donor_file": tmp_path / "redcnn.pt", "training": UNLIKE}
    narrow = {**deep, "options": {"width": 8}}
    transfer_of(graph_with(tmp_path, {}, networks={"3d": deep})).find_items(ignore_progress)
    with pytest.raises(UserError, match=r"networks\.narrow\.options \{'width': 8\} must be .*, \{'width': 96\}$"):
        transfer_of(graph_with(tmp_path, {}, networks={"3d": deep, "narrow": narrow})).find_items(ignore_progress)


def test_the_check_reads_a_donor_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = donating(tmp_path, write_donor(tmp_path / "donor.pt", plain_weights()), "zero", "mean")
    reader = Mock(wraps=read_published)
    monkeypatch.setattr("pipeline.models.read_published", reader)
    transfer_of(graph).find_items(ignore_progress)
    reader.assert_called_once_with(tmp_path / "donor.pt")


def test_options_that_monai_refuses_are_refused_before_anything_runs(tmp_path: Path) -> None:
    pytest.importorskip("monai")
    network = {"model": "monai:UNet", "dims": 2, "options": {"chanels": [4, 8]}}
    graph = graph_with(tmp_path, {}, networks={"unet": network})
    with pytest.raises(UserError, match=r"networks\.unet: monai:UNet has no option chanels; valid: channels, strides"):
        graph.stages["study"].find_items(ignore_progress)


def test_a_donor_that_is_missing_is_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"networks\.3d\.donor_file: \S+absent\.npz does not exist"):
        transfer_of(donating(tmp_path, tmp_path / "absent.npz")).find_items(ignore_progress)
    transfer_of(graph_with(tmp_path, {})).find_items(ignore_progress)


def decision(graph: Graph, stage: str, item: str) -> Decision:
    return next(d for d in graph.decide_all() if d.ref == (stage, item))


def finish(graph: Graph, stage: str, item: str) -> None:
    finished = graph.stages[stage]
    for path in finished.outputs(item):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    mark_done(graph, stage, item)


def test_the_transfer_waits_for_the_2d_training_or_for_nothing_but_its_file(tmp_path: Path, sample_path: Path) -> None:
    trained = graph_with(tmp_path / "trained", {"transfer": ["none", "repeat"]})
    assert str(decision(trained, "transfer", "3d-repeat").reason) == "train/2d runs first"
    donor = write_donor(tmp_path / "donor.pt", plain_weights())
    donated = donating(tmp_path / "given", donor)
    assert str(decision(donated, "transfer", "3d-zero").reason) == "never run"
    finish(donated, "transfer", "3d-zero")
    assert not decision(donated, "transfer", "3d-zero").run
    assert decision(donated, "train", "2d").run
    os.utime(donor, (1, 1))
    assert str(decision(donated, "transfer", "3d-zero").reason).startswith("donor changed from ['donor.pt', ")


def test_a_2d_training_has_one_record_whether_it_has_a_3d_counterpart_or_not(tmp_path: Path, sample_path: Path) -> None:
    """Else it was refused as files of others, or went on from a checkpoint of other settings."""
    flat, deep = ({"model": "ddnet", "dims": dims} for dims in (2, 3))
    alone = graph_with(tmp_path, {"transfer": "none"}, networks={"2d": flat})
    paired = graph_with(tmp_path, {"transfer": "none"}, networks={"2d": flat, "3d": deep})
    for ref in (("split", "split"), ("study", "2d"), ("evaluate", "2d")):
        finish(alone, *ref)
    alone.stages["study"].markers.write_start("2d", digest_json(alone.parts(alone.stages["study"], "2d")), "")
    for graph, stage in ((alone, "study"), (paired, "train")):
        assert graph.decide_item(graph.stages[stage], "2d").reason.cause is Cause.DONE
        assert str(graph.decide_item(graph.stages["evaluate"], "2d").reason) == "done"  # is not judged again
        check_targets(graph, [Decision((stage, "2d"), Reason(Cause.NEVER_RUN))])
    changed = paired.stages["train"].markers
    changed.write_start("2d", "other", "")
    changed.write("2d", Marker("failed", {}, 1.0, 1.0, "diverged", {}))
    former = alone.stages["study"].markers
    assert former.read_start("2d") == "other"
    assert former.read("2d") == changed.read("2d")
    assert {"2d.json", "2d.begun"} <= former.names() & changed.names()


def test_a_3d_training_from_random_weights_stays_where_a_2d_network_comes_to_be_compared_with_it(
    tmp_path: Path, sample_path: Path
) -> None:
    study, deep = {"slices": 16, "ranks": 1, "transfer": "none"}, {"model": "ddnet", "dims": 3}
    alone = graph_with(tmp_path, study, networks={"3d": deep})
    for ref in (("split", "split"), ("study", "3d-s16-r1-none")):
        finish(alone, *ref)
    compared = graph_with(tmp_path, study, networks={"2d": {"model": "ddnet", "dims": 2}, "3d": deep})
    decision = compared.decide_item(compared.stages["study"], "3d-s16-r1-none")
    assert decision.reason.cause is Cause.DONE, decision.reason


def test_a_report_has_nothing_of_settings_that_were_changed_since(tmp_path: Path, sample_path: Path) -> None:
    """As where a run with other settings was interrupted before it came to all items."""

    def graph_of_rates(flat: float, crop: int = 256) -> Graph:
        networks = {name: {"model": "ddnet", "dims": dims, "training": {"learning_rate": rate}}
                    for name, dims, rate in (("2d", 2, flat), ("3d", 3, 1e-3))}  # fmt: skip
        study = {"ranks": 1, "slices": 16, "transfer": ["zero", "none"]}
        return graph_with(
            tmp_path, study, networks=networks, evaluate={"crop": crop, "classical": []}, report={"formats": []}
        )

    graph = graph_of_rates(1e-3)
    for stage in ("split", "train", "transfer", "study", "evaluate"):
        for item in graph.stages[stage].items():
            finish(graph, stage, item)

    def judged(changed: Graph) -> list[str]:
        stage = changed.stages["evaluate"]
        assert isinstance(stage, Evaluate)
        return stage.judged_items()

    assert judged(graph) == ["low-dose", "2d", "3d-s16-r1", "3d-s16-r1-none"]
    assert judged(graph_of_rates(1e-3, crop=192)) == []
    changed = graph_of_rates(1e-2)
    assert judged(changed) == ["low-dose", "3d-s16-r1-none"]
    report = changed.stages["report"]
    assert isinstance(report, WriteReport)
    states = {cell: state for cell, (state, _) in report.states().items()}
    assert states == {"2d": "missing", "3d-s16-r1": "missing", "3d-s16-r1-none": "done"}


def test_a_report_mixes_no_versions(tmp_path: Path, sample_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the first run after an update was interrupted."""
    study = {"ranks": [1, 2], "slices": 16, "transfer": "none"}
    graph = graph_with(tmp_path, study, evaluate={"classical": ["tv"]}, report={"formats": []})
    evaluate, report = graph.stages["evaluate"], graph.stages["report"]
    assert isinstance(evaluate, Evaluate)
    assert isinstance(report, WriteReport)
    for stage in ("split", "train", "study", "evaluate"):
        for item in graph.stages[stage].items():
            finish(graph, stage, item)
    everything = evaluate.items()
    monkeypatch.setattr(Evaluate, "version", Evaluate.version + 1)
    assert evaluate.judged_items() == everything  # nothing is of the new version
    finish(graph, "evaluate", "tv")
    assert evaluate.judged_items() == ["tv"]
    for item in everything:
        finish(graph, "evaluate", item)
    monkeypatch.setattr(CellStage, "version", CellStage.version + 1)
    assert {state for state, _ in report.states().values()} == {"done"}
    finish(graph, "train", "2d")
    assert {cell: state for cell, (state, _) in report.states().items()} == {
        "2d": "done", "3d-s16-r1-none": "missing", "3d-s16-r2-none": "missing",
    }  # fmt: skip
    assert evaluate.judged_items() == ["low-dose", "tv", "2d"]


def test_what_a_report_shows_after_an_update_is_known_by_a_few_looks_at_each_item(
    tmp_path: Path, sample_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of a hundred trainings was compared with all others: by 14,000 files."""
    study = {"slices": 16, "transfer": "none", "seeds": list(range(1, 9))}
    graph = graph_with(tmp_path, study, evaluate={"classical": []}, report={"formats": []})
    evaluate, read, reads = graph.stages["evaluate"], Markers.read, list[str]()
    assert isinstance(evaluate, Evaluate)
    for stage in ("split", "train", "study", "evaluate"):
        for item in graph.stages[stage].items():
            finish(graph, stage, item)
    for stage_class in (CellStage, Evaluate):
        monkeypatch.setattr(stage_class, "version", stage_class.version + 1)

    def count(markers: Markers, item: str) -> Marker | None:
        reads.append(item)
        return read(markers, item)

    monkeypatch.setattr(Markers, "read", count)
    assert evaluate.judged_items() == evaluate.items()
    assert len(reads) < 10 * len(evaluate.items())


def test_each_cell_starts_as_it_says(tmp_path: Path) -> None:
    study = {"transfer": ["zero", "none", "noise"], "ranks": [1], "slices": [16]}
    graph = graph_with(tmp_path, study, networks=WITH_RED_CNN)
    stage, flat = graph.stages["study"], graph.stages["train"]
    assert isinstance(stage, Study)
    assert isinstance(flat, TrainDonors)
    assert flat.items() == ["2d"]
    starts = {item: _start(stage, item) for item in stage.items()}
    assert starts == {
        "redcnn": (None, []),
        "3d-s16-r1": ("3d-zero.pt", ["3d-zero"]),
        "3d-s16-r1-none": (None, []),
        "3d-s16-r1-noise": ("3d-noise.pt", ["3d-noise"]),
    }


def _start(stage: CellStage, item: str) -> tuple[str | None, list[str]]:
    path = stage.initial_weights(item)
    return path.name if path else None, [fill for name, fill in stage.inputs(item) if name == "transfer"]
