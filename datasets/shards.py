"""Logs packed for training, and windows drawn from them: a batch is a pure function of (seed, step).

So a run that was killed resumes at a sample by its step's number alone, in any number of threads or processes.
"""

from __future__ import annotations

import functools
import json
import os
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from drive_wm.datasets.clips import draw_clip, lengthened, make_clip, nearest_agents
from drive_wm.datasets.parallel import in_order
from drive_wm.datasets.rigs import at_height
from drive_wm.datasets.routes import ROUTE_DISTANCES_M, route_ahead
from drive_wm.datasets.shard_file import FORMAT, Shard, ShardFacts, write_shard
from drive_wm.datasets.shard_store import ShardStore, upload, write_index
from drive_wm.geometry import integrate_actions
from drive_wm.reproject import Drawn, Reprojector
from drive_wm.types import ByteArray, Clip, FloatArray, InputError, IntArray, Log

ORDERS = ("weighted", "shuffled", "sequential")
CARRIED_TWICE = 0.2  # share of the steps
READY = "shards:"  # a source text that names what is packed already


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
    codec: str = "none"  # "lz4" or "zstd" where a disk or a network is slower than a core
    questions_every_s: float = 0.0  # of a town log; 0 is none. See ``language.taught``
    carried: bool = True  # with tokens, what each frame shows of the next too; the task expert does not need it


class FrameCodec(Protocol):
    """A trained tokenizer as packing uses it; it travels to worker processes."""

    fingerprint: str

    def encode(self, images: ByteArray) -> ByteArray:
        """(N, H, W, 3) uint8 -> (N, h, w, D) uint8 digits."""
        ...

    def decode(self, digits: ByteArray) -> ByteArray:
        """(N, h, w, D) uint8 digits -> (N, H, W, 3) uint8."""
        ...


# --- packing ------------------------------------------------------------------------------------------------------


def clips_of(log: Log, spec: ShardSpec) -> Iterable[tuple[Clip, FloatArray]]:
    """The whole log as clips on ``phases`` grids, each with its route ahead (T, 8, 2)."""
    if spec.questions_every_s and log.source == "town":
        from drive_wm.datasets.language import taught

        log = taught(log, spec.questions_every_s, 1 / spec.rate_hz, until_s=spec.end_s)
    rig = log.rig.resized(spec.width, spec.height) if spec.width else at_height(log.rig, spec.height)
    first, last = log.start_us + int(spec.start_s * 1e6), min(log.end_us, log.start_us + int(spec.end_s * 1e6))
    for phase in range(spec.phases):
        start = first + int(phase * 1e6 / spec.rate_hz / spec.phases)
        steps = int((last - start) * spec.rate_hz / 1e6 + 1e-6) + 1
        if steps < spec.min_steps:
            continue
        clip = make_clip(log, start, steps, spec.rate_hz, rig=rig, layout=spec.layout)
        yield clip, route_ahead(log, clip.ego)


def tokenized(clip: Clip, tokenizer: FrameCodec | None, drawn: Sequence[Drawn | None] = (),
              carry: bool = True) -> Clip:
    """The clip with digits in place of its frames, and of what each shows of the next; itself without a tokenizer.

    drawn: what is known of every step, so that frames are carried along its depth too. Carried is what the tokens stand
    for, not the frame itself: in generation there is nothing else. For the same reason some are carried twice, from a
    frame that was itself carried: generated frames are never as fresh as recorded ones.
    """
    if tokenizer is None:
        return clip
    digits = {name: tokenizer.encode(clip.frames[name]) for name in clip.rig.names}
    if not carry:
        return replace(clip, frames={}, digits=digits)
    shown = {name: tokenizer.decode(digits[name]) for name in clip.rig.names}
    reprojector = Reprojector(clip.rig)
    twice = np.random.default_rng(zlib.crc32(clip.log_id.encode())).random(len(clip.timestamps_us)) < CARRIED_TWICE

    def carried(drawn: Sequence[Drawn | None]) -> dict[str, ByteArray]:
        images = {name: shown[name].copy() for name in clip.rig.names}
        for t, move in enumerate(ego_moves(clip), 1):
            if not clip.actions_valid[t - 1]:
                move, drawn_now = np.zeros(3), None
            else:
                drawn_now = drawn[t] if drawn else None
            before = {name: (images if twice[t] else shown)[name][t - 1] for name in clip.rig.names}
            for name, image in reprojector.carry(before, move, drawn_now, clip.agents[t - 1], clip.agents[t],
                                                 clip.agents_valid[t - 1] & clip.agents_valid[t]).items():
                images[name][t] = image
        return {name: tokenizer.encode(images[name]) for name in clip.rig.names}

    known = any(d is not None for d in drawn)
    return replace(clip, frames={}, digits=digits, carried=carried(()), carried_drawn=carried(drawn) if known else None)


