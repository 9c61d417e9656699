"""What the commands do, callable from Python too: each reads a source, asks the model and fills a run folder."""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from drive_wm.datasets.sources import open_source
from drive_wm.eval import report
from drive_wm.eval.run_folder import RunFolder
from drive_wm.geometry import compose_xyyaw, relative_xyyaw, xyyaw_from_pose
from drive_wm.media import (
    contact_sheet,
    draw_boxes_in_camera,
    draw_topdown,
    draw_trajectory_in_camera,
    label,
    tile_cameras,
    write_mp4,
    write_png,
)
from drive_wm.model import DriveWM, GeneratedStep, Sampling, find_checkpoint
from drive_wm.render import agents_at, signals_at
from drive_wm.scene import (
    VARIANTS,
    Scene,
    action_variant,
    ego_poses,
    known_agents,
    layout_source,
    observation_of,
    open_scene,
    reference_frames,
)
from drive_wm.types import BoolArray, ByteArray, Clip, Explanation, FloatArray, InputError, Log, Plan

MODES = ("given", "imagined", "none")
ZOOM = 2  # of small frames in pictures


def load_log(source: str, log: str | None) -> Log:
    """The log named, or the source's first."""
    opened = open_source(source)
    ids = opened.log_ids()
    if not ids:
        raise InputError(f"source {source}: holds no drive")
    return opened.load(log if log is not None else ids[0])


def psnr_db(a: ByteArray, b: ByteArray) -> float:
    """-10 log10 of the mean squared error of two images of equal shape, in units of full scale."""
    return float(-10 * np.log10(max(np.mean((a.astype(np.float64) - b) ** 2) / 255.0**2, 1e-10)))


# --- generate -----------------------------------------------------------------------------------------------------


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


def zoomed(image: ByteArray) -> ByteArray:
    return np.kron(image, np.ones((ZOOM, ZOOM, 1), np.uint8)) if image.shape[0] < 200 else image


def one_row(frames: Any) -> ByteArray:
    return tile_cameras(frames, rows=1)


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


def write_arrays(path: Path, **arrays: Any) -> None:
    from drive_wm.eval.run_folder import replacing

    with replacing(path) as temporary, temporary.open("wb") as f:
        np.savez(f, **arrays)


def generate(source: str, out: Path, seed: int = 0, checkpoint: str = "tiny", log: str | None = None,
             start_s: float = 2.0, horizon_s: float = 4.0, actions: str = "log", mode: str = "given",
             cameras: list[str] | None = None, prompt: str | None = None) -> Future:
    """The future of a moment of a log, in every camera, under the log's actions, a variant's or a planner's."""
    model = DriveWM.from_pretrained(checkpoint)
    drive = load_log(source, log)
    scene = open_scene(drive, model, start_s, cameras=cameras, layout=mode != "none")
    count = max(1, round(horizon_s * model.config.rate_hz))
    if actions in VARIANTS:
        chosen = action_variant(actions, scene, count)
    else:
        chosen = planned_actions(actions, scene, count, seed, checkpoint)
    run = RunFolder(out, "generate", seed=seed)
    future = imagine(model, scene, chosen, mode=mode, seed=seed, own_actions=actions == "log", prompt=prompt)
    write_future(run, future)
    table = horizon_table(future.rows)
    sections: list[Any] = [
        report.KeyValues({"source": source, "log": drive.id, "licence": drive.licence, "start": f"{start_s:g} s",
                          "actions": actions, "layout": mode, "checkpoint": model.name}),
        report.Video(run.path / "future.mp4", "truth, generated and layout"),
        report.Picture(run.path / "future.png", "every second"),
        report.Table(["time_s", "mode", "psnr_db", "copy_last_psnr_db"], [list(r.values()) for r in table], MODE_NOTE)]
    report.write_report(run, "A generated future", sections, drive.id)
    run.finish({"log": drive.id, "actions": actions, "mode": mode, "checkpoint": model.name, "steps": len(future.steps),
                "quality": table})
    return future


MODE_NOTE = ("PSNR over all cameras, beside copying the last frame seen. A given layout is knowledge of the future; an "
             "imagined one takes map and lights from the log and the agents from the model; none knows neither. "
             "Figures of different modes must not be compared.")


def planned_actions(planner: str, scene: Scene, count: int, seed: int, checkpoint: str) -> FloatArray:
    """The first ``count`` actions of a planner's trajectory; its last one is held after the trajectory's end."""
    from drive_wm.geometry import actions_from_xyyaw

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


# --- plan and explain ---------------------------------------------------------------------------------------------


