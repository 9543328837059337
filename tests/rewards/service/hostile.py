"""Files that are small and want much memory or time."""

from __future__ import annotations

import io
import struct
import zlib

from PIL import Image


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, pixels: bytes, *extra: bytes) -> bytes:
    """An 8-bit RGB PNG with the given compressed data, and further chunks before it."""
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
            *extra,
            chunk(b"IDAT", pixels),
            chunk(b"IEND", b""),
        ]
    )


def zeros(length: int) -> bytes:
    """`length` zero bytes compressed, without ever holding them."""
    packer, parts = zlib.compressobj(9), []
    for start in range(0, length, 2**20):
        parts.append(packer.compress(bytes(min(2**20, length - start))))
    return b"".join([*parts, packer.flush()])


def png_by_header(width: int, height: int) -> bytes:
    """A PNG that announces a size and holds almost nothing of it."""
    return png(width, height, zeros(1000))


def black_png(width: int, height: int) -> bytes:
    """A whole PNG of black pixels: 83 megapixels in some 240 kB."""
    return png(width, height, zeros((3 * width + 1) * height))


def png_of_more_data_than_pixels(width: int, height: int, length: int) -> bytes:
    """A PNG whose compressed data unpacks to `length` bytes, whatever its header says."""
    return png(width, height, zeros(length))


def png_with_text_bomb(width: int, height: int, length: int) -> bytes:
    """A PNG with a compressed text of `length` zeros beside its pixels."""
    return png(width, height, zeros((3 * width + 1) * height), chunk(b"zTXt", b"Comment\0\0" + zeros(length)))


def webp_by_header(width: int, height: int) -> bytes:
    """An extended WebP that announces a canvas and holds one damaged frame."""
    canvas = struct.pack("<I", 0)[:1] + bytes(3) + struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    frame = b"VP8 " + struct.pack("<I", 10) + b"\x00\x00\x00\x9d\x01\x2a" + struct.pack("<HH", width, height)
    body = b"WEBPVP8X" + struct.pack("<I", 10) + canvas + frame
    return b"RIFF" + struct.pack("<I", len(body)) + body


def jpeg_of_many_scans(width: int, height: int, times: int = 400) -> tuple[bytes, int]:
    """A progressive JPEG whose scans are written again and again, and how many they then are."""
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (10, 200, 30)).save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    first, end = data.index(b"\xff\xda"), data.rindex(b"\xff\xd9")
    scans = data[first:end]
    whole = data[:first] + scans * times + data[end:]
    return whole, whole.count(b"\xff\xda")
