"""An egodriver of anyone's, in another process or on another machine, as a planner: AlpaSim's contract over gRPC.

``alpasim:HOST:PORT`` names one. The egodriver gets what AlpaSim's runtime would send: its cameras' calibration, their
images, the ego's motion and the route, and answers with a trajectory. It is never told the scene or what was recorded.
"""

from __future__ import annotations

import uuid
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar
from urllib.parse import parse_qsl

import numpy as np

from drive_wm.planners import alpasim_wire as wire
from drive_wm.planners.base import Planner, stand_still
from drive_wm.types import Explanation, FloatArray, InputError, Log, Observation, Plan

PREFIX = "alpasim:"
EXTRA = "AlpaSim's contract needs carla-driver-interface ({error}): pip install \"drive-wm[alpasim]\""


class AlpasimPlanner(Planner):
    """Drives as the egodriver at ``address`` says, ``host:port`` or ``unix:///path``.

    cameras: the egodriver's name of a camera -> the log's; where none is given all are sent under the log's names.
    rate_hz: of images and egomotion; AlpaSim's usual 10 Hz. history_s: how much of both it is given before it plans.
    images: png (exact) or jpeg. timeout_s: of each call. Raises InputError where no egodriver answers there, or one of
    another version of the contract.
    """

    name: ClassVar[str] = "alpasim"
    requires: ClassVar[frozenset[str]] = frozenset({"frames", "route"})

    def __init__(self, address: str, cameras: Mapping[str, str] | None = None, rate_hz: float = 10.0,
                 history_s: float = 1.5, images: str = "png", timeout_s: float = 60.0) -> None:
        if images not in wire.IMAGE_FORMATS:
            raise InputError(f"images {images!r}, expected one of {', '.join(wire.IMAGE_FORMATS)}")
        if not address.startswith("unix:") and not address.rpartition(":")[2].isdigit():
            raise InputError(f"egodriver {address!r}: expected an address such as alpasim:localhost:50051")
        if not (0 < rate_hz < np.inf and 0 <= history_s < np.inf and 0 < timeout_s < np.inf):
            raise InputError(f"egodriver {address}: rate_hz {rate_hz:g}, history_s {history_s:g}, timeout_s "
                             f"{timeout_s:g}, expected finite numbers above 0 (history_s may be 0)")
        self.name = PREFIX + address  # type: ignore[misc]  # two egodrivers are two rows of a table
        self.address, self.cameras, self.images, self.timeout_s = address, dict(cameras or {}), images, timeout_s
        self.rate_hz, self.history_steps = rate_hz, 1 + round(history_s * rate_hz)
        self._seed = 0
        self._session: _Session | None = None
        self._end: weakref.finalize[..., Any] | None = None
        channel = _open(address)
        try:
            self.version, self.revision = _greet(channel, address, timeout_s)
        finally:
            channel.close()  # a process that forks now keeps no connection

    @classmethod
    def named(cls, text: str, timeout_s: float | None = None, **more: Any) -> AlpasimPlanner:
        """From ``alpasim:HOST:PORT?rate_hz=4&images=jpeg&THEIR_CAMERA=OUR_CAMERA``; what follows the ? is optional."""
        address, _, query = text.removeprefix(PREFIX).partition("?")
        given = dict(parse_qsl(query, keep_blank_values=True))
        options: dict[str, Any] = more if timeout_s is None else {**more, "timeout_s": timeout_s}
        for key, kind in (("rate_hz", float), ("history_s", float), ("timeout_s", float), ("images", str)):
            if key in given:
                options[key] = _number(key, given.pop(key), kind)
        planner = cls(address, cameras=given, **options)
        planner.name = text  # type: ignore[misc]
        return planner

    def reset(self, seed: int, log: Log | None = None) -> None:
        self.close()
        self._seed = seed

    def plan(self, observation: Observation) -> Plan:
        with _in_one_line(self.address, self.timeout_s):
            if self._session is None:
                self._session = self._start(observation)
            self._session.tell(observation, self.images)
            answer = self._session.drive(int(observation.timestamps_us[-1]), self.rate_hz)
        if answer.terminate_session:
            raise InputError(f"the egodriver at {self.address} ended the session")
        now = wire.past_poses(observation, self._session.origin_m)[-1]
        trajectory = wire.plan_of(answer.trajectory, int(observation.timestamps_us[-1]), now)
        if trajectory is None:
            return Plan(stand_still(), explanation=Explanation("hold", "keep"))
        return Plan(trajectory)

    def close(self) -> None:
        """Ends the session; the egodriver may go on serving others."""
        if self._end is not None:
            self._end()
        self._session = self._end = None

    def _start(self, observation: Observation) -> _Session:
        from carla_driver_interface import contract
        from carla_driver_interface.protocol import AvailableCamera, DriveSessionRequest

        names = self.cameras or {name: name for name in observation.rig.names}
        declared = [AvailableCamera(**wire.camera_message(observation.rig.camera(ours), theirs))
                    for theirs, ours in names.items()]
        session = _Session(_open(self.address), str(uuid.uuid4()), names, observation.world_from_rig[:3, 3].copy(),
                           self.timeout_s)
        request = DriveSessionRequest(session_uuid=session.id, random_seed=self._seed % 2**64)
        request.rollout_spec.vehicle.available_cameras.extend(
            contract.cameras_to_revision(declared, contract.CONTRACT_REVISION, self.revision))
        try:
            session.call("start_session", request, metadata=contract.contract_metadata(self.revision))
        except BaseException:
            session.channel.close()
            raise
        self._end = weakref.finalize(self, session.end)
        return session


