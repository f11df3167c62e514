"""Networks and the transfer of weights between them."""

from pipeline.models.ddnet import DDnet
from pipeline.models.published import load_published, read_published
from pipeline.models.redcnn import REDCNN
from pipeline.models.registry import build_network
from pipeline.models.transfer import inflate

__all__ = ["REDCNN", "DDnet", "build_network", "inflate", "load_published", "read_published"]
