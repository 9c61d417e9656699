"""`generate`: the future of a moment of a log, in every camera, beside the truth where that is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from drive_wm.eval import report
from drive_wm.eval.run_folder import RunFolder
from drive_wm.geometry import actions_from_xyyaw
from drive_wm.media import contact_sheet, label, write_mp4, write_png
from drive_wm.model import DriveWM, GeneratedStep, Guidance, Sampling
from drive_wm.scene import (
    VARIANTS,
    Scene,
    action_variant,
    ego_poses,
    known_agents,
    layout_source,
    load_log,
    open_scene,
    reference_frames,
)
from drive_wm.types import BoolArray, ByteArray, FloatArray, InputError
from drive_wm.use.answers import plan_with
from drive_wm.use.pictures import one_row, psnr_db, write_arrays, zoomed

MODES = ("given", "imagined", "none")


@dataclass
class Future:
    """A generated future beside what is known of it. frames, truth, copied: one dict camera -> image a step."""

    scene: Scene
    mode: str
    actions: FloatArray
    steps: list[GeneratedStep]
    poses: FloatArray
    truth: list[dict[str, ByteArray]] | None
    truth_valid: BoolArray | None
    rows: list[dict[str, Any]] = field(default_factory=list)


def imagine(model: DriveWM, scene: Scene, actions: FloatArray, *, mode: str = "given", seed: int = 0,
            own_actions: bool = True, sampling: Sampling = Sampling(), prompt: str | None = None) -> Future:
    """Rolls the model out under ``actions`` (N, 2). own_actions: they are the log's, so its images are the truth."""
    if mode not in MODES:
        raise InputError(f"--mode {mode!r}: expected one of {', '.join(MODES)}")
    poses = ego_poses(scene, actions)
    if own_actions:
        poses = scene.future(len(actions)).ego[1:]
    layout = None if mode == "none" else layout_source(scene, poses, agents_known=mode == "given")
    given = known_agents(scene, poses) if mode == "given" else None
    steps = list(model.rollout(scene.context, actions, seed=seed, sampling=sampling, layout=layout, agents=given,
                               prompt=prompt))
    truth, valid = truth_of(scene, poses, own_actions)
    future = Future(scene, mode, actions, steps, poses, truth, valid)
    future.rows = quality_rows(future)
    return future


def truth_of(scene: Scene, poses: FloatArray,
             own_actions: bool) -> tuple[list[dict[str, ByteArray]] | None, BoolArray | None]:
    """What the cameras recorded, or for a drawn log what they would have; valid (N, C)."""
    names = scene.context.rig.names
    if own_actions:
        clip = scene.future(len(poses))
        return [{n: clip.frames[n][t + 1] for n in names} for t in range(len(poses))], clip.frames_valid[1:]
    drawn = reference_frames(scene, poses)
    return drawn, None if drawn is None else np.ones((len(poses), len(names)), bool)


def quality_rows(future: Future) -> list[dict[str, Any]]:
    """One row a step and camera: PSNR of the generated image and of the last seen one, where the truth is known."""
    rows = []
    context, names = future.scene.context, future.scene.context.rig.names
    for i, step in enumerate(future.steps):
        for c, name in enumerate(names):
            row: dict[str, Any] = {
                "step": step.index, "time_s": step.index / context.rate_hz, "camera": name, "mode": future.mode,
                "speed_mps": float(future.actions[i, 0]), "curvature_inv_m": float(future.actions[i, 1]),
                "psnr_db": None, "copy_last_psnr_db": None}
            if future.truth is not None and future.truth_valid is not None and future.truth_valid[i, c]:
                row["psnr_db"] = psnr_db(step.frames[name], future.truth[i][name])
                if context.frames_valid[-1, c]:  # a missing last frame must not make copying look bad
                    row["copy_last_psnr_db"] = psnr_db(context.frames[name][-1], future.truth[i][name])
            rows.append(row)
    return rows


