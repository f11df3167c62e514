"""Names of networks in the settings."""

import pytest

from pipeline.settings.architectures import ARCHITECTURES, architecture_of


def test_a_name_gives_its_record_and_an_unknown_one_the_valid_names() -> None:
    assert architecture_of("redcnn") is ARCHITECTURES["redcnn"]
    assert architecture_of("monai:UNet").title == "UNet of MONAI"
    assert architecture_of("monai:UNet").options(channels=[8, 16]).model_dump() == {"channels": [8, 16]}  # type: ignore[call-arg]
    assert architecture_of("monai:UNet").least_side == 32  # the least that its check takes
    with pytest.raises(ValueError, match=r"'dnet' is no network \(did you mean ddnet\?\): take ddnet, redcnn.* or mon"):
        architecture_of("dnet")
    with pytest.raises(ValueError, match="'monai:' is no network"):
        architecture_of("monai:")
