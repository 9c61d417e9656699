"""The commands' work, from Python, with small random weights: every file is there and every bad input is one line."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from drive_wm import use
from drive_wm.datasets.rigs import nuscenes_six
from drive_wm.datasets.town import generate as drive_through
from drive_wm.geometry import xyyaw_from_pose
from drive_wm.model import DriveWM, ModelConfig, Sampling
from drive_wm.scene import VARIANTS, action_variant, ego_poses, known_agents, layout_source, observation_of, open_scene
from drive_wm.tokenizer.model import TokenizerConfig
from drive_wm.types import Camera, InputError, Rig
from drive_wm.use.answers import full_image
from drive_wm.world.model import WorldConfig
from drive_wm.world.transformer import TransformerConfig

SMALL = ModelConfig(
    TokenizerConfig(channels=(8, 8, 16, 16), decoder_blocks=1),
    WorldConfig(TransformerConfig(width=32, layers=1, heads=2, kv_heads=1, mlp=32, rope_pairs=(3, 2, 3)),
                layout_channels=8))
FAST = Sampling(passes=1)


@pytest.fixture(scope="module")
def model() -> DriveWM:
    return DriveWM.create(SMALL)


@pytest.fixture(scope="module")
def checkpoint(model: DriveWM, tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(model.save_pretrained(tmp_path_factory.mktemp("model") / "small"))


def test_generate_fills_its_run_folder(checkpoint: str, tmp_path: Path) -> None:
    future = use.generate("town:110003", tmp_path / "run", seed=1, checkpoint=checkpoint, horizon_s=1.0)
    run = tmp_path / "run"
    summary = json.loads((run / "summary.json").read_text())
    expected = {"future.mp4", "future.png", "actions.npz", "steps.parquet", "report.html"}
    assert summary["complete"] and expected <= set(summary["files"])
    assert all((run / name).stat().st_size > 0 for name in summary["files"])
    assert len(future.steps) == 2 and set(future.steps[0].frames) == set(nuscenes_six().names)
    arrays = np.load(run / "actions.npz", allow_pickle=False)
    assert np.array_equal(arrays["actions"], future.actions)
    assert "https://" not in (run / "report.html").read_text()


def test_a_command_that_fails_leaves_nothing_behind(checkpoint: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="prompt"):
        use.generate("town:110003", tmp_path / "run", checkpoint=checkpoint, horizon_s=1.0, prompt="rain " * 30)
    assert not (tmp_path / "run").exists()


def test_the_same_seed_gives_the_same_future(model: DriveWM) -> None:
    scene = open_scene(drive_through(110_003), model, 2.0)
    actions = action_variant("left", scene, 2)
    one, two, other = (use.imagine(model, scene, actions, seed=s, own_actions=False, mode="imagined", sampling=FAST)
                       for s in (1, 1, 2))
    assert all(np.array_equal(a.frames[n], b.frames[n]) for a, b in zip(one.steps, two.steps) for n in a.frames)
    assert any(not np.array_equal(one.steps[0].frames[n], other.steps[0].frames[n]) for n in one.steps[0].frames)


def test_modes_differ_in_what_they_know(model: DriveWM) -> None:
    scene = open_scene(drive_through(110_003), model, 2.0)
    actions = action_variant("log", scene, 3)
    given, imagined, none = (use.imagine(model, scene, actions, mode=m, sampling=FAST) for m in use.MODES)
    truth, seen = known_agents(scene, scene.future(3).ego[1:])
    assert np.allclose(given.steps[2].agents[seen[2]], truth[2][seen[2]], atol=1e-4)
    assert not np.allclose(imagined.steps[2].agents[seen[2]], truth[2][seen[2]], atol=1e-4)
    assert given.steps[0].layout is not None and none.steps[0].layout is None
    with pytest.raises(InputError, match="--mode 'all'"):
        use.imagine(model, scene, actions, mode="all")


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_do_what_they_say(model: DriveWM, name: str) -> None:
    scene = open_scene(drive_through(110_003), model, 2.0, layout=False)
    actions = action_variant(name, scene, 4)
    before = scene.context.actions[-1]
    turned = xyyaw_from_pose(ego_poses(scene, actions)[-1])[2] - xyyaw_from_pose(scene.pose)[2]
    expected = {"brake": actions[-1, 0] < before[0], "accelerate": actions[-1, 0] > before[0], "left": turned > 0.1,
                "right": turned < -0.1, "keep": np.allclose(actions[:, 0], before[0]), "log": True}
    assert actions.shape == (4, 2) and expected[name]


def test_the_imagined_layout_moves_with_the_action(model: DriveWM) -> None:
    scene = open_scene(drive_through(110_003), model, 2.0)
    images = []
    for name in ("left", "right"):
        poses = ego_poses(scene, action_variant(name, scene, 4))
        source = layout_source(scene, poses, agents_known=True)
        assert source is not None
        drawn = source(4, scene.context.agents[-1], scene.context.agents_valid[-1])
        assert drawn is not None
        images.append(drawn.layout["CAM_FRONT"])
    assert not np.array_equal(images[0], images[1])


def test_plan_explain_and_tokens_fill_their_folders(checkpoint: str, tmp_path: Path) -> None:
    made = use.plan("town:110003", tmp_path / "plan", checkpoint=checkpoint)
    assert made.trajectory.xyyaw.shape == (8, 3) and made.actions is not None
    said = use.explain("town:110003", tmp_path / "explain", checkpoint=checkpoint, question="Why are you slowing down?")
    assert said.question == "Why are you slowing down?" and said.text
    ids = use.tokens("town:110003", tmp_path / "tokens", checkpoint=checkpoint)
    assert ids["CAM_FRONT"].shape[1:] == (4, 7, 3) and ids["CAM_FRONT"].max() < 4096
    assert all((tmp_path / n / "report.html").is_file() for n in ("plan", "explain", "tokens"))


@pytest.mark.parametrize("count", [1, 8])
def test_any_rig(model: DriveWM, count: int) -> None:
    base = nuscenes_six()
    cameras = [base.cameras[i % 6] for i in range(count)]
    widths = [200 if i else 80 for i in range(count)]
    rig = Rig("made", tuple(Camera(f"C{i}", w, 100, c.resized(w, 100).intrinsics, c.rig_from_camera)
                            for i, (w, c) in enumerate(zip(widths, cameras))))
    scene = open_scene(drive_through(110_003, rig=rig), model, 2.0)
    steps = list(model.rollout(scene.context, np.array([[5.0, 0.0]]), sampling=FAST))
    assert [f.shape for f in steps[0].frames.values()] == [(64, 128 if i else 48, 3) for i in range(count)]


def test_the_past_alone_decides_a_plan(model: DriveWM) -> None:
    log = drive_through(110_003)
    now_us = log.start_us + 2_000_000
    cut = [replace(t, position_m=np.where((t.timestamps_us > now_us)[:, None], t.position_m + 30, t.position_m))
           for t in log.tracks]
    other = replace(log, tracks=tuple(cut))
    scenes = [open_scene(one, model, 2.0, layout=False) for one in (log, other)]
    plans = [model.plan(s.context, s.route) for s in scenes]
    assert np.array_equal(plans[0].trajectory.xyyaw, plans[1].trajectory.xyyaw)


def test_a_planner_gets_only_what_it_requires(model: DriveWM) -> None:
    scene = open_scene(drive_through(110_003), model, 2.0)
    bare = observation_of(scene, frozenset())
    assert bare.frames is None and bare.agents is None and bare.route is None
    assert bare.map is None and bare.layout is None
    assert observation_of(scene, frozenset({"route"})).route is not None


@pytest.mark.parametrize("options, message", [
    ({"start_s": -0.2}, "lasts 20.0 s"), ({"start_s": 500.0}, "lasts 20.0 s"),
    ({"actions": "fly"}, "unknown planner 'fly'"), ({"cameras": ["CAM_ROOF"]}, "no camera 'CAM_ROOF'"),
    ({"log": "town-000001"}, "no log 'town-000001'"),
    ({"horizon_s": 60.0}, "smaller --horizon"), ({"prompt": "a very long story of rain at night"}, "at most 5"),
    ({"checkpoint": "tinny"}, "no checkpoint 'tinny'")])
def test_bad_input_is_one_clear_line_and_leaves_nothing(checkpoint: str, tmp_path: Path, options: dict,
                                                        message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        use.generate("town:110003", tmp_path / "run", **{"checkpoint": checkpoint, "horizon_s": 0.5, **options})
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "report.html").exists()


def test_the_world_model_is_a_renderer_and_a_planner(checkpoint: str, tmp_path: Path) -> None:
    from drive_wm.eval.command import evaluate

    for name in ("one", "two"):
        rows = evaluate("town:110003", tmp_path / name, checkpoint=checkpoint, planners=["constant_velocity", "direct"],
                        renderers=["world"], duration_s=1.5, workers=1)
    assert {(r["planner"], r["renderer"]) for r in rows} >= {("constant_velocity", "none"), ("direct", "world")}
    assert all(r["failed"] == 0 for r in rows)
    for file in ("drives.parquet", "steps.parquet"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_a_missing_last_frame_does_not_make_copying_look_bad(model: DriveWM) -> None:
    scene = open_scene(drive_through(110_003), model, 2.0)
    hidden = scene.context.frames_valid.copy()
    hidden[-1, 0] = False
    blind = replace(scene, context=replace(scene.context, frames_valid=hidden))
    rows = use.imagine(model, blind, action_variant("log", blind, 1), sampling=FAST).rows
    assert rows[0]["copy_last_psnr_db"] is None and rows[0]["psnr_db"] is not None
    assert rows[1]["copy_last_psnr_db"] is not None
    table = use.horizon_table(rows)
    assert np.isclose(table[0]["psnr_db"], np.mean([row["psnr_db"] for row in rows[1:]]))
    assert not full_image(blind, blind.context.rig.names[1], 32, 32).max() == 0
