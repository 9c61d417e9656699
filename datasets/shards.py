"""Packed clips for training: one safetensors file a log, read by memory map, addressed by training step alone.

A batch is a pure function of (seed, step), so that a resumed run reads exactly what an uninterrupted one would have.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from drive_wm.datasets.clips import make_clip, nearest_agents
from drive_wm.datasets.rigs import at_height
from drive_wm.datasets.routes import ROUTE_DISTANCES_M, route_ahead
from drive_wm.geometry import xyyaw_from_pose
from drive_wm.types import AGENT_COLUMNS, Camera, Cause, Clip, Explanation, FloatArray, InputError, Log, Look, Rig

FORMAT = "drive_wm.shard@1"


@dataclass(frozen=True)
class ShardSpec:
    """How logs become clips. width, height: of every camera; width 0 keeps proportions. start_s, end_s: what to use."""

    width: int = 112
    height: int = 64
    rate_hz: float = 2.0
    phases: int = 1  # clips a log, shifted by a fraction of a step: more samples from a fast recording
    start_s: float = 0.0
    end_s: float = 1e9
    layout: bool = True
    min_steps: int = 8


def rig_to_json(rig: Rig) -> dict[str, Any]:
    return {"name": rig.name, "cameras": [
        {"name": c.name, "width": c.width, "height": c.height, "intrinsics": np.asarray(c.intrinsics).tolist(),
         "rig_from_camera": np.asarray(c.rig_from_camera).tolist()} for c in rig.cameras]}


def rig_from_json(value: dict[str, Any]) -> Rig:
    return Rig(value["name"], tuple(
        Camera(c["name"], c["width"], c["height"], np.array(c["intrinsics"]), np.array(c["rig_from_camera"]))
        for c in value["cameras"]))


def reason_from_json(value: dict[str, Any] | None) -> Explanation | None:
    if value is None:
        return None
    causes = tuple(Cause(**{**c, "position_m": tuple(c["position_m"]) if c["position_m"] else None})
                   for c in value["causes"])
    return Explanation(**{**value, "causes": causes})


def clips_of(log: Log, spec: ShardSpec) -> Iterable[tuple[Clip, FloatArray]]:
    """The whole log as clips on ``phases`` grids, each with its route ahead (T, 8, 2)."""
    rig = log.rig.resized(spec.width, spec.height) if spec.width else at_height(log.rig, spec.height)
    first, last = log.start_us + int(spec.start_s * 1e6), min(log.end_us, log.start_us + int(spec.end_s * 1e6))
    for phase in range(spec.phases):
        start = first + int(phase * 1e6 / spec.rate_hz / spec.phases)
        steps = int((last - start) * spec.rate_hz / 1e6 + 1e-6) + 1
        if steps < spec.min_steps:
            continue
        clip = make_clip(log, start, steps, spec.rate_hz, rig=rig, layout=spec.layout)
        yield clip, route_ahead(log, clip.ego)


def write_shard(clip: Clip, route: FloatArray, source: str, path: Path) -> None:
    from safetensors.numpy import save_file

    arrays: dict[str, Any] = {f"frames/{i}": clip.frames[c] for i, c in enumerate(clip.rig.names)}
    if clip.layout is not None:
        arrays |= {f"layout/{i}": clip.layout[c] for i, c in enumerate(clip.rig.names)}
    arrays |= {"frames_valid": clip.frames_valid, "ego": clip.ego, "ego_valid": clip.ego_valid, "actions": clip.actions,
               "actions_valid": clip.actions_valid, "agents": clip.agents.astype(np.float32),
               "agents_valid": clip.agents_valid, "route": route.astype(np.float32),
               "timestamps_us": clip.timestamps_us}
    reasons = [None if r is None else asdict(r) for r in clip.reasons]
    meta = {"format": FORMAT, "log_id": clip.log_id, "source": source, "licence": clip.licence,
            "rate_hz": clip.rate_hz, "rig": rig_to_json(clip.rig), "look": asdict(clip.look),
            "agent_ids": list(clip.agent_ids), "reasons": reasons}
    temporary = path.with_suffix(".tmp")
    save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, str(temporary), {"drive_wm": json.dumps(meta)})
    os.replace(temporary, path)


def _pack_one(job: tuple[str, str, str, ShardSpec]) -> list[str]:
    """One log, in a worker process: its shards, named by log and phase; what exists is kept."""
    import cv2

    from drive_wm.datasets.sources import open_source

    cv2.setNumThreads(1)
    source, log_id, out, spec = job
    done = Path(out) / f"{log_id}.done"
    if done.exists():
        return json.loads(done.read_text())
    names = []
    for phase, (clip, route) in enumerate(clips_of(open_source(source).load(log_id), spec)):
        name = f"{log_id}.{phase}.safetensors"
        write_shard(clip, route, source, Path(out) / name)
        names.append(name)
    done.write_text(json.dumps(names))
    return names


def build_shards(sources: Iterable[str], out: Path, spec: ShardSpec = ShardSpec(), *, workers: int = 1,
                 progress: Callable[[int, int], None] | None = None) -> list[Path]:
    """All logs of the sources as shards under ``out``; resumable, the same bytes on any number of workers."""
    from drive_wm.datasets.sources import open_source

    out.mkdir(parents=True, exist_ok=True)
    stamp, text = out / "spec.json", json.dumps(asdict(spec), sort_keys=True)
    if stamp.exists() and stamp.read_text() != text:
        raise InputError(f"{out} holds shards made with other settings; give another folder or delete it")
    stamp.write_text(text)
    jobs = [(source, log_id, str(out), spec) for source in sources for log_id in open_source(source).log_ids()]
    paths: list[Path] = []
    if workers <= 1:
        results: Iterable[list[str]] = map(_pack_one, jobs)
        return _collect(results, out, len(jobs), paths, progress)
    with ProcessPoolExecutor(workers) as pool:
        return _collect(pool.map(_pack_one, jobs, chunksize=4), out, len(jobs), paths, progress)


def _collect(results: Iterable[list[str]], out: Path, total: int, paths: list[Path],
             progress: Callable[[int, int], None] | None) -> list[Path]:
    for i, names in enumerate(results):
        paths.extend(out / name for name in names)
        if progress:
            progress(i + 1, total)
    if not paths:
        raise InputError("no clip could be made: every log is shorter than the clip that was asked for")
    return paths


class Shard:
    """One packed clip on disk."""

    def __init__(self, path: Path) -> None:
        from safetensors import SafetensorError, safe_open

        self.path = path
        try:
            with safe_open(str(path), "np") as f:
                meta = json.loads((f.metadata() or {}).get("drive_wm", "{}"))
                self.keys = set(f.keys())
                if meta.get("format") == FORMAT:
                    self.speed = np.abs(f.get_tensor("actions")[:, 0])
                    self.ego = f.get_tensor("ego")
                    self.usable = f.get_tensor("frames_valid").any(1) & f.get_tensor("ego_valid")
        except (SafetensorError, OSError, json.JSONDecodeError) as error:
            raise InputError(f"{path} is not a readable shard ({error}); delete it and pack again") from None
        if meta.get("format") != FORMAT:
            raise InputError(f"{path}: format {meta.get('format')!r}, expected {FORMAT!r}; pack again")
        self.meta = meta
        self.rig = rig_from_json(meta["rig"])
        self.steps = len(self.usable)

    @property
    def signature(self) -> tuple[Any, ...]:
        """Clips of one signature can stand in one batch."""
        return tuple((c.height, c.width) for c in self.rig.cameras)

    def window_weights(self, steps: int) -> FloatArray:
        """One weight a start: 0 where a step has no image or pose, little where the ego stands, more where it turns."""
        count = self.steps - steps + 1
        if count <= 0:
            return np.zeros(0)
        yaw = np.unwrap(xyyaw_from_pose(self.ego)[:, 2])
        weights = np.zeros(count)
        for s in range(count):
            if self.usable[s:s + steps].all():
                turn = abs(yaw[s + steps - 1] - yaw[s])
                speeds = self.speed[min(s, len(self.speed) - 1):max(s + steps - 1, s + 1)]
                moving = np.mean(speeds) > 0.5 if len(self.speed) else False
                weights[s] = (1.0 if moving else 0.2) * (1 + min(2.0, 2 * turn))
        return weights

    def read(self, start: int, steps: int, cameras: list[int] | None = None) -> tuple[Clip, FloatArray]:
        """Steps [start, start + steps) with the cameras asked for (indices, in that order), and the route (T, 8, 2)."""
        from safetensors import safe_open

        cameras = list(range(len(self.rig.cameras))) if cameras is None else cameras
        names = [self.rig.names[i] for i in cameras]
        part = slice(start, start + steps)
        with safe_open(str(self.path), "np") as f:
            def get(key: str) -> Any:
                return f.get_slice(key)[part]

            frames = {n: get(f"frames/{i}") for i, n in zip(cameras, names)}
            layout = {n: get(f"layout/{i}") for i, n in zip(cameras, names)} if "layout/0" in self.keys else None
            agents = np.zeros((steps, 0, len(AGENT_COLUMNS)))
            if "agents" in self.keys:
                agents = np.asarray(get("agents"), np.float64)
            moves = slice(start, start + steps - 1)
            clip = Clip(
                self.meta["log_id"], self.rig.subset(names), self.meta["rate_hz"], get("timestamps_us"), frames,
                get("frames_valid")[:, cameras], get("ego"), get("ego_valid"), f.get_tensor("actions")[moves],
                f.get_tensor("actions_valid")[moves], agents, get("agents_valid"),
                tuple(self.meta["agent_ids"]), layout,
                tuple(reason_from_json(r) for r in self.meta["reasons"][part]) if self.meta["reasons"] else (),
                Look(**self.meta["look"]), self.meta["licence"])
            return clip, get("route")


@dataclass(frozen=True)
class Sample:
    """One training sample: a clip with its agents in slots, and the route ahead of every step (T, 8, 2) in metres."""

    clip: Clip
    route: FloatArray


class WindowSampler:
    """Draws batches of windows: ``batch(step)`` is a pure function of (seed, step).

    ``weights``: the share of each group of shards (one group a folder); within a group shards of one signature batch
    together, chosen by the weight of their windows.
    """

    def __init__(self, groups: list[list[Shard]], steps: int, batch_size: int, seed: int, *,
                 weights: list[float] | None = None, agents: int = 16, camera_dropout: float = 0.3,
                 anchor: int = 3) -> None:
        self.steps, self.batch_size, self.seed = steps, batch_size, seed
        self.agents, self.camera_dropout, self.anchor = agents, camera_dropout, anchor
        self.pools: list[tuple[float, list[tuple[Shard, int]], FloatArray]] = []
        for shards, share in zip(groups, weights or [1.0] * len(groups)):
            self._add(shards, share)
        if not self.pools:
            raise InputError(f"no clip is {steps} steps long with an image and a pose at every step")
        total = sum(share for share, _, _ in self.pools)
        self.shares = np.array([share / total for share, _, _ in self.pools])

    def _add(self, shards: list[Shard], share: float) -> None:
        by_signature: dict[tuple[Any, ...], tuple[list[tuple[Shard, int]], list[float]]] = {}
        for shard in shards:
            entry = by_signature.setdefault(shard.signature, ([], []))
            for start, weight in enumerate(shard.window_weights(self.steps)):
                if weight > 0:
                    entry[0].append((shard, start))
                    entry[1].append(float(weight))
        whole = sum(sum(w) for _, w in by_signature.values())
        for windows, window_weights in by_signature.values():
            if windows:
                cumulative = np.cumsum(window_weights)
                self.pools.append((share * cumulative[-1] / whole, windows, cumulative / cumulative[-1]))

    @property
    def windows(self) -> int:
        return sum(len(windows) for _, windows, _ in self.pools)

    def batch(self, step: int) -> list[Sample]:
        rng = np.random.default_rng((self.seed, step))
        _, windows, cumulative = self.pools[int(rng.choice(len(self.pools), p=self.shares))]
        cameras = self._cameras(rng, len(windows[0][0].rig.cameras))
        picks = np.searchsorted(cumulative, rng.random(self.batch_size), side="right")
        samples = []
        for i in np.minimum(picks, len(windows) - 1):
            shard, start = windows[i]
            clip, route = shard.read(start, self.steps, cameras)
            samples.append(Sample(nearest_agents(clip, self.agents, min(self.anchor, self.steps - 1)), route))
        return samples

    def _cameras(self, rng: np.random.Generator, count: int) -> list[int]:
        """All of them, or with probability ``camera_dropout`` some, in any order: no camera is known by its index."""
        if count == 1 or rng.random() >= self.camera_dropout:
            return list(range(count))
        keep = int(rng.integers(1, count))
        return [int(i) for i in rng.permutation(count)[:keep]]


def find_shards(folder: Path) -> list[Shard]:
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise InputError(f"{folder} holds no shards; make them with: "
                         f"drive-wm data pack --source town:0-99 --out {folder}")
    return [Shard(path) for path in paths]


__all__ = ["ROUTE_DISTANCES_M", "Sample", "Shard", "ShardSpec", "WindowSampler", "build_shards", "find_shards"]