def plan_with(planner: str, scene: Scene, seed: int, checkpoint: str) -> Plan:
    """Asks a planner once; an oracle is given the log. Raises InputError where the answer is no plan."""
    from drive_wm.planners.base import check_plan
    from drive_wm.planners.registry import make_planner

    made = make_planner(planner, **({"checkpoint": checkpoint} if planner == "direct" else {}))
    made.reset(seed, scene.log if made.oracle else None)
    return check_plan(made.plan(observation_of(scene, made.requires)))


def front_camera(clip: Clip) -> str:
    """The camera that looks most forward."""
    return max(clip.rig.cameras, key=lambda c: float(c.rig_from_camera[0, 2])).name


def plan_pictures(scene: Scene, made: Plan) -> tuple[ByteArray, ByteArray]:
    """The plan on the ground of the front camera at the recorded size, and from above beside the log's own path."""
    name = front_camera(scene.context)
    camera = scene.log.rig.camera(name)
    width = max(480, camera.width) if camera.width < 480 else min(camera.width, 960)
    camera = camera.resized(width, round(camera.height * width / camera.width))
    image = full_image(scene, name, camera.width, camera.height)
    world = compose_xyyaw(xyyaw_from_pose(scene.pose), made.trajectory.xyyaw)
    ego, end_us = scene.log.ego, scene.now_us + int(made.trajectory.times_s[-1] * 1e6)
    within = (ego.timestamps_us > scene.now_us) & (ego.timestamps_us <= end_us) & ego.valid
    logged = xyyaw_from_pose(ego.world_from_body[within])
    paths = [("plan", world, (60, 220, 120))] + ([("log", logged, (255, 170, 60))] if len(logged) else [])
    above = draw_topdown(scene.log.map, paths, agents_at(scene.log, scene.now_us), scene.pose, size_px=480,
                         signals=scene.log.signals, signal_states=signals_at(scene.log, scene.now_us))
    return draw_trajectory_in_camera(image, camera, made.trajectory.xyyaw), above


def full_image(scene: Scene, camera: str, width: int, height: int) -> ByteArray:
    """The image of now at a viewing size: the log's own frame, or black where the model saw none."""
    import cv2

    image = scene.context.frames[camera][-1]
    if scene.context.frames_valid[-1, scene.context.rig.names.index(camera)]:
        times = scene.log.frames.timestamps_us(camera)
        image = scene.log.frames.read(camera, int(times[np.argmin(np.abs(times - scene.now_us))]))
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def plan_errors(scene: Scene, made: Plan) -> dict[str, float]:
    """Distance [m] to the log's own positions at 1, 2, 3 s, where it has them."""
    out: dict[str, float] = {}
    for second in (1, 2, 3):
        future = scene.future(int(second * scene.context.rate_hz))
        at = np.flatnonzero(np.isclose(made.trajectory.times_s, second))
        if len(at) and future.ego_valid[-1]:
            truth = relative_xyyaw(xyyaw_from_pose(scene.pose), xyyaw_from_pose(future.ego[-1]))
            out[f"l2_{second}s_m"] = float(np.linalg.norm(truth[:2] - made.trajectory.xyyaw[at[0], :2]))
    return out


def plan(source: str, out: Path, seed: int = 0, checkpoint: str = "tiny", log: str | None = None,
         start_s: float = 2.0, planner: str = "direct") -> Plan:
    """Where the ego would go from a moment of a log, in its front camera and from above."""
    model = DriveWM.from_pretrained(checkpoint)
    drive = load_log(source, log)
    scene = open_scene(drive, model, start_s)
    made = plan_with(planner, scene, seed, checkpoint)
    run = RunFolder(out, "plan", seed=seed)
    camera, above = plan_pictures(scene, made)
    write_png(run.file("plan_camera.png"), camera)
    write_png(run.file("plan_topdown.png"), above)
    rows = [{"time_s": float(t), "x_m": float(p[0]), "y_m": float(p[1]), "yaw_rad": float(p[2])}
            for t, p in zip(made.trajectory.times_s, made.trajectory.xyyaw)]
    run.write_parquet("plan.parquet", rows)
    errors = plan_errors(scene, made)
    report.write_report(run, "A plan", [
        report.KeyValues({"source": source, "log": drive.id, "start": f"{start_s:g} s", "planner": planner, **errors}),
        report.Row([report.Picture(camera, "the plan on the ground, front camera"),
                    report.Picture(above, "from above")]),
        report.Table(list(rows[0]), [list(r.values()) for r in rows])], drive.id)
    run.finish({"log": drive.id, "planner": planner, **errors, "plan": rows})
    return made


