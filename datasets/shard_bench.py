"""How fast training can be fed, by format: the same windows of the same logs, read by each, in one run.

A clip is ``steps`` steps of all cameras. Formats hold frames and layouts (the JPEG baseline frames only, as the devkit
knows no layouts), and what each reads is compared with what was packed. Libraries that are not installed are left out.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from drive_wm.datasets.shard_file import Shard, write_shard
from drive_wm.datasets.shards import FrameCodec, ShardSpec, clips_of, tokenized
from drive_wm.types import ByteArray, Clip, FloatArray, IntArray, Log

STEPS = 8
Window = tuple[int, int]  # number of the log, first step


class Format(Protocol):
    """``name``; ``access``: how a window is reached. ``read`` gives camera -> (T, H, W, 3) frames and layouts."""

    name: str
    access: str
    sequential: bool

    def write(self, clips: Sequence[Clip], routes: Sequence[FloatArray], folder: Path) -> None: ...

    def read(self, windows: Sequence[Window]) -> Iterator[dict[str, ByteArray]]: ...


def images_of(clip: Clip) -> dict[str, ByteArray]:
    layout = {f"layout/{k}": v for k, v in (clip.layout or {}).items()}
    return {**{f"frames/{k}": v for k, v in clip.frames.items()}, **layout}


# --- ours ---------------------------------------------------------------------------------------------------------


class Safetensors:
    """One file a log, windows cut out of mapped memory."""

    access = "any step"
    sequential = False

    def __init__(self, name: str, codec: str, tokenizer: FrameCodec | None = None) -> None:
        self.name, self.codec, self.tokenizer = name, codec, tokenizer

    def write(self, clips: Sequence[Clip], routes: Sequence[FloatArray], folder: Path) -> None:
        paths = [folder / f"{i}.safetensors" for i in range(len(clips))]
        for clip, route, path in zip(clips, routes, paths):
            write_shard(tokenized(clip, self.tokenizer), route, "", path, codec=self.codec)
        self.shards = [Shard(path) for path in paths]

    def read(self, windows: Sequence[Window]) -> Iterator[dict[str, ByteArray]]:
        for log, start in windows:
            yield images_of(self.shards[log].read(start, STEPS)[0])


# --- the devkit ---------------------------------------------------------------------------------------------------


class DevkitJpegs:
    """nuScenes tables and JPEGs through the devkit: sample, sample_data, ego_pose, image; resized where it must be."""

    access = "any sample"
    sequential = False

    def __init__(self, logs: Sequence[Log], width: int, height: int) -> None:
        self.logs, self.size, self.name = logs, (width, height), f"JPEG {width}x{height}, devkit"

    def write(self, clips: Sequence[Clip], routes: Sequence[FloatArray], folder: Path) -> None:
        from nuscenes.nuscenes import NuScenes

        from drive_wm.datasets.nuscenes_writer import write_nuscenes

        logs = [replace(log, rig=log.rig.resized(*self.size), frames=_Enlarged(log, *self.size)) for log in self.logs]
        write_nuscenes(logs, folder / "set", version="v1.0-bench", sweep_hz=clips[0].rate_hz, can_bus=False)
        self.nusc = NuScenes("v1.0-bench", str(folder / "set"), verbose=False)
        self.samples: list[list[str]] = []
        for scene in self.nusc.scene:
            token, tokens = scene["first_sample_token"], []
            while token:
                tokens.append(token)
                token = self.nusc.get("sample", token)["next"]
            self.samples.append(tokens)
        camera = clips[0].rig.cameras[0]
        self.packed = (camera.width, camera.height)

    def read(self, windows: Sequence[Window]) -> Iterator[dict[str, ByteArray]]:
        for log, start in windows:
            rows = [self._sample(token) for token in self.samples[log][start:start + STEPS]]
            yield {f"frames/{name}": np.stack([row[name] for row in rows]) for name in rows[0]}

    def _sample(self, token: str) -> dict[str, ByteArray]:
        import cv2

        images = {}
        for name, data in self.nusc.get("sample", token)["data"].items():
            row = self.nusc.get("sample_data", data)
            self.nusc.get("ego_pose", row["ego_pose_token"])
            if row["sensor_modality"] == "camera":
                image = cv2.cvtColor(cv2.imread(self.nusc.get_sample_data_path(data)), cv2.COLOR_BGR2RGB)
                if image.shape[1::-1] != self.packed:
                    image = cv2.resize(image, self.packed, interpolation=cv2.INTER_AREA)
                images[name] = np.asarray(image, np.uint8)
        return images


class _Enlarged:
    """Frames as a camera of another size would store them."""

    rendered = True

    def __init__(self, log: Log, width: int, height: int) -> None:
        self.frames, self.size = log.frames, (width, height)

    def timestamps_us(self, camera: str) -> IntArray:
        return self.frames.timestamps_us(camera)

    def read(self, camera: str, timestamp_us: int) -> ByteArray:
        import cv2

        image = self.frames.read(camera, timestamp_us)
        return image if image.shape[1::-1] == self.size else np.asarray(cv2.resize(image, self.size), np.uint8)


# --- others, one record a step, images as they are ------------------------------------------------------------------


def column(key: str) -> str:
    return key.replace("/", "__").lower()  # a name that every format takes


def record(clip: Clip, step: int) -> dict[str, bytes]:
    """All images of a step by their column."""
    return {column(key): images[step].tobytes() for key, images in images_of(clip).items()}


def unpacked(records: Sequence[Mapping[str, Any]], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, ByteArray]:
    return {key: np.stack([np.frombuffer(row[column(key)], np.uint8).reshape(shape) for row in records])
            for key, shape in shapes.items()}


class _Records:
    """What the formats below share: clips as records end to end, a window as STEPS of them."""

    access = "any step"
    sequential = False

    def write(self, clips: Sequence[Clip], routes: Sequence[FloatArray], folder: Path) -> None:
        self.shapes = {key: images.shape[1:] for key, images in images_of(clips[0]).items()}
        lengths = [len(clip.timestamps_us) for clip in clips]
        self.first = np.cumsum([0, *lengths])
        self.fill((record(clip, t) for clip, n in zip(clips, lengths) for t in range(n)), folder)

    def fill(self, records: Iterable[dict[str, bytes]], folder: Path) -> None:
        raise NotImplementedError

    def take(self, start: int) -> Sequence[Mapping[str, Any]]:
        raise NotImplementedError

    def read(self, windows: Sequence[Window]) -> Iterator[dict[str, ByteArray]]:
        for log, start in windows:
            yield unpacked(self.take(int(self.first[log]) + start), self.shapes)


class Streaming(_Records):
    name = "MDS (MosaicML)"

    def fill(self, records: Iterable[dict[str, bytes]], folder: Path) -> None:
        from streaming import MDSWriter, StreamingDataset  # type: ignore[import-not-found]

        columns = {column(key): "bytes" for key in self.shapes}
        with MDSWriter(out=str(folder / "mds"), columns=columns) as out:
            for row in records:
                out.write(row)
        self.data = StreamingDataset(local=str(folder / "mds"), shuffle=False, batch_size=1)

    def take(self, start: int) -> Sequence[Mapping[str, Any]]:
        return [self.data[i] for i in range(start, start + STEPS)]


class LitData(_Records):
    name = "litdata"

    def fill(self, records: Iterable[dict[str, bytes]], folder: Path) -> None:
        from litdata import StreamingDataset  # type: ignore[import-not-found]
        from litdata.streaming import Cache  # type: ignore[import-not-found]

        cache = Cache(str(folder / "lit"), chunk_bytes="64MB")
        for i, row in enumerate(records):
            cache[i] = row
        cache.done()
        cache.merge()
        self.data = StreamingDataset(str(folder / "lit"))

    def take(self, start: int) -> Sequence[Mapping[str, Any]]:
        return [self.data[i] for i in range(start, start + STEPS)]


class Parquet(_Records):
    name = "Parquet"

    def fill(self, records: Iterable[dict[str, bytes]], folder: Path) -> None:
        import pyarrow
        from pyarrow import parquet

        schema = pyarrow.schema([(column(key), pyarrow.binary()) for key in self.shapes])
        with parquet.ParquetWriter(folder / "all.parquet", schema, compression="none") as out:
            for row in records:
                out.write_table(pyarrow.table({k: [v] for k, v in row.items()}, schema=schema))
        self.file = parquet.ParquetFile(folder / "all.parquet", memory_map=True)

    def take(self, start: int) -> Sequence[Mapping[str, Any]]:
        return self.file.read_row_groups(list(range(start, start + STEPS))).to_pylist()


class ArrowFile(_Records):
    name = "Arrow IPC"

    def fill(self, records: Iterable[dict[str, bytes]], folder: Path) -> None:
        import pyarrow

        schema = pyarrow.schema([(column(key), pyarrow.binary()) for key in self.shapes])
        with pyarrow.OSFile(str(folder / "all.arrow"), "wb") as sink, pyarrow.ipc.new_file(sink, schema) as out:
            for row in records:
                out.write_batch(pyarrow.record_batch({k: [v] for k, v in row.items()}, schema=schema))
        self.file = pyarrow.ipc.open_file(pyarrow.memory_map(str(folder / "all.arrow")))

    def take(self, start: int) -> Sequence[Mapping[str, Any]]:
        batches = [self.file.get_batch(i) for i in range(start, start + STEPS)]
        return [{key: batch.column(i)[0].as_buffer() for i, key in enumerate(batch.schema.names)} for batch in batches]


class WebDataset(_Records):
    """A tar is read from its start: STEPS records in a row are a clip, and windows come in the order they lie in."""

    name, access, sequential = "WebDataset tar", "in order", True

    def fill(self, records: Iterable[dict[str, bytes]], folder: Path) -> None:
        import webdataset  # type: ignore[import-not-found]

        self.path = folder / "all.tar"
        with webdataset.TarWriter(str(self.path)) as out:
            for i, row in enumerate(records):
                out.write({"__key__": f"{i:08d}", **row})

    def read(self, windows: Sequence[Window]) -> Iterator[dict[str, ByteArray]]:
        import webdataset

        rows: list[dict[str, bytes]] = []
        starts = {int(self.first[log]) + start for log, start in windows}
        for row in webdataset.WebDataset(str(self.path), shardshuffle=False, empty_check=False):
            rows = rows if rows or int(row["__key__"]) in starts else []
            if rows or int(row["__key__"]) in starts:
                rows.append(row)
            if len(rows) == STEPS:
                yield unpacked(rows, self.shapes)
                rows = []


# --- the run ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BenchRow:
    """clips_per_s: of process time on one thread, files in the page cache. times_jpeg: against the devkit's JPEGs.

    lossless: the images read are those that were packed, to the byte.
    """

    format: str
    clips_per_s: float
    ms_per_clip: float
    times_jpeg: float
    megabytes: float
    access: str
    lossless: bool


def formats_for(logs: Sequence[Log], spec: ShardSpec, tokenizer: FrameCodec | None,
                large: tuple[int, int] | None) -> list[Format]:
    """The baseline first; those whose library is missing are left out."""
    from importlib.util import find_spec

    rows: list[Format] = [DevkitJpegs(logs, spec.width, spec.height)]
    if large:
        rows.append(DevkitJpegs(logs, *large))
    rows += [Safetensors(f"safetensors{add}", codec)
             for codec, add in (("none", ""), ("lz4", " lz4"), ("zstd", " zstd"))]
    if tokenizer is not None:
        rows += [Safetensors("tokens, layouts" + add, codec, tokenizer)
                 for codec, add in (("none", ""), ("lz4", " lz4"))]
    optional = (("streaming", Streaming), ("litdata", LitData), ("webdataset", WebDataset), ("pyarrow", Parquet),
                ("pyarrow", ArrowFile))
    return rows + [made() for module, made in optional if find_spec(module)]


def measure(fmt: Format, windows: Sequence[Window], clips: Sequence[Clip], seconds: float) -> tuple[float, bool]:
    """Clips a second of process time, and whether all that was read is what was packed."""
    def truth(window: Window) -> dict[str, ByteArray]:
        return {k: v[window[1]:window[1] + STEPS] for k, v in images_of(clips[window[0]]).items()}

    exact = all(np.array_equal(value, truth(window)[key])
                for window, images in zip(windows[:8], fmt.read(windows[:8])) for key, value in images.items())
    began, count = time.process_time(), 0
    while time.process_time() - began < seconds:
        count += sum(1 for _ in fmt.read(windows))
    return count / (time.process_time() - began), exact


def bench(source: str, *, logs: int = 8, spec: ShardSpec = ShardSpec(), seed: int = 0, seconds: float = 2.0,
          tokenizer: FrameCodec | None = None, large: tuple[int, int] | None = (1600, 900)) -> list[BenchRow]:
    """Packs the first ``logs`` of a source in every format and reads windows drawn by ``seed`` from each."""
    import cv2

    from drive_wm.datasets.sources import open_source

    cv2.setNumThreads(1)
    opened = open_source(source)
    drives = [opened.load(log_id) for log_id in opened.log_ids()[:logs]]
    made = [next(iter(clips_of(log, spec))) for log in drives]
    clips, routes = [clip for clip, _ in made], [route for _, route in made]
    rng = np.random.default_rng(seed)
    picked = [(i, int(rng.integers(len(clips[i].timestamps_us) - STEPS + 1)))
              for i in rng.integers(len(clips), size=64).tolist()]
    in_order = [(i, t) for i, clip in enumerate(clips)
                for t in range(0, len(clip.timestamps_us) - STEPS + 1, STEPS)]
    rows: list[BenchRow] = []
    for fmt in formats_for(drives, spec, tokenizer, large):
        with tempfile.TemporaryDirectory() as folder:
            fmt.write(clips, routes, Path(folder))
            size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file()) / 1e6
            rate, exact = measure(fmt, in_order if fmt.sequential else picked, clips, seconds)
        baseline = rows[0].clips_per_s if rows else rate
        rows.append(BenchRow(fmt.name, rate, 1e3 / rate, rate / baseline, size, fmt.access, exact))
    return rows
