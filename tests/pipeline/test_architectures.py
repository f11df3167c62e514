"""Names of networks in the settings."""

from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.settings.architectures import ARCHITECTURES, architecture_of
from pipeline.settings.networks import NetworkSettings


def test_a_name_gives_its_record_and_an_unknown_one_the_valid_names() -> None:
    assert architecture_of("redcnn") is ARCHITECTURES["redcnn"]
    assert architecture_of("monai:UNet").title == "UNet of MONAI"
    assert architecture_of("monai:UNet").options(channels=[8, 16]).model_dump() == {"channels": [8, 16]}  # type: ignore[call-arg]
    assert architecture_of("monai:UNet").least_side == 32  # the least that its check takes
    with pytest.raises(ValueError, match=r"'dnet' is no network \(did you mean ddnet\?\): take ddnet, redcnn.* or mon"):
        architecture_of("dnet")
    with pytest.raises(ValueError, match="'monai:' is no network"):
        architecture_of("monai:")


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        (3, r"blocks: Input should be a list \(got 3\)"),
        ([], r"blocks: Input should not be empty \(got \[\]\)"),
        ([1] * 9, r"blocks: Input should be a list of at most 4 \(got \[1, 1, 1, 1, 1, 1, \.\.\.\]\)"),
        ([0, 1, 0], r"blocks\.0: Input should be greater than or equal to 1 \(got 0\) \(and 1 more\)"),
    ],
)
def test_options_are_refused_in_the_words_of_settings(blocks: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=rf"Value error, {message} \["):
        NetworkSettings.model_validate({"model": "nafnet", "dims": 2, "options": {"blocks": blocks}})
