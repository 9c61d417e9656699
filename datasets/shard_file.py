"""One packed clip in one safetensors file: any window of it is cut out of mapped memory, without touching the rest.

    frames/<i>  layout/<i>           (T, H, W, 3) uint8 of camera i; or, where a codec was asked for and halves them,
    frames/<i>.lz4  .ends            the T images one after another, each compressed on its own, and where each ends
    digits/<i>                       (T, h, w, D) uint8 tokens in place of frames
    carried/<i>  carried_drawn/<i>   the same of the frame before, carried to each step
    ego  actions  agents  route ...  as in `Clip`
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from drive_wm.datasets.clips import questions_in
from drive_wm.geometry import xyyaw_from_pose
from drive_wm.types import (
    AGENT_COLUMNS,
    BoolArray,
    ByteArray,
    Camera,
    Cause,
    Clip,
    Explanation,
    FloatArray,
    InputError,
    Look,
    Rig,
    Text,
)

FORMAT = "drive_wm.shard@2"
READABLE = ("drive_wm.shard@1", FORMAT)
OPEN_FILES = 512  # mapped, without a file descriptor each; what costs is their metadata
LEVELS = {"lz4": 1, "zstd": 3}  # higher ones gain a tenth of the size and cost a tenfold of the time


# --- words <-> JSON -----------------------------------------------------------------------------------------------


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


# --- images -------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=len(LEVELS))
def codec_of(name: str) -> Any:
    """An object with ``compress`` and ``decompress``; raises InputError for a name that is not in LEVELS."""
    if name not in LEVELS:
        raise InputError(f"codec {name!r}, expected none, {' or '.join(LEVELS)}")
    try:
        from pyarrow import Codec
    except ImportError as error:
        raise InputError(f"compressed shards need pyarrow ({error}): pip install 'pyarrow>=18,<26'") from error
    return Codec(name, compression_level=LEVELS[name])


def compressed(key: str, images: ByteArray, codec: str) -> dict[str, Any]:
    """(T, H, W, C) as one stream with its ends; as it is for "none", or where it would not shrink to half (noise)."""
    if codec == "none":
        return {key: images}
    parts = [codec_of(codec).compress(np.ascontiguousarray(image), asbytes=True) for image in images]
    if 2 * sum(map(len, parts)) > images.nbytes:
        return {key: images}
    return {f"{key}.{codec}": np.frombuffer(b"".join(parts), np.uint8),
            f"{key}.ends": np.cumsum([0, *map(len, parts)], dtype=np.int64)}


def read_images(handle: Any, keys: frozenset[str], key: str, part: slice, shape: tuple[int, ...]) -> ByteArray:
    """Steps ``part`` of an array of images, each (H, W, C)."""
    if key in keys:
        return handle.get_slice(key)[part]
    name = next(name for name in LEVELS if f"{key}.{name}" in keys)
    ends = handle.get_slice(f"{key}.ends")[part.start:part.stop + 1]
    stream = memoryview(handle.get_slice(f"{key}.{name}")[int(ends[0]):int(ends[-1])])
    out, codec = np.empty((len(ends) - 1, int(np.prod(shape))), np.uint8), codec_of(name)
    ends = ends - ends[0]
    for i, row in enumerate(out):
        row[:] = np.frombuffer(codec.decompress(stream[ends[i]:ends[i + 1]], row.size), np.uint8)
    return out.reshape(-1, *shape)


# --- writing ------------------------------------------------------------------------------------------------------


def write_shard(clip: Clip, route: FloatArray, source: str, path: Path, *, weight: float = 1.0, tokenizer: str = "",
                lineage: Mapping[str, Any] | None = None, codec: str = "none") -> None:
    """``tokenizer``: the fingerprint of the one that made ``clip.digits``. ``lineage``: plain JSON, kept as it is.

    ``codec``: "none", "lz4" or "zstd", of images.
    """
    arrays: dict[str, Any] = {}
    for i, name in enumerate(clip.rig.names):
        if clip.digits is not None:
            arrays[f"digits/{i}"] = clip.digits[name]
            for key, carried in (("carried", clip.carried), ("carried_drawn", clip.carried_drawn)):
                if carried is not None:
                    arrays[f"{key}/{i}"] = carried[name]
        else:
            arrays |= compressed(f"frames/{i}", clip.frames[name], codec)
        if clip.layout is not None:
            arrays |= compressed(f"layout/{i}", clip.layout[name], codec)
    arrays |= {"frames_valid": clip.frames_valid, "ego": clip.ego, "ego_valid": clip.ego_valid, "actions": clip.actions,
               "actions_valid": clip.actions_valid, "agents": clip.agents.astype(np.float32),
               "agents_valid": clip.agents_valid, "route": route.astype(np.float32),
               "timestamps_us": clip.timestamps_us}
    reasons = [None if r is None else asdict(r) for r in clip.reasons]
    meta = {"format": FORMAT, "log_id": clip.log_id, "source": source, "licence": clip.licence,
            "rate_hz": clip.rate_hz, "rig": rig_to_json(clip.rig), "look": asdict(clip.look),
            "agent_ids": list(clip.agent_ids), "reasons": reasons,
            "texts": [asdict(t) for t in clip.texts], "weight": weight, "tokenizer": tokenizer,
            "lineage": dict(lineage or {})}
    save_arrays({k: np.ascontiguousarray(v) for k, v in arrays.items()}, meta, path)


def save_arrays(arrays: dict[str, Any], meta: dict[str, Any], path: Path) -> None:
    """Arrays and JSON as one safetensors file, whole or not at all."""
    from safetensors.numpy import save_file

    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    save_file(arrays, str(temporary), {"drive_wm": json.dumps(meta)})
    temporary.chmod(0o644)  # the library lets nobody else read what it writes
    os.replace(temporary, path)


# --- reading ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OpenShard:
    """A file that is mapped: its tensors, what is in it, and its metadata."""

    handle: Any
    keys: frozenset[str]
    meta: dict[str, Any]
    rig: Rig


@lru_cache(maxsize=OPEN_FILES)
def open_shard(path: Path) -> OpenShard:
    """Raises InputError for what is no shard, or one of a format that is not known."""
    from safetensors import SafetensorError, safe_open

    try:
        handle = safe_open(str(path), "np")
        meta = json.loads((handle.metadata() or {}).get("drive_wm", "{}"))
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise InputError(f"{path} is not a readable shard ({error}); delete it and pack again") from None
    if meta.get("format") not in READABLE:
        raise InputError(f"{path}: format {meta.get('format')!r}, expected {' or '.join(READABLE)}; pack again")
    return OpenShard(handle, frozenset(handle.keys()), meta, rig_from_json(meta["rig"]))


@dataclass(frozen=True)
class ShardFacts:
    """What drawing windows needs to know of a shard of T steps, so that it need not be opened for that.

    sizes: (height, width) of each camera. speed_mps: (T-1,). yaw_rad: (T,) unwrapped. usable: (T,) an image and a pose.
    weight: how often its windows are drawn, next to those of others. tokenizer: fingerprint, empty for frames.
    """

    sizes: tuple[tuple[int, int], ...]
    speed_mps: FloatArray
    yaw_rad: FloatArray
    usable: BoolArray
    weight: float = 1.0
    tokenizer: str = ""

    def window_weights(self, steps: int) -> FloatArray:
        """One weight a start: 0 where a step has no image or pose, little where the ego stands, more where it turns."""
        count = len(self.usable) - steps + 1
        if count <= 0:
            return np.zeros(0)
        turn = np.abs(self.yaw_rad[steps - 1:] - self.yaw_rad[:count])
        moving = np.zeros(count, bool)
        if len(self.speed_mps):
            speeds = np.append(self.speed_mps, self.speed_mps[-1])
            moving = np.lib.stride_tricks.sliding_window_view(speeds, max(steps - 1, 1))[:count].mean(-1) > 0.5
        whole = np.lib.stride_tricks.sliding_window_view(self.usable, steps).all(-1)
        return np.where(whole, np.where(moving, 1.0, 0.2) * (1 + np.minimum(2.0, 2 * turn)), 0.0) * self.weight


def facts_of(opened: OpenShard) -> ShardFacts:
    get = opened.handle.get_tensor
    return ShardFacts(
        tuple((c.height, c.width) for c in opened.rig.cameras), np.abs(get("actions")[:, 0]),
        np.unwrap(xyyaw_from_pose(get("ego"))[:, 2]), get("frames_valid").any(1) & get("ego_valid"),
        float(opened.meta.get("weight", 1.0)), opened.meta.get("tokenizer", ""))


class Shard:
    """One packed clip. With ``facts`` from an index the file is opened, or fetched by ``locate``, at first reading."""

    def __init__(self, path: Path, facts: ShardFacts | None = None, locate: Callable[[], Path] | None = None) -> None:
        self.path, self._locate = path, locate
        self.facts = facts if facts is not None else facts_of(self.opened)

    @property
    def opened(self) -> OpenShard:
        return open_shard(self._locate() if self._locate else self.path)

    @property
    def meta(self) -> dict[str, Any]:
        return self.opened.meta

    @property
    def rig(self) -> Rig:
        return self.opened.rig

    @property
    def steps(self) -> int:
        return len(self.facts.usable)

    @property
    def signature(self) -> tuple[Any, ...]:
        """Clips of one signature can stand in one batch."""
        return (*self.facts.sizes, self.facts.tokenizer)

    @property
    def asked(self) -> BoolArray:
        """(T,) whether there is a question about a step; opens the file."""
        times = self.opened.handle.get_tensor("timestamps_us")
        begins = np.array(sorted({t["start_us"] for t in self.meta.get("texts", ()) if t["question"]}), np.int64)
        return np.isin(times, begins)

    def window_weights(self, steps: int) -> FloatArray:
        return self.facts.window_weights(steps)

    def read(self, start: int, steps: int, cameras: list[int] | None = None) -> tuple[Clip, FloatArray]:
        """Steps [start, start + steps) with the cameras asked for (indices, in that order), and the route (T, 8, 2)."""
        opened = self.opened
        handle, keys, meta = opened.handle, opened.keys, opened.meta
        cameras = list(range(len(opened.rig.cameras))) if cameras is None else cameras
        part, moves = slice(start, start + steps), slice(start, start + steps - 1)
        rig = opened.rig.subset([opened.rig.names[i] for i in cameras])

        def get(key: str) -> Any:
            return handle.get_slice(key)[part]

        def images(kind: str) -> dict[str, ByteArray] | None:
            if not any(key.startswith(f"{kind}/") for key in keys):
                return None
            return {c.name: read_images(handle, keys, f"{kind}/{i}", part, (c.height, c.width, 3))
                    for i, c in zip(cameras, rig.cameras)}

        def digits(kind: str) -> dict[str, ByteArray] | None:
            if f"{kind}/0" not in keys:
                return None
            return {c.name: get(f"{kind}/{i}") for i, c in zip(cameras, rig.cameras)}

        agents = np.asarray(get("agents"), np.float64) if "agents" in keys else np.zeros((steps, 0, len(AGENT_COLUMNS)))
        clip = Clip(
            meta["log_id"], rig, meta["rate_hz"], get("timestamps_us"), images("frames") or {},
            get("frames_valid")[:, cameras], get("ego"), get("ego_valid"), handle.get_tensor("actions")[moves],
            handle.get_tensor("actions_valid")[moves], agents, get("agents_valid"), tuple(meta["agent_ids"]),
            images("layout"), tuple(reason_from_json(r) for r in meta["reasons"][part]) if meta["reasons"] else (),
            Look(**meta["look"]), meta["licence"], digits("digits"), digits("carried"), digits("carried_drawn"),
            questions_in((Text(**t) for t in meta.get("texts", ())), get("timestamps_us")))
        return clip, get("route")
