"""One start, from its pictures to its rows: whatever is averaged later, start by start and step by step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from drive_wm.eval.world import told
from drive_wm.eval.world.bits import bits_of_step
from drive_wm.eval.world.futures import CARRIED, Course, Futures, Opening, Shots, picked, reconstructed
from drive_wm.eval.world.images import Overlap, agreement_db, overlaps, ssim
from drive_wm.eval.world.lamps import Lamp, lamps_in
from drive_wm.eval.world.probe import Probe, Reading
from drive_wm.eval.world.protocol import Start, WorldProtocol
from drive_wm.eval.world.seen import Sights, look, mean_iou
from drive_wm.eval.world.sheets import sheet_of
from drive_wm.geometry import transform_points
from drive_wm.media import psnr_db
from drive_wm.model import DriveWM, GeneratedStep
from drive_wm.render import Labels
from drive_wm.scene import known_agents, open_scene
from drive_wm.types import BoolArray, ByteArray, FloatArray, InputError, IntArray, Log

Row = dict[str, Any]
COPY, RECONSTRUCTION, TRUTH = "copy last", "reconstruction", "truth"


@dataclass(frozen=True)
class Job:
    """A start to be measured. folder: where recorded drives lie. long: follow the true actions to the end."""

    start: Start
    checkpoint: str
    protocol: WorldProtocol
    modes: tuple[str, ...]
    seed: int
    long: bool
    folder: str = ""


@dataclass
class Measured:
    """rows: plain values, one a mode, action and step. counts, pooled: by (mode, step), what only sums can be made of.

    sheet: pictures for those who look. left_out: why something is missing.
    """

    start: Start
    log_id: str
    rows: list[Row]
    counts: dict[tuple[str, int], IntArray] = field(default_factory=dict)
    pooled: dict[tuple[str, int], FloatArray] = field(default_factory=dict)
    sheet: ByteArray | None = None
    left_out: list[str] = field(default_factory=list)


@dataclass
class Judged:
    """The truth of a start's own actions at the steps that are scored, with all that is known of it."""

    opening: Opening
    course: Course
    steps: tuple[int, ...]
    truth: Shots
    valid: BoolArray
    read: dict[str, Reading]
    labels: list[Mapping[str, Labels]]
    lamps: list[dict[str, list[Lamp]]]
    shared: list[list[Overlap]]


@lru_cache(maxsize=2)
def loaded(checkpoint: str) -> tuple[DriveWM, Probe]:
    torch.set_num_threads(1)
    return DriveWM.from_pretrained(checkpoint), Probe.load()


def load(start: Start, protocol: WorldProtocol, folder: str) -> Log:
    if not start.source:
        from drive_wm.datasets.town import generate

        return generate(start.seed, duration_s=protocol.drive_s)
    from drive_wm.datasets.sources import open_source

    kind, _, path = start.source.partition(":")
    opened = open_source(f"{kind}:{Path(folder) / path}")
    return opened.load(start.log or opened.log_ids()[0])


def measure(job: Job) -> Measured:
    """All that the protocol asks of one start."""
    model, probe = loaded(job.checkpoint)
    protocol, log = job.protocol, load(job.start, job.protocol, job.folder)
    if model.config.rate_hz != protocol.rate_hz:
        raise InputError(f"{model.name} makes {model.config.rate_hz:g} steps a second, {protocol.id} asks for "
                         f"{protocol.rate_hz:g}")
    scene = open_scene(log, model, job.start.start_s)
    known = int((log.end_us - scene.now_us) / 1e6 * protocol.rate_hz + 1e-3)
    steps = min(protocol.steps(protocol.long_s if job.long else protocol.horizon_s), known)
    opening = Opening(scene, protocol, steps)
    out = Measured(job.start, log.id, [])
    futures = Futures(model, opening, job.seed)
    drift = abs(float(scene.last_action[0]) - job.start.speed_mps)
    if not job.start.source and drift > protocol.drift_mps:
        out.left_out.append(f"{job.start.id}: the town has changed since the list was frozen ({drift:.1f} m/s off)")
    if steps < 1:
        out.rows = [tokens_alone(model, opening)]
        out.left_out.append(f"{job.start.id}: no step after it is known; its frames alone were measured")
    else:
        measure_course(job, model, probe, futures, out)
        if opening.drawn and not job.start.source:
            out.rows += told_rows(job, probe, futures)
        out.rows += fewer_cameras(job, futures)
    out.rows = [{"start": job.start.id, "log": log.id, "stratum": job.start.stratum, **row,
                 "time_s": row["step"] / protocol.rate_hz} for row in out.rows]
    return out


