"""The vocabulary of the project: every room speaks in these words and in no others.

Frames
    world   a log's own local metric frame, z up, yaw counter-clockwise from +x.
    rig     the ego vehicle: origin on the ground below the rear axle, x forward, y left, z up.
    camera  x right, y down, z along the optical axis.
A pose ``a_from_b`` (4, 4) maps points of frame b to frame a. Times are integer microseconds.
A value that can be missing travels with a boolean ``valid`` of the same leading shape.

Order of a step: frame t -> action t -> frame t+1; ``actions[t]`` is what the ego does from t to t+1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating[Any]]
IntArray = NDArray[np.integer[Any]]
BoolArray = NDArray[np.bool_]
ByteArray = NDArray[np.uint8]


class InputError(ValueError):
    """What a user gave cannot be used: says what was got, what was expected and how to mend it."""


class FrameError(InputError):
    """One camera image is missing, truncated or unreadable; a clip masks it as invalid."""


CATEGORIES = ("car", "van", "truck", "bus", "motorcycle", "bicycle", "pedestrian", "object")
VULNERABLE = ("motorcycle", "bicycle", "pedestrian")
SIGNAL_STATES = ("unknown", "green", "yellow", "red", "off")
WEATHERS = ("clear", "overcast", "rain", "fog")
SPLITS = ("train", "val", "test")
LONGITUDINAL = ("proceed", "speed up", "slow down", "stop", "yield", "follow", "hold")
LATERAL = ("keep", "nudge left", "nudge right", "turn left", "turn right", "change lane left", "change lane right")
CAUSE_KINDS = ("none", "lead vehicle", "pedestrian", "red light", "stop sign", "give way", "bend", "speed limit",
               "obstacle", "free road", "route")
MARKINGS = ("white solid", "white dashed", "yellow solid", "yellow dashed", "curb", "stop line", "none")
PROP_KINDS = ("building", "tree", "pole", "traffic_light", "sign", "hedge", "object", "conifer", "shrub", "lamp",
              "bench", "bin", "hydrant", "bollard", "bus_stop", "cone", "barrier", "stop_sign", "give_way_sign",
              "speed_sign", "roundabout_sign", "crossing_sign")


# --- sensors ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Camera:
    """A pinhole camera of a rig, undistorted.

    intrinsics: (3, 3) in pixels, for images of ``width`` x ``height``. rig_from_camera: (4, 4).
    """

    name: str
    width: int
    height: int
    intrinsics: FloatArray
    rig_from_camera: FloatArray

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise InputError(f"camera {self.name}: size {self.width} x {self.height}, expected at least 1 x 1 pixels")
        for label, value, shape in (("intrinsics", self.intrinsics, (3, 3)),
                                    ("rig_from_camera", self.rig_from_camera, (4, 4))):
            if np.shape(value) != shape or not np.isfinite(value).all():
                raise InputError(f"camera {self.name}: {label} must be a finite {shape} matrix, "
                                 f"got shape {np.shape(value)}")

    def resized(self, width: int, height: int) -> Camera:
        """The same camera with its images scaled to ``width`` x ``height`` (intrinsics scaled to match)."""
        scale = np.diag([width / self.width, height / self.height, 1.0])
        return replace(self, width=width, height=height, intrinsics=scale @ self.intrinsics)


@dataclass(frozen=True)
class Rig:
    """The cameras of a vehicle, any number and any order; they are told apart by their geometry, never by index."""

    name: str
    cameras: tuple[Camera, ...]

    def __post_init__(self) -> None:
        names = [camera.name for camera in self.cameras]
        if not names or len(set(names)) != len(names):
            raise InputError(f"rig {self.name}: expected one or more cameras with different names, got {names}")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(camera.name for camera in self.cameras)

    def camera(self, name: str) -> Camera:
        for camera in self.cameras:
            if camera.name == name:
                return camera
        raise InputError(f"rig {self.name} has no camera {name!r}; it has {', '.join(self.names)}")

    def subset(self, names: tuple[str, ...] | list[str]) -> Rig:
        return Rig(self.name, tuple(self.camera(name) for name in names))

    def resized(self, width: int, height: int) -> Rig:
        return Rig(self.name, tuple(camera.resized(width, height) for camera in self.cameras))


@runtime_checkable
class Frames(Protocol):
    """Lazy images of a log. ``rendered`` is True where they were drawn and not recorded."""

    rendered: bool

    def timestamps_us(self, camera: str) -> IntArray:
        """(N,) sorted times at which ``camera`` has an image."""
        ...

    def read(self, camera: str, timestamp_us: int) -> ByteArray:
        """(H, W, 3) uint8 RGB at exactly that time, H x W as the rig says; raises FrameError."""
        ...


# --- the world ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Poses:
    """A timed SE(3) path. timestamps_us: (N,) int64, strictly increasing. world_from_body: (N, 4, 4). valid: (N,)."""

    timestamps_us: IntArray
    world_from_body: FloatArray
    valid: BoolArray

    def __post_init__(self) -> None:
        n = len(self.timestamps_us)
        if self.world_from_body.shape != (n, 4, 4) or self.valid.shape != (n,):
            raise InputError(f"poses: {n} times need poses ({n}, 4, 4) and valid ({n},), "
                             f"got {self.world_from_body.shape} and {self.valid.shape}")
        if n > 1 and not (np.diff(self.timestamps_us) > 0).all():
            raise InputError("poses: timestamps must increase strictly; sort them and drop duplicates")

    def __len__(self) -> int:
        return len(self.timestamps_us)


@dataclass(frozen=True)
class Track:
    """One agent through time. The box's centre is ``position_m``; it stands on the ground at z - height/2.

    size_lwh_m: (3,). timestamps_us: (N,). position_m: (N, 3) world. yaw_rad: (N,) world. valid: (N,).
    velocity_mps: (N, 2) world or None. brake, siren: (N,) bool or None.
    indicator: (N,) int8, +1 left, -1 right, 2 both (hazards), or None.
    """

    id: str
    category: str
    size_lwh_m: FloatArray
    timestamps_us: IntArray
    position_m: FloatArray
    yaw_rad: FloatArray
    valid: BoolArray
    velocity_mps: FloatArray | None = None
    color_rgb: tuple[int, int, int] | None = None
    brake: BoolArray | None = None
    indicator: IntArray | None = None
    siren: BoolArray | None = None

    def __post_init__(self) -> None:
        if self.category not in CATEGORIES:
            raise InputError(f"track {self.id}: category {self.category!r}, expected one of {', '.join(CATEGORIES)}")
        n = len(self.timestamps_us)
        if self.position_m.shape != (n, 3) or self.yaw_rad.shape != (n,) or self.valid.shape != (n,):
            raise InputError(f"track {self.id}: arrays do not agree on {n} times")


@dataclass(frozen=True)
class Lane:
    """A lane with a direction. Lines are (N, 3) world, in driving direction; a neighbour is one to change to.

    kind: "vehicle", or "cycle" for a lane that only bicycles use.
    """

    id: str
    centerline_m: FloatArray
    left_m: FloatArray
    right_m: FloatArray
    is_intersection: bool = False
    speed_limit_mps: float | None = None
    successors: tuple[str, ...] = ()
    predecessors: tuple[str, ...] = ()
    left_neighbor: str | None = None
    right_neighbor: str | None = None
    signal_id: str | None = None
    kind: str = "vehicle"


@dataclass(frozen=True)
class Marking:
    """Paint or a kerb: a polyline (N, 3) world, ``style`` from MARKINGS, ``width_m``."""

    style: str
    points_m: FloatArray
    width_m: float = 0.15


@dataclass(frozen=True)
class Prop:
    """A standing thing: box of size_lwh_m (3,) around position_m (3,), its ground centre, turned by yaw_rad.

    A prop of kind ``traffic_light`` names the Signal that it shows; its size is that of the whole mast and head.
    """

    kind: str
    position_m: FloatArray
    yaw_rad: float
    size_lwh_m: FloatArray
    color_rgb: tuple[int, int, int]
    signal_id: str | None = None


@dataclass(frozen=True)
class RoadMap:
    """Streets around a log. Polygons are (N, 3) world, simple, either winding; ``drivable`` includes intersections."""

    name: str
    lanes: Mapping[str, Lane] = field(default_factory=dict)
    drivable: tuple[FloatArray, ...] = ()
    intersections: tuple[FloatArray, ...] = ()
    crossings: tuple[FloatArray, ...] = ()
    walkways: tuple[FloatArray, ...] = ()
    carparks: tuple[FloatArray, ...] = ()
    markings: tuple[Marking, ...] = ()
    props: tuple[Prop, ...] = ()


@dataclass(frozen=True)
class Signal:
    """A traffic light through time. position_m: (3,) of the lamp head; it faces along yaw_rad (towards traffic).

    state: (N,) int8 index into SIGNAL_STATES from timestamps_us[i] on, until the next. stop_line_m: (2, 3) or None.
    """

    id: str
    position_m: FloatArray
    yaw_rad: float
    timestamps_us: IntArray
    state: IntArray
    lane_ids: tuple[str, ...] = ()
    stop_line_m: FloatArray | None = None

    def state_at(self, timestamp_us: int) -> int:
        i = int(np.searchsorted(self.timestamps_us, timestamp_us, side="right")) - 1
        return int(self.state[i]) if i >= 0 else 0


@dataclass(frozen=True)
class Look:
    """How the world appears. sun: 1 noon, 0 horizon, below 0 night. seed: the palette of ground, sky and facades."""

    weather: str = "clear"
    sun: float = 0.8
    seed: int = 0

    def __post_init__(self) -> None:
        if self.weather not in WEATHERS:
            raise InputError(f"weather {self.weather!r}, expected one of {', '.join(WEATHERS)}")

    @property
    def night(self) -> bool:
        return self.sun < 0.0


# --- reasons ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cause:
    """Why. ``kind`` from CAUSE_KINDS; agent_id points to a Track or Signal. position_m: (2,) rig frame, or None.

    visible: whether some camera sees it; None where that is not known.
    """

    kind: str
    agent_id: str | None = None
    category: str | None = None
    position_m: tuple[float, float] | None = None
    state: str | None = None
    visible: bool | None = None

    def __post_init__(self) -> None:
        if self.kind not in CAUSE_KINDS:
            raise InputError(f"cause {self.kind!r}, expected one of {', '.join(CAUSE_KINDS)}")


@dataclass(frozen=True)
class Explanation:
    """A decision with its typed causes, strongest first. ``post_hoc``: made after the plan, not before it.

    about: ids of those of whom ``text`` speaks, where it answers another question than why; "signal" for a light.
    """

    longitudinal: str
    lateral: str
    causes: tuple[Cause, ...] = ()
    text: str = ""
    question: str | None = None
    post_hoc: bool = False
    about: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "about", tuple(self.about))  # as JSON has lists
        if self.longitudinal not in LONGITUDINAL or self.lateral not in LATERAL:
            raise InputError(f"decision {self.longitudinal!r} / {self.lateral!r} is not in LONGITUDINAL x LATERAL")


@dataclass(frozen=True)
class Text:
    """Words about a log from start_us to end_us: a caption, or a question with its answer.

    about: ids of the tracks and signals that the answer speaks of; None where that is not known.
    """

    start_us: int
    end_us: int
    text: str
    question: str | None = None
    kind: str = "caption"
    about: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.about is not None:
            object.__setattr__(self, "about", tuple(self.about))  # as JSON has lists


# --- logs and windows ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Log:
    """One recorded or generated drive: everything about it, images lazily.

    ego: the rig's poses. reasons: timed Explanations of the one who drove (town only). metadata: plain JSON values.
    map is None where none is known (a dash camera); tracks are empty where none were annotated.
    """

    id: str
    source: str
    rig: Rig
    ego: Poses
    frames: Frames
    tracks: tuple[Track, ...] = ()
    map: RoadMap | None = None
    signals: tuple[Signal, ...] = ()
    look: Look = Look()
    texts: tuple[Text, ...] = ()
    reasons: tuple[tuple[int, Explanation], ...] = ()
    licence: str = "unknown"
    location: str = "unknown"
    split: str = "train"
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def start_us(self) -> int:
        return int(self.ego.timestamps_us[0])

    @property
    def end_us(self) -> int:
        return int(self.ego.timestamps_us[-1])


@dataclass(frozen=True)
class Action:
    """What the ego does from t to t+1: mean speed along its path, and the path's curvature (left positive)."""

    speed_mps: float
    curvature_inv_m: float


