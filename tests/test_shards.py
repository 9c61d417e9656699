"""Shards: what goes in comes out, batches are a function of their step, whatever the format, the place or the order."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from drive_wm.datasets.shard_file import FORMAT, Shard, ShardFacts, compressed, write_shard
from drive_wm.datasets.shard_store import INDEX, ShardStore, read_index, upload
from drive_wm.datasets.shards import (
    Sample,
    ShardSpec,
    WindowSampler,
    build_shards,
    find_shards,
    pack_sources,
    prefetched,
    tokenized,
)
from drive_wm.types import ByteArray, Camera, Clip, InputError, Rig

H, W = 16, 32


def camera(name: str) -> Camera:
    return Camera(name, W, H, np.array([[20.0, 0, 16], [0, 20, 8], [0, 0, 1]]), np.eye(4))


def flat_clip(log_id: str, steps: int, cameras: int = 2, speed_mps: float = 5.0) -> Clip:
    """Every image is of one value: 10 * camera + step. The ego drives straight at 2 Hz."""
    rig = Rig("r", tuple(camera(f"c{i}") for i in range(cameras)))
    step = np.arange(steps, dtype=np.uint8)[:, None, None, None]
    frames: dict[str, ByteArray] = {f"c{i}": np.asarray(np.zeros((steps, H, W, 3)) + 10 * i + step, np.uint8)
                                    for i in range(cameras)}
    ego = np.tile(np.eye(4), (steps, 1, 1))
    ego[:, 0, 3] = np.arange(steps) * speed_mps / 2
    actions = np.tile([speed_mps, 0.0], (steps - 1, 1))
    return Clip(log_id, rig, 2.0, np.arange(steps) * 500_000, frames, np.ones((steps, cameras), bool), ego,
                np.ones(steps, bool), actions, np.ones(steps - 1, bool), np.zeros((steps, 0, 12)),
                np.zeros((steps, 0), bool), layout={k: np.asarray(255 - v, np.uint8) for k, v in frames.items()})


def packed(folder: Path, *clips: Clip, codec: str = "none", **more: object) -> list[Shard]:
    folder.mkdir(parents=True, exist_ok=True)
    for clip in clips:
        write_shard(clip, np.zeros((len(clip.timestamps_us), 8, 2)), "test:", folder / f"{clip.log_id}.0.safetensors",
                    codec=codec, **more)  # type: ignore[arg-type]
    return find_shards(folder)


def names(samples: list[Sample]) -> list[tuple[str, int]]:
    return [(s.clip.log_id, int(s.clip.timestamps_us[0]) // 500_000) for s in samples]


class Halved:
    """A tokenizer whose digit is the red value of each 16 x 16 block's first pixel, modulo 8."""

    fingerprint = "halved"

    def encode(self, images: ByteArray) -> ByteArray:
        return np.asarray(images[:, ::16, ::16, :1] % 8, np.uint8)

    def decode(self, digits: ByteArray) -> ByteArray:
        return digits.repeat(16, 1).repeat(16, 2).repeat(3, 3)


# --- one file -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["none", "lz4", "zstd"])
def test_a_window_is_the_part_of_the_clip(tmp_path: Path, codec: str) -> None:
    clip = flat_clip("a", 9)
    shard, = packed(tmp_path, clip, codec=codec)
    window, route = shard.read(3, 4, [1])
    assert window.rig.names == ("c1",) and route.shape == (4, 8, 2)
    assert window.frames["c1"][:, 0, 0, 0].tolist() == [13, 14, 15, 16]
    assert window.layout is not None and window.layout["c1"][:, 5, 5, 2].tolist() == [242, 241, 240, 239]
    assert window.ego[:, 0, 3].tolist() == [7.5, 10.0, 12.5, 15.0] and window.actions.shape == (3, 2)
    assert (f"frames/0.{codec}" in shard.opened.keys) == (codec != "none")


def test_noise_is_not_compressed() -> None:
    noise: ByteArray = np.random.default_rng(0).integers(0, 256, (3, H, W, 3)).astype(np.uint8)
    assert set(compressed("frames/0", noise, "zstd")) == {"frames/0"}
    assert set(compressed("frames/0", np.zeros_like(noise), "zstd")) == {"frames/0.zstd", "frames/0.ends"}
    with pytest.raises(InputError, match="expected none, lz4 or zstd"):
        compressed("frames/0", noise, "gzip")


