"""Generated drives by the thousand: on all cores, to be cut off and continued at any time, the same bytes every time.

    DIR/town.json             what is made here; another order into the same folder is refused
    DIR                       one nuScenes data set where all logs fit into one,
    DIR/part-000 ...          else data sets of ``logs_per_set`` logs: the devkit holds a set's tables in memory, and
                              those of 100 generated logs (300 MB) are about half of nuScenes trainval's
    DIR/<log>.<n>.safetensors or shards, ready for training
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from drive_wm.datasets.nuscenes_set import clear_parts, is_merged, merge_set, read_part, start_set
from drive_wm.datasets.nuscenes_writer import WriteOptions, scene_name, write_scene
from drive_wm.datasets.parallel import in_parallel, worker_count
from drive_wm.types import InputError, Rig

FORMAT = "drive_wm.town@1"
FORMATS = ("nuscenes", "shards")
STAMP = "town.json"
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class TownOrder:
    """What to make: ``logs`` drives of duration_s from first_seed on. height_px: of every camera of the rig.

    sweep_hz: images between the keyframes (nuScenes only), None for none.
    """

    logs: int
    first_seed: int = 0
    format: str = "nuscenes"
    rig: str = "nuscenes_six"
    height_px: int = 64
    duration_s: float = 20.0
    keyframe_hz: float = 2.0
    sweep_hz: float | None = None
    logs_per_set: int = 100

    def __post_init__(self) -> None:
        from drive_wm.datasets.town import split_of

        if self.format not in FORMATS:
            raise InputError(f"format {self.format!r}, expected {' or '.join(FORMATS)}")
        if self.logs < 1 or not 1 <= self.logs_per_set <= 9000 or self.height_px < 8:
            raise InputError(f"{self.logs} logs, {self.logs_per_set} a set, cameras {self.height_px} pixels high: "
                             "expected at least 1 log, 1 to 9000 a set and 8 pixels")
        split_of(self.first_seed), split_of(self.first_seed + self.logs - 1)

    @property
    def seeds(self) -> range:
        return range(self.first_seed, self.first_seed + self.logs)

    @property
    def options(self) -> WriteOptions:
        return WriteOptions(keyframe_hz=self.keyframe_hz, sweep_hz=self.sweep_hz)

    def rig_made(self) -> Rig:
        from drive_wm.datasets.rigs import at_height, rig_named

        return at_height(rig_named(self.rig), self.height_px)

    def sets(self, out: Path) -> list[tuple[Path, range]]:
        """The roots of the data sets, each with its seeds."""
        parts = [self.seeds[i:i + self.logs_per_set] for i in range(0, self.logs, self.logs_per_set)]
        return [(out if len(parts) == 1 else out / f"part-{i:03d}", seeds) for i, seeds in enumerate(parts)]


def build_town(order: TownOrder, out: Path, *, workers: int = 1, progress: Progress | None = None) -> dict[str, Any]:
    """Makes what ``order`` says under ``out``, or what is left of it, and says what is there.

    workers: processes, 0 for one a core. progress: called with (logs, frames) done, first with those of an earlier run.
    Raises InputError where ``out`` holds anything but the same order, cut off or done.
    """
    out, workers = Path(out), worker_count(workers)
    order.rig_made()
    _claim(order, out)
    if order.format == "shards":
        return _build_shards(order, out, workers, progress)
    frames = _build_nuscenes(order, out, workers, progress or (lambda logs, frames: None))
    return {"logs": order.logs, "frames": frames, "bytes": _size(out),
            "sources": [f"nuscenes:{root}" for root, _ in order.sets(out)]}


def _claim(order: TownOrder, out: Path) -> None:
    """town.json of this order, written if ``out`` is new or empty. Raises InputError where something else is there."""
    from drive_wm.datasets.town import GENERATOR_VERSION

    stamp = out / STAMP
    said = json.dumps({"schema": FORMAT, "generator_version": GENERATOR_VERSION, **asdict(order)}, indent=1) + "\n"
    if stamp.is_file():
        if stamp.read_text() != said:
            raise InputError(f"{out} holds a town made with other settings: {_differences(stamp.read_text(), said)}; "
                             "name another folder, or give the same settings to continue it")
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} holds something already; name a new folder")
    out.mkdir(parents=True, exist_ok=True)
    temporary = out / f".{STAMP}.{os.getpid()}"
    temporary.write_text(said)
    os.replace(temporary, stamp)


def _differences(before: str, now: str) -> str:
    try:
        old, new = json.loads(before), json.loads(now)
    except ValueError:
        return f"{STAMP} is damaged"
    return ", ".join(f"{key} {old.get(key)} (now {new[key]})" for key in new if old.get(key) != new[key])


# --- nuScenes -----------------------------------------------------------------------------------------------------


def _build_nuscenes(order: TownOrder, out: Path, workers: int, progress: Progress) -> int:
    """The number of camera frames of all sets. A set gets its tables as soon as its last scene is there."""
    version, jobs, left, frames = order.options.version, list[_Job](), dict[Path, int](), 0
    for root, seeds in order.sets(out):
        if is_merged(root, version):
            clear_parts(root, version)
            count = _frames_of(root, version)
            progress(len(seeds), count)
            frames += count
            continue
        start_set(root, version)
        done = [read_part(root, version, scene_name(number)) for number in range(len(seeds))]
        jobs += [(order, root, number, seed) for number, seed in enumerate(seeds) if done[number] is None]
        left[root] = sum(part is None for part in done)
        kept = [part["frames"] for part in done if part is not None]
        frames += sum(kept)
        progress(len(kept), sum(kept))
    for root in [root for root, count in left.items() if not count]:
        merge_set(root, version)
    for index, made in in_parallel(_make_scene, jobs, workers):
        root = jobs[index][1]
        frames, left[root] = frames + made, left[root] - 1
        if not left[root]:
            merge_set(root, version)
        progress(1, made)
    return frames


_Job = tuple[TownOrder, Path, int, int]


def _make_scene(job: _Job) -> int:
    from drive_wm.datasets.town import generate

    order, root, number, seed = job
    log = generate(seed, duration_s=order.duration_s, rig=order.rig_made())
    frames: int = write_scene(log, root, number, order.options)["frames"]
    return frames


def _frames_of(root: Path, version: str) -> int:
    """Camera images of a finished set."""
    records = json.loads((root / version / "sample_data.json").read_text())
    return sum(record["fileformat"] == "jpg" for record in records)


def _size(out: Path) -> int:
    return sum(entry.stat().st_size for entry in _files(out))


def _files(folder: Path) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _files(Path(entry.path))
            else:
                yield entry


# --- shards -------------------------------------------------------------------------------------------------------


def _build_shards(order: TownOrder, out: Path, workers: int, progress: Progress | None) -> dict[str, Any]:
    """Shards by ``shards.build_shards``, which resumes by itself, of the town's own source."""
    from drive_wm.datasets.shards import ShardSpec, build_shards

    if order.rig != "nuscenes_six" or order.duration_s != 20.0:
        raise InputError(f"shards are made of the town as it is: rig nuscenes_six and 20 s, not {order.rig} and "
                         f"{order.duration_s} s; write nuScenes, and pack shards from it")
    spec, done = ShardSpec(width=0, height=order.height_px, rate_hz=order.keyframe_hz), 0

    def step(now: int, total: int) -> None:
        nonlocal done
        if progress:
            progress(now - done, 0)
        done = now

    source = f"town:{order.seeds[0]}-{order.seeds[-1]}"
    paths = build_shards([source], out, spec, workers=workers, progress=step)
    return {"logs": order.logs, "shards": len(paths), "bytes": _size(out)}
