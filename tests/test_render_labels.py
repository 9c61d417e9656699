"""Class, depth and instance of pixels, worked out by hand for a level pinhole camera 1.5 m above the ground."""

from __future__ import annotations

import numpy as np
import pytest

from drive_wm.datasets.rendered import RenderedFrames
from drive_wm.datasets.town import generate
from drive_wm.render import SEMANTICS, AgentBoxes, Labels, Renderer, agents_at, draw_log
from drive_wm.types import (
    BoolArray,
    ByteArray,
    Camera,
    FloatArray,
    FrameError,
    Lane,
    Look,
    Marking,
    Prop,
    Rig,
    RoadMap,
)

F, ROWS, COLUMNS = 48.0, 64, 96
DOWN = (np.arange(ROWS) + 0.5 - ROWS / 2) / F  # metres down for a metre of depth, at the centres of the rows
LEFT = (COLUMNS / 2 - np.arange(COLUMNS) - 0.5) / F


def rig(pitch_rad: float = 0.0) -> Rig:
    c, s = np.cos(pitch_rad), np.sin(pitch_rad)
    pose = np.eye(4)
    pose[:3, :3] = np.array([[0.0, -s, c], [-1.0, 0.0, 0.0], [0.0, -c, -s]])
    pose[2, 3] = 1.5
    k = np.array([[F, 0.0, COLUMNS / 2], [0.0, F, ROWS / 2], [0.0, 0.0, 1.0]])
    return Rig("one", (Camera("front", COLUMNS, ROWS, k, pose),))


def cubes(*rows: tuple[float, float], category: str = "object") -> AgentBoxes:
    """Cubes of 2 m that stand on the ground at x, y."""
    n = len(rows)
    pose, lwh = np.array([[x, y, 1.0, 0.0] for x, y in rows]).reshape(n, 4), np.full((n, 3), 2.0)
    return AgentBoxes(pose, lwh, (category,) * n, tuple(f"a{i}" for i in range(n)), np.full((n, 3), 90, np.uint8),
                      np.zeros(n, bool), np.zeros(n, np.int8))


def labels(agents: AgentBoxes, road_map: RoadMap | None = None, pitch_rad: float = 0.0, **more: object) -> Labels:
    return Renderer(road_map, **more).labels(rig(pitch_rad), np.eye(4), agents, {})["front"]  # type: ignore[arg-type]


def of(found: Labels, name: str) -> BoolArray:
    return found.semantics == SEMANTICS.index(name)


def area(*corners: tuple[float, ...]) -> FloatArray:
    return np.array([[*c, 0.0][:3] if len(c) == 2 else list(c) for c in corners])


def test_the_ground_lies_where_the_height_of_the_eye_puts_it() -> None:
    found = labels(AgentBoxes.empty())
    assert of(found, "sky")[:32].all() and np.isinf(found.depth_m[:32]).all()
    assert of(found, "terrain")[32:].all()
    assert np.allclose(found.depth_m[32:], (1.5 / DOWN[32:])[:, None], rtol=1e-5)
    assert found.depth_m.dtype == np.float32 and found.semantics.dtype == np.uint8
    assert (found.instance == -1).all()


def test_a_camera_that_looks_down_measures_along_its_own_axis() -> None:
    pitch = 0.3
    found = labels(AgentBoxes.empty(), pitch_rad=pitch)
    # a ray (., v, 1) of the camera falls by sin(pitch) + v * cos(pitch) for a metre along the axis
    fall = np.sin(pitch) + DOWN * np.cos(pitch)
    assert np.allclose(found.depth_m[fall > 0.01], (1.5 / fall[fall > 0.01])[:, None], rtol=1e-4)