def tokens_alone(model: DriveWM, opening: Opening) -> Row:
    now = opening.copied([0])
    made = reconstructed(model, now)
    valid = opening.scene.context.frames_valid[-1]
    return {"mode": RECONSTRUCTION, "action": "log", "step": 0,
            "psnr_db": float(np.mean([psnr_db(made[n], now[n]) for n, ok in zip(now, valid) if ok]))}


# --- the true actions ---------------------------------------------------------------------------------------------


def measure_course(job: Job, model: DriveWM, probe: Probe, futures: Futures, out: Measured) -> None:
    """Every contender under the log's own actions, scored against what came."""
    judged = judge(futures.opening, probe)
    opening, steps = judged.opening, judged.steps
    shots = {TRUTH: judged.truth, RECONSTRUCTION: reconstructed(model, judged.truth), COPY: opening.copied(steps)}
    shots |= {name: futures.carried(judged.course, mode, steps) for name, mode in CARRIED.items()
              if mode in opening.modes}
    made: dict[str, list[GeneratedStep]] = {}
    for mode in (m for m in job.modes if m in opening.modes):
        made[mode] = futures.generate(judged.course, mode)
        shots[mode] = picked(made[mode], steps, opening.rig)
    if len(made) < len(job.modes):
        out.left_out.append(f"{job.start.id}: no map and no agents are known, so there is no layout to give or imagine")
    for name, frames in shots.items():
        read = judged.read if name == TRUTH else {n: probe.read(f) for n, f in frames.items()} if judged.labels else {}
        rows = list(score(name, frames, read, judged, out))
        if read and not job.start.source:
            for row, error in zip(rows, read_path(probe, read, judged)):
                row["path_ade_m"] = error
        out.rows += rows
    for mode, steps_made in made.items():
        add(out.rows, mode, agent_errors(opening, judged.course, steps_made) if mode != "given" else {})
        first = futures.streams[mode != "none"]
        bits = bits_of_step(model, first, futures.first[mode], judged.truth, opening.rig, job.protocol.passes, job.seed)
        size = sum(c.width * c.height for c in opening.rig.cameras)
        add(out.rows, mode, {1: {"bits_per_pixel_s": bits / size * job.protocol.rate_hz}})
    pictured = {n: f for n, f in shots.items() if n != COPY and n not in CARRIED}
    out.sheet = sheet_of(judged.steps, job.protocol.rate_hz, pictured)


def judge(opening: Opening, probe: Probe) -> Judged:
    protocol, course = opening.protocol, opening.course("log")
    near = protocol.steps(protocol.horizon_s)
    steps = tuple(k for k in sorted({*range(1, near + 1), *protocol.at(protocol.read_at_s)}) if k <= opening.steps)
    truth = opening.truth(course, steps)
    valid = opening.future.frames_valid[list(steps)]
    labels = opening.labels(course, steps) if opening.drawn else []
    log, rig = opening.scene.log, opening.rig
    lamps = [{c.name: list(lamps_in(log, c, course.poses[k - 1], label[c.name], opening.times_us[k]))
              for c in rig.cameras} for k, label in zip(steps, labels)]
    read = {n: probe.read(frames) for n, frames in truth.items()} if labels else {}
    return Judged(opening, course, steps, truth, valid, read, labels, lamps, [overlaps(rig, one) for one in labels])


