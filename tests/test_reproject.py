"""Pictures carried to the next step: what stands still is found where it went, by the ground, depth or agent."""

from dataclasses import replace

import numpy as np
import pytest

from drive_wm.datasets.clips import draw_clip, make_clip
from drive_wm.datasets.rigs import at_height
from drive_wm.datasets.shards import ego_moves
from drive_wm.datasets.sources import open_source
from drive_wm.reproject import FAR_M, Drawn, Reprojector, same_agents
from drive_wm.types import ByteArray, Camera, Clip, FloatArray, Rig

FORWARD = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])  # of a camera that looks along the rig's x
MATRIX = np.array([[40.0, 0, 40], [0, 40, 24], [0, 0, 1]])


def looking(yaw: float, name: str = "front", height: float = 1.6) -> Camera:
    c, s = np.cos(yaw), np.sin(yaw)
    pose = np.eye(4)
    pose[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ FORWARD
    pose[2, 3] = height
    return Camera(name, 80, 48, MATRIX, pose)


def noise(seed: int = 0) -> ByteArray:
    return np.random.default_rng(seed).integers(0, 256, (48, 80, 3)).astype(np.uint8)


def test_without_a_move_nothing_changes() -> None:
    rig, image = Rig("r", (looking(0.0),)), noise()
    assert np.array_equal(Reprojector(rig).carry({"front": image}, np.zeros(3))["front"], image)


def test_a_turn_on_the_spot_brings_in_the_camera_beside() -> None:
    """Turned left by the angle between two cameras, the front one sees what the left one saw."""
    rig = Rig("r", (looking(0.0), looking(0.6, "left")))
    images = {"front": noise(0), "left": noise(1)}
    made = Reprojector(rig).carry(images, np.array([0.0, 0.0, 0.6]))
    inner = np.s_[1:-1, 1:20]  # of its own old image the right part is still in sight, and is preferred
    assert np.abs(made["front"][inner].astype(int) - images["left"][inner]).mean() < 2


@pytest.mark.parametrize("what", ["ground", "wall", "depth"])
def test_a_point_ahead_is_found_where_the_move_brought_it(what: str) -> None:
    """A bright pixel whose place in the world is known, seen from 2 m further on."""
    rig = Rig("r", (looking(0.0),))
    end = {"ground": [10.0, 2.0, 0.0], "wall": [FAR_M * 0.8, FAR_M * 0.6, 5.0], "depth": [12.0, 3.0, 1.0]}[what]
    if what == "wall":
        end[0] += 2.0  # the wall stands around the camera of the next step
    point = np.array(end)

    def pixel(x: FloatArray) -> FloatArray:
        u, v, w = MATRIX @ FORWARD.T @ (x - [0, 0, 1.6])
        return np.array([u / w, v / w])

    u, v = pixel(point)
    image = np.zeros((48, 80, 3), np.uint8)
    image[int(v) - 1:int(v) + 2, int(u) - 1:int(u) + 2] = 255
    drawn = Drawn({}, {"front": np.full((48, 80), point[0] - 2.0)}) if what == "depth" else None
    made = Reprojector(rig).carry({"front": image}, np.array([2.0, 0, 0]), drawn)["front"][..., 0]
    rows, columns = np.nonzero(made > 128)
    assert abs(columns.mean() + 0.5 - pixel(point - [2.0, 0, 0])[0]) < 1.2
    assert abs(rows.mean() + 0.5 - pixel(point - [2.0, 0, 0])[1]) < 1.2


def test_an_agent_takes_its_pixels_along() -> None:
    """One that keeps its place before a moving ego keeps its picture, where the world around it comes nearer."""
    rig, image = Rig("r", (looking(0.0),)), noise()
    on = np.zeros((48, 80), bool)
    on[10:30, 30:50] = True
    drawn = Drawn({}, {"front": np.full((48, 80), 10.0)}, {"front": np.where(on, 0, -1)})
    agents, move = np.array([[10.0, 0.0, 0.0]]), np.array([2.0, 0, 0])
    made = Reprojector(rig).carry({"front": image}, move, drawn, agents, agents, np.array([True]))["front"]
    assert np.array_equal(made[on], image[on]) and not np.array_equal(made[~on], image[~on])
    lost = Reprojector(rig).carry({"front": image}, move, drawn, agents, agents, np.array([False]))["front"]
    assert not np.array_equal(lost[on], image[on])


def test_a_slot_that_another_agent_took_is_not_the_same() -> None:
    before = np.zeros((3, 12))
    before[:, 5:8], before[:, 9:] = (4.5, 1.9, 1.6), (200, 30, 30)
    now = before.copy()
    now[:, :3] += 2.0  # all drove on
    now[1, 9:] = 20, 20, 160
    now[2, 5:8] = 9.0, 2.5, 3.2
    assert same_agents(before, now).tolist() == [True, False, False]


@pytest.fixture(scope="module")
def driven() -> tuple[Clip, list[Drawn | None]]:
    log = open_source("town:3-3").load(open_source("town:3-3").log_ids()[0])
    clip = make_clip(log, log.start_us + 2_000_000, 8, 2.0, rig=at_height(log.rig, 64))
    return clip, draw_clip(log, clip)


def test_in_the_town_carrying_beats_copying(driven: tuple[Clip, list[Drawn | None]]) -> None:
    """By the ground and a wall, more by the depth: mean squared error over all cameras where the ego moves."""
    clip, drawn = driven
    reprojector, errors = Reprojector(clip.rig), []
    for t, move in enumerate(ego_moves(clip), 1):
        if np.hypot(*move[:2]) < 1:
            continue
        before = {n: clip.frames[n][t - 1] for n in clip.rig.names}
        known = clip.agents[t - 1], clip.agents[t], clip.agents_valid[t - 1] & clip.agents_valid[t]
        made = before, reprojector.carry(before, move), reprojector.carry(before, move, drawn[t], *known)
        errors.append([np.mean([np.square(m[n] / 255.0 - clip.frames[n][t] / 255.0).mean() for n in before])
                       for m in made])
    copied, assumed, along = np.mean(errors, 0)
    assert len(errors) >= 3 and assumed < 0.8 * copied and along < 0.8 * assumed


def test_depth_alone_says_nothing_of_agents(driven: tuple[Clip, list[Drawn | None]]) -> None:
    clip, drawn = driven
    now = drawn[4]
    assert now is not None and now.slot is not None and now.depth_m is not None
    before = {n: clip.frames[n][3] for n in clip.rig.names}
    still = Reprojector(clip.rig).carry(before, ego_moves(clip)[3], replace(now, slot=None), clip.agents[3],
                                        clip.agents[4], clip.agents_valid[3])
    none = Reprojector(clip.rig).carry(before, ego_moves(clip)[3], now)
    assert all(np.array_equal(still[n], none[n]) for n in before)
