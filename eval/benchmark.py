"""``drive-wm benchmark``: how good and fast a checkpoint is, on starts that move, beside what copying would score."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from drive_wm.eval import report
from drive_wm.eval.run_folder import RunFolder
from drive_wm.model import DriveWM, Sampling
from drive_wm.render import Renderer, agents_at, signals_at
from drive_wm.scene import (
    Scene,
    action_variant,
    ego_poses,
    layout_source,
    open_scene,
    reference_frames,
)
from drive_wm.types import InputError
from drive_wm.use import MODES, front_camera, horizon_table, imagine, mean_psnr, psnr_db

ACTIONS = ("log", "brake", "accelerate", "left", "right")
MOVING_MPS = 2.0
START_S, HORIZON_S = 4.0, 4.0
Rows = list[dict[str, Any]]


def benchmark(source: str, out: Path, seed: int = 0, checkpoint: str = "tiny", starts: int = 24) -> dict[str, Rows]:
    """One start a log, at 4 s, where the ego moves; a log without one is left out and counted."""
    with RunFolder(out, "benchmark", seed=seed) as run:
        model = DriveWM.from_pretrained(checkpoint)
        scenes, left_out = moving_starts(source, model, starts)
        tables = {"speed": speed(model, scenes[0]), "tokenizer": tokenizer_quality(model, scenes),
                  "rollout": rollout_quality(model, scenes, seed), "action_told": action_told(model, scenes, seed)}
        sections: list[Any] = []
        for name, rows in tables.items():
            sections += [report.Heading(name.replace("_", " "), NOTES[name]),
                         report.Table(list(rows[0]), [list(r.values()) for r in rows])]
        report.write_report(run, f"Benchmark of {model.name}", sections,
                            f"{source}: {len(scenes)} starts, {left_out} left out")
        run.finish({"source": source, "checkpoint": model.name, "starts": len(scenes), "left_out_standing": left_out,
                    **tables})
    return tables


def moving_starts(source: str, model: DriveWM, starts: int) -> tuple[list[Scene], int]:
    """Up to ``starts`` scenes that move, and how many logs before the last of them do not."""
    from drive_wm.datasets.sources import open_source

    opened, scenes, left_out = open_source(source), list[Scene](), 0
    for log_id in opened.log_ids():
        if len(scenes) == starts:
            break
        scene = open_scene(opened.load(log_id), model, START_S)
        if scene.last_action[0] < MOVING_MPS:
            left_out += 1
        else:
            scenes.append(scene)
    if not scenes:
        raise InputError(f"{source}: no log moves at {START_S:g} s; nothing to measure")
    return scenes, left_out


NOTES = {
    "speed": "Wall seconds on this machine, median of three; threads as torch found them.",
    "tokenizer": "PSNR of what the tokens stand for, context frames of every start.",
    "rollout": "PSNR over all cameras under the log's actions. Modes differ in what they are told and must not be "
               "compared.",
    "action_told": "Share of rollouts nearer to the drawn truth of their own action than to that of the four others; "
                   "chance is 0.2."}


def speed(model: DriveWM, scene: Scene) -> Rows:
    renderer = Renderer(scene.log.map, scene.log.look, scene.log.signals)
    boxes, lights = agents_at(scene.log, scene.now_us), signals_at(scene.log, scene.now_us)
    rig = scene.context.rig
    rows: Rows = []
    for style in ("picture", "layout"):
        seconds = median_seconds(lambda: [renderer.draw(rig, scene.pose, boxes, lights, style=style)
                                          for _ in range(10)])
        rows.append({"what": f"render {style}, images a second", "value": 10 * len(rig.cameras) / seconds})
    stream = model.read(scene.context)
    layout = layout_source(scene, ego_poses(scene, scene.last_action[None]), agents_known=True)
    for name, sampling in (("4 passes", Sampling(passes=4)), ("6 passes", Sampling(passes=6)),
                           ("8 passes", Sampling(passes=8)), ("raster", Sampling(raster=True))):
        def step(sampling: Sampling = sampling) -> object:
            generator = torch.Generator().manual_seed(0)
            return model.advance(stream, scene.last_action, 1, generator, sampling, layout)

        repeats = 1 if sampling.raster else 3
        rows.append({"what": f"one step of {len(rig.cameras)} cameras, {name}, seconds",
                     "value": median_seconds(step, repeats)})
    rows.append({"what": "threads", "value": torch.get_num_threads()})
    return rows


def median_seconds(call: Callable[[], object], repeats: int = 3) -> float:
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return float(np.median(times))


def tokenizer_quality(model: DriveWM, scenes: list[Scene]) -> Rows:
    every: dict[str, list[float]] = {}
    used: set[int] = set()
    for scene in scenes:
        clip = scene.context
        for i, (name, ids) in enumerate(model.tokens(clip).items()):
            value = mean_psnr(model.decode_tokens(ids), clip.frames[name], clip.frames_valid[:, i])
            used |= set(np.unique(ids).tolist())
            if value is not None:
                every.setdefault("front camera" if name == front_camera(clip) else "other cameras", []).append(value)
    rows: Rows = [{"what": f"PSNR of {name}, dB", "value": float(np.mean(values))} for name, values in every.items()]
    together = [v for values in every.values() for v in values]
    rows.append({"what": "PSNR of all cameras, dB", "value": float(np.mean(together))})
    rows.append({"what": "share of the 4096 tokens used", "value": len(used) / model.config.tokenizer.fsq.vocabulary})
    return rows


def rollout_quality(model: DriveWM, scenes: list[Scene], seed: int) -> Rows:
    out: Rows = []
    for mode in MODES:
        rows: Rows = []
        for scene in scenes:
            count = round(HORIZON_S * model.config.rate_hz)
            rows += imagine(model, scene, action_variant("log", scene, count), mode=mode, seed=seed).rows
        out += [row for row in horizon_table(rows) if row["time_s"] in (0.5, 1.0, 2.0, 3.0, 4.0)]
    return out


def action_told(model: DriveWM, scenes: list[Scene], seed: int) -> Rows:
    """Only where the log's cameras are drawn, so that the truth of an action that was not taken exists."""
    hits: dict[tuple[str, float, str], list[bool]] = {}
    for scene in scenes:
        if not scene.log.frames.rendered:
            continue
        for mode in MODES:
            for key, hit in told_in(model, scene, mode, seed):
                hits.setdefault((mode, *key), []).append(hit)
    rows: Rows = []
    for mode, second in dict.fromkeys((m, s) for m, s, _ in hits):
        mine = {a: h for (m, s, a), h in hits.items() if (m, s) == (mode, second)}
        told = [hit for values in mine.values() for hit in values]
        rows.append({"mode": mode, "at_s": second, "told_of_five": float(np.mean(told)), "rollouts": len(told),
                     **{a: float(np.mean(h)) for a, h in mine.items()}})
    return rows or [{"mode": "not measured: recorded cameras"}]


def told_in(model: DriveWM, scene: Scene, mode: str, seed: int) -> Iterator[tuple[tuple[float, str], bool]]:
    count = round(3 * model.config.rate_hz)
    futures, truths = {}, {}
    for action in ACTIONS:
        chosen = action_variant(action, scene, count)
        futures[action] = imagine(model, scene, chosen, mode=mode, seed=seed, own_actions=False).steps
        truths[action] = reference_frames(scene, ego_poses(scene, chosen)) or []
    for second in (1.0, 3.0):
        i = round(second * model.config.rate_hz) - 1
        for action in ACTIONS:
            made = futures[action][i].frames
            scores = {b: np.mean([psnr_db(made[n], truths[b][i][n]) for n in made]) for b in ACTIONS}
            yield (second, action), max(scores, key=lambda b: scores[b]) == action