def score(name: str, frames: Shots, read: Mapping[str, Reading], judged: Judged, out: Measured) -> Iterator[Row]:
    """A row a step: quality of the pictures, and what the probe sees in them."""
    names = judged.opening.rig.names
    quality = {n: psnr_db(frames[n], judged.truth[n]) for n in names}
    for i, k in enumerate(judged.steps):
        ok = [n for n, valid in zip(names, judged.valid[i]) if valid]
        row: Row = {"mode": name, "action": "log", "step": k}
        if ok and name != TRUTH:
            row["psnr_db"] = float(np.mean([quality[n][i] for n in ok]))
            row["ssim"] = float(np.mean([ssim(frames[n][i], judged.truth[n][i]) for n in ok]))
        if judged.labels:
            step = {n: frames[n][i] for n in names}
            sights = look(step, {n: (read[n], i) for n in names}, {n: judged.truth[n][i] for n in names},
                          {n: judged.read[n].classes[i] for n in names}, judged.labels[i], judged.lamps[i],
                          judged.opening.protocol)
            row |= sight_values(sights)
            if judged.shared[i]:
                row["overlap_db"] = agreement_db(step, judged.shared[i])
            out.counts[name, k] = sights.counts
            out.pooled[name, k] = np.concatenate([read[n].pooled[i:i + 1] for n in names])
        yield row


def sight_values(sights: Sights) -> Row:
    return {"miou": mean_iou(sights.counts), "agents_asked": sights.asked, "agents_kept": sights.kept,
            "agents_colored": sights.colored, "agents_invented": sights.invented, "images": sights.images,
            "lamps_asked": sights.lamps, "lamps_right": sights.lamps_right}


def read_path(probe: Probe, read: Mapping[str, Reading], judged: Judged) -> FloatArray:
    """(N,) mean distance up to each of the first steps between the path read and the path driven, metres."""
    front = front_of(judged.opening)
    near = judged.opening.protocol.steps(judged.opening.protocol.horizon_s)
    now = probe.read(judged.opening.scene.context.frames[front][-1:]).middle
    moved = probe.moved(np.concatenate([now, read[front].middle[:near]]))
    errors = told.path_errors(moved, judged.opening.scene.pose, judged.course.poses[:len(moved)])
    return np.cumsum(errors) / np.arange(1, len(errors) + 1)


def front_of(opening: Opening) -> str:
    """The camera that looks most forward."""
    return max(opening.rig.cameras, key=lambda c: float(c.rig_from_camera[0, 2])).name


def agent_errors(opening: Opening, course: Course, made: list[GeneratedStep]) -> dict[int, Row]:
    """Step -> sums over the moving agents of how far they are from where they were to be; and at constant velocity."""
    scene, protocol = opening.scene, opening.protocol
    now, known_now = scene.context.agents[-1], scene.context.agents_valid[-1]
    truth, known = known_agents(scene, course.poses)
    moving = known_now & (np.hypot(now[:, 3], now[:, 4]) >= protocol.moving_agent_mps)
    out: dict[int, Row] = {}
    for k in range(1, min(len(made), protocol.steps(protocol.horizon_s)) + 1):
        who, pose = moving & known[k - 1], course.poses[k - 1]
        there = transform_points(pose, truth[k - 1][who, :2])
        said = transform_points(pose, made[k - 1].agents[who, :2])
        steady = transform_points(scene.pose, now[who, :2] + now[who, 3:5] * k / protocol.rate_hz)
        out[k] = {"agents_moving": int(who.sum()), "agents_off_m": float(np.linalg.norm(said - there, axis=1).sum()),
                  "steady_off_m": float(np.linalg.norm(steady - there, axis=1).sum())}
    return out


