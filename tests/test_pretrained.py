"""The checkpoint that the package ships is what its card says, on drives it never saw."""

from pathlib import Path

import numpy as np
import pytest

from drive_wm.datasets.town import generate
from drive_wm.model import PRETRAINED, DriveWM
from drive_wm.scene import Scene, action_variant, open_scene
from drive_wm.use import horizon_table, imagine, mean_psnr


@pytest.fixture(scope="module")
def model() -> DriveWM:
    return DriveWM.from_pretrained("tiny")


@pytest.fixture(scope="module")
def scenes(model: DriveWM) -> list[Scene]:
    """Starts of validation seeds at which the ego moves."""
    return [open_scene(generate(seed), model, 4.0) for seed in (100_001, 100_003)]


def test_its_card_names_data_command_steps_and_baselines() -> None:
    card = (PRETRAINED / "tiny" / "README.md").read_text()
    for word in ("seeds 0-", "drive-wm train", "steps", "hardware", "copy last", "drive-wm benchmark"):
        assert word in card, word


def test_it_fits_the_repository() -> None:
    sizes = [f.stat().st_size for f in Path(PRETRAINED).rglob("*.safetensors")]
    assert max(sizes) < 20e6 and sum(sizes) < 60e6


def test_its_tokens_stand_for_what_was_seen(model: DriveWM, scenes: list[Scene]) -> None:
    values = []
    for scene in scenes:
        clip = scene.context
        for i, (name, ids) in enumerate(model.tokens(clip).items()):
            values.append(mean_psnr(model.decode_tokens(ids), clip.frames[name], clip.frames_valid[:, i]))
    assert np.mean([v for v in values if v is not None]) > 23.0


def test_its_futures_beat_copying_the_last_frame(model: DriveWM, scenes: list[Scene]) -> None:
    rows = [row for scene in scenes for row in imagine(model, scene, action_variant("log", scene, 4)).rows]
    table = horizon_table(rows)
    assert [row["time_s"] for row in table] == [0.5, 1.0, 1.5, 2.0]
    assert table[-1]["psnr_db"] > table[-1]["copy_last_psnr_db"] + 1.0


def test_it_answers_in_words(model: DriveWM, scenes: list[Scene]) -> None:
    for scene in scenes:
        said = model.explain(scene.context, "Why are you doing this?", scene.route)
        assert said.text.startswith("I ") and said.text.endswith(".")