# Columns of Clip.agents and of Observation.agents; positions and velocities in the rig frame of their own step.
AGENT_COLUMNS = ("x_m", "y_m", "yaw_rad", "vx_mps", "vy_mps", "length_m", "width_m", "height_m", "category",
                 "r", "g", "b")


@dataclass(frozen=True)
class Clip:
    """A window of a Log on a fixed time grid of T steps, with C cameras and up to A agents.

    timestamps_us: (T,). frames: camera -> (T, H, W, 3) uint8, zeros where invalid. frames_valid: (T, C), in rig order.
    ego: (T, 4, 4) world_from_rig, ego_valid: (T,). actions: (T-1, 2) speed_mps, curvature_inv_m; actions_valid: (T-1,).
    agents: (T, A, 12) with AGENT_COLUMNS, rig frame of each step; agents_valid: (T, A). agent_ids: A names, one a slot.
    layout: camera -> (T, H, W, 3) uint8 as render.draw_layout drew it, or None. reasons: T Explanations or None each.
    texts: questions and answers about moments within it.
    digits: camera -> (T, h, w, D) uint8 FSQ digits of frames that were tokenized when packed (frames is then empty).
    carried: the same of the frame before, carried to each step by the ego's move (see `reproject`); carried_drawn: the
    same along the depth of the drawn layout.
    """

    log_id: str
    rig: Rig
    rate_hz: float
    timestamps_us: IntArray
    frames: Mapping[str, ByteArray]
    frames_valid: BoolArray
    ego: FloatArray
    ego_valid: BoolArray
    actions: FloatArray
    actions_valid: BoolArray
    agents: FloatArray
    agents_valid: BoolArray
    agent_ids: tuple[str, ...] = ()
    layout: Mapping[str, ByteArray] | None = None
    reasons: tuple[Explanation | None, ...] = ()
    look: Look = Look()
    licence: str = "unknown"
    digits: Mapping[str, ByteArray] | None = None
    carried: Mapping[str, ByteArray] | None = None
    carried_drawn: Mapping[str, ByteArray] | None = None
    texts: tuple[Text, ...] = ()


