"""Pictures whose content can be worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from drive_wm.geometry import pose_from_xyyaw
from drive_wm.render import AgentBoxes, Renderer, agents_at, default_color, draw_log, signals_at
from drive_wm.render_ground import stripes
from drive_wm.types import (
    WEATHERS,
    ByteArray,
    Camera,
    FloatArray,
    InputError,
    IntArray,
    Log,
    Look,
    Marking,
    Poses,
    Prop,
    Rig,
    RoadMap,
    Signal,
    Track,
)

RED, BLUE = (200, 30, 30), (30, 60, 200)


def camera(name: str = "front", yaw: float = 0.0, width: int = 96, height: int = 64) -> Camera:
    """Level, 1.5 m above the rig's origin, 90 degrees wide."""
    c, s = np.cos(yaw), np.sin(yaw)
    pose = np.eye(4)
    pose[:3, :3] = np.array([[s, 0.0, c], [-c, 0.0, s], [0.0, -1.0, 0.0]])
    pose[2, 3] = 1.5
    intrinsics = np.array([[width / 2, 0.0, width / 2], [0.0, width / 2, height / 2], [0.0, 0.0, 1.0]])
    return Camera(name, width, height, intrinsics, pose)


RIG = Rig("one", (camera(),))


def boxes(*rows: tuple[float, float, tuple[int, int, int]], category: str = "object", size: float = 2.0,
          brake: bool = False, yaw: float = 0.0) -> AgentBoxes:
    """Cubes that stand on the ground at x, y."""
    n = len(rows)
    return AgentBoxes(np.array([[x, y, size / 2, yaw] for x, y, _ in rows]).reshape(n, 4), np.full((n, 3), size),
                      (category,) * n, tuple(f"a{i}" for i in range(n)),
                      np.array([c for _, _, c in rows], np.uint8).reshape(n, 3),
                      np.full(n, brake), np.zeros(n, np.int8))


def draw(agents: AgentBoxes, road_map: RoadMap | None = None, style: str = "layout", **more: Any) -> ByteArray:
    return Renderer(road_map, **more).draw(RIG, np.eye(4), agents, {}, style)["front"]


def changed(image: ByteArray, reference: ByteArray) -> IntArray:
    """(N, 2) rows and columns at which two images differ."""
    return np.argwhere((image != reference).any(-1))


def ground(*corners: tuple[float, float]) -> FloatArray:
    return np.array([[x, y, 0.0] for x, y in corners])


def test_a_box_straight_ahead_lands_where_the_pinhole_puts_it() -> None:
    # front face at x = 9, 2 m wide and high, eye at 1.5 m: u = 48 -+ 48/9, v = 32 + 48 * (1.5 - z) / 9
    at = changed(draw(boxes((10.0, 0.0, RED))), draw(AgentBoxes.empty()))
    assert abs(at[:, 1].min() - (48 - 48 / 9)) <= 1 and abs(at[:, 1].max() + 1 - (48 + 48 / 9)) <= 1
    assert abs(at[:, 0].min() - (32 - 48 * 0.5 / 9)) <= 1 and abs(at[:, 0].max() + 1 - (32 + 48 * 1.5 / 9)) <= 1


def test_left_of_the_ego_is_left_in_the_picture() -> None:
    empty = draw(AgentBoxes.empty())
    assert changed(draw(boxes((10.0, 4.0, RED))), empty)[:, 1].max() < 48
    assert changed(draw(boxes((10.0, -4.0, RED))), empty)[:, 1].min() > 48


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_near_box_hides_the_far_one(order: tuple[int, int]) -> None:
    agents = boxes((10.0, 0.0, RED), (20.0, 0.0, BLUE)).select(order)
    assert tuple(draw(agents)[34, 48]) == RED


def test_a_car_beside_a_long_facade_is_not_hidden_by_it_and_one_behind_it_is() -> None:
    wall = Prop("building", np.array([20.0, 9.0, 0.0]), 0.0, np.array([40.0, 6.0, 8.0]), (120, 120, 120))
    road_map = RoadMap("street", props=(wall,))
    empty = draw(AgentBoxes.empty(), road_map)
    assert len(changed(draw(boxes((34.0, 4.0, RED)), road_map), empty)) > 2
    assert len(changed(draw(boxes((20.0, 16.0, RED)), road_map), empty)) == 0


@pytest.mark.parametrize("x", [-10.0, -1.1])
def test_behind_the_camera_draws_nothing(x: float) -> None:
    assert len(changed(draw(boxes((x, 0.0, RED))), draw(AgentBoxes.empty()))) == 0


