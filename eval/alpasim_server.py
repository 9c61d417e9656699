"""Any of our planners as an egodriver: what ``drive-wm serve`` runs. AlpaSim's runtime, or any client of its contract,
sends images, egomotion and the route over gRPC, and is answered with the planner's trajectory.

The contract knows no agents, no map and no lights: a planner that wants them gets none of them.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from drive_wm.eval.alpasim_cameras import eye_of
from drive_wm.geometry import (
    actions_from_xyyaw,
    interpolate_poses,
    inverse_pose,
    relative_xyyaw,
    transform_points,
    xyyaw_from_pose,
)
from drive_wm.planners.alpasim import EXTRA
from drive_wm.planners.base import Planner, check_plan
from drive_wm.types import (
    BoolArray,
    ByteArray,
    FloatArray,
    FrameError,
    InputError,
    IntArray,
    Log,
    Observation,
    Plan,
    Poses,
    Rig,
)

NOT_SENT = ("agents", "map", "signals")
MODES = ("alpasim", "carla")
FASTEST_CAMERA_HZ = 60  # images of the planner's past are kept for cameras up to this rate
FOREVER_US = 10**12
log = logging.getLogger(__name__)


class Session:
    """One drive of a runtime as a planner sees it. ``state``: carla_driver_interface's SessionState, or its like."""

    def __init__(self, planner: Planner, state: Any) -> None:
        self.planner, self.state = planner, state
        self.blind = "frames" not in planner.requires
        self.eyes = {name: eye_of(camera) for name, camera in state.cameras.items()}
        if not self.eyes:
            raise InputError("the runtime declares no camera, expected one or more")
        self.rig = Rig("alpasim", tuple(eye.camera for eye in self.eyes.values()))
        model = getattr(planner, "model", None)
        if model is not None:  # decoded images are kept at the size that the model reads
            self.rig = model.rig_for(self.rig)
            self.eyes = {c.name: replace(self.eyes[c.name], camera=c) for c in self.rig.cameras}
        self._seen: dict[tuple[str, int], ByteArray] = {}
        self._waiting = planner.oracle
        if not planner.oracle:
            planner.reset(state.seed % 2**32)

    def plan(self, now_us: int) -> Plan | None:
        """The planner's plan, or None ("hold") as long as it has seen no ego pose or, where it needs one, no image."""
        if not self.state.ego_trajectory.timestamps_us:
            return None
        if self._waiting:
            self.planner.reset(self.state.seed % 2**32, self._recorded())
            self._waiting = False
        observation = self.observe(now_us)
        if observation.frames_valid is not None and not observation.frames_valid[-1].any():
            log.warning("session %s: no image of now (%d us): told the runtime to hold", self.state.uuid, now_us)
            return None
        return check_plan(self.planner.plan(observation))

    def observe(self, now_us: int) -> Observation:
        """What the planner may know at now_us. A past from before the session is its first speed, carried back."""
        planner, needs = self.planner, self.planner.requires
        step_us = round(1e6 / planner.rate_hz)
        times = now_us - np.arange(planner.history_steps, dtype=np.int64)[::-1] * step_us
        poses, speed, accel = self._motion(times)
        world = xyyaw_from_pose(poses)
        frames, frames_valid = (None, None) if self.blind else self._frames(times, step_us // 2)
        crowd = (np.zeros((len(times), 0, 12)), np.zeros((len(times), 0), bool)) if "agents" in needs else (None, None)
        return Observation(
            timestamps_us=times, rig=self.rig, ego_xyyaw=relative_xyyaw(world[-1], world), speed_mps=speed,
            actions=actions_from_xyyaw(world, times / 1e6), world_from_rig=poses[-1], frames=frames,
            frames_valid=frames_valid, agents=crowd[0], agents_valid=crowd[1],
            route=self._route(poses[-1]) if "route" in needs else None,
            signal_states={} if "signals" in needs else None, accel_mps2=accel)

    def _motion(self, at_us: IntArray) -> tuple[FloatArray, float, float | None]:
        """The rig at the times asked for (T, 4, 4), and speed and acceleration now; None where nobody told."""
        times = np.array(self.state.ego_trajectory.timestamps_us, dtype=np.int64)
        first = max(0, int(np.searchsorted(times, at_us[0], side="right")) - 2)  # one more, for the speed
        known = np.stack([pose.as_matrix() for pose in self.state.ego_trajectory.poses[first:]])
        times, states = times[first:], self.state.dynamic_states[first:]
        told = any(s.linear_velocity.x or s.linear_velocity.y for s in states)  # unset reads as zero
        speeds = np.array([s.linear_velocity.x for s in states]) if told else _speeds(times, known)
        poses, _ = interpolate_poses(Poses(times, known, np.ones(len(times), bool)),
                                     np.clip(at_us, times[0], times[-1]), max_gap_us=FOREVER_US)
        back_m = speeds[0] * np.maximum(times[0] - at_us, 0) / 1e6
        poses[:, :3, 3] -= back_m[:, None] * poses[:, :3, 0]
        poses[-1] = known[-1]  # the very pose that the answer is anchored to
        return poses, float(speeds[-1]), float(states[-1].linear_acceleration.x) if told else None

    def _frames(self, at_us: IntArray, near_us: int) -> tuple[dict[str, ByteArray], BoolArray]:
        """camera -> (T, H, W, 3) of the image nearest to each time, zeros where none lies within near_us."""
        valid = np.zeros((len(at_us), len(self.eyes)), dtype=bool)
        frames, seen = {}, {}
        for c, (name, eye) in enumerate(self.eyes.items()):
            frames[name] = np.zeros((len(at_us), eye.camera.height, eye.camera.width, 3), np.uint8)
            with self.state.lock:
                kept = list(self.state.frame_history.get(name, ()))
            for t, at in enumerate(at_us if kept else ()):
                near = min(kept, key=lambda frame: abs(frame.frame_end_us - int(at)))
                if abs(near.frame_end_us - int(at)) <= near_us:
                    key = (name, near.frame_end_us)
                    seen[key] = self._seen[key] if key in self._seen else eye.see(near.image_bytes)
                    frames[name][t], valid[t, c] = seen[key], True
        self._seen = seen
        return frames, valid

    def _route(self, world_from_rig: FloatArray) -> FloatArray | None:
        """(N, 2) in the rig frame of now; the runtime's was of the time it was sent."""
        points = np.asarray(self.state.route_waypoints_in_rig, dtype=np.float64)
        if len(points) < 2:
            return None
        ego = self.state.ego_trajectory
        sent = ego.interpolate(self.state.route_timestamp_us).as_matrix()
        return transform_points(inverse_pose(world_from_rig) @ sent, points)[:, :2]

    def _recorded(self) -> Log:
        """What the vehicle really drove, for an oracle; AlpaSim sends it where it was asked to."""
        truth, anchor = self.state.ground_truth_in_rig, self.state.ego_trajectory.poses[-1].as_matrix()
        if truth is None or not len(truth.poses):
            raise InputError(f"{self.planner.name} knows the future, and the runtime did not send it: let it send the "
                             "recorded ground truth (send_recording_ground_truth), or serve another planner")
        poses = anchor @ np.stack([pose.as_matrix() for pose in truth.poses])
        times = np.array(truth.timestamps_us, dtype=np.int64)
        return Log(self.state.scene_id or self.state.uuid, "alpasim", self.rig,
                   Poses(times, poses, np.ones(len(times), bool)), _NoFrames())


class _NoFrames:
    """`Frames` of a log that has none."""

    rendered = False

    def timestamps_us(self, camera: str) -> IntArray:
        return np.zeros(0, dtype=np.int64)

    def read(self, camera: str, timestamp_us: int) -> ByteArray:
        raise FrameError(f"camera {camera}: a recorded path has no images")


def _speeds(times_us: IntArray, poses: FloatArray) -> FloatArray:
    """Forward speed (N,) at poses (N, 4, 4), from where they lie; 0 of a single one."""
    if len(times_us) < 2:
        return np.zeros(len(times_us))
    mean = actions_from_xyyaw(xyyaw_from_pose(poses), times_us / 1e6)[:, 0]
    return np.append(mean, mean[-1])


def egodriver(make: Callable[[], Planner]) -> Any:
    """A carla_driver_interface BaseDriver of the planner that ``make`` makes; drives that overlap get one each.

    Raises InputError where the extra is missing, or where the planner needs what cannot be had from this contract.
    """
    try:
        from carla_driver_interface.driver import BaseDriver, DriveContext, DriveResult, SessionState
        from carla_driver_interface.geometry import Pose, Trajectory
    except ImportError as error:
        raise InputError(EXTRA.format(error=error)) from error
    first = make()
    if "layout" in first.requires:
        raise InputError(f"planner {first.name} requires the layout, which an AlpaSim runtime does not send")

    class PlannerDriver(BaseDriver):
        name = first.name
        frame_history_length = 1 if "frames" not in first.requires else \
            2 + int(np.ceil((first.history_steps - 1) / first.rate_hz * FASTEST_CAMERA_HZ))

        def __init__(self) -> None:
            self.idle, self.sessions = [first], dict[str, Session]()

        def on_session_start(self, session: SessionState) -> None:
            planner = self.idle.pop() if self.idle else make()
            try:
                self.sessions[session.uuid] = Session(planner, session)
            except BaseException:
                self.idle.append(planner)
                raise

        def close(self) -> None:
            for planner in (*self.idle, *(session.planner for session in self.sessions.values())):
                planner.close()

        def on_session_close(self, session: SessionState) -> None:
            self.idle.append(self.sessions.pop(session.uuid).planner)

        def drive(self, ctx: DriveContext) -> DriveResult:
            plan = self.sessions[ctx.session.uuid].plan(ctx.time_now_us)
            path = Trajectory.empty()
            if plan is not None:
                for after_s, (x, y, yaw) in zip(plan.trajectory.times_s, plan.trajectory.xyyaw):
                    path.append(ctx.time_now_us + round(float(after_s) * 1e6), Pose.from_xyz_yaw(x, y, 0.0, yaw))
            return DriveResult(trajectory_in_rig=path)

    return PlannerDriver()


@contextmanager
def serving(make: Callable[[], Planner], port: int = 0, host: str = "127.0.0.1",
            mode: str = "alpasim") -> Iterator[int]:
    """Serves inside the block, and yields the port (a free one where 0 was asked for).

    mode: what a client that declares no revision of the contract is taken for: "alpasim", or "carla" of before 2.0.
    """
    if mode not in MODES:
        raise InputError(f"mode {mode!r}, expected one of {', '.join(MODES)}")
    driver = egodriver(make)
    import grpc
    from carla_driver_interface import protocol, server, service

    # without so_reuseport=0 a second server on a port would share the calls of the first
    grpc_server = grpc.server(ThreadPoolExecutor(8), options=[*protocol.channel_options(), ("grpc.so_reuseport", 0)])
    servicer = service.EgodriverServicer(driver, mode)  # type: ignore[arg-type]
    protocol.add_EgodriverServiceServicer_to_server(servicer, grpc_server)
    protocol.add_CarlaVehicleServiceServicer_to_server(servicer, grpc_server)
    try:
        bound = grpc_server.add_insecure_port(server.bind_address(host, port))
    except RuntimeError as error:
        raise InputError(f"port {port} on {host} cannot be had; is something else serving there? "
                         "Give another --port, or 0 for a free one") from error
    grpc_server.start()
    try:
        yield bound
    finally:
        grpc_server.stop(grace=1.0).wait()
        driver.close()


def serve(planner: str, port: int = 50051, host: str = "127.0.0.1", mode: str = "alpasim", checkpoint: str = "tiny",
          say: Callable[[str], None] = print) -> None:
    """Serves the planner until the process is interrupted or told to end (SIGTERM)."""
    from drive_wm.planners.registry import make_planner, takes_checkpoint

    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its log lines would stand around our one line
    options: dict[str, Any] = {"checkpoint": checkpoint} if takes_checkpoint(planner) else {}
    first = make_planner(planner, **options)
    made = iter([first])
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: stop.set())
    with serving(lambda: next(made, None) or make_planner(planner, **options), port, host, mode) as bound:
        unsent = sorted(set(first.requires) & set(NOT_SENT))
        if unsent:
            say(f"note: AlpaSim's contract carries no {', '.join(unsent)}: {first.name} drives without")
        say(f"serving {first.name} on {host if host.startswith('unix') else f'{host}:{bound}'} ({mode} mode); "
            "Ctrl-C ends it")
        stop.wait()


__all__ = ["Session", "egodriver", "serve", "serving"]
