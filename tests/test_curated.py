"""Curated clips as logs: cut exactly, with their weight and their way back."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from drive_wm.datasets.clips import make_clip
from drive_wm.datasets.shards import ShardSpec, WindowSampler, build_shards, find_shards
from drive_wm.datasets.sources import open_source
from drive_wm.types import InputError

H, W = 16, 32


def write_drive(folder: Path) -> str:
    """A drive of 10 s at 5 m/s with one camera at 10 Hz, whose images grow brighter by 2 each."""
    (folder / "frames" / "c0").mkdir(parents=True)
    (folder / "rig.json").write_text(json.dumps({"name": "r", "cameras": {"c0": {
        "width": W, "height": H, "intrinsics": [[20, 0, 16], [0, 20, 8], [0, 0, 1]], "translation_m": [1, 0, 1.5],
        "rotation_wxyz": [0.5, -0.5, 0.5, -0.5]}}}))
    times = range(0, 10_000_001, 100_000)
    rows = [f"{t},{t * 5e-6},0,0" for t in times]
    (folder / "ego.csv").write_text("timestamp_us,x_m,y_m,yaw_rad\n" + "\n".join(rows))
    for t in times:
        cv2.imwrite(str(folder / "frames" / "c0" / f"{t}.png"), np.full((H, W, 3), t // 50_000, np.uint8))
    return f"drive_folder:{folder}"


def row(source: str, clip_id: str, start_us: int, end_us: int, **more: Any) -> dict[str, Any]:
    return {"clip_id": clip_id, "source": source, "log_id": "d", "start_us": start_us, "end_us": end_us,
            "split": "train", "keep": True, "reason": "", "weight": 1.0, "captions": ["clear day"], "tags": {},
            "quality": {}, "score": 1.0, "duplicate_of": "", "licence": "CC0", "lineage": {"log_id": "d"}, **more}


@pytest.fixture()
def curated(tmp_path: Path) -> Path:
    source = write_drive(tmp_path / "d")
    rows = [row(source, "drive/d@001.05", 1_050_000, 5_050_000, weight=3.0),
            row(source, "drive/d@005", 5_000_000, 9_000_000),
            row(source, "dropped", 0, 4_000_000, keep=False), row(source, "v", 0, 4_000_000, split="val")]
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path / "c"


def test_splits_are_kept_apart(curated: Path) -> None:
    assert open_source(f"curated:{curated}").log_ids() == ["drive/d@001.05", "drive/d@005"]
    assert open_source(f"curated:{curated}#val").log_ids() == ["v"]
    assert len(open_source(f"curated:{curated}#all").log_ids()) == 3
    with pytest.raises(InputError, match="split 'traim'"):
        open_source(f"curated:{curated}#traim")
    with pytest.raises(InputError, match="no such folder"):
        open_source("curated:nowhere")
    with pytest.raises(InputError, match="no clip 'dropped' is kept"):
        open_source(f"curated:{curated}").load("dropped")


def test_a_clip_is_its_log_from_start_to_end(curated: Path) -> None:
    log = open_source(f"curated:{curated}").load("drive/d@001.05")
    assert (log.id, log.start_us, log.end_us, log.licence) == ("drive/d@001.05", 1_050_000, 5_050_000, "CC0")
    assert len(log.ego) == 42 and log.ego.valid.all()
    np.testing.assert_allclose(log.ego.world_from_body[[0, 1, -1], 0, 3], [5.25, 5.5, 25.25])
    times = log.frames.timestamps_us("c0")
    assert (times[0], times[-1]) == (1_000_000, 5_100_000)  # the nearest to either end may lie beyond it
    clip = make_clip(log, log.start_us, 9, 2.0)
    assert clip.frames_valid.all() and np.allclose(clip.actions[:, 0], 5.0)
    route = np.array(log.metadata["route"])
    assert route[:, 0].max() > 50  # goes on where the clip ends
    assert [t.text for t in log.texts] == ["clear day"] and log.metadata["lineage"] == {"log_id": "d"}


def test_the_weight_and_the_way_back_go_into_the_shard(curated: Path, tmp_path: Path) -> None:
    build_shards([f"curated:{curated}"], tmp_path / "s", ShardSpec(width=W, height=H, min_steps=4))
    shards = find_shards(tmp_path / "s")
    assert [shard.path.name for shard in shards] == ["drive_d@001.05.0.safetensors", "drive_d@005.0.safetensors"]
    assert [shard.facts.weight for shard in shards] == [3.0, 1.0] and shards[0].meta["lineage"] == {"log_id": "d"}
    sampler = WindowSampler([shards], 4, 10, seed=0)
    first = [s.clip.log_id == "drive/d@001.05" for i in range(60) for s in sampler.batch(i)]
    assert abs(np.mean(first) - 0.75) < 0.06
