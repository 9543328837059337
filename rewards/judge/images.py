"""Images for a judge: PNG bytes, and content fingerprints for the score cache."""

from __future__ import annotations

import hashlib
import struct
import zlib

import numpy as np
from numpy.typing import NDArray

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_LEFT = 1
"""PNG's filter "Sub": every byte less the one of the pixel to its left."""


def encode_png(image: NDArray[np.uint8]) -> bytes:
    """The image as a lossless 8-bit RGB PNG; the bytes depend on the pixels alone.

    One filter for all rows and run-length compression: about a third of the time that choosing the best filter row by
    row takes, for files a tenth larger. A judge sees every candidate once, and the files are not kept.

    Args:
        image: uint8 [H, W, 3], sRGB.

    Raises:
        ValueError: for any other dtype or shape, or no pixel.
    """
    pixels = _checked(image)
    height, width, _ = pixels.shape
    flat = pixels.reshape(height, 3 * width)
    rows = np.empty((height, 1 + 3 * width), np.uint8)
    rows[:, 0] = _LEFT
    rows[:, 1:4] = flat[:, :3]
    np.subtract(flat[:, 3:], flat[:, :-3], out=rows[:, 4:])  # modulo 256, as the format wants it
    deflate = zlib.compressobj(1, strategy=zlib.Z_RLE)
    data = deflate.compress(rows.data) + deflate.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return _SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def fingerprint(image: NDArray[np.uint8]) -> str:
    """sha256 (hex) of an image's size and pixels, whatever file it came from.

    Args and errors as `encode_png`.
    """
    pixels = _checked(image)
    digest = hashlib.sha256(b"%d %d " % pixels.shape[:2])
    digest.update(pixels.data)
    return digest.hexdigest()


def _checked(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"an image for a judge must be uint8 [H, W, 3]; got {image.dtype} {list(image.shape)}.")
    return np.ascontiguousarray(image)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))
