"""Labelled real pictures: ImageNet samples out of a wheel, and rendered lines of text for OCR."""

from __future__ import annotations

import functools
import io
import random
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.zoo.packages import Unavailable, wheel

__all__ = ["decode_text", "imagenet", "rotated_text", "text_lines"]

Pictures = npt.NDArray[np.float32]

_FONTS = Path("/usr/share/fonts/truetype/dejavu")
_FACES = ("DejaVuSans.ttf", "DejaVuSerif.ttf", "DejaVuSans-Bold.ttf", "DejaVuSansMono.ttf")
_WORDS = (
    "compiler", "schedule", "quantized", "Kernel", "latency", "Register", "pruning", "channel",
    "Vector", "cache", "network", "Machine", "baseline", "accuracy", "memory", "thread", "signal",
    "Weather", "garden", "bottle", "Harbour", "yellow", "window", "Mountain", "letter", "castle",
)  # fmt: skip


@functools.cache
def imagenet() -> tuple[Pictures, npt.NDArray[np.int64]]:
    """The 20 ImageNet pictures of foolbox, preprocessed for EfficientNet-Lite0, and their labels.

    [20,3,224,224] float32: shorter side to 256 bicubic, centre crop 224, RGB, (x - 127) / 128.
    Skips the running test where the wheel or pillow cannot be had.
    """
    image = _pillow()
    pictures, labels = [], []
    with zipfile.ZipFile(_wheel("foolbox")) as archive:
        names = sorted(n for n in archive.namelist() if n.startswith("foolbox/data/imagenet_"))
        for name in names:
            with image.open(io.BytesIO(archive.read(name))) as opened:
                pictures.append(_crop(opened.convert("RGB"), image))
            labels.append(int(name.removesuffix(".jpg").rsplit("_", 1)[1]))
    return np.stack(pictures), np.array(labels)


def _crop(picture: Any, image: Any) -> Pictures:
    width, height = picture.size
    factor = 256 / min(width, height)
    size = (round(width * factor), round(height * factor))
    picture = picture.resize(size, image.Resampling.BICUBIC)
    left, top = (size[0] - 224) // 2, (size[1] - 224) // 2
    cropped = np.asarray(picture.crop((left, top, left + 224, top + 224)), np.float32)
    scaled: Pictures = (cropped - np.float32(127)) / np.float32(128)
    return scaled.transpose(2, 0, 1)


def text_lines(count: int, *, width: int = 320, seed: int = 0) -> tuple[Pictures, list[str]]:
    """Rendered lines for PP-OCR: [count,3,48,width] float32 in -1..1, and what they say.

    Black on light grey, one or two English words or a number, in four DejaVu faces.
    """
    chance = random.Random(seed)
    pictures, texts = [], []
    for index in range(count):
        words = chance.sample(_WORDS, 2)
        text = f"{words[0]} {chance.randint(10, 9999)}" if index % 3 == 0 else " ".join(words)
        pictures.append(_render(text, _FACES[index % len(_FACES)], width, chance.randint(225, 255)))
        texts.append(text)
    return np.stack(pictures), texts


def rotated_text(count: int, *, seed: int = 0) -> tuple[Pictures, npt.NDArray[np.int64]]:
    """Lines for PP-OCR's direction model: [count,3,48,192], every second one upside down (1)."""
    pictures, _ = text_lines(count, width=192, seed=seed)
    labels = np.arange(count) % 2
    for index in np.flatnonzero(labels):
        pictures[index] = pictures[index][:, ::-1, ::-1]
    return pictures, labels


def decode_text(scores: npt.NDArray[Any], characters: str) -> str:
    """Greedy CTC: `scores` [steps, classes]; `characters` is the model's metadata `character`."""
    alphabet = ["", *characters.split("\n"), " "]
    best = scores.argmax(-1)
    kept = [int(c) for i, c in enumerate(best) if c != 0 and (i == 0 or c != best[i - 1])]
    return "".join(alphabet[c] if c < len(alphabet) else "?" for c in kept)


def _render(text: str, face: str, width: int, grey: int) -> Pictures:
    image = _pillow()
    from PIL import ImageDraw, ImageFont

    if not (_FONTS / face).is_file():
        pytest.skip(f"no font {face} in {_FONTS}: install Debian's fonts-dejavu")
    font = ImageFont.truetype(str(_FONTS / face), 32)
    right = ImageDraw.Draw(image.new("L", (1, 1))).textlength(text, font=font)
    line = image.new("RGB", (int(right) + 12, 48), (grey, grey, grey))
    ImageDraw.Draw(line).text((6, 4), text, font=font, fill=(20, 20, 30))
    if line.width > width:
        line = line.resize((width, 48), image.Resampling.BICUBIC)
    pixels = np.asarray(line, np.float32)[:, :, ::-1] / 127.5 - 1
    picture = np.zeros((3, 48, width), np.float32)
    picture[:, :, : pixels.shape[1]] = pixels.transpose(2, 0, 1)
    return picture


def _pillow() -> Any:
    return pytest.importorskip("PIL.Image", reason="pillow, which reads pictures, is not installed")


def _wheel(package: str) -> Path:
    try:
        return wheel(package)
    except Unavailable as reason:
        pytest.skip(f"the pictures of {package} are not available: {reason}")