def test_the_front_of_a_box_covers_the_pixel_centres_inside_it_and_no_others() -> None:
    found = labels(cubes((10.0, 0.0)))
    # face at x = 9: u = 48 -+ 48/9 = 42.67 .. 53.33, v = 32 - 48 * 0.5/9 = 29.33 .. 40
    expected = np.zeros((ROWS, COLUMNS), bool)
    expected[29:40, 43:53] = True
    assert (of(found, "object") == expected).all() and ((found.instance == 0) == expected).all()
    assert np.allclose(found.depth_m[expected], 9.0, atol=1e-4)


def test_the_side_of_a_box_recedes() -> None:
    found = labels(cubes((10.0, 4.0)))
    row = found.instance[34] == 0  # side at y = 3 from u = 48 - 48 * 3/9 = 32 to 48 - 48 * 3/11 = 34.9
    assert np.flatnonzero(row).tolist() == list(range(21, 35))  # front to 48 - 48 * 5/9 = 21.33
    assert np.allclose(found.depth_m[34, 21:32], 9.0, atol=1e-4)
    assert np.allclose(found.depth_m[34, 32:35], 3.0 / LEFT[32:35], rtol=1e-4)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_nearer_box_holds_whatever_the_order(order: tuple[int, int]) -> None:
    found = labels(cubes((10.0, 0.0), (20.0, 2.5)).select(order))
    near, far = order.index(0), order.index(1)
    assert (found.instance[29:40, 43:53] == near).all()
    left = found.instance == far  # face at x = 19 from u = 48 - 48 * 3.5/19 = 39.16 to the near one's edge, 42.67
    assert np.flatnonzero(left.any(0)).tolist() == [39, 40, 41, 42]
    assert np.allclose(found.depth_m[left], 19.0, atol=1e-3)


def test_a_box_across_the_near_plane_is_cut_not_lost() -> None:
    found = labels(cubes((1.0, 2.5)))  # from x = 0 to 2 on the left: its side at y = 1.5, u <= 48 - 48 * 1.5/2 = 12
    assert np.flatnonzero((found.instance == 0)[34]).tolist() == list(range(12))
    assert np.allclose(found.depth_m[34, :12], 1.5 / LEFT[:12], rtol=1e-4)


def test_surfaces_of_the_ground_in_their_order() -> None:
    lane = Lane("c", area((5, -5), (60, -5)), area((5, -4.5), (60, -4.5)), area((5, -5.5), (60, -5.5)), kind="cycle")
    road_map = RoadMap(
        "street", {"c": lane},
        drivable=(area((2, -6), (80, -6), (80, 6), (2, 6)),),
        crossings=(area((8, -6), (8, 6), (11, 6), (11, -6)),),
        walkways=(area((2, 6), (80, 6), (80, 9), (2, 9)), area((5, 2), (7, 2), (7, 4), (5, 4))),
        markings=(Marking("white solid", area((2, 0), (80, 0)), 0.3), Marking("curb", area((2, 6), (80, 6)), 0.4)))
    found = labels(AgentBoxes.empty(), road_map)

    def at(x: float, y: float) -> str:
        return SEMANTICS[found.semantics[int(32 + F * 1.5 / x), int(48 - F * y / x)]]

    assert [at(6, 1), at(9, 3), at(6, 3), at(12, 7.5), at(6, -5)] == ["road", "crossing", "walkway", "walkway",
                                                                     "cycle lane"]
    assert at(4, 0) == "marking" and at(10, 0) == "marking" and at(12, 11) == "terrain"
    # row 38 is 72/6.5 = 11.08 m away: the kerb, y from 5.8 to 6.2, lies from u = 48 - 48 * 6.2/11.08 = 21.1 to 22.9
    assert np.flatnonzero(of(found, "kerb")[38]).tolist() == [21, 22]
    assert np.allclose(found.depth_m[40:], (1.5 / DOWN[40:])[:, None], rtol=1e-4)  # paint is as far as the road