def test_tokens_take_the_place_of_frames(tmp_path: Path) -> None:
    clip = tokenized(flat_clip("a", 9), Halved())
    shard, = packed(tmp_path, clip, tokenizer="halved")
    window, _ = shard.read(6, 2)
    assert window.frames == {} and window.layout is not None and shard.facts.tokenizer == "halved"
    assert window.digits is not None and window.digits["c1"].shape == (2, 1, 2, 1)
    assert window.digits["c1"][:, 0, 0, 0].tolist() == [(10 + 6) % 8, (10 + 7) % 8]


def test_an_older_shard_is_read(tmp_path: Path) -> None:
    from safetensors import safe_open
    from safetensors.numpy import load_file, save_file

    packed(tmp_path, flat_clip("a", 9))
    path = tmp_path / "a.0.safetensors"
    with safe_open(str(path), "np") as f:
        meta = f.metadata()["drive_wm"]
    for name, version in (("b", "drive_wm.shard@1"), ("c", "drive_wm.shard@9")):
        assert len(find_shards(tmp_path)) == 1 + (name == "c")
        save_file(load_file(path), str(tmp_path / f"{name}.0.safetensors"), {"drive_wm": meta.replace(FORMAT, version)})
    with pytest.raises(InputError, match="format 'drive_wm.shard@9'"):
        find_shards(tmp_path)


def test_weights_of_windows() -> None:
    """Standing counts a fifth, a turn up to three times as much, a step without an image or a pose nothing."""
    yaw = np.array([0.0, 0, 0, 0, 0.5, 1.0, 1.5])
    usable = np.array([1, 1, 1, 1, 1, 1, 0], bool)
    facts = ShardFacts(((H, W),), np.array([0.0, 0, 5, 5, 5, 5]), yaw, usable, weight=2.0)
    assert np.allclose(facts.window_weights(2), [0.4, 0.4, 2, 4, 4, 0])
    assert facts.window_weights(8).shape == (0,)


# --- order --------------------------------------------------------------------------------------------------------


def test_every_window_once_a_pass(tmp_path: Path) -> None:
    shards = packed(tmp_path, flat_clip("a", 9), flat_clip("b", 7), flat_clip("c", 6, cameras=1))
    everything = {("a", i) for i in range(6)} | {("b", i) for i in range(4)} | {("c", i) for i in range(3)}
    in_order = WindowSampler([shards], 4, 2, seed=0, order="sequential")
    assert names(in_order.batch(0) + in_order.batch(1)) == [("a", 0), ("a", 1), ("a", 2), ("a", 3)]
    assert in_order.batches_a_pass == 7 and names(in_order.batch(7)) == names(in_order.batch(0))
    shuffled = WindowSampler([shards], 4, 2, seed=0, order="shuffled")
    passes = [[tuple(names(shuffled.batch(n * 7 + i))) for i in range(7)] for n in range(3)]
    for batches in passes:
        read = [window for batch in batches for window in batch]
        assert set(read) == everything and len(read) == 14  # one of "c" stands twice, to fill its last batch
    assert passes[0] != passes[1] and tuple(names(shuffled.batch(3))) == passes[0][3]


@pytest.mark.parametrize("order", ["weighted", "shuffled"])
def test_sources_are_mixed_by_weight(tmp_path: Path, order: str) -> None:
    one, two = packed(tmp_path / "1", flat_clip("a", 43)), packed(tmp_path / "2", flat_clip("b", 43))
    sampler = WindowSampler([one, two], 4, 1, seed=0, weights=[3.0, 1.0], order=order)
    count = Counter(names(sampler.batch(i))[0][0] for i in range(320))
    assert abs(count["a"] / 320 - 0.75) < (0.05 if order == "weighted" else 1e-9)
    with pytest.raises(InputError, match="1 weights for 2 sources"):
        WindowSampler([one, two], 4, 1, seed=0, weights=[1.0])


def test_a_clip_of_double_weight_is_drawn_twice_as_often(tmp_path: Path) -> None:
    packed(tmp_path, flat_clip("a", 9), weight=2.0)
    sampler = WindowSampler([packed(tmp_path, flat_clip("b", 9))], 4, 8, seed=0)
    count = Counter(name for i in range(150) for name, _ in names(sampler.batch(i)))
    assert abs(count["a"] / count["b"] - 2.0) < 0.25


def test_prefetching_changes_nothing(tmp_path: Path) -> None:
    sampler = WindowSampler([packed(tmp_path, flat_clip("a", 30))], 4, 2, seed=0)
    straight = [names(sampler.batch(i)) for i in range(5, 15)]
    for ahead, threads in ((1, 1), (4, 3)):
        assert [names(b) for b in prefetched(sampler, 5, 15, ahead=ahead, threads=threads)] == straight