def ego_moves(clip: Clip) -> FloatArray:
    """(T-1, 3) x, y, yaw of each next rig in the one before, by the clip's actions."""
    moves = [integrate_actions(np.zeros(3), action[None], 1 / clip.rate_hz)[0] for action in clip.actions]
    return np.array(moves).reshape(-1, 3)


def file_name(text: str, also: str = "@.") -> str:
    """Letters, digits, '-', '_' and ``also`` of a text; the rest becomes '_'."""
    return "".join(c if c.isalnum() or c in "-_" + also else "_" for c in text)


def _pack_one(job: tuple[str, str], out: Path, spec: ShardSpec, tokenizer: FrameCodec | None) -> list[str]:
    """One log, in a worker process: its shards, named by log and phase; what exists is kept."""
    import cv2

    from drive_wm.datasets.health import load_fit
    from drive_wm.datasets.sources import open_source

    cv2.setNumThreads(1)
    source, log_id = job
    stem = file_name(log_id)
    done = out / f"{stem}.done"
    if done.exists():
        return json.loads(done.read_text())
    names = []
    log = load_fit(open_source(source), log_id)
    for phase, (clip, route) in enumerate(clips_of(log, spec)):
        name = f"{stem}.{phase}.safetensors"
        drawn = draw_clip(log, clip) if tokenizer and spec.layout and spec.carried else ()
        write_shard(tokenized(clip, tokenizer, drawn, spec.carried), route, source, out / name,
                    weight=float(log.metadata.get("weight", 1.0)),
                    tokenizer=tokenizer.fingerprint if tokenizer else "", lineage=log.metadata.get("lineage"),
                    codec=spec.codec)
        names.append(name)
    _write_text(done, json.dumps(names))
    return names


def _repack_one(job: tuple[str, str], out: Path, spec: ShardSpec, tokenizer: FrameCodec | None) -> list[str]:
    """One shard of another folder, compressed or tokenized anew."""
    source, name = job
    if not (out / name).exists():
        shard = Shard(ShardStore(source.removeprefix(READY)).local(name))
        clip, route = shard.read(0, shard.steps)
        if tokenizer is not None and clip.digits is not None:
            raise InputError(f"{shard.path}: holds tokens already; give the shards with the frames")
        kept = tokenizer.fingerprint if tokenizer else shard.facts.tokenizer
        write_shard(tokenized(clip, tokenizer, carry=spec.carried), route, shard.meta["source"], out / name,
                    weight=shard.facts.weight, tokenizer=kept, lineage=shard.meta.get("lineage"), codec=spec.codec)
    return [name]


def _pack(job: tuple[str, str], out: Path, spec: ShardSpec, tokenizer: FrameCodec | None) -> list[str]:
    return (_repack_one if job[0].startswith(READY) else _pack_one)(job, out, spec, tokenizer)


def build_shards(sources: Iterable[str], out: Path, spec: ShardSpec = ShardSpec(), *, workers: int = 1,
                 tokenizer: FrameCodec | None = None,
                 progress: Callable[[int, int], None] | None = None) -> list[Path]:
    """All logs of the sources as shards under ``out``; resumable, the same bytes on any number of workers.

    A script that asks for several workers needs ``if __name__ == "__main__":``, as they are processes of their own.
    A source ``shards:ADDRESS`` is packed already: its clips are copied as they are, or tokenized by ``tokenizer``.
    """
    from drive_wm.datasets.sources import open_source

    out.mkdir(parents=True, exist_ok=True)
    _stamp(out, spec, tokenizer)
    jobs: list[tuple[str, str]] = []
    for source in sources:
        ready = source.startswith(READY)
        names = ShardStore(source.removeprefix(READY)).names() if ready else open_source(source).log_ids()
        jobs += [(source, name) for name in names]
    work = functools.partial(_pack, out=out, spec=spec, tokenizer=tokenizer)
    paths = [out / name for names in in_order(work, jobs, workers, progress) for name in names]
    if not paths:
        raise InputError("no clip could be made: every log is shorter than the clip that was asked for")
    write_index(out)
    return paths


