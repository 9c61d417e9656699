"""How the ego-status planner is trained: from poses and routes alone, no image is drawn."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from drive_wm.datasets.routes import points_ahead, route_of
from drive_wm.geometry import (
    actions_from_xyyaw,
    integrate_actions,
    interpolate_poses,
    pose_from_xyyaw,
    relative_xyyaw,
    resample_polyline,
    wrap_angle,
    xyyaw_from_pose,
)
from drive_wm.planners.base import POINT_S, TIMES_S
from drive_wm.planners.ego_status import PAST, EgoStatusNet, features_of
from drive_wm.types import FloatArray, InputError, Log

FILES = ("ego_status.safetensors", "README.md", "recipe.json")
EVERY_S = 0.2
CLOSE_S = 2.0  # a gap to the log is to be closed in this time
OFFSET_M, HEADING_RAD = 0.5, 0.05  # of starts beside the log, from which it learns to come back


@dataclass(frozen=True)
class Samples:
    """features (N, FEATURES), the way driven (N, 8, 3) x, y, yaw at TIMES_S in the rig frame of now, speeds (N,)."""

    features: FloatArray
    xyyaw: FloatArray
    speed_mps: FloatArray


@dataclass(frozen=True)
class Recipe:
    steps: int = 4000
    batch: int = 512
    lr: float = 2e-3
    weight_decay: float = 1e-3
    copies: int = 2  # of each moment, started beside the log


def samples_of(log: Log, copies: int = 0, seed: int = 0) -> Samples:
    """Every 0.2 s of a log that has 1.5 s of past and 4 s of future; ``copies`` more of each start beside it."""
    start, end = log.start_us + round(PAST * POINT_S * 1e6), log.end_us - round(TIMES_S[-1] * 1e6)
    now = np.arange(start, end + 1, round(EVERY_S * 1e6))
    past_s, fine_s = np.arange(-PAST, 0) * POINT_S, np.array([-0.4, -0.2])
    offsets_s = np.concatenate([past_s, fine_s, [0.0], TIMES_S])
    times = now[:, None] + np.round(offsets_s * 1e6).astype(np.int64)
    poses, valid = interpolate_poses(log.ego, times.reshape(-1))
    known = valid.reshape(times.shape).all(1)
    xyyaw = xyyaw_from_pose(poses).reshape(*times.shape, 3)[known]  # (N, PAST + 2 + 1 + 8, 3)
    route = resample_polyline(route_of(log), 2.0)
    rng = np.random.default_rng([seed, *log.id.encode()])
    rows = [_sample(world, route, np.zeros(2)) for world in xyyaw]
    for world in np.repeat(xyyaw, copies, 0):
        rows.append(_sample(world, route, rng.normal(0, [OFFSET_M, HEADING_RAD])))
    if not rows:
        return Samples(np.zeros((0, 0)), np.zeros((0, len(TIMES_S), 3)), np.zeros(0))
    return Samples(*(np.stack(column) for column in zip(*rows)))


def _sample(world: FloatArray, route: FloatArray, beside: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """One moment, seen from ``beside`` (lateral metres, radians) of where the log was; the gap fades over CLOSE_S."""
    now = world[PAST + 2]
    origin = now + [-beside[0] * np.sin(now[2]), beside[0] * np.cos(now[2]), beside[1]]
    past = actions_from_xyyaw(np.concatenate([world[:PAST], now[None]]), np.arange(PAST + 1) * POINT_S)
    fine = actions_from_xyyaw(world[PAST:PAST + 3], np.arange(3) * 0.2)[:, 0]
    speed = max(0.0, 1.5 * fine[1] - 0.5 * fine[0])
    accel = float(np.clip((fine[1] - fine[0]) / 0.2, -4.0, 4.0))
    way = relative_xyyaw(origin, world[PAST + 2:])
    way -= way[0] * np.maximum(0.0, 1.0 - np.concatenate([[0.0], TIMES_S]) / CLOSE_S)[:, None]
    features = features_of(np.array(speed), np.array(accel), past, points_ahead(route, pose_from_xyyaw(origin)))
    return features, np.concatenate([way[1:, :2], wrap_angle(way[1:, 2:])], -1), np.array(speed)


def fit(samples: Samples, recipe: Recipe = Recipe(), seed: int = 0) -> EgoStatusNet:
    """Least mean distance of the eight points (and of the headings, a radian worth 5 m). AdamW, cosine."""
    torch.manual_seed(seed)
    net, rng = EgoStatusNet(), np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(net.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.steps)
    features = torch.from_numpy(samples.features)
    truth = torch.from_numpy(samples.xyyaw).float()
    for _ in range(recipe.steps):
        rows = torch.from_numpy(rng.integers(0, len(features), recipe.batch))
        loss = _distance(net(features[rows]), truth[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return net.eval()


def _distance(actions: Tensor, truth: Tensor) -> Tensor:
    length = actions[..., 0] * POINT_S
    turn = length * actions[..., 1]
    yaw = turn.cumsum(-1)
    chord, middle = length * torch.sinc(turn / (2 * np.pi)), yaw - turn / 2
    x, y = (chord * middle.cos()).cumsum(-1), (chord * middle.sin()).cumsum(-1)
    gap = torch.hypot(x - truth[..., 0] + 1e-6, y - truth[..., 1] + 1e-6)
    return gap.mean() + 5.0 * (1 - torch.cos(yaw - truth[..., 2])).mean()


@torch.no_grad()
def open_loop(net: EgoStatusNet, samples: Samples) -> list[dict[str, Any]]:
    """Mean distance [m] to the log at 1, 2, 3, 4 s, beside going on at constant velocity."""
    actions = net(torch.from_numpy(samples.features)).double().numpy()
    straight = np.zeros_like(actions)
    straight[..., 0] = samples.speed_mps[:, None]
    rows = []
    for name, plan in (("ego_status", actions), ("constant_velocity", straight)):
        gap = integrate_actions(np.zeros((len(plan), 3)), plan, POINT_S)[..., :2] - samples.xyyaw[..., :2]
        l2 = np.linalg.norm(gap, axis=-1).mean(0)
        rows.append({"planner": name, **{f"l2_{s}s_m": round(float(l2[2 * s - 1]), 3) for s in (1, 2, 3, 4)}})
    return rows


def gathered(logs: Iterable[Log], copies: int, seed: int) -> Samples:
    parts = [part for part in (samples_of(log, copies, seed) for log in logs) if len(part.features)]
    if not parts:
        raise InputError("no log has 5.5 s of valid poses to learn from")
    return Samples(*(np.concatenate([getattr(part, name) for part in parts])
                     for name in ("features", "xyyaw", "speed_mps")))


def train(source: str | Sequence[str], out: Path, seed: int = 0, check: str | Sequence[str] = "town:100000-100019",
          recipe: Recipe = Recipe()) -> dict[str, Any]:
    """Trains on ``source``, measures on ``check``; writes ego_status.safetensors, recipe.json and README.md to out.

    Raises InputError where a source holds no usable drive. The same arguments give the same weights on one machine.
    """
    from drive_wm.datasets.sources import open_source
    from drive_wm.eval.run_folder import RunFolder

    opened, held_out = open_source(source), open_source(check)
    with RunFolder(out, "train-ego-status", seed=seed) as run:
        samples = gathered(map(opened.load, opened.log_ids()), recipe.copies, seed)
        net = fit(samples, recipe, seed)
        rows = open_loop(net, gathered(map(held_out.load, held_out.log_ids()), 0, seed))
        facts = {"source": _text(source), "check": _text(check), "seed": seed, "samples": len(samples.features),
                 "recipe": asdict(recipe)}
        for name in FILES:
            run.file(name)
        write(net, out, facts, rows)
        run.finish({**facts, "open_loop": rows})
    return {**facts, "open_loop": rows}


def _text(source: str | Sequence[str]) -> str:
    return source if isinstance(source, str) else " --source ".join(source)


def write(net: EgoStatusNet, out: Path, facts: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    from safetensors.torch import save

    out.mkdir(parents=True, exist_ok=True)
    weights = save({name: value.contiguous() for name, value in net.state_dict().items()})
    recipe = json.dumps({**facts, "open_loop": rows}, indent=1)
    for name, content in zip(FILES, (weights, card(facts, rows).encode(), recipe.encode())):
        (out / f".{name}").write_bytes(content)
        os.replace(out / f".{name}", out / name)


def card(facts: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    head = list(rows[0])
    table = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    table += ["| " + " | ".join(str(row[name]) for name in head) + " |" for row in rows]
    return "\n".join([
        "# ego_status", "",
        "An MLP on speed, acceleration, three past actions and eight points of the route. It has no sensors: it is the "
        "row that says how much of a score needs no seeing. Not for a vehicle.", "",
        f"Trained on `{facts['source']}` ({facts['samples']} moments, a part of them started beside the log), "
        f"seed {facts['seed']}: `drive-wm train ego-status --source {facts['source']} --out DIR`.", "",
        f"Distance to the log on `{facts['check']}`, open loop:", "", *table, "", "Licence: Apache-2.0.", ""])


__all__ = ["Recipe", "Samples", "fit", "open_loop", "samples_of", "train"]