READER = """
import hashlib, sys, time
from pathlib import Path
from drive_wm.datasets.shards import WindowSampler, find_shards, prefetched
sampler = WindowSampler([find_shards(Path(sys.argv[1]))], 4, 2, seed=3, order=sys.argv[2])
for i, batch in enumerate(prefetched(sampler, int(sys.argv[3]), 20), int(sys.argv[3])):
    digest = hashlib.sha256(b"".join(v.tobytes() for s in batch for v in (*s.clip.frames.values(), s.clip.ego)))
    print(i, digest.hexdigest(), flush=True)
    time.sleep(0.01)
"""


@pytest.mark.parametrize("order", ["weighted", "shuffled"])
def test_a_killed_reader_resumed_reads_what_one_that_was_not_would_have(tmp_path: Path, order: str) -> None:
    packed(tmp_path, flat_clip("a", 20), flat_clip("b", 12), codec="zstd")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}

    def reader(start: int) -> subprocess.Popen[str]:
        call = [sys.executable, "-c", READER, str(tmp_path), order, str(start)]
        return subprocess.Popen(call, env=environment, stdout=subprocess.PIPE, text=True)

    whole = reader(0).communicate(timeout=60)[0].splitlines()
    process = reader(0)
    assert process.stdout is not None
    seen = [process.stdout.readline().strip() for _ in range(6)]
    process.send_signal(signal.SIGKILL)
    process.communicate()
    rest = reader(6).communicate(timeout=60)[0].splitlines()
    assert len(whole) == 20 and seen + rest == whole


# --- places -------------------------------------------------------------------------------------------------------


def test_the_index_says_what_the_files_say(tmp_path: Path) -> None:
    build_shards(["shards:" + str(tmp_path / "raw")], tmp_path / "z", ShardSpec(codec="zstd")) if packed(
        tmp_path / "raw", flat_clip("a", 9), flat_clip("b", 7, cameras=1), weight=1.5) else None
    known = read_index(tmp_path / "z" / INDEX)
    for shard in (Shard(path) for path in sorted((tmp_path / "z").glob("*.safetensors"))):
        facts = known[shard.path.name]
        assert facts.sizes == shard.facts.sizes and facts.weight == 1.5
        for a, b in ((facts.speed_mps, shard.facts.speed_mps), (facts.yaw_rad, shard.facts.yaw_rad),
                     (facts.usable, shard.facts.usable)):
            assert np.array_equal(a, b)
    packed(tmp_path / "z", flat_clip("c", 9))  # one more than the index knows
    assert [shard.path.name[0] for shard in find_shards(tmp_path / "z")] == ["a", "b", "c"]


@pytest.mark.parametrize("scheme", ["memory", "file"])
def test_any_address_gives_the_same_batches(tmp_path: Path, scheme: str) -> None:
    pytest.importorskip("fsspec")
    local = packed(tmp_path / "raw", flat_clip("a", 9), flat_clip("b", 9))
    build_shards([f"shards:{tmp_path / 'raw'}"], tmp_path / "out", ShardSpec())
    address = f"memory://shards/{tmp_path.name}" if scheme == "memory" else f"file://{tmp_path / 'far'}"
    upload(tmp_path / "out", address)
    cache = tmp_path / "cache"
    there = find_shards(address, cache)
    fetched = sorted(path.name for path in cache.glob("*"))
    assert fetched == ([INDEX] if scheme == "memory" else [])  # no shard before a window of it is drawn
    one, two = (WindowSampler([shards], 4, 4, seed=1) for shards in (local, there))
    for i in range(4):
        for a, b in zip(one.batch(i), two.batch(i)):
            assert names([a]) == names([b])
            assert all(np.array_equal(a.clip.frames[k], b.clip.frames[k]) for k in a.clip.frames)
    if scheme == "memory":
        assert sorted(path.name for path in cache.glob("*")) == ["a.0.safetensors", "b.0.safetensors", INDEX]


def test_an_address_that_is_not_there_says_so(tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    with pytest.raises(InputError, match="nosuch://here.*"):
        find_shards("nosuch://here", tmp_path)
    with pytest.raises(InputError, match="cannot be listed|no shards"):
        find_shards("memory://nowhere-at-all", tmp_path)
    with pytest.raises(InputError, match="holds no shards; make them with"):
        find_shards(tmp_path)


# --- packing ------------------------------------------------------------------------------------------------------


def digest(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.rglob("*.safetensors"))}