def _stamp(out: Path, spec: ShardSpec, tokenizer: FrameCodec | None) -> None:
    settings = asdict(spec) | ({"tokenizer": tokenizer.fingerprint} if tokenizer else {})
    stamp, text = out / "spec.json", json.dumps(settings, sort_keys=True)
    if stamp.exists() and stamp.read_text() != text:
        raise InputError(f"{out} holds shards made with other settings; give another folder or delete it")
    _write_text(stamp, text)


def _write_text(path: Path, text: str) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


def pack_sources(sources: Sequence[str], root: Path, spec: ShardSpec, *, workers: int = 1,
                 tokenizer: FrameCodec | None = None, progress: Callable[[int, int], None] | None = None,
                 to: str = "") -> list[Path]:
    """Each source in a folder of its own below ``root``, so that sources can be mixed by weight; what is done is kept.

    ``to``: an fsspec address to which the folders are copied as well. Returns the folders.
    """
    folders = []
    for source in sources:
        folder = root / file_name(source, "")[-80:]
        if not (folder / "complete").exists():
            build_shards([source], folder, spec, workers=workers, tokenizer=tokenizer, progress=progress)
            _write_text(folder / "complete", source)
        if to:
            upload(folder, f"{to.rstrip('/')}/{folder.name}")
        folders.append(folder)
    return folders


def find_shards(folder: Path | str, cache: Path | None = None) -> list[Shard]:
    """The shards of a folder or an fsspec address; those of an address are fetched as they are needed."""
    shards = ShardStore(folder, cache).shards()
    if not shards:
        raise InputError(f"{folder} holds no shards; make them with: "
                         f"drive-wm data pack --source town:0-99 --out {folder}")
    return shards


# --- reading ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sample:
    """One training sample: a clip with its agents in slots, and the route ahead of every step (T, 8, 2) in metres."""

    clip: Clip
    route: FloatArray


@dataclass(frozen=True)
class _Pool:
    """Windows that can stand in one batch: shard and first step of each, and the cumulative weights to draw by."""

    share: float
    shards: list[Shard]
    shard_of: IntArray
    start_of: IntArray
    cumulative: FloatArray

    def __len__(self) -> int:
        return len(self.start_of)

    @property
    def cameras(self) -> int:
        return len(self.shards[self.shard_of[0]].facts.sizes)


