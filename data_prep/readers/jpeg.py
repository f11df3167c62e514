"""A pydicom plugin that decodes JPEG, lossless JPEG and JPEG-LS with ``imagecodecs`` (libjpeg-turbo, CharLS).

pydicom would choose a GPL library or GDCM, which aborts the process on broken bytes
(docs/decisions/reading-scans.md). ``imagecodecs`` is imported with the first JPEG: training needs none.
"""

from importlib.util import find_spec

import numpy as np
from pydicom import uid
from pydicom.pixels.decoders.base import DecodeRunner, get_decoder

NAME = "imagecodecs"
DECODER_DEPENDENCIES = dict.fromkeys(
    (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLossless, uid.JPEGLosslessSV1,
     uid.JPEGLSLossless, uid.JPEGLSNearLossless), (NAME,),
)  # fmt: skip
_JPEG_LS = (uid.JPEGLSLossless, uid.JPEGLSNearLossless)


def is_available(syntax: str) -> bool:
    """Whether the transfer syntax can be decoded; called by pydicom."""
    return syntax in DECODER_DEPENDENCIES and find_spec(NAME) is not None


def decode_frame(source: bytes, runner: DecodeRunner) -> bytearray:
    """Return the stored values of one frame, little endian; called by pydicom."""
    import imagecodecs

    decode = imagecodecs.jpegls_decode if runner.transfer_syntax in _JPEG_LS else imagecodecs.jpeg8_decode
    stored = np.ascontiguousarray(decode(source))
    if stored.shape != (runner.rows, runner.columns):
        raise ValueError(f"the frame is {stored.shape}, wanted {(runner.rows, runner.columns)}")
    return bytearray(stored.astype("<u2" if runner.bits_allocated == 16 else "u1").tobytes())


for _syntax in DECODER_DEPENDENCIES:
    get_decoder(_syntax).add_plugin(NAME, (__name__, decode_frame.__name__))
