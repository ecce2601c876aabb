"""Build a model with torch and export it: `builders.py NAME OUT [WEIGHTS]`, run by `table.py`."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F


class Bottleneck(nn.Module):
    """The block of ResNet-50 (He et al. 2015), with the stride on the 3x3 convolution."""

    def __init__(self, c_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(c_in, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or c_in != 4 * width:
            down = nn.Conv2d(c_in, 4 * width, 1, stride, bias=False)
            self.shortcut = nn.Sequential(down, nn.BatchNorm2d(4 * width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + self.shortcut(x))


class InvertedResidual(nn.Module):
    """The block of MobileNetV2 (Sandler et al. 2018)."""

    def __init__(self, c_in: int, c_out: int, stride: int, expand: int) -> None:
        super().__init__()
        wide = c_in * expand
        layers: list[nn.Module] = []
        if expand != 1:
            layers += [nn.Conv2d(c_in, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6()]
        depthwise = nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False)
        layers += [depthwise, nn.BatchNorm2d(wide), nn.ReLU6()]
        layers += [nn.Conv2d(wide, c_out, 1, bias=False), nn.BatchNorm2d(c_out)]
        self.layers = nn.Sequential(*layers)
        self.adds = stride == 1 and c_in == c_out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layers(x)
        return x + y if self.adds else y


def resnet50() -> nn.Module:
    """ResNet-50 with the weights torch's generator gives for the seed."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)]
    layers += [nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    channels = 64
    for width, depth, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for index in range(depth):
            layers.append(Bottleneck(channels, width, stride if index == 0 else 1))
            channels = 4 * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2048, 1000))


def mobilenetv2() -> nn.Module:
    """MobileNetV2 with the weights torch's generator gives for the seed."""
    layers: list[nn.Module] = [nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32)]
    layers.append(nn.ReLU6())
    channels = 32
    plan = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2))
    for expand, width, depth, stride in (*plan, (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)):
        for index in range(depth):
            layers.append(InvertedResidual(channels, width, stride if index == 0 else 1, expand))
            channels = width
    layers += [nn.Conv2d(channels, 1280, 1, bias=False), nn.BatchNorm2d(1280), nn.ReLU6()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, 1000))


def warmed(net: nn.Module) -> nn.Module:
    """`net` with the statistics of its batch norms taken from one random batch."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        net.train()(torch.randn(4, 3, 224, 224))
    return net


def efficientnet_lite0(weights: str) -> nn.Module:
    """EfficientNet-Lite0 as its package builds it; the package must be on the path."""
    from efficientnet_lite_pytorch import EfficientNet

    net: Any = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights)
    return net  # type: ignore[no-any-return]


def export_minilm(out: str, weights: str) -> None:
    """all-MiniLM-L6-v2 for one text of 64 tokens; `bert.py` lies beside this script."""
    from bert import MiniLm  # type: ignore[import-not-found]

    ids, mask = torch.ones(1, 64, dtype=torch.int64), torch.ones(1, 64, dtype=torch.int64)
    torch.onnx.export(
        MiniLm(weights).eval(),
        (ids, mask),
        out,
        opset_version=17,
        dynamo=False,
        input_names=["input_ids", "attention_mask"],
        output_names=["embedding"],
    )


def main(name: str, out: str, *weights: str) -> None:
    """Build `name` and write it to `out`."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    if name == "minilm":
        export_minilm(out, *weights)
        return
    if name == "efficientnet_lite0":
        net = efficientnet_lite0(*weights)
    else:
        net = warmed({"resnet50_random": resnet50, "mobilenetv2_random": mobilenetv2}[name]())
    torch.onnx.export(
        net.eval(),
        (torch.randn(1, 3, 224, 224),),
        out,
        opset_version=17,
        dynamo=False,
        input_names=["input"],
        output_names=["logits"],
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
