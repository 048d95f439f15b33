"""Decodes one encoded picture into pixels, with torchvision's decoder or with Pillow.

Imports no torch unless torchvision's decoder is used.
"""

from __future__ import annotations

import functools
import importlib.util
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

Pixels = NDArray[np.uint8]


class CropBox(NamedTuple):
    """A part of a picture, in pixels."""

    top: int
    left: int
    height: int
    width: int


ChooseBox = Callable[[int, int], CropBox]  # (height, width) of a picture -> the part of it that is used
JPEG_MAGIC = b"\xff\xd8\xff"
NMS_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


class CorruptImageError(ValueError):
    """The bytes are no picture, or one that is cut off."""


def decode_picture(content: bytes, choose: ChooseBox, size: int, *, draft: bool) -> Pixels:
    """Return the chosen part of a picture as uint8 [size, size, 3]; grey and CMYK become RGB.

    `draft` may decode at a half, quarter or eighth of the size where the part stays larger than `size`.
    Raises CorruptImageError.
    """
    try:
        opened = _decode_drafted(content, choose, size) if draft else None
        if opened is None:
            picture = _decode_with_pillow(content, allow_torchvision=not draft)
            box: tuple[float, ...] = choose(picture.height, picture.width)
        else:
            picture, box = opened
        top, left, height, width = box
        resized = picture.resize(
            (size, size), Image.Resampling.BILINEAR, box=(left, top, left + width, top + height)
        )
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise CorruptImageError(str(error)) from error
    return np.asarray(resized)


def _decode_drafted(
    content: bytes, choose: ChooseBox, size: int
) -> tuple[Image.Image, tuple[float, ...]] | None:
    """Decode at a reduced size, with the part in its pixels; None where the part is too small for that."""
    picture = Image.open(io.BytesIO(content))
    if picture.format != "JPEG":
        return None
    full_width, box = picture.width, choose(picture.height, picture.width)
    factor = min(box[2:]) // size
    if factor < 2:
        return None
    picture.draft("RGB", (picture.width // factor, picture.height // factor))
    reduced_by = round(full_width / picture.width)
    return _as_rgb(picture), tuple(pixels / reduced_by for pixels in box)


def _decode_with_pillow(content: bytes, *, allow_torchvision: bool) -> Image.Image:
    if allow_torchvision and content.startswith(JPEG_MAGIC):
        decoder = torchvision_decoder()
        if decoder is not None:
            try:
                return Image.fromarray(decoder(content))
            except RuntimeError:
                pass  # CMYK, or broken: Pillow knows the one and says what is wrong with the other
    return _as_rgb(Image.open(io.BytesIO(content)))


def _as_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode != "RGB":
        return picture.convert("RGB")
    picture.load()  # `convert` would copy it
    return picture


@functools.cache
def make_torchvision_importable() -> object:
    """Declare the schemas that torchvision's import needs, beside a torch for which it was not built.

    Its compiled extension cannot register them then. They exist as long as the returned object does.
    """
    import torch

    found = importlib.util.find_spec("torchvision")
    if found is None or found.origin is None:
        return None  # the import itself names what is missing
    extensions = list(Path(found.origin).parent.glob("_C*.so"))
    try:
        for extension in extensions:
            torch.ops.load_library(str(extension))
    except OSError:
        extensions = []
    if extensions:
        return None
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}{NMS_SCHEMA}")
    return library


@functools.cache
def torchvision_decoder() -> Callable[[bytes], Pixels] | None:
    """Return torchvision's JPEG decoder, None where its extension does not load."""
    import torch

    make_torchvision_importable()
    from torchvision import io as torchvision_io

    def decode_jpeg(content: bytes) -> Pixels:
        encoded = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        decoded: Any = torchvision_io.decode_jpeg(encoded, torchvision_io.ImageReadMode.RGB)
        pixels: Pixels = decoded.permute(1, 2, 0).contiguous().numpy()
        return pixels

    probe = io.BytesIO()
    Image.new("RGB", (8, 8)).save(probe, "JPEG")
    try:
        decode_jpeg(probe.getvalue())
    except RuntimeError:
        return None
    return decode_jpeg


def describe_decoder(*, draft: bool) -> str:
    """Name the decoder and its version: pictures of two machines are the same only where this is."""
    from PIL import features

    if not draft and torchvision_decoder() is not None:
        import torchvision

        return f"torchvision {torchvision.__version__}"
    return f"Pillow {PIL.__version__}, libjpeg-turbo {features.version('libjpeg_turbo') or 'none'}"