def add(rows: list[Row], mode: str, values: Mapping[int, Row]) -> None:
    """Into the rows of a mode under the true actions, by step."""
    for row in rows:
        if row["mode"] == mode and row["action"] == "log" and "cameras" not in row and row["step"] in values:
            row |= values[row["step"]]


# --- other actions, fewer cameras ---------------------------------------------------------------------------------


def told_rows(job: Job, probe: Probe, futures: Futures) -> list[Row]:
    """Whether futures of six actions can be told apart, and how far each strays from the path that was asked of it."""
    opening, protocol, model = futures.opening, job.protocol, futures.model
    near = protocol.steps(protocol.horizon_s)
    steps = [k for k in protocol.at(protocol.told_at_s) if k <= opening.steps]
    courses = {a: opening.course(a) for a in protocol.actions}

    def shown(shots: Shots) -> told.Shown:
        return told.Shown.of(shots, {n: probe.read(f) for n, f in shots.items()})

    truths = {a: opening.truth(c, steps) for a, c in courses.items()}
    seen = {a: shown(shots) for a, shots in truths.items()}
    ceiling = {a: shown(reconstructed(model, shots)) for a, shots in truths.items()}
    rows: list[Row] = [{"mode": TRUTH, "action": a, "step": near, "free_s": int(c.free[:near].sum()) / protocol.rate_hz,
                        "blocked": float(not c.free[:near].all())} for a, c in courses.items()]
    rows += [{"mode": RECONSTRUCTION, **row} for row in told.tell(ceiling, seen, courses, steps, protocol)]
    for name, mode in CARRIED.items():
        alone = {a: shown(futures.carried(c, mode, steps)) for a, c in courses.items()}
        rows += [{"mode": name, **row} for row in told.tell(alone, seen, courses, steps, protocol)]
    for mode in job.modes:
        made = {a: futures.generate(c, mode, near) for a, c in courses.items()}
        futures_seen = {a: shown(picked(m, steps, opening.rig)) for a, m in made.items()}
        new = [{"mode": mode, **row} for row in told.tell(futures_seen, seen, courses, steps, protocol)]
        front, now = front_of(opening), opening.scene.context.frames[front_of(opening)][-1:]
        for action, steps_made in made.items():
            frames = np.concatenate([now, np.stack([m.frames[front] for m in steps_made])])
            errors = told.path_errors(probe.moved(probe.read(frames).middle), opening.scene.pose,
                                      courses[action].poses[:near])
            for row in (r for r in new if r["action"] == action):
                row["asked_path_ade_m"] = float(errors[:row["step"]].mean())
        rows += new
    return rows


def fewer_cameras(job: Job, futures: Futures) -> list[Row]:
    """The most forward cameras alone, under the true actions: PSNR on these, alone and among all."""
    protocol, opening, model = job.protocol, futures.opening, futures.model
    ahead = sorted(opening.rig.cameras, key=lambda c: -float(c.rig_from_camera[0, 2]))
    near = min(protocol.steps(protocol.horizon_s), opening.steps)
    rows: list[Row] = []
    for count in (c for c in protocol.cameras_left if c < len(ahead)):
        names = [c.name for c in opening.rig.cameras if c in ahead[:count]]
        scene = open_scene(opening.scene.log, model, job.start.start_s, cameras=names)
        part = Opening(scene, protocol, near)
        some, course = Futures(model, part, job.seed), part.course("log")
        for mode in (m for m in job.modes if m in opening.modes):
            alone, whole = some.generate(course, mode), futures.generate(opening.course("log"), mode, near)
            for k in range(1, near + 1):
                truth = {n: part.future.frames[n][k] for n in names}
                both = [np.mean([psnr_db(made[k - 1].frames[n], truth[n]) for n in names]) for made in (alone, whole)]
                rows.append({"mode": mode, "action": "log", "step": k, "cameras": count, "alone_db": float(both[0]),
                             "among_all_db": float(both[1])})
    return rows
