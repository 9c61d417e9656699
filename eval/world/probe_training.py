"""``drive-wm train probe``: pictures of the town with the renderer's own labels, and ten minutes of one core.

A sample is a moment of a drive. All its cameras teach classes, depth and lamps; the front camera, drawn again from
where a random motion leads in half a second, teaches motion: logs alone are mostly straight.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from drive_wm.datasets.town import generate
from drive_wm.eval.world.lamps import LAMP_STATES, lamps_in
from drive_wm.eval.world.probe import MOTION_SCALE, Probe, ProbeNet, class_counts, depth_target
from drive_wm.geometry import integrate_actions, interpolate_poses, pose_from_xyzyaw, xyyaw_from_pose
from drive_wm.render import SEMANTICS, Renderer, agents_at, signals_at
from drive_wm.types import FloatArray, InputError, Log
from drive_wm.world.inputs import pixels_of

UNKNOWN = 255  # no lamp at this pixel
STEP_S = 0.5
SEEDS, CHECK_SEED = 99_000, 100_500  # training seeds that tiny does not use; validation


@dataclass(frozen=True)
class ProbeRun:
    """logs drives from first_seed on, moments of each with all cameras, pairs more with the front camera alone."""

    first_seed: int = SEEDS
    logs: int = 140
    moments: int = 6
    pairs: int = 20
    images: int = 16  # of a batch
    batch_pairs: int = 12
    epochs: int = 4
    lr: float = 3e-3


@dataclass
class Samples:
    """images (N, H, W, 3), classes (N, H, W), depth (N, H, W) as ``depth_target``, lamps (N, H, W), UNKNOWN elsewhere.

    before, after: (P, H, W, 3) of the front camera; motion: (P, 2) metres and radians in between.
    """

    images: Any
    classes: Any
    depth: Any
    lamps: Any
    before: Any
    after: Any
    motion: FloatArray


def draw_samples(run: ProbeRun, first_seed: int, logs: int) -> Samples:
    rows: list[tuple[Any, ...]] = []
    pairs: list[tuple[Any, ...]] = []
    for seed in range(first_seed, first_seed + logs):
        log = generate(seed)
        renderer, rng = Renderer(log.map, log.look, log.signals), np.random.default_rng(seed)
        for k in range(run.moments + run.pairs):
            at = _time(log, rng)
            pose = _near(interpolate_poses(log.ego, np.array([at]))[0][0], rng)
            pairs.append(_pair(log, renderer, at, pose, rng))
            if k < run.moments:
                rows += _moment(log, renderer, at, pose)
    return Samples(*(np.stack(column) for column in zip(*rows)), *(np.stack(column) for column in zip(*pairs)))


def _time(log: Log, rng: np.random.Generator) -> int:
    """A time of the log; half of them preferably before a traffic light, for lamps are few and small."""
    times = (log.start_us + rng.uniform(0.02, 0.95, 6) * (log.end_us - log.start_us)).astype(np.int64)
    if rng.random() < 0.5 and log.signals:
        poses = interpolate_poses(log.ego, times)[0]
        lamps = np.stack([signal.position_m for signal in log.signals])
        ahead = np.einsum("tji,tsj->tsi", poses[:, :3, :3], lamps[None] - poses[:, None, :3, 3])
        near = ((ahead[..., 0] > 4) & (ahead[..., 0] < 28) & (np.abs(ahead[..., 1]) < 12)).any(1)
        return int(times[np.argmax(near)])
    return int(times[0])


def _near(pose: FloatArray, rng: np.random.Generator) -> FloatArray:
    """A pose beside the driven one: generated futures leave the lane too."""
    x, y, yaw = xyyaw_from_pose(pose)
    shift, turn = rng.normal(0, [1.5, 1.2]), rng.normal(0, 0.25)
    c, s = np.cos(yaw), np.sin(yaw)
    xyz = np.array([x + c * shift[0] - s * shift[1], y + s * shift[0] + c * shift[1], pose[2, 3]])
    return pose_from_xyzyaw(xyz, yaw + turn)


def _moment(log: Log, renderer: Renderer, at: int, pose: FloatArray) -> list[tuple[Any, ...]]:
    agents, states = agents_at(log, at), signals_at(log, at)
    pictures, labels = renderer.draw(log.rig, pose, agents, states), renderer.labels(log.rig, pose, agents, states)
    rows = []
    for camera in log.rig.cameras:
        label = labels[camera.name]
        lamps = np.full(label.semantics.shape, UNKNOWN, np.uint8)
        for lamp in lamps_in(log, camera, pose, label, at):
            lamps[lamp.pixels] = lamp.state
        rows.append((pictures[camera.name], label.semantics, depth_target(label.depth_m).astype(np.float16), lamps))
    return rows


def _pair(log: Log, renderer: Renderer, at: int, pose: FloatArray, rng: np.random.Generator) -> tuple[Any, ...]:
    speed = rng.uniform(0, 16) * (rng.random() > 0.1)
    curvature = float(np.clip(rng.normal(0, 0.04) * (rng.random() > 0.3), -0.2, 0.2))
    to = integrate_actions(xyyaw_from_pose(pose), np.array([[speed, curvature]]), STEP_S)[0]
    after = pose_from_xyzyaw(np.array([to[0], to[1], pose[2, 3]]), to[2])
    rig = log.rig.subset([front_camera(log.rig)])
    images = [next(iter(renderer.draw(rig, p, agents_at(log, t), signals_at(log, t)).values()))
              for p, t in ((pose, at), (after, at + int(STEP_S * 1e6)))]
    return images[0], images[1], np.array([speed * STEP_S, speed * STEP_S * curvature])


def front_camera(rig: Any) -> str:
    """The camera that looks most forward."""
    name: str = max(rig.cameras, key=lambda c: float(c.rig_from_camera[0, 2])).name
    return name


# --- learning -----------------------------------------------------------------------------------------------------


def train_probe(out: Path | str, seed: int = 0, run: ProbeRun = ProbeRun()) -> dict[str, Any]:
    """Trains a probe, writes it to ``out`` and returns how well it reads drives that it never saw."""
    if Path(out).exists() and any(Path(out).iterdir()):
        raise InputError(f"--out {out}: is not empty; name a new folder")
    began = time.process_time()
    samples = draw_samples(run, run.first_seed, run.logs)
    print(f"{len(samples.images)} images, {len(samples.motion)} pairs, {time.process_time() - began:.0f} s", flush=True)
    torch.manual_seed(seed)
    net = ProbeNet().to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch does not list it
    learn(net, samples, run, seed)
    normalise(net, samples)
    probe = Probe(net)
    facts = {"parameters": sum(p.numel() for p in net.parameters()),
             "seeds": [run.first_seed, run.first_seed + run.logs - 1], "images": len(samples.images), "seed": seed,
             "cpu_minutes": round((time.process_time() - began) / 60, 1),
             **judge(probe, draw_samples(run, CHECK_SEED, 10))}
    probe.save(out, facts, card(facts))
    return facts


def learn(net: ProbeNet, samples: Samples, run: ProbeRun, seed: int) -> None:
    rng = np.random.default_rng(seed)
    steps = run.epochs * len(samples.images) // run.images
    optimizer = torch.optim.AdamW(net.parameters(), lr=run.lr, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, run.lr, total_steps=steps, pct_start=0.1)
    frequency = np.bincount(samples.classes[::7].ravel(), minlength=len(SEMANTICS)) / samples.classes[::7].size
    weight = torch.from_numpy(np.clip((frequency + 1e-3) ** -0.35, 1.0, 8.0)).float()
    net.train()
    for step in range(steps):
        images = rng.integers(len(samples.images), size=run.images)
        pairs = rng.integers(len(samples.motion), size=run.batch_pairs)
        loss = maps_loss(net, samples, images, weight) + 2 * motion_loss(net, samples, pairs)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"step {step} of {steps}, loss {float(loss.detach()):.3f}", flush=True)
    net.eval()


def maps_loss(net: ProbeNet, samples: Samples, rows: Any, weight: Tensor) -> Tensor:
    device = torch.device("cpu")
    classes, depth, lamps = net.maps(net.features(varied(pixels_of(samples.images[rows], device))))
    loss = F.cross_entropy(classes, torch.from_numpy(samples.classes[rows]).long(), weight)
    loss = loss + F.l1_loss(depth, torch.from_numpy(samples.depth[rows]).float())
    lit = torch.from_numpy(samples.lamps[rows]).long()
    if (lit != UNKNOWN).any():
        loss = loss + 0.3 * F.cross_entropy(lamps, lit, ignore_index=UNKNOWN)
    return loss


def motion_loss(net: ProbeNet, samples: Samples, rows: Any) -> Tensor:
    device = torch.device("cpu")
    both = varied(pixels_of(np.concatenate([samples.before[rows], samples.after[rows]]), device))
    mirrored = torch.rand(len(rows)) < 0.5
    both = torch.where(mirrored.repeat(2)[:, None, None, None], both.flip(3), both)
    before, after = net.features(both)[1].chunk(2)
    target = torch.from_numpy(samples.motion[rows]).float()
    target[:, 1] *= torch.where(mirrored, -1.0, 1.0)
    error = (net.motion(before, after) - target) / torch.tensor(MOTION_SCALE)
    return F.smooth_l1_loss(error, torch.zeros_like(error), beta=0.1)


def varied(pixels: Tensor) -> Tensor:
    """Blurred, brighter or noisy: the probe must also read pictures that are less sharp than drawn ones."""
    n, (h, w), factor = len(pixels), pixels.shape[2:], int(torch.randint(2, 6, ()))
    coarse = F.interpolate(pixels, (h // factor, w // factor), mode="area")
    soft = F.interpolate(coarse, (h, w), mode="bilinear", align_corners=False)
    pixels = pixels.lerp(soft, torch.rand(n, 1, 1, 1) * (torch.rand(n, 1, 1, 1) < 0.5))
    pixels = pixels * (1 + 0.1 * torch.randn(n, 1, 1, 1)) + 0.02 * torch.randn_like(pixels)
    return pixels.clamp(0, 1).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def normalise(net: ProbeNet, samples: Samples) -> None:
    """Scales the stride-8 features to unit variance a channel over the samples, and undoes it in what reads them."""
    images = samples.images[:: max(1, len(samples.images) // 200)]
    scale = net.features(pixels_of(images, torch.device("cpu")))[2].std((0, 2, 3)).clamp_min(1e-3)
    norm = net.coarse[2]
    assert isinstance(norm, torch.nn.GroupNorm)
    norm.weight.div_(scale)
    norm.bias.div_(scale)
    net.scale.mul_(scale)


def judge(probe: Probe, samples: Samples) -> dict[str, float]:
    """How well the probe reads true pictures: mIoU of classes, relative depth error, lamps right, motion error."""
    read = probe.read(samples.images)
    both, said, true = class_counts(read.classes, samples.classes)
    some = true > 0
    union = (said + true - both)[some]
    lit = samples.lamps != UNKNOWN
    named = read.lamps.argmax(1)
    ground = samples.depth < 0.999
    error = np.abs(np.log(read.depth_m[ground] / 120.0 ** samples.depth[ground].astype(np.float64)))
    moved = np.concatenate([probe.moved(np.stack(pair)) for pair in zip(
        probe.read(samples.before).middle, probe.read(samples.after).middle)])
    off = np.abs(moved - samples.motion).mean(0)
    return {"miou": round(float((both[some] / union).mean()), 4),
            "pixels_right": round(float((read.classes == samples.classes).mean()), 4),
            "depth_log_error": round(float(error.mean()), 4),
            "lamp_pixels_right": round(float((named[lit] == samples.lamps[lit]).sum() / max(int(lit.sum()), 1)), 4),
            "lamp_pixels": int(lit.sum()), "travel_error_m": round(float(off[0]), 3),
            "turn_error_deg": round(float(np.degrees(off[1])), 3),
            **{f"iou_{name.replace(' ', '_')}": round(float(both[i] / max(said[i] + true[i] - both[i], 1)), 3)
               for i, name in enumerate(SEMANTICS) if true[i] > 0}}


def card(facts: dict[str, Any]) -> str:
    """README.md of a probe."""
    lines = [f"| {key.replace('_', ' ')} | {value} |" for key, value in facts.items()]
    return "\n".join([
        "# The probe of `world@1.0`", "",
        f"{facts['parameters']:,} weights that read classes, depth, the state of traffic lights "
        f"({', '.join(LAMP_STATES)}) and the ego's motion off pictures of the generated town. It judges generated",
        "pictures; it drives nothing. Made by `drive-wm train probe`, from town training seeds, with the renderer's",
        "labels; figures are on ten validation drives.",
        "It knows the town's style alone: on recorded pictures its readings mean nothing.", "",
        "| what | value |", "|---|---|", *lines, ""])