def test_sloping_streets_have_the_depth_of_their_slope() -> None:
    slope = 0.05
    road = area((-50, -4, -50 * slope), (100, -4, 100 * slope), (100, 4, 100 * slope), (-50, 4, -50 * slope))
    found = labels(AgentBoxes.empty(), RoadMap("hill", drivable=(road,)))
    rows = np.flatnonzero(of(found, "road")[:, 48])
    assert len(rows) > 25  # 1.5 - down * depth = slope * depth
    assert np.allclose(found.depth_m[rows, 48], 1.5 / (DOWN[rows] + slope), rtol=1e-3)


def test_concave_areas_keep_their_notch() -> None:
    ell = RoadMap("ell", drivable=(area((2, -20), (40, -20), (40, 0), (20, 0), (20, -10), (2, -10)),))
    found = labels(AgentBoxes.empty(), ell)
    assert SEMANTICS[found.semantics[int(32 + 7.2), int(48 + 24)]] == "terrain"  # (10, -5)
    assert SEMANTICS[found.semantics[int(32 + 2.4), int(48 + 8)]] == "road"  # (30, -5)


def test_things_have_their_classes() -> None:
    kinds = {"building": "building", "tree": "vegetation", "conifer": "vegetation", "shrub": "vegetation",
             "hedge": "vegetation", "lamp": "pole", "bench": "furniture", "bin": "furniture", "bus_stop": "furniture",
             "stop_sign": "sign", "speed_sign": "sign", "traffic_light": "traffic light", "cone": "object"}
    for kind, name in kinds.items():
        prop = Prop(kind, np.array([9.0, 0.0, 0.0]), np.pi, np.array([1.2, 1.2, 3.0]), (90, 90, 90))
        assert of(labels(AgentBoxes.empty(), RoadMap("m", props=(prop,))), name).any(), kind
    for category in ("car", "van", "truck", "bus", "motorcycle", "bicycle", "pedestrian"):
        found = labels(cubes((9.0, 0.0), category=category))
        assert of(found, category).any() and ((found.instance == 0) == of(found, category)).all(), category


def test_labels_do_not_depend_on_the_look() -> None:
    street = generate(3, duration_s=3.0)
    assert street.map is not None
    pose, agents = street.ego.world_from_body[0], agents_at(street, street.start_us)
    drawn = [Renderer(street.map, look, street.signals).labels(street.rig, pose, agents, {})["CAM_FRONT"]
             for look in (Look(), Look("rain", -0.4, 7))]
    assert (drawn[0].semantics == drawn[1].semantics).all() and (drawn[0].depth_m == drawn[1].depth_m).all()


def inner(mask: BoolArray) -> BoolArray:
    """Where a mask holds in the whole 5 x 5 neighbourhood."""
    padded = np.pad(mask, 2)
    shifted = [padded[i : i + mask.shape[0], j : j + mask.shape[1]] for i in range(5) for j in range(5)]
    out: BoolArray = np.all(shifted, axis=0)
    return out


def test_labels_agree_with_the_layout_that_is_drawn() -> None:
    street = generate(5, duration_s=3.0)
    layout, found = (draw_log(street, street.start_us, style=style) for style in ("layout", "semantics"))
    agree: list[ByteArray] = []
    for name in street.rig.names:
        for label, rgb in (("sky", (150, 190, 232)), ("terrain", (96, 128, 80)), ("walkway", (190, 178, 164))):
            where = inner(found[name] == SEMANTICS.index(label))
            agree.append((np.abs(layout[name][where].astype(int) - rgb) <= 2).all(-1))
    assert np.concatenate(agree).mean() > 0.995 and sum(map(len, agree)) > 2000


def test_rendered_frames_have_labels_and_styles_name_them() -> None:
    street = generate(5, duration_s=3.0)
    frames = street.frames
    assert isinstance(frames, RenderedFrames)
    found = frames.labels(street.start_us)
    for style, pick in (("semantics", "semantics"), ("depth", "depth_m"), ("instance", "instance")):
        drawn = draw_log(street, street.start_us, style=style)
        assert all((drawn[name] == getattr(found[name], pick)).all() for name in street.rig.names)
    with pytest.raises(FrameError, match="no image"):
        frames.labels(street.start_us + 1)