def horizon_table(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean over cameras per horizon."""
    out = []
    for time_s in dict.fromkeys(row["time_s"] for row in rows):
        known = [r for r in rows if r["time_s"] == time_s and r["copy_last_psnr_db"] is not None]
        if known:
            out.append({"time_s": time_s, "mode": known[0]["mode"],
                        "psnr_db": float(np.mean([r["psnr_db"] for r in known])),
                        "copy_last_psnr_db": float(np.mean([r["copy_last_psnr_db"] for r in known]))})
    return out


def future_sheet(future: Future) -> ByteArray:
    """Rows: truth, generated, layout at each second; all cameras side by side."""
    rows, labels = [], []
    rate = future.scene.context.rate_hz
    chosen = [i for i in range(len(future.steps)) if (i + 1) % max(1, round(rate)) == 0] or [len(future.steps) - 1]
    for i in chosen:
        step = future.steps[i]
        truth = future.truth[i] if future.truth else None
        kinds = [("truth", truth), (f"generated ({future.mode})", step.frames), ("layout", step.layout)]
        for name, frames in kinds:
            if frames is not None:
                rows.append([zoomed(one_row(frames))])
                labels.append(f"{(i + 1) / rate:g} s {name}")
    return contact_sheet(rows, labels)


def future_video(future: Future, path: Path) -> None:
    """All cameras at every step: truth above, generated, and the layout below; the past first."""
    context = future.scene.context
    images = []
    for t in range(len(context.timestamps_us)):
        past = {n: context.frames[n][t] for n in context.rig.names}
        images.append(_stack(past, past, {n: context.layout[n][t] for n in past} if context.layout else None, "seen"))
    for i, step in enumerate(future.steps):
        truth = future.truth[i] if future.truth else None
        images.append(_stack(truth, step.frames, step.layout, f"+{(i + 1) / context.rate_hz:g} s"))
    height, width = (max(im.shape[k] for im in images) for k in (0, 1))
    padded = [np.pad(im, ((0, height - im.shape[0]), (0, width - im.shape[1]), (0, 0))) for im in images]
    write_mp4(path, np.stack(padded), context.rate_hz)


def _stack(truth: Any, generated: Any, layout: Any, moment: str) -> ByteArray:
    parts = [(truth, "truth"), (generated, "generated"), (layout, "layout")]
    return np.concatenate([label(zoomed(one_row(frames)), f"{name} {moment}")
                           for frames, name in parts if frames is not None])


def write_future(run: RunFolder, future: Future) -> None:
    write_png(run.file("future.png"), future_sheet(future))
    future_video(future, run.file("future.mp4"))
    rate = future.scene.context.rate_hz
    for name in future.scene.context.rig.names:
        write_mp4(run.file(f"cameras/{name}.mp4"), np.stack([zoomed(s.frames[name]) for s in future.steps]), rate)
    write_arrays(run.file("actions.npz"), actions=future.actions, world_from_rig=future.poses,
                 timestamps_us=future.scene.now_us + np.arange(1, len(future.actions) + 1) * int(1e6 / rate),
                 agents=np.stack([s.agents for s in future.steps]),
                 agents_valid=np.stack([s.agents_valid for s in future.steps]))
    run.write_parquet("steps.parquet", future.rows)


def generate(source: str, out: Path, seed: int = 0, checkpoint: str = "tiny", log: str | None = None,
             start_s: float = 2.0, horizon_s: float = 4.0, actions: str = "log", mode: str = "given",
             cameras: list[str] | None = None, prompt: str | None = None, guidance: str | None = None,
             top_k: int = 0) -> Future:
    """The future of a moment of a log, in every camera, under the log's actions, a variant's or a planner's.

    guidance: as ``Guidance.parse`` reads it, None: off. top_k: as in ``Sampling``.
    """
    sampling = Sampling(top_k=top_k, guidance=Guidance.parse(guidance) if guidance is not None else Guidance())
    model = DriveWM.from_pretrained(checkpoint)
    drive = load_log(source, log)
    scene = open_scene(drive, model, start_s, cameras=cameras, layout=mode != "none")
    count = max(1, round(horizon_s * model.config.rate_hz))
    if actions in VARIANTS:
        chosen = action_variant(actions, scene, count)
    else:
        chosen = planned_actions(actions, scene, count, seed, checkpoint)
    with RunFolder(out, "generate", seed=seed) as run:
        future = imagine(model, scene, chosen, mode=mode, seed=seed, own_actions=actions == "log", sampling=sampling,
                         prompt=prompt)
        write_future(run, future)
        table = horizon_table(future.rows)
        sections: list[Any] = [
            report.KeyValues({"source": source, "log": drive.id, "licence": drive.licence, "start": f"{start_s:g} s",
                              "actions": actions, "layout": mode, "checkpoint": model.name,
                              "guidance": guidance or "off", "top k": top_k or "all"}),
            report.Video(run.path / "future.mp4", "truth, generated and layout"),
            report.Picture(run.path / "future.png", "every second"),
            report.Table(["time_s", "mode", "psnr_db", "copy_last_psnr_db"], [list(r.values()) for r in table],
                         MODE_NOTE)]
        report.write_report(run, "A generated future", sections, drive.id)
        run.finish({"log": drive.id, "actions": actions, "mode": mode, "checkpoint": model.name,
                    "steps": len(future.steps), "quality": table})
    return future


MODE_NOTE = ("PSNR over all cameras, beside copying the last frame seen. A given layout is knowledge of the future; an "
             "imagined one takes map and lights from the log and the agents from the model; none knows neither. "
             "Figures of different modes must not be compared.")


def planned_actions(planner: str, scene: Scene, count: int, seed: int, checkpoint: str) -> FloatArray:
    """The first ``count`` actions of a planner's trajectory; its last one is held after the trajectory's end."""
    made = plan_with(planner, scene, seed, checkpoint)
    times = np.concatenate([[0.0], made.trajectory.times_s])
    path = np.concatenate([np.zeros((1, 3)), made.trajectory.xyyaw])
    grid = np.arange(count + 1) / scene.context.rate_hz
    yaw = np.unwrap(path[:, 2])
    points = np.stack([np.interp(grid, times, column) for column in (path[:, 0], path[:, 1], yaw)], -1)
    actions = actions_from_xyyaw(points, grid)
    last = int(np.searchsorted(grid, times[-1] + 1e-6)) - 1
    actions[max(last, 1):] = actions[max(last, 1) - 1]
    return actions
