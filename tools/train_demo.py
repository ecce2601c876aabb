"""Train, prove and export the ResNet-8 that ships in `lepton_tvm/demo`.

Run once by hand (torch is an extra; the data is Debian's package `dataset-fashion-mnist`):

    pip install -e ".[torch]" onnxruntime
    python tools/train_demo.py --data /usr/share/datasets/fashion-mnist --out lepton_tvm/demo

Half of the inner channels of each residual block is trained to be spare: in half of the batches
it is switched off (nested dropout, Rippel et al. 2014), and an L1 penalty pulls the batch-norm
scales that lead there towards zero (network slimming, Liu et al. 2017). So the network can lose
them later without fine-tuning, and magnitude tells which they are. The data is split as its authors
did: the test pictures are never trained on, and no choice is made by looking at them.
"""

from __future__ import annotations

import argparse
import gzip
import math
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

STREAM = (16, 32, 64)
INNER = (32, 32, 64)


class Block(nn.Module):
    """conv3x3-BN-ReLU-conv3x3-BN plus shortcut; `spare` switches half of the inner channels off."""

    def __init__(self, c_in: int, c_inner: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_inner, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(c_inner)
        self.conv2 = nn.Conv2d(c_inner, c_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or c_in != c_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out)
            )
        self.half = c_inner // 2

    def forward(self, x: torch.Tensor, spare: bool = True) -> torch.Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        if spare:
            y = self.conv2(y)
        else:
            y = F.conv2d(y[:, : self.half], self.conv2.weight[:, : self.half], padding=1)
        return F.relu(self.bn2(y) + self.shortcut(x))


class ResNet8(nn.Module):
    """[N,1,28,28] in 0..1 -> [N,10] logits; about 82,000 parameters, 12.9 million multiply-adds."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, STREAM[0], 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(STREAM[0])
        self.blocks = nn.ModuleList(
            Block(c_in, inner, c_out, stride)
            for c_in, inner, c_out, stride in zip(
                (STREAM[0], *STREAM[:-1]), INNER, STREAM, (1, 2, 2), strict=True
            )
        )
        self.fc = nn.Linear(STREAM[-1], 10)

    def forward(self, x: torch.Tensor, spare: bool = True) -> torch.Tensor:
        x = F.relu(self.bn(self.stem(x)))
        for block in self.blocks:
            x = block(x, spare)
        return self.fc(x.mean((2, 3)))

    def spare_scales(self) -> torch.Tensor:
        """The batch-norm scales of all spare channels."""
        return torch.cat([b.bn1.weight[b.half :] for b in self.blocks])


def read_idx(path: Path) -> np.ndarray:
    """One idx file of the MNIST family as a uint8 array."""
    raw = gzip.decompress(path.read_bytes())
    dims = raw[3]
    shape = tuple(int.from_bytes(raw[4 + 4 * i : 8 + 4 * i], "big") for i in range(dims))
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * dims).reshape(shape)


def load(data: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Pictures [n,28,28] uint8 and labels [n] of `train` or `t10k`."""
    pictures = read_idx(data / f"{split}-images-idx3-ubyte.gz")
    return pictures, read_idx(data / f"{split}-labels-idx1-ubyte.gz")


def augment(x: torch.Tensor, gen: torch.Generator) -> torch.Tensor:
    """Each picture of [n,1,28,28] mirrored by chance, the batch moved by up to two pixels."""
    flip = torch.rand(len(x), generator=gen) < 0.5
    x = torch.where(flip[:, None, None, None], x.flip(3), x)
    dy, dx = torch.randint(0, 5, (2,), generator=gen).tolist()
    return F.pad(x, (2, 2, 2, 2))[:, :, dy : dy + 28, dx : dx + 28]


@torch.no_grad()
def accuracy(net: ResNet8, x: torch.Tensor, y: torch.Tensor, *, spare: bool = True) -> float:
    """Top-1 in percent."""
    net.eval()
    right = sum(
        int((net(xb, spare).argmax(1) == yb).sum())
        for xb, yb in zip(x.split(1000), y.split(1000), strict=True)
    )
    return 100.0 * right / len(x)


def to_tensor(pictures: np.ndarray) -> torch.Tensor:
    """[n,28,28] uint8 -> [n,1,28,28] float32 in 0..1."""
    return torch.from_numpy(pictures.astype(np.float32) / 255.0)[:, None]