class WindowSampler:
    """Batches of windows: ``batch(step)`` is a pure function of (seed, step), and so needs no state to resume.

    ``weights``: the share of each group of shards (one group a folder); within a group shards of one signature batch
    together. ``order``: "weighted" draws windows by their weight, with replacement, for ever; "shuffled" and
    "sequential" go through all windows pass after pass, the groups mixed by ``weights`` where they are given (a window
    then comes more than once a pass, or not in each), and "sequential" leaves cameras and windows in their order.
    ``least``: so many steps of a window must be there; what it lacks at its end is made up by ``lengthened``.
    ``unasked``: the weight of windows without a question at their step ``anchor``, next to those with one.
    """

    def __init__(self, groups: list[list[Shard]], steps: int, batch_size: int, seed: int, *,
                 weights: list[float] | None = None, agents: int = 16, camera_dropout: float = 0.3,
                 anchor: int = 3, order: str = "weighted", least: int = 0,
                 unasked: float = 1.0) -> None:
        if order not in ORDERS:
            raise InputError(f"order {order!r}, expected one of {', '.join(ORDERS)}")
        if weights and len(weights) != len(groups):
            raise InputError(f"{len(weights)} weights for {len(groups)} sources; give one a source, or none")
        self.steps, self.batch_size, self.seed, self.order = steps, batch_size, seed, order
        self.least, self.unasked = min(least or steps, steps), unasked
        self.agents, self.anchor, self.weighted = agents, anchor, bool(weights)
        self.camera_dropout = 0.0 if order == "sequential" else camera_dropout
        self.pools: list[_Pool] = []
        for shards, share in zip(groups, weights or [1.0] * len(groups)):
            self._add(shards, share)
        if not self.pools:
            raise InputError(f"no clip is {steps} steps long with an image and a pose at every step")
        total = sum(pool.share for pool in self.pools)
        self.shares = np.array([pool.share / total for pool in self.pools])
        self._pass: tuple[int, list[tuple[int, IntArray]]] | None = None

    def _add(self, shards: list[Shard], share: float) -> None:
        by_signature: dict[tuple[Any, ...], list[tuple[int, FloatArray]]] = {}
        for i, shard in enumerate(shards):
            by_signature.setdefault(shard.signature, []).append((i, self._weights(shard)))
        whole = sum(float(w.sum()) for entries in by_signature.values() for _, w in entries)
        for entries in by_signature.values():
            weights = np.concatenate([w for _, w in entries])
            shard_of = np.concatenate([np.full(len(w), i) for i, w in entries])
            start_of = np.concatenate([np.arange(len(w)) for _, w in entries])
            some = weights > 0
            if some.any():
                cumulative = np.cumsum(weights[some])
                self.pools.append(_Pool(share * cumulative[-1] / whole, shards, shard_of[some], start_of[some],
                                        cumulative / cumulative[-1]))

    def _weights(self, shard: Shard) -> FloatArray:
        weights = shard.window_weights(self.least)
        if self.unasked == 1.0:
            return weights
        asked = np.append(shard.asked, np.zeros(self.steps, bool))[self.anchor:self.anchor + len(weights)]
        return weights * np.where(asked, 1.0, self.unasked)

    @property
    def windows(self) -> int:
        return sum(map(len, self.pools))

    @property
    def batches_a_pass(self) -> int:
        """Batches until every window was read once, and in which a weighted draw reads as many."""
        return sum(-(-len(pool) // self.batch_size) for pool in self.pools)

    def batch(self, step: int) -> list[Sample]:
        rng = np.random.default_rng((self.seed, step))
        if self.order == "weighted":
            pool = self.pools[int(rng.choice(len(self.pools), p=self.shares))]
            cameras = self._cameras(rng, pool.cameras)
            picks: Any = np.searchsorted(pool.cumulative, rng.random(self.batch_size), side="right")
            picks = np.minimum(picks, len(pool) - 1)
        else:
            number, picks = self._planned(step)
            pool = self.pools[number]
            cameras = self._cameras(rng, pool.cameras)
        return [self._sample(pool.shards[pool.shard_of[i]], int(pool.start_of[i]), cameras) for i in picks]

    def _sample(self, shard: Shard, start: int, cameras: list[int]) -> Sample:
        clip, route = shard.read(start, min(self.steps, shard.steps - start), cameras)
        if len(route) < self.steps:
            route = np.concatenate([route, np.repeat(route[-1:], self.steps - len(route), 0)])
            clip = lengthened(clip, self.steps)
        return Sample(nearest_agents(clip, self.agents, min(self.anchor, self.steps - 1)), route)

    def _planned(self, step: int) -> tuple[int, IntArray]:
        number, place = divmod(step, self.batches_a_pass)
        if self._pass is None or self._pass[0] != number:
            self._pass = (number, self._plan(number))
        return self._pass[1][place]

    def _plan(self, number: int) -> list[tuple[int, IntArray]]:
        """The batches of a pass: its pool and the windows in it; a pool's last batch is filled up with its first."""
        rng = np.random.default_rng((self.seed, number, 1))
        counts = [-(-len(pool) // self.batch_size) for pool in self.pools]
        if self.weighted:
            ends = np.round(np.cumsum(self.shares) * sum(counts)).astype(int)
            counts = np.diff(ends, prepend=0).tolist()
        plan: list[tuple[int, IntArray]] = []
        for i, (pool, count) in enumerate(zip(self.pools, counts)):
            order = np.arange(len(pool)) if self.order == "sequential" else rng.permutation(len(pool))
            plan += [(i, row) for row in np.resize(order, count * self.batch_size).reshape(count, self.batch_size)]
        return plan if self.order == "sequential" else [plan[j] for j in rng.permutation(len(plan))]

    def _cameras(self, rng: np.random.Generator, count: int) -> list[int]:
        """All of them, or with probability ``camera_dropout`` some, in any order: no camera is known by its index."""
        if count == 1 or rng.random() >= self.camera_dropout:
            return list(range(count))
        keep = int(rng.integers(1, count))
        return [int(i) for i in rng.permutation(count)[:keep]]


def prefetched(sampler: WindowSampler, start: int, stop: int, *, ahead: int = 4,
               threads: int = 1) -> Iterator[list[Sample]]:
    """The batches of steps [start, stop) in order, up to ``ahead`` of them read by threads while others are used."""
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[list[Sample]]] = deque()
        for step in range(start, stop):
            waiting.append(pool.submit(sampler.batch, step))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


__all__ = ["FORMAT", "ROUTE_DISTANCES_M", "Sample", "Shard", "ShardFacts", "ShardSpec", "WindowSampler", "build_shards",
           "find_shards", "pack_sources", "prefetched"]