def explanation_picture(scene: Scene, made: Explanation) -> ByteArray:
    """All cameras of now, with the boxes of the agents that the causes point to."""
    boxes = agents_at(scene.log, scene.now_us)
    named = {c.agent_id: c.kind for c in made.causes if c.agent_id}
    chosen = [i for i, name in enumerate(boxes.ids) if name in named]
    images = {}
    for camera in scene.log.rig.cameras:
        small = camera.resized(336, round(336 * camera.height / camera.width))
        if camera.name in scene.context.frames:
            image = full_image(scene, camera.name, small.width, small.height)
            images[camera.name] = draw_boxes_in_camera(image, small, scene.pose, boxes.select(chosen),
                                                       [named[boxes.ids[i]] for i in chosen])
    return tile_cameras(images)


def explain(source: str, out: Path, seed: int = 0, checkpoint: str = "tiny", log: str | None = None,
            start_s: float = 2.0, question: str | None = None) -> Explanation:
    """What the model decides at a moment of a log and the causes that it gives."""
    model = DriveWM.from_pretrained(checkpoint)
    drive = load_log(source, log)
    scene = open_scene(drive, model, start_s)
    made = model.explain(scene.context, question or "Why are you doing this?", scene.route, seed=seed)
    run = RunFolder(out, "explain", seed=seed)
    picture = explanation_picture(scene, made)
    write_png(run.file("explanation.png"), picture)
    about = {"source": source, "log": drive.id, "start": f"{start_s:g} s", "checkpoint": model.name}
    sections: list[Any] = [report.KeyValues(about), report.Explanation.of(made),
                           report.Picture(picture, "what the causes point to")]
    driver = driver_reason(scene)
    if driver is not None:
        sections += [report.Heading("What the driver of the log gave as the reason"), report.Explanation.of(driver)]
    report.write_report(run, "An explanation", sections, drive.id)
    run.finish({"log": drive.id, "question": made.question, "decision": f"{made.longitudinal}, {made.lateral}",
                "causes": [report.say_cause(c) for c in made.causes], "text": made.text})
    return made


def driver_reason(scene: Scene) -> Explanation | None:
    return scene.context.reasons[-1] if scene.context.reasons else None


# --- tokens, info -------------------------------------------------------------------------------------------------


def tokens(source: str, out: Path, seed: int = 0, checkpoint: str = "tiny", log: str | None = None) -> dict[str, Any]:
    """A log as the model sees it: token ids of every frame (NPZ), and truth beside reconstruction."""
    from drive_wm.datasets.clips import make_clip

    model = DriveWM.from_pretrained(checkpoint)
    drive = load_log(source, log)
    rate = model.config.rate_hz
    steps = max(1, int((drive.end_us - drive.start_us) * rate / 1e6) + 1)
    clip = make_clip(drive, drive.start_us, steps, rate, rig=model.rig_for(drive.rig))
    ids = model.tokens(clip)
    made = {name: model.decode_tokens(value) for name, value in ids.items()}
    run = RunFolder(out, "tokens", seed=seed)
    write_arrays(run.file("tokens.npz"), timestamps_us=clip.timestamps_us, frames_valid=clip.frames_valid, **ids)
    rows, labels = [], []
    for t in np.unique(np.linspace(0, steps - 1, 6).astype(int)):
        for name, images in (("truth", clip.frames), ("tokens", made)):
            rows.append([zoomed(one_row({n: images[n][t] for n in clip.rig.names}))])
            labels.append(f"{t / rate:g} s {name}")
    write_png(run.file("tokens.png"), contact_sheet(rows, labels))
    quality = [{"camera": n, "psnr_db": mean_psnr(made[n], clip.frames[n], clip.frames_valid[:, i]),
                "frames": int(clip.frames_valid[:, i].sum()), "tokens_a_frame": int(np.prod(ids[n].shape[1:])),
                "used": len(np.unique(ids[n]))} for i, n in enumerate(clip.rig.names)]
    report.write_report(run, "Tokens", [report.Picture(run.path / "tokens.png", "truth and what the tokens stand for"),
                                        report.Table(list(quality[0]), [list(q.values()) for q in quality])], drive.id)
    run.finish({"log": drive.id, "checkpoint": model.name, "cameras": quality})
    return ids


def mean_psnr(a: ByteArray, b: ByteArray, valid: BoolArray) -> float | None:
    return float(np.mean([psnr_db(x, y) for x, y in zip(a[valid], b[valid])])) if valid.any() else None


