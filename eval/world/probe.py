"""The probe: a small network that reads classes, depth, lamps and the ego's motion off pictures of the town.

It was taught by the renderer's own labels, never sees a generated picture in training, and is the same for every
checkpoint that is judged. Axes: N images, H x W pixels, h x w = H/8 x W/8 positions.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drive_wm.eval.world.lamps import LAMP_STATES
from drive_wm.model import PRETRAINED, load_weights
from drive_wm.render import SEMANTICS
from drive_wm.types import ByteArray, FloatArray, InputError, IntArray
from drive_wm.world.inputs import pixels_of

FORMAT = "drive_wm.probe@1"
SHIPPED = PRETRAINED / "probe"
STRIDE = 8
WIDTHS = (32, 64, 80)  # at strides 2, 4, 8
NEAREST_M, FARTHEST_M = 1.0, 120.0  # depth is read as its logarithm between these
MOTION_SCALE = (4.0, 0.12)  # of the outputs: metres and radians a step of half a second
MOTION_GRID = (4, 7)
REACH = (3, 6)  # rows, columns at stride 4: how far apart the same thing is looked for in two steps
BATCH = 96


class Block(nn.Module):
    """Residual: norm, 3 x 3, gelu, 3 x 3."""

    def __init__(self, width: int, dilation: int = 1) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.gelu(self.conv1(self.norm(x))))


class ProbeNet(nn.Module):
    """pixels (N, 3, H, W) in [0, 1] -> features at stride 8; from these classes, log depth and lamps at every pixel."""

    def __init__(self) -> None:
        super().__init__()
        a, b, c = WIDTHS
        self.outputs = (len(SEMANTICS), 1, len(LAMP_STATES))
        self.fine = nn.Sequential(nn.Conv2d(3, a, 3, stride=2, padding=1), Block(a))
        self.middle = nn.Sequential(nn.Conv2d(a, b, 3, stride=2, padding=1), Block(b))
        self.coarse = nn.Sequential(nn.Conv2d(b, c, 3, stride=2, padding=1), Block(c, dilation=2), nn.GroupNorm(8, c))
        self.up1, self.join1 = nn.Conv2d(c, b, 1), nn.Conv2d(b, b, 3, padding=1)
        self.up2, self.join2 = nn.Conv2d(b, a, 1), nn.Conv2d(a, a, 3, padding=1)
        self.head = nn.Conv2d(a, 4 * sum(self.outputs), 1)
        self.scale: Tensor
        self.register_buffer("scale", torch.ones(c))  # of the stride-8 features, which are given with unit variance
        shifts = (2 * REACH[0] + 1) * (2 * REACH[1] + 1)
        self.motion_in = nn.Conv2d(2 * b + shifts, 48, 3, stride=2, padding=1)
        self.motion_mix = nn.Conv2d(48, 24, 3, padding=1)
        cells = MOTION_GRID[0] * MOTION_GRID[1]
        self.motion_out = nn.Sequential(nn.Linear(24 * cells, 48), nn.GELU(), nn.Linear(48, 2))

    def features(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(N, 3, H, W) -> at strides 2, 4 and 8: (N, c, H/s, W/s)."""
        fine = self.fine(pixels * 2 - 1)
        middle = self.middle(fine)
        return fine, middle, self.coarse(middle)

    def maps(self, features: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """-> logits of classes (N, 22, H, W), of log depth in [0, 1] (N, H, W), and of lamp states (N, 3, H, W)."""
        fine, middle, coarse = features
        x = self.up1(F.gelu(coarse * self.scale[:, None, None]))
        x = F.gelu(self.join1(F.interpolate(x, scale_factor=2.0) + middle))
        x = F.gelu(self.join2(F.interpolate(self.up2(x), scale_factor=2.0) + fine))
        classes, depth, lamps = F.pixel_shuffle(self.head(x), 2).split(self.outputs, 1)
        return classes, depth[:, 0], lamps

    def motion(self, before: Tensor, after: Tensor) -> Tensor:
        """Stride-4 features (N, c, h, w) of the front camera, before and after -> (N, 2) metres and radians moved."""
        pair = torch.cat([before, after, correlation(before, after)], 1)
        x = F.gelu(self.motion_mix(F.gelu(self.motion_in(pair))))
        scale = torch.tensor(MOTION_SCALE, device=x.device, dtype=x.dtype)
        return self.motion_out(F.adaptive_avg_pool2d(x, MOTION_GRID).flatten(1)) * scale


def correlation(before: Tensor, after: Tensor) -> Tensor:
    """(N, c, h, w) each -> (N, shifts, h, w): cosine of a place with every place within REACH a step later."""
    before, after = F.normalize(before, dim=1), F.normalize(after, dim=1)
    rows, columns = REACH
    h, w = before.shape[2:]
    wide = F.pad(after, (columns, columns, rows, rows))
    return torch.stack([(before * wide[:, :, y:y + h, x:x + w]).sum(1)
                        for y in range(2 * rows + 1) for x in range(2 * columns + 1)], 1)


@dataclass(frozen=True)
class Reading:
    """What the probe sees in N images: classes (N, H, W), depth_m (N, H, W), lamps (N, 3, H, W) logits.

    features: (N, 80, h, w), of unit variance a channel over the town; middle: (N, 64, H/4, W/4), for ``motion``.
    """

    classes: ByteArray
    depth_m: FloatArray
    lamps: FloatArray
    features: FloatArray
    middle: FloatArray

    @property
    def pooled(self) -> FloatArray:
        """(N, 80): the mean of the features over each image."""
        pooled: FloatArray = self.features.mean((2, 3))
        return pooled


class Probe:
    """The network with its weights: pictures in, readings out."""

    def __init__(self, net: ProbeNet) -> None:
        self.net = net.eval()

    @classmethod
    def load(cls, folder: Path | str | None = None) -> Probe:
        """The shipped probe, or that of a folder that ``save`` wrote; raises InputError where it cannot be read."""
        folder = SHIPPED if folder is None else Path(folder)
        try:
            meta = json.loads((folder / "probe.json").read_text())
        except (OSError, json.JSONDecodeError) as error:
            raise InputError(f"{folder}: probe.json cannot be read ({error}); "
                             "train one with drive-wm train probe") from None
        if meta.get("format") != FORMAT or tuple(meta.get("classes", ())) != SEMANTICS:
            raise InputError(f"{folder}: a probe of format {meta.get('format')!r}, expected {FORMAT!r} and the "
                             "renderer's classes; train it anew with drive-wm train probe")
        net = ProbeNet()
        load_weights(folder / "probe.safetensors", net)
        return cls(net)

    def save(self, folder: Path | str, facts: dict[str, Any], card: str = "") -> Path:
        """probe.json, probe.safetensors (float16) and README.md; files of the same names are replaced."""
        from safetensors.torch import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        state = {k: v.detach().half().contiguous() for k, v in self.net.state_dict().items()}
        meta = {"format": FORMAT, "classes": SEMANTICS, "lamps": LAMP_STATES, **facts}
        for name, write in (("probe.safetensors", lambda p: save_file(state, str(p))),
                            ("probe.json", lambda p: p.write_text(json.dumps(meta, indent=1) + "\n")),
                            ("README.md", lambda p: p.write_text(card))):
            temporary = folder / f".{name}.part"
            write(temporary)
            shutil.move(temporary, folder / name)
        return folder

    @torch.no_grad()
    def read(self, images: ByteArray | Sequence[ByteArray]) -> Reading:
        """(N, H, W, 3) uint8, H and W divisible by 8."""
        parts = [self._read(np.stack(list(images[i:i + BATCH]))) for i in range(0, len(images), BATCH)]
        return Reading(*(np.concatenate([getattr(p, name) for p in parts]) for name in Reading.__dataclass_fields__))

    def _read(self, images: ByteArray) -> Reading:
        found = self.net.features(pixels_of(images, torch.device("cpu")))
        classes, depth, lamps = self.net.maps(found)
        return Reading(classes.argmax(1).to(torch.uint8).numpy(), depth_of(depth).numpy(), lamps.numpy(),
                       found[2].numpy(), found[1].numpy())

    @torch.no_grad()
    def moved(self, middle: FloatArray) -> FloatArray:
        """Stride-4 features (T, 64, h, w) of the front camera at T steps -> (T-1, 2) metres and radians of each."""
        x = torch.from_numpy(middle)
        return self.net.motion(x[:-1], x[1:]).double().numpy()


def depth_of(logit: Tensor) -> Tensor:
    """Network output -> metres."""
    return NEAREST_M * (FARTHEST_M / NEAREST_M) ** logit.clamp(0, 1)


def depth_target(depth_m: FloatArray) -> FloatArray:
    """Metres, inf for the sky -> [0, 1]."""
    inside = np.clip(depth_m, NEAREST_M, FARTHEST_M)
    return np.asarray(np.log(inside / NEAREST_M) / np.log(FARTHEST_M / NEAREST_M), np.float32)


def frechet(a: FloatArray, b: FloatArray) -> float:
    """Distance of two Gaussians fitted to (N, d) and (M, d): |m_a - m_b|^2 + tr(A + B - 2 (A B)^1/2) (Dowson, 1982).

    It shrinks with more samples: compare values of one N only. NaN where either has fewer than two rows.
    """
    if min(len(a), len(b)) < 2:
        return float("nan")
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    cov_a, cov_b = np.cov(a.T), np.cov(b.T)
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    shared = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ cov_b @ root), 0)).sum()
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * shared)


def class_counts(read: IntArray, truth: IntArray) -> IntArray:
    """(3, classes): pixels read and true as each class, read as it, true as it; of any equal shape."""
    n = len(SEMANTICS)
    both = np.bincount(truth[read == truth].ravel(), minlength=n)
    return np.stack([both, np.bincount(read.ravel(), minlength=n), np.bincount(truth.ravel(), minlength=n)])