def train(args: argparse.Namespace, data: Path) -> ResNet8:
    """Train with SGD, one cosine cycle; a checkpoint after every epoch continues a broken run."""
    torch.manual_seed(args.seed)
    gen = torch.Generator().manual_seed(args.seed)
    pictures, labels = load(data, "train")
    x, y = to_tensor(pictures), torch.from_numpy(labels.astype(np.int64))
    hold_x, hold_y = x[-5000:], y[-5000:]
    x, y = x[:-5000], y[:-5000]
    net = ResNet8().to(memory_format=torch.channels_last)
    steps = args.epochs * (len(x) // args.batch)
    opt = torch.optim.SGD(
        net.parameters(), lr=args.lr, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    plan = torch.optim.lr_scheduler.OneCycleLR(opt, args.lr, steps, pct_start=0.15)
    first = 0
    if args.checkpoint.exists():
        state = torch.load(args.checkpoint)
        first = state["epoch"]
        net.load_state_dict(state["net"])
        opt.load_state_dict(state["opt"])
        plan.load_state_dict(state["plan"])
        gen.set_state(state["gen"])
    for epoch in range(first, args.epochs):
        net.train()
        begin, total = time.time(), 0.0
        order = torch.randperm(len(x), generator=gen)
        for index in order.split(args.batch):
            if len(index) < args.batch:
                continue
            spare = bool(torch.rand(1, generator=gen) < 0.5)
            xb = augment(x[index], gen).contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
                logits = net(xb, spare)
            loss = F.cross_entropy(logits.float(), y[index], label_smoothing=0.05)
            penalty = args.slim * net.spare_scales().abs().sum()
            opt.zero_grad()
            (loss + penalty).backward()
            opt.step()
            plan.step()
            total += loss.item()
            if not math.isfinite(total):
                raise SystemExit("the loss is not finite; lower --lr")
        full = accuracy(net, hold_x, hold_y)
        half = accuracy(net, hold_x, hold_y, spare=False)
        print(
            f"epoch {epoch + 1}/{args.epochs}: loss {total / (len(x) // args.batch):.3f}, held-out "
            f"{full:.2f} %, without spare channels {half:.2f} %, "
            f"spare scales {net.spare_scales().abs().mean():.3f}, {time.time() - begin:.0f} s",
            flush=True,
        )
        torch.save(
            {
                "epoch": epoch + 1,
                "net": net.state_dict(),
                "opt": opt.state_dict(),
                "plan": plan.state_dict(),
                "gen": gen.get_state(),
            },
            args.checkpoint,
        )
    return net


def main() -> None:
    """Read the options, train, export, and check the exported file with ONNX Runtime."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--out", type=Path, default=Path("lepton_tvm/demo"))
    parser.add_argument("--checkpoint", type=Path, default=Path("train_demo.pt"))
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=0.2)
    parser.add_argument("--slim", type=float, default=5e-5)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--bf16", action="store_true", help="train in bfloat16 (faster, AVX-512)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    net = train(args, args.data)
    export(net, args.data, args.out)


def export(net: ResNet8, data: Path, out: Path) -> None:
    """Write `resnet8.onnx`, `test.npz` (1,000 labelled), `calibration.npz` (128 unlabelled)."""
    pictures, labels = load(data, "t10k")
    print(f"all 10,000 test pictures: {accuracy_of(net, pictures, labels):.2f} %", flush=True)
    np.savez_compressed(out / "test.npz", pictures=pictures[:1000], labels=labels[:1000])
    train_pictures, _ = load(data, "train")
    np.savez_compressed(out / "calibration.npz", pictures=train_pictures[:128])
    path = out / "resnet8.onnx"
    torch.onnx.export(
        net.eval().to(memory_format=torch.contiguous_format),
        (torch.zeros(1, 1, 28, 28),),
        str(path),
        opset_version=17,
        dynamo=False,
        input_names=["input"],
        output_names=["logits"],
    )
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    x = to_tensor(pictures[:1000]).numpy()
    got = np.concatenate([session.run(None, {"input": x[i : i + 1]})[0] for i in range(1000)])
    right = 100.0 * float((got.argmax(1) == labels[:1000]).mean())
    print(f"{path}: {path.stat().st_size} bytes, first 1,000 test pictures {right:.1f} %")


def accuracy_of(net: ResNet8, pictures: np.ndarray, labels: np.ndarray) -> float:
    """Top-1 in percent of uint8 pictures."""
    return accuracy(net, to_tensor(pictures), torch.from_numpy(labels.astype(np.int64)))


if __name__ == "__main__":
    main()