def info(checkpoint: str = "tiny") -> dict[str, Any]:
    """What a checkpoint is, and what this machine offers."""
    import torch

    from drive_wm import __version__
    from drive_wm.config import config_hash

    model = DriveWM.from_pretrained(checkpoint)
    world, config = model.world, model.config
    weights = find_checkpoint(checkpoint).glob("*.safetensors")
    return {"checkpoint": str(checkpoint), "name": model.name, "config": config_hash(config),
            "tokenizer_parameters": sum(p.numel() for p in model.tokenizer.parameters()),
            "world_parameters": sum(p.numel() for p in world.parameters()),
            "megabytes": round(sum(f.stat().st_size for f in weights) / 1e6, 1),
            "image": f"{config.height} x {config.width}", "rate_hz": config.rate_hz, "context_steps": config.context,
            "tokens_a_position": config.tokenizer.fsq.codes, "token_values": config.tokenizer.fsq.vocabulary,
            "transformer": f"{config.world.transformer.layers} layers, {config.world.transformer.width} wide",
            "drive_wm": __version__, "torch": torch.__version__, "python": platform.python_version(),
            "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
            "threads": torch.get_num_threads()}


# --- demo ---------------------------------------------------------------------------------------------------------

DEMO_PLANNERS = ("stationary", "constant_velocity", "log_replay", "idm", "direct")


def demo(out: Path, seed: int = 0, checkpoint: str = "tiny") -> dict[str, Any]:
    """All of it on a generated drive that the model never saw: future, plan, explanation, closed loop, one report."""
    from drive_wm.eval.command import drive_table

    clock = Clock()
    model = DriveWM.from_pretrained(checkpoint)
    log_id = f"town-{110_000 + seed:06d}"
    drive = load_log(f"town:{110_000 + seed}", log_id)
    clock.lap("load the model, generate the drive")
    run = RunFolder(out, "demo", seed=seed)
    scene = open_scene(drive, model, 4.0)
    actions = action_variant("log", scene, 8)
    futures = [imagine(model, scene, actions, mode=mode, seed=seed) for mode in MODES]
    write_future(run, futures[0])
    clock.lap("generate 4 s of six cameras, three modes")
    made = plan_with("direct", scene, seed, checkpoint)
    camera, above = plan_pictures(scene, made)
    clock.lap("plan")
    said = model.explain(scene.context, "Why are you doing this?", scene.route, seed=seed)
    clock.lap("explain")
    table = drive_table(run, [drive], list(DEMO_PLANNERS), ["layout"], seed=seed, checkpoint=checkpoint, duration_s=8.0)
    clock.lap("closed loop, five planners, 8 s each")
    quality = [row for future in futures for row in horizon_table(future.rows) if row["time_s"] in (0.5, 1.0, 2.0, 4.0)]
    sections: list[Any] = [
        report.Heading("A generated future",
                       "Six cameras, 4 s ahead: the truth, what the model generated, and the layout it was given."),
        report.Video(run.path / "future.mp4", f"{drive.id}, layout given"),
        report.Picture(run.path / "future.png", "every second"),
        report.Table(["time_s", "mode", "psnr_db", "copy_last_psnr_db"], [list(r.values()) for r in quality],
                     MODE_NOTE),
        report.Heading("The plan",
                       "Eight actions of half a second each, the very tokens that the world model is driven by."),
        report.Row([report.Picture(camera, "in the front camera"),
                    report.Picture(above, "from above, beside what the log did")]),
        report.Heading("Why"), report.Explanation.of(said),
        report.Picture(explanation_picture(scene, said), "what the causes point to"),
        report.Heading("Five planners in the closed loop", "Log replay is an oracle: it knows the recorded future."),
        *table.sections,
        report.Heading("How long it took"), report.Table(["part", "seconds"], [list(lap) for lap in clock.laps])]
    report.write_report(run, "drive_wm: one drive, end to end", sections, f"{drive.id}, checkpoint {model.name}")
    results = {"log": drive.id, "checkpoint": model.name, "explanation": said.text, "quality": quality,
               "planners": table.rows,
               "seconds": [{"part": part, "seconds": seconds} for part, seconds in clock.laps]}
    run.finish(results)
    return results


class Clock:
    """Seconds of each part."""

    def __init__(self) -> None:
        self.last = time.perf_counter()
        self.laps: list[tuple[str, float]] = []

    def lap(self, part: str) -> None:
        now = time.perf_counter()
        self.laps.append((part, round(now - self.last, 2)))
        self.last = now