def test_a_surface_that_passes_under_the_camera_is_clipped_at_the_near_plane() -> None:
    road = RoadMap("road", drivable=(ground((-50, -3), (50, -3), (50, 3), (-50, 3)),))
    image = draw(AgentBoxes.empty(), road)
    assert tuple(image[-1, 48]) == (92, 92, 92) and tuple(image[40, 48]) == (92, 92, 92)
    # 3 m aside at depth 48 * 1.5 / 8 = 9 m: u = 48 + 48 * 3 / 9 = 64 in row 40
    assert tuple(image[40, 61]) == (92, 92, 92) and tuple(image[40, 68]) != (92, 92, 92)


def test_concave_drivable_areas_keep_their_hole_open() -> None:
    ell = RoadMap("ell", drivable=(ground((2, -20), (40, -20), (40, 0), (20, 0), (20, -10), (2, -10)),))
    image = draw(AgentBoxes.empty(), ell)
    # a point (10, -5) lies in the notch, (30, -5) in the road
    notch = image[int(32 + 48 * 1.5 / 10), int(48 + 48 * 5 / 10)]
    road = image[int(32 + 48 * 1.5 / 30), int(48 + 48 * 5 / 30)]
    assert tuple(road) == (92, 92, 92) and tuple(notch) != (92, 92, 92)


@pytest.mark.parametrize("count", [1, 8])
def test_any_number_of_cameras(count: int) -> None:
    rig = Rig("ring", tuple(camera(f"c{i}", 2 * np.pi * i / count, 32 + 8 * i, 24) for i in range(count)))
    images = Renderer(RoadMap("none")).draw(rig, np.eye(4), boxes((-12.0, 0.0, RED)), {})
    assert list(images) == [f"c{i}" for i in range(count)]
    assert [image.shape for image in images.values()] == [(24, 32 + 8 * i, 3) for i in range(count)]
    if count == 8:  # the fifth camera looks back
        back = Renderer(RoadMap("none")).draw(rig, np.eye(4), AgentBoxes.empty(), {})
        assert len(changed(images["c4"], back["c4"])) and not len(changed(images["c0"], back["c0"]))


def lamp_log(state: int) -> Log:
    props = (Prop("traffic_light", np.array([15.0, -4.0, 0.0]), np.pi, np.array([0.4, 0.7, 5.0]), (40, 40, 40), "s"),)
    signal = Signal("s", np.array([15.0, -4.0, 4.0]), np.pi, np.array([0]), np.array([state], np.int8))
    return log(RoadMap("light", props=props), signals=(signal,))


class NoFrames:
    rendered = True

    def timestamps_us(self, camera: str) -> Any:
        return np.zeros(0, np.int64)

    def read(self, camera: str, timestamp_us: int) -> ByteArray:
        raise InputError("no frames here")


def log(road_map: RoadMap | None = None, tracks: tuple[Track, ...] = (), **more: Any) -> Log:
    times = np.array([0, 1_000_000])
    ego = Poses(times, pose_from_xyyaw(np.zeros((2, 3))), np.ones(2, bool))
    return Log("log", "test", RIG, ego, NoFrames(), tracks, road_map, **more)


@pytest.mark.parametrize("style", ["picture", "layout"])
def test_red_and_green_lamps_can_be_told_apart(style: str) -> None:
    green, red = (draw_log(lamp_log(state), 0, style=style)["front"].astype(int) for state in (1, 3))
    difference = green - red
    assert difference[..., 1].max() > 120 and difference[..., 0].min() < -120
    assert signals_at(lamp_log(3), 0) == {"s": 3}


def test_signals_without_a_prop_get_a_mast() -> None:
    signal = Signal("s", np.array([15.0, -4.0, 4.0]), np.pi, np.array([0]), np.array([3], np.int8))
    assert len(changed(draw_log(log(signals=(signal,)), 0)["front"], draw_log(log(), 0)["front"]))


def test_the_layout_keeps_instance_colours_under_any_look() -> None:
    looks = [Look(weather, sun, seed) for seed, weather in enumerate(WEATHERS) for sun in (0.8, -0.3)]
    images = [draw(boxes((10.0, 0.0, BLUE)), look=look) for look in looks]
    assert tuple(images[0][34, 48]) == BLUE
    assert all((image == images[0]).all() for image in images)
    pictures = [draw(boxes((10.0, 0.0, BLUE)), look=look, style="picture") for look in looks]
    assert len({picture.tobytes() for picture in pictures}) == len(looks)
    assert all(p.mean() < q.mean() for q, p in zip(pictures[::2], pictures[1::2]))  # nights are darker