# --- planning -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trajectory:
    """Where the rig will be. times_s: (N,) after now, increasing. xyyaw: (N, 3) m, m, rad in the rig frame of now."""

    times_s: FloatArray
    xyyaw: FloatArray

    def __post_init__(self) -> None:
        n = len(self.times_s)
        if n < 1 or np.shape(self.xyyaw) != (n, 3):
            raise InputError(f"trajectory: {n} times need xyyaw ({n}, 3), got {np.shape(self.xyyaw)}")
        if not (np.isfinite(self.times_s).all() and np.isfinite(self.xyyaw).all()):
            raise InputError("trajectory: holds NaN or infinite values")
        if self.times_s[0] <= 0 or (n > 1 and not (np.diff(self.times_s) > 0).all()):
            raise InputError("trajectory: times_s must be positive and increase strictly")


@dataclass(frozen=True)
class Observation:
    """What a planner may know: the past and the present, never the future. T past steps, the newest last.

    Only what the planner's ``requires`` names is filled: "frames", "agents", "map", "signals", "route".
    ego_xyyaw: (T, 3) past poses in the rig frame of now (the last row is zero). speed_mps: now. actions: (T-1, 2).
    frames: camera -> (T, H, W, 3). frames_valid: (T, C). agents: (T, A, 12) each in the rig frame of its own step.
    route: (N, 2) points ahead in the rig frame of now. world_from_rig: (4, 4), for looking things up in ``map``.
    signal_states: signal id -> index into SIGNAL_STATES, as seen now.
    vehicle: the ego's own dimensions; accel_mps2, steer_rad: its state now. None where nobody told.
    """

    timestamps_us: IntArray
    rig: Rig
    ego_xyyaw: FloatArray
    speed_mps: float
    actions: FloatArray
    world_from_rig: FloatArray
    frames: Mapping[str, ByteArray] | None = None
    frames_valid: BoolArray | None = None
    agents: FloatArray | None = None
    agents_valid: BoolArray | None = None
    agent_ids: tuple[str, ...] = ()
    route: FloatArray | None = None
    map: RoadMap | None = None
    signal_states: Mapping[str, int] | None = None
    layout: Mapping[str, ByteArray] | None = None
    vehicle: Vehicle | None = None
    accel_mps2: float | None = None
    steer_rad: float | None = None