@dataclass
class _Session:
    """One drive at an egodriver. origin_m: of its ``local``, in the world. told_us: until when it knows everything."""

    channel: Any
    id: str
    cameras: Mapping[str, str]
    origin_m: FloatArray
    timeout_s: float
    told_us: int = -1
    stub: Any = field(init=False)

    def __post_init__(self) -> None:
        from carla_driver_interface.protocol import EgodriverServiceStub

        self.stub = EgodriverServiceStub(self.channel)

    def call(self, name: str, request: Any, **options: Any) -> Any:
        return getattr(self.stub, name)(request, timeout=self.timeout_s, **options)

    def tell(self, observation: Observation, images: str) -> None:
        """Sends what is new since the last time: images, egomotion, the route."""
        from carla_driver_interface import protocol as p

        new = np.flatnonzero(observation.timestamps_us > self.told_us)
        times = observation.timestamps_us[new]
        for step, camera in ((s, c) for s in new for c in self.cameras.items()):
            self._image(observation, int(step), *camera, images)
        poses, states = wire.past_poses(observation, self.origin_m)[new], wire.state_messages(observation)
        self.call("submit_egomotion_observation", p.RolloutEgoTrajectory(
            session_uuid=self.id, trajectory=wire.trajectory_message(times, poses),
            dynamic_states=[states[i] for i in new]))
        now_us = int(observation.timestamps_us[-1])
        self.call("submit_route", p.RouteRequest(session_uuid=self.id,
                                                 route=wire.route_message(observation.route, now_us)))
        self.told_us = now_us

    def _image(self, observation: Observation, step: int, theirs: str, ours: str, images: str) -> None:
        from carla_driver_interface.protocol import RolloutCameraImage

        assert observation.frames is not None and observation.frames_valid is not None
        if not observation.frames_valid[step, observation.rig.names.index(ours)]:
            return
        at = int(observation.timestamps_us[step])
        image = {"logical_id": theirs, "frame_start_us": at, "frame_end_us": at,
                 "image_bytes": wire.encode_image(observation.frames[ours][step], images)}
        self.call("submit_image_observation", RolloutCameraImage(session_uuid=self.id, camera_image=image))

    def drive(self, now_us: int, rate_hz: float) -> Any:
        from carla_driver_interface.protocol import DriveRequest

        return self.call("drive", DriveRequest(session_uuid=self.id, time_now_us=now_us,
                                               time_query_us=now_us + round(1e6 / rate_hz)))

    def end(self) -> None:
        import grpc
        from carla_driver_interface.protocol import DriveSessionCloseRequest

        try:
            self.stub.close_session(DriveSessionCloseRequest(session_uuid=self.id), timeout=min(self.timeout_s, 5.0))
        except grpc.RpcError:  # the egodriver has gone first, and took the session with it
            pass
        self.channel.close()


def _open(address: str) -> Any:
    """An open channel; nothing is sent yet. Raises InputError where the extra is missing."""
    try:
        import grpc
        from carla_driver_interface.protocol import channel_options
    except ImportError as error:
        raise InputError(EXTRA.format(error=error)) from error
    return grpc.insecure_channel(address, options=channel_options())


def _greet(channel: Any, address: str, timeout_s: float) -> tuple[str, int]:
    """The egodriver's version, and the revision of the contract that it speaks.

    One that declares no revision speaks AlpaSim's own (2), unless it is carla-driver-interface 1.x, which came before
    revisions were declared. Raises InputError where AlpaSim's API has another major version than ours.
    """
    from carla_driver_interface import contract
    from carla_driver_interface.protocol import ALPASIM_API_VERSION, EgodriverServiceStub, Empty

    with _in_one_line(address, timeout_s):
        version, call = EgodriverServiceStub(channel).get_version.with_call(Empty(), timeout=min(timeout_s, 10.0))
    old = "carla-driver-interface-1." in version.version_id
    try:
        revision = contract.read_revision(call.initial_metadata(), 1 if old else contract.CONTRACT_REVISION)
    except contract.ContractError as error:
        raise InputError(f"the egodriver {version.version_id!r} at {address}: {error}; "
                         "pip install --upgrade carla-driver-interface") from error
    theirs, ours = version.grpc_api_version, ALPASIM_API_VERSION
    if theirs.major != ours.major:
        raise InputError(f"the egodriver {version.version_id!r} at {address} speaks AlpaSim's API {theirs.major}."
                         f"{theirs.minor}, expected {ours.major}.x; use an egodriver of that version")
    return version.version_id, revision


@contextmanager
def _in_one_line(address: str, timeout_s: float) -> Iterator[None]:
    """A failed call becomes an InputError that says what to do."""
    import grpc

    try:
        yield
    except grpc.RpcError as error:
        reason = {
            grpc.StatusCode.UNAVAILABLE: "does not answer; start it first (drive-wm serve, or the egodriver's own "
                                         "command) and check host and port",
            grpc.StatusCode.DEADLINE_EXCEEDED: f"did not answer within {timeout_s:g} s",
            grpc.StatusCode.UNIMPLEMENTED: "is a gRPC server, but not of egodriver.EgodriverService",
        }.get(error.code(), f"refused: {error.details()}")
        if "amera" in reason:
            reason += " (name the cameras it wants as alpasim:HOST:PORT?THEIR_CAMERA=OUR_CAMERA)"
        raise InputError(f"the egodriver at {address} {' '.join(reason.split())}") from None


def _number(key: str, text: str, kind: type) -> Any:
    try:
        return kind(text)
    except ValueError:
        raise InputError(f"{key}={text!r} in an egodriver's address, expected a number") from None