@pytest.mark.parametrize("style", ["picture", "layout"])
@pytest.mark.parametrize("category", ["car", "van", "truck", "bus", "motorcycle"])
def test_braking_shows_from_behind(style: str, category: str) -> None:
    def seen(brake: bool, yaw: float) -> ByteArray:
        return draw(boxes((9.0, 0.0, BLUE), category=category, brake=brake, yaw=yaw), style=style)

    calm, braking = seen(False, 0.0), seen(True, 0.0)
    assert (braking.astype(int) - calm)[..., 0].max() > 60
    assert (seen(False, np.pi) == seen(True, np.pi)).all()


@pytest.mark.parametrize("weather", WEATHERS)
def test_the_same_arguments_give_the_same_bytes(weather: str) -> None:
    road_map = RoadMap("road", drivable=(ground((-50, -3), (50, -3), (50, 3), (-50, 3)),),
                       crossings=(ground((8, -3), (8, 3), (11, 3), (11, -3)),),
                       markings=(Marking("white dashed", ground((-50, 0), (50, 0))),
                                 Marking("curb", ground((-50, 3), (50, 3)))))
    pictures = [Renderer(road_map, Look(weather, 0.5, 3)).draw(RIG, np.eye(4), boxes((10.0, 1.0, RED)), {})["front"]
                for _ in range(2)]
    assert pictures[0].tobytes() == pictures[1].tobytes()


def test_zebra_stripes_lie_side_by_side_along_the_longer_side() -> None:
    bars = list(stripes(ground((0, 0), (3, 0), (3, 11), (0, 11))))
    assert len(bars) == 10
    for bar in bars:
        assert np.isclose(np.ptp(bar[:, 0]), 3.0) and np.isclose(np.ptp(bar[:, 1]), 0.55)


def test_hills_and_far_away_origins_draw_alike() -> None:
    road = ground((-50, -3), (50, -3), (50, 3), (-50, 3))
    shift = np.array([6400.0, -3200.0, 12.0])
    pose = np.eye(4)
    pose[:3, 3] = shift
    near = Renderer(RoadMap("a", drivable=(road,))).draw(RIG, np.eye(4), AgentBoxes.empty(), {})["front"]
    far = Renderer(RoadMap("b", drivable=(road + shift,))).draw(RIG, pose, AgentBoxes.empty(), {})["front"]
    assert (near == far).all()


def track(valid: list[bool], yaw: list[float] | None = None, **more: Any) -> Track:
    n = len(valid)
    position = np.array([[10.0 * i, 0.0, 1.0] for i in range(n)])
    return Track("t", "car", np.array([4.0, 2.0, 1.5]), np.arange(n) * 500_000, position, np.array(yaw or [0.0] * n),
                 np.array(valid), **more)


def test_agents_are_interpolated_along_the_shorter_arc() -> None:
    scene = log(tracks=(track([True, True], [3.0, -3.0]), replace(track([True] * 3), id="u")))
    at = agents_at(scene, 250_000)
    assert at.ids == ("t", "u") and np.allclose(at.xyzyaw[:, :3], [[5, 0, 1], [5, 0, 1]])
    assert np.isclose(abs(at.xyzyaw[0, 3]), np.pi) and at.xyzyaw[1, 3] == 0
    assert tuple(at.colors[0]) == default_color("car", "t")
    assert agents_at(scene, 750_000).ids == ("u",) and agents_at(scene, 500_000).ids == ("t", "u")
    assert len(agents_at(scene, -1)) == 0 and len(agents_at(scene, 5_000_000)) == 0 and len(agents_at(log(), 0)) == 0


def test_invalid_samples_leave_a_hole() -> None:
    scene = log(tracks=(track([True, False, True], color_rgb=RED),))
    assert len(agents_at(scene, 0)) == 1 and tuple(agents_at(scene, 0).colors[0]) == RED
    assert [len(agents_at(scene, t)) for t in (250_000, 500_000, 750_000, 1_000_000)] == [0, 0, 0, 1]


def test_an_empty_map_and_no_map_are_fine_and_mistakes_are_named() -> None:
    for road_map in (None, RoadMap("empty")):
        for style in ("picture", "layout"):
            image = Renderer(road_map).draw(RIG, np.eye(4), AgentBoxes.empty(), {}, style)["front"]
            assert image.dtype == np.uint8 and len(np.unique(image.reshape(-1, 3), axis=0)) > 1
    with pytest.raises(InputError, match="style"):
        draw(AgentBoxes.empty(), style="photo")
    with pytest.raises(InputError, match="no ego pose"):
        draw_log(log(), 9_000_000)
    with pytest.raises(InputError, match="agent boxes"):
        replace(boxes((1.0, 0.0, RED)), brake=np.zeros(3, bool))