@dataclass(frozen=True)
class Plan:
    """A planner's answer. candidates with costs: (K,), lower is better. actions: (N, 2) if it thinks in actions."""

    trajectory: Trajectory
    candidates: tuple[Trajectory, ...] = ()
    costs: FloatArray | None = None
    explanation: Explanation | None = None
    actions: FloatArray | None = None


# --- closed loop --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Vehicle:
    """Dimensions, always explicit: a footprint around the rear axle (the rig's origin)."""

    name: str
    wheelbase_m: float
    width_m: float
    rear_axle_to_front_m: float
    rear_axle_to_rear_m: float

    @property
    def length_m(self) -> float:
        return self.rear_axle_to_front_m + self.rear_axle_to_rear_m


@dataclass(frozen=True)
class Rollout:
    """What happened in a closed loop of S steps. World frame. No score is in it: metrics are functions of it.

    ego_xyyaw: (S, 3) rear axle. ego_speed_mps, ego_accel_mps2, ego_steer_rad: (S,). logged_xyyaw: (S, 3),
    logged_valid: (S,). agents_xyyaw: (S, A, 3) box centres; agents_valid: (S, A); agents_lwh_m: (A, 3); agent_ids,
    agent_categories: A.
    plans: the Plan made at each step, or None where the planner was not asked. plan_errors: step -> message.
    render_valid: (S,) False where the renderer was out of its depth. completed: all S steps ran.
    """

    log_id: str
    planner: str
    renderer: str
    seed: int
    vehicle: Vehicle
    timestamps_us: IntArray
    ego_xyyaw: FloatArray
    ego_speed_mps: FloatArray
    ego_accel_mps2: FloatArray
    ego_steer_rad: FloatArray
    logged_xyyaw: FloatArray
    logged_valid: BoolArray
    agents_xyyaw: FloatArray
    agents_valid: BoolArray
    agents_lwh_m: FloatArray
    agent_ids: tuple[str, ...]
    agent_categories: tuple[str, ...]
    map: RoadMap | None
    signals: tuple[Signal, ...]
    plans: tuple[Plan | None, ...]
    plan_errors: Mapping[int, str]
    render_valid: BoolArray
    completed: bool
    planned_steps: int


@dataclass(frozen=True)
class Score:
    """A number that carries where it came from. value is NaN where valid is False; per_step: (S,) evidence or None."""

    name: str
    value: float
    valid: bool
    protocol: str
    per_step: FloatArray | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict)
