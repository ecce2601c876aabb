"""A BERT encoder in torch that takes the weights of all-MiniLM-L6-v2 from a safetensors file."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

_LAYERS, _HEADS, _WIDTH = 6, 12, 384
_MASKED = -1e4


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """The float32 tensors of a safetensors file: a JSON header of offsets, then raw numbers."""
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header, body = json.loads(data[8 : 8 + size]), data[8 + size :]
    tensors = {}
    for name, about in header.items():
        if name != "__metadata__" and about["dtype"] == "F32":
            begin, end = about["data_offsets"]
            values = np.frombuffer(body[begin:end], "<f4").reshape(about["shape"])
            tensors[name] = torch.from_numpy(values.copy())
    return tensors


class MiniLm(nn.Module):
    """Token ids and attention mask [N, L] -> the mean of the last states [N, 384]."""

    def __init__(self, weights: str) -> None:
        super().__init__()
        for name, tensor in read_safetensors(Path(weights)).items():
            self.register_buffer(name.replace(".", "_"), tensor)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        count, length = ids.shape
        words = self._weight("embeddings.word_embeddings.weight")[ids]
        places = self._weight("embeddings.position_embeddings.weight")[:length][None]
        kinds = self._weight("embeddings.token_type_embeddings.weight")[0]
        x = self._norm(words + places + kinds, "embeddings.LayerNorm")
        bias = ((1 - mask.float()) * _MASKED)[:, None, None, :]
        for index in range(_LAYERS):
            layer = f"encoder.layer.{index}."
            parts = [
                self._dense(x, f"{layer}attention.self.{part}")
                .reshape(count, length, _HEADS, _WIDTH // _HEADS)
                .transpose(1, 2)
                for part in ("query", "key", "value")
            ]
            query, key, value = parts
            scores = query @ key.transpose(-1, -2) / math.sqrt(_WIDTH // _HEADS)
            mixed = torch.softmax(scores + bias, -1) @ value
            mixed = mixed.transpose(1, 2).reshape(count, length, _WIDTH)
            mixed = self._dense(mixed, f"{layer}attention.output.dense")
            x = self._norm(mixed + x, f"{layer}attention.output.LayerNorm")
            inner = F.gelu(self._dense(x, f"{layer}intermediate.dense"))
            x = self._norm(
                self._dense(inner, f"{layer}output.dense") + x, f"{layer}output.LayerNorm"
            )
        weight = mask.float()[:, :, None]
        return (x * weight).sum(1) / weight.sum(1)

    def _weight(self, name: str) -> torch.Tensor:
        found = getattr(self, name.replace(".", "_"))
        assert isinstance(found, torch.Tensor)
        return found

    def _dense(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return F.linear(x, self._weight(f"{name}.weight"), self._weight(f"{name}.bias"))

    def _norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        weight, bias = self._weight(f"{name}.weight"), self._weight(f"{name}.bias")
        return F.layer_norm(x, (_WIDTH,), weight, bias, 1e-12)
