"""What can be wrong with a recording: the kinds of damage, and a report of those that were found.

A kind's name is stable: tools may filter by it. ``masks`` says whether what it hit is kept out of clips (`fit`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

SEVERITIES = ("error", "warning", "info")


@dataclass(frozen=True)
class Kind:
    """One kind of damage: how bad, whether what it hit becomes invalid, and how to mend it."""

    severity: str
    masks: bool
    mend: str


KINDS: dict[str, Kind] = {
    # the log
    "unreadable": Kind("error", False, "mend what the message names; the drive cannot be opened until then"),
    "no licence": Kind("warning", False, "say under which licence the drive may be used (rig.json: licence)"),
    "off the map": Kind("warning", False, "check that map and poses share one frame, and that neither is mirrored"),
    # time
    "time unit": Kind("error", True, "write all times as whole microseconds"),
    "time order": Kind("error", True, "write every row and image once, with the time at which it was taken"),
    "clock reset": Kind("error", True, "use one clock that never steps back (not wall time), or cut the drive there"),
    "clock jump": Kind("error", True, "take the jump out of the times after it, or cut the drive there"),
    "clock offset": Kind("error", True, "put cameras and poses on one clock: add the offset named to the times"),
    "pose gap": Kind("warning", False, "nothing: steps without a pose are invalid; record poses without a pause"),
    "frame gap": Kind("warning", False, "nothing: steps without an image are invalid; check the camera's link"),
    "dropped frame": Kind("warning", False, "nothing: a step without an image is invalid; check the disk's speed"),
    # poses
    "invalid pose": Kind("error", True, "leave a row out rather than write NaN into it"),
    "pose jump": Kind("error", True, "smooth the poses (fuse GPS with odometry), or cut the drive at the jump"),
    "pose acceleration": Kind("error", True, "smooth the poses (fuse GPS with odometry)"),
    "held pose": Kind("error", True, "write a pose when it is measured; do not repeat the last one at a higher rate"),
    "left-handed pose": Kind("error", True, "write rotations of determinant +1: x forward, y left, z up"),
    "camera pose": Kind("error", True, "give the poses of the rig: world_from_camera @ inverse(rig_from_camera)"),
    "lever arm": Kind("error", True, "move the poses from the sensor to the rear axle"),
    "quaternion order": Kind("error", True, "write quaternions as w x y z"),
    "tilted pose": Kind("error", True, "write roll and pitch in radians, z up"),
    "yaw unit": Kind("error", True, "write yaw in radians"),
    "mirrored axes": Kind("error", True, "write x east, y north, yaw counter-clockwise from x; do not swap x and y"),
    "heading": Kind("error", True, "turn yaw so that it points where the nose of the car points"),
    "reversing": Kind("warning", False, "nothing if the car backed up all the time; else turn yaw by 180 degrees"),
    "position unit": Kind("error", True, "write positions in metres of a local frame, not in degrees or feet"),
    # what the recorder reported beside the poses; clips take their motion from the poses
    "speed unit": Kind("error", False, "write speed in m/s; clips take their speed from the poses"),
    "speed mismatch": Kind("error", True, "find out which is right, the speed or the positions"),
    "yaw rate unit": Kind("error", False, "write the yaw rate in rad/s; clips take their turning from the poses"),
    "yaw rate sign": Kind("error", False, "write the yaw rate positive to the left"),
    # cameras
    "missing camera": Kind("error", True, "add its images, or take the camera out of the rig"),
    "broken image": Kind("error", True, "copy the file again, or delete it: a missing image is masked as well"),
    "image size": Kind("error", True, "scale the image to the size in the rig, or give the rig the true size"),
    "under-exposed": Kind("warning", True, "nothing: black images are invalid; check lens cap and exposure"),
    "over-exposed": Kind("warning", True, "nothing: white images are invalid; check the exposure"),
    "blurred image": Kind("warning", True, "nothing: blurred images are invalid; check focus and lens"),
    "frozen image": Kind("error", True, "delete the repeats: an image missing is masked, a stale one teaches standing"),
    "repeated image": Kind("error", True, "find out where the image belongs, and delete the other"),
    "same image": Kind("error", True, "find out which camera took it, and delete the other's"),
    "odd image": Kind("warning", True, "look at it: damaged data, or an image from elsewhere; delete it"),
    "mirrored image": Kind("error", True, "mirror the images back, or correct the sign of yaw"),
    "intrinsics": Kind("error", True, "give the intrinsics for the images' own size: scale fx, cx by width, fy, cy by "
                                      "height"),
    "camera mount": Kind("error", True, "give the camera in the rig: metres, camera axes x right, y down, z ahead"),
    "sampled": Kind("info", False, "nothing"),
    # agents
    "agent jump": Kind("warning", True, "check the track's identity: two agents may share one id"),
    "agent box": Kind("error", True, "write finite positions, and sizes in metres"),
    "box order": Kind("error", True, "write sizes as length, width, height (nuScenes tables: width, length, height)"),
    "agent heading": Kind("error", True, "turn the boxes so that yaw points along the agent's length, to its front"),
    "agent frame": Kind("error", True, "write boxes in the world frame, not in the rig's"),
    "agent clock": Kind("error", True, "put tracks and poses on one clock, in microseconds"),
}


@dataclass(frozen=True)
class Finding:
    """One kind of damage in one place.

    where: "ego", "log", "tracks" or the camera's name. count: how many times. times_us: of the samples hit, sorted;
    empty where all are. ids: the tracks hit, all where empty. severity: one of SEVERITIES.
    """

    severity: str
    kind: str
    where: str
    message: str
    count: int = 1
    times_us: tuple[int, ...] = field(default=(), repr=False)
    ids: tuple[str, ...] = field(default=(), repr=False)

    @property
    def mend(self) -> str:
        return KINDS[self.kind].mend

    @property
    def masks(self) -> bool:
        return KINDS[self.kind].masks

    @property
    def first_us(self) -> int | None:
        """When it was found first; None where it is not tied to a time."""
        return self.times_us[0] if self.times_us else None


def found(kind: str, where: str, message: str, count: int | None = None, times_us: Iterable[int] = (),
          ids: Iterable[str] = (), severity: str | None = None) -> Finding:
    """A finding of a known kind, as severe as its kind is unless said otherwise; count: of the times unless given."""
    times = tuple(sorted(int(t) for t in times_us))
    return Finding(severity or KINDS[kind].severity, kind, where, message,
                   max(1, len(times)) if count is None else count, times, tuple(ids))


@dataclass(frozen=True)
class HealthReport:
    """What was found in a log, worst first. start_us: the log's start, from which the times told are counted."""

    log_id: str
    findings: tuple[Finding, ...]
    start_us: int = 0

    @property
    def ok(self) -> bool:
        """No error; warnings and remarks may stand."""
        return not any(finding.severity == "error" for finding in self.findings)

    def kinds(self, severity: str | None = None) -> set[str]:
        return {f.kind for f in self.findings if severity in (None, f.severity)}

    def to_text(self) -> str:
        counts = ", ".join(f"{sum(f.severity == s for f in self.findings)} {s}s" for s in SEVERITIES[:2])
        lines = [f"{self.log_id}: {'sound' if self.ok else 'DAMAGED'} ({counts})"]
        for f in self.findings:
            lines.append(f"  {f.severity:7} {f.kind:17} {f.where}: {f.message}")
            if f.severity != "info":
                lines.append(f"  {'':25} mend: {f.mend}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; ``camera`` is None where a finding is not about one, ``first_s`` counts from the start."""
        return {"log_id": self.log_id, "ok": self.ok, "findings": [
            {"severity": f.severity, "kind": f.kind, "where": f.where, "message": f.message, "count": f.count,
             "camera": None if f.where in ("ego", "log", "tracks") else f.where, "first_us": f.first_us,
             "first_s": None if f.first_us is None else round((f.first_us - self.start_us) / 1e6, 3),
             "masked": f.masks, "mend": f.mend, "ids": list(f.ids)} for f in self.findings]}


def many(count: int, noun: str) -> str:
    """'1 image', '2 images'."""
    return f"{count} {noun}{'' if count == 1 else 'es' if noun.endswith('ch') else 's'}"


def sorted_findings(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    return tuple(sorted(findings, key=lambda f: SEVERITIES.index(f.severity)))