def write_drive(folder: Path, grey: int, seconds: int = 3) -> None:
    """A drive folder at 10 Hz and 5 m/s with one camera."""
    (folder / "frames" / "c0").mkdir(parents=True)
    (folder / "rig.json").write_text(json.dumps({"name": "r", "cameras": {"c0": {
        "width": W, "height": H, "intrinsics": camera("c0").intrinsics.tolist(), "translation_m": [1, 0, 1.5],
        "rotation_wxyz": [0.5, -0.5, 0.5, -0.5]}}}))
    times = range(0, seconds * 1_000_000 + 1, 100_000)
    rows = [f"{t},{t * 5e-6},0,0" for t in times]
    (folder / "ego.csv").write_text("timestamp_us,x_m,y_m,yaw_rad\n" + "\n".join(rows))
    for t in times:
        cv2.imwrite(str(folder / "frames" / "c0" / f"{t}.png"), np.full((H, W, 3), grey + t // 100_000, np.uint8))


def test_packing_is_the_same_on_any_number_of_workers_and_goes_on(tmp_path: Path) -> None:
    for name, grey in (("a", 20), ("b", 100)):
        write_drive(tmp_path / "drives" / name, grey)
    source, spec = f"drive_folder:{tmp_path / 'drives'}", ShardSpec(width=W, height=H, min_steps=4, codec="lz4")
    one, = pack_sources([source], tmp_path / "1", spec)
    two, = pack_sources([source], tmp_path / "2", spec, workers=2)
    assert digest(one) == digest(two) and len(digest(one)) == 2
    clip, _ = Shard(one / "b.0.safetensors").read(0, 7)
    assert clip.frames["c0"][:, 0, 0, 0].tolist() == [100, 105, 110, 115, 120, 125, 130]
    for name in ("complete", "b.done", "b.0.safetensors"):
        (one / name).unlink()
    kept = (one / "a.0.safetensors").stat().st_mtime_ns
    pack_sources([source], tmp_path / "1", spec)
    assert digest(one) == digest(two) and (one / "a.0.safetensors").stat().st_mtime_ns == kept
    with pytest.raises(InputError, match="other settings"):
        build_shards([source], one, replace(spec, rate_hz=4.0))


def test_shards_are_tokenized_anew_once(tmp_path: Path) -> None:
    packed(tmp_path / "raw", flat_clip("a", 9))
    build_shards([f"shards:{tmp_path / 'raw'}"], tmp_path / "t", ShardSpec(), tokenizer=Halved())
    shard, = find_shards(tmp_path / "t")
    assert shard.facts.tokenizer == "halved" and shard.read(0, 9)[0].digits is not None
    with pytest.raises(InputError, match="holds tokens already"):
        build_shards([f"shards:{tmp_path / 't'}"], tmp_path / "u", ShardSpec(), tokenizer=Halved())
    with pytest.raises(InputError, match="other settings"):
        build_shards([f"shards:{tmp_path / 'raw'}"], tmp_path / "t", ShardSpec())


def test_the_store_leaves_nothing_half_fetched(tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    packed(tmp_path / "raw", flat_clip("a", 9))
    build_shards([f"shards:{tmp_path / 'raw'}"], tmp_path / "out", ShardSpec())
    address = f"memory://half/{tmp_path.name}"
    upload(tmp_path / "out", address)
    store = ShardStore(address, tmp_path / "cache")
    fsspec.filesystem("memory").rm(f"/half/{tmp_path.name}/a.0.safetensors")
    with pytest.raises(InputError, match="cannot be fetched"):
        store.local("a.0.safetensors")
    assert list((tmp_path / "cache").glob("*")) == []


def test_the_bench_reads_what_was_packed(tmp_path: Path) -> None:
    pytest.importorskip("nuscenes")
    from drive_wm.datasets.shard_bench import bench

    for name, grey in (("a", 20), ("b", 100)):
        write_drive(tmp_path / name, grey, seconds=6)
    spec = ShardSpec(width=W, height=H, layout=False)
    rows = {row.format: row for row in bench(f"drive_folder:{tmp_path}", spec=spec, seconds=0.01, large=None)}
    assert rows["JPEG 32x16, devkit"].times_jpeg == 1.0
    assert all(row.lossless for name, row in rows.items() if name.startswith(("safetensors", "Parquet", "Arrow")))
    assert rows["safetensors"].clips_per_s > rows["JPEG 32x16, devkit"].clips_per_s
    assert rows["safetensors zstd"].megabytes < rows["safetensors"].megabytes
