"""What a person, and a model that sees 64 x 112 pixels, can tell from a picture: lights, brakes, signals, weather."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from drive_wm.datasets.rigs import nuscenes_six
from drive_wm.render import AgentBoxes, Renderer, agents_at, draw_log
from drive_wm.types import (
    PROP_KINDS,
    SIGNAL_STATES,
    BoolArray,
    ByteArray,
    IntArray,
    Log,
    Look,
    Poses,
    Prop,
    Rig,
    RoadMap,
    Track,
)

FRONT = nuscenes_six(112, 64).subset(["CAM_FRONT"])
FINE = nuscenes_six(448, 256).subset(["CAM_FRONT"])
LOOKS = (Look("clear", 0.8, 1), Look("clear", 0.02, 2), Look("clear", -0.4, 3), Look("rain", 0.5, 4),
         Look("fog", 0.6, 5), Look("overcast", 0.4, 6))
ROAD = RoadMap("road", drivable=(np.array([[-20, -7, 0], [120, -7, 0], [120, 7, 0], [-20, 7, 0]], float),))


def view(agents: AgentBoxes, look: Look = Look(), road_map: RoadMap = ROAD, rig: Rig = FRONT,
         states: dict[str, int] | None = None) -> IntArray:
    return Renderer(road_map, look).draw(rig, np.eye(4), agents, states or {})["CAM_FRONT"].astype(int)


def vehicle(category: str = "car", x: float = 14.0, yaw: float = 0.0,
            size: tuple[float, float, float] = (4.5, 1.8, 1.5), color: tuple[int, int, int] = (90, 100, 110),
            brake: bool = False, indicator: int = 0, siren: int = 0, lights: bool = True) -> AgentBoxes:
    return AgentBoxes(np.array([[x, 0.0, size[2] / 2, yaw]]), np.array([size]), (category,), ("a",),
                      np.array([color], np.uint8), np.array([brake]), np.array([indicator], np.int8),
                      np.array([siren], np.int8), np.array([lights]))


def reddish(rgb: IntArray) -> BoolArray:
    return (rgb[..., 0] > 130) & (rgb[..., 0] - rgb[..., 1] > 65) & (rgb[..., 0] - rgb[..., 2] > 65)


def yellowish(rgb: IntArray) -> BoolArray:
    return (rgb[..., 0] > 150) & (rgb[..., 1] - rgb[..., 2] > 55) & (np.abs(rgb[..., 0] - rgb[..., 1]) < 70)


def greenish(rgb: IntArray) -> BoolArray:
    return (rgb[..., 1] > 130) & (rgb[..., 1] - rgb[..., 0] > 60)


@pytest.mark.parametrize("look", LOOKS, ids=lambda look: f"{look.weather} {look.sun}")
@pytest.mark.parametrize("x", [20.0, 30.0, 35.0])
def test_a_traffic_light_can_be_read_from_its_colour_at_64_by_112(look: Look, x: float) -> None:
    mast = Prop("traffic_light", np.array([x, -5.0, 0.0]), np.pi, np.array([0.4, 1.06, 5.0]), (40, 40, 44), "s")
    road_map = replace(ROAD, props=(mast,))
    tests = {"red": reddish, "yellow": yellowish, "green": greenish}
    for state, mine in tests.items():
        image = view(AgentBoxes.empty(), look, road_map, states={"s": SIGNAL_STATES.index(state)})[:34]
        assert mine(image).sum() >= 4, state  # two by two pixels or more
        assert not any(other(image).any() for name, other in tests.items() if name != state), state


def test_a_light_whose_state_is_unknown_or_that_is_off_shows_none() -> None:
    mast = Prop("traffic_light", np.array([15.0, -3.0, 0.0]), np.pi, np.array([0.4, 1.06, 5.0]), (40, 40, 44), "s")
    for state in (0, SIGNAL_STATES.index("off")):
        image = view(AgentBoxes.empty(), LOOKS[0], replace(ROAD, props=(mast,)), states={"s": state})[:34]
        assert not (reddish(image) | yellowish(image) | greenish(image)).any()


@pytest.mark.parametrize("look", LOOKS, ids=lambda look: f"{look.weather} {look.sun}")
@pytest.mark.parametrize("category", ["car", "van", "truck", "bus"])
def test_brakes_are_clearly_brighter_than_tail_lamps(look: Look, category: str) -> None:
    calm, braking = (view(vehicle(category, brake=brake), look) for brake in (False, True))
    assert reddish(braking).sum() >= reddish(calm).sum() + 4
    changed = (calm != braking).any(-1) & reddish(braking)
    assert (braking[changed].max(-1) - calm[changed].max(-1)).mean() > 40


def amber(rgb: IntArray) -> BoolArray:
    return (rgb[..., 0] > 190) & (rgb[..., 1] > 90) & (rgb[..., 1] < 200) & (rgb[..., 2] < 90)


@pytest.mark.parametrize("yaw", [0.0, np.pi])
@pytest.mark.parametrize("category", ["car", "van", "truck", "bus"])
def test_indicators_show_on_their_side_and_hazards_on_both(category: str, yaw: float) -> None:
    look = Look("overcast", 0.5)
    size = (4.5, 1.8, 1.5) if category == "car" else (6.0, 2.2, 2.6)
    none = amber(view(vehicle(category, 12.0, yaw, size), look, rig=FINE))
    sides = {}
    for indicator in (1, -1, 2):
        lit = amber(view(vehicle(category, 12.0, yaw, size, indicator=indicator), look, rig=FINE)) & ~none
        sides[indicator] = (int(lit[:, :224].sum()), int(lit[:, 224:].sum()))
    left = 1 if yaw == 0.0 else -1  # of a car that comes towards us the left is on our right
    assert sides[left][0] > 20 and sides[left][1] == 0
    assert sides[-left][1] > 20 and sides[-left][0] == 0
    assert sides[2][0] > 20 and sides[2][1] > 20


def test_sirens_flash_blue_on_alternating_sides() -> None:
    def blue(siren: int) -> BoolArray:
        image = view(vehicle("van", 10.0, size=(5.5, 2.0, 2.3), siren=siren), Look("overcast", 0.5), rig=FINE)
        return (image[..., 2] > 200) & (image[..., 0] < 110)

    assert not blue(0).any()
    first, second = np.flatnonzero(blue(1).any(0)), np.flatnonzero(blue(2).any(0))
    assert len(first) and len(second) and first.max() < 224 <= second.min()


def track(**more: object) -> Track:
    times = np.arange(4) * 250_000
    return Track("t", "van", np.array([5.0, 2.0, 2.2]), times, np.tile([10.0, 0.0, 1.1], (4, 1)), np.zeros(4),
                 np.ones(4, bool), **more)  # type: ignore[arg-type]


def of_tracks(*tracks: Track) -> Log:
    times = np.array([0, 500_000, 750_000])
    ego = Poses(times, np.tile(np.eye(4), (3, 1, 1)), np.ones(3, bool))
    from drive_wm.datasets.rendered import NoFrames

    return Log("log", "test", FRONT, ego, NoFrames(), tracks, ROAD)


def test_the_moment_decides_which_lamp_of_a_siren_is_lit_and_parked_cars_are_dark() -> None:
    siren = of_tracks(track(siren=np.array([True, True, True, False])))
    assert [agents_at(siren, t).siren.tolist() for t in (0, 250_000, 500_000, 750_000)] == [[1], [2], [1], [0]]  # type: ignore[union-attr]
    assert agents_at(siren, 0).lights.tolist() == [True]  # type: ignore[union-attr]
    assert agents_at(of_tracks(track()), 0).lights.tolist() == [False]  # type: ignore[union-attr]
    assert agents_at(of_tracks(track(brake=np.array([False, False, True, True]))), 0).lights.tolist() == [True]  # type: ignore[union-attr]


def test_head_lamps_light_the_road_by_night_unless_they_are_off() -> None:
    night = Look("clear", -0.4, 3)
    away = np.eye(4)
    away[:3, 3] = (-40.0, 20.0, 0.0)  # the ego's own head lamps shine past

    def road(lights: bool) -> ByteArray:
        agents = vehicle(x=0.0, yaw=0.0, lights=lights)
        return Renderer(ROAD, night).draw(FINE, away, agents, {})["CAM_FRONT"]

    lit, dark = road(True).astype(int), road(False).astype(int)
    assert (lit - dark)[..., 1].max() > 15 and (lit - dark).sum() > 0


def test_street_lamps_throw_pools_of_light_by_night_only() -> None:
    lamp = Prop("lamp", np.array([18.0, 8.0, 0.0]), -np.pi / 2, np.array([0.2, 0.2, 7.0]), (90, 90, 90))
    with_lamp = replace(ROAD, props=(lamp,))
    for look, bright in ((Look("clear", -0.4), True), (Look("clear", 0.8), False)):
        gain = view(AgentBoxes.empty(), look, with_lamp) - view(AgentBoxes.empty(), look, ROAD)
        assert (gain[36:44].max() > 8) == bright, look


def test_rain_mirrors_lamps_and_fog_swallows_the_distance() -> None:
    braking, calm = (view(vehicle(x=12.0, brake=b), Look("rain", 0.5, 4), rig=FINE) for b in (True, False))
    below = (braking - calm)[180:]  # below the car, whose wheels stand at row 128 + 352 * 1.51 / 8.1 = 194
    assert below[..., 0].max() > 10
    far = vehicle(x=70.0, size=(6.0, 2.4, 3.0), color=(10, 10, 10))
    clear, fog = (view(far, look) - view(AgentBoxes.empty(), look) for look in (Look("overcast"), Look("fog")))
    assert np.abs(fog).mean() < 0.4 * np.abs(clear).mean()


def test_people_stand_out_by_day_and_by_night() -> None:
    for look in LOOKS:
        walker = vehicle("pedestrian", 12.0, size=(0.5, 0.6, 1.75), color=(198, 48, 44))
        difference = np.abs(view(walker, look) - view(AgentBoxes.empty(), look)).max(-1)
        assert (difference > 24).sum() >= 20, look


def test_trucks_buses_vans_and_cars_differ_in_shape() -> None:
    seen = {c: view(vehicle(c, 14.0, 2.4, (7.0, 2.4, 2.9)), Look("overcast"), rig=FINE) for c in
            ("car", "van", "truck", "bus")}
    names = list(seen)
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            assert (np.abs(seen[a] - seen[b]).max(-1) > 40).sum() > 800, (a, b)


def test_every_kind_of_prop_is_drawn_in_its_box() -> None:
    for kind in PROP_KINDS:
        prop = Prop(kind, np.array([10.0, 0.0, 0.0]), np.pi, np.array([1.0, 1.0, 2.6]), (120, 60, 60))
        for style in ("picture", "layout"):
            renderer, bare = Renderer(replace(ROAD, props=(prop,))), Renderer(ROAD)
            a, b = (r.draw(FRONT, np.eye(4), AgentBoxes.empty(), {}, style)["CAM_FRONT"] for r in (renderer, bare))
            changed = np.flatnonzero((a != b).any((0, 2)))
            assert len(changed), (kind, style)
            if kind != "lamp":
                assert changed.min() >= 56 - 88 * 0.95 / 7.4 and changed.max() <= 56 + 88 * 0.95 / 7.4, (kind, style)


def test_pictures_of_a_night_and_of_rain_are_the_same_bytes_every_time() -> None:
    agents = vehicle(brake=True)
    for look in LOOKS:
        a, b = (Renderer(ROAD, look).draw(FRONT, np.eye(4), agents, {})["CAM_FRONT"] for _ in range(2))
        assert a.tobytes() == b.tobytes()


def test_a_log_shows_its_hazards() -> None:
    plain, hazard = (draw_log(of_tracks(track(indicator=np.full(4, value, np.int8))), 250_000)["CAM_FRONT"].astype(int)
                     for value in (0, 2))
    assert (hazard - plain)[..., 0].max() > 50


def test_shadows_belong_to_pictures_alone() -> None:
    def lowest(style: str) -> int:
        car, road = (Renderer(ROAD).draw(FINE, np.eye(4), agents, {}, style)["CAM_FRONT"]
                     for agents in (vehicle(x=12.0), AgentBoxes.empty()))
        return int(np.flatnonzero((car != road).any((1, 2))).max())

    # its wheels end in row 128 + 352 * 1.51 / 8.2 = 192.5, its shadow 0.3 m nearer
    assert lowest("layout") < lowest("picture") <= 196
