"""`demo`: everything on one generated drive, in one report."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from drive_wm.eval import report
from drive_wm.eval.run_folder import RunFolder
from drive_wm.model import DriveWM
from drive_wm.scene import action_variant, load_log, open_scene
from drive_wm.use.answers import explanation_picture, plan_pictures, plan_with
from drive_wm.use.future import MODE_NOTE, MODES, horizon_table, imagine, write_future

DEMO_PLANNERS = ("stationary", "constant_velocity", "log_replay", "idm", "direct")


def demo(out: Path, seed: int = 0, checkpoint: str = "tiny") -> dict[str, Any]:
    """All of it on a generated drive that the model never saw: future, plan, explanation, closed loop, one report."""
    from drive_wm.eval.command import drive_table

    clock = Clock()
    model = DriveWM.from_pretrained(checkpoint)
    log_id = f"town-{110_000 + seed:06d}"
    drive = load_log(f"town:{110_000 + seed}", log_id)
    clock.lap("load the model, generate the drive")
    with RunFolder(out, "demo", seed=seed) as run:
        scene = open_scene(drive, model, 4.0)
        actions = action_variant("log", scene, 8)
        futures = [imagine(model, scene, actions, mode=mode, seed=seed) for mode in MODES]
        write_future(run, futures[0])
        clock.lap("generate 4 s of six cameras, three modes")
        made = plan_with("direct", scene, seed, checkpoint)
        camera, above = plan_pictures(scene, made)
        clock.lap("plan")
        said = model.explain(scene, seed=seed)
        clock.lap("explain")
        table = drive_table(run, [drive], list(DEMO_PLANNERS), ["layout"], seed=seed, checkpoint=checkpoint,
                            duration_s=8.0)
        clock.lap("closed loop, five planners, 8 s each")
        quality = [row for future in futures for row in horizon_table(future.rows)
                   if row["time_s"] in (0.5, 1.0, 2.0, 4.0)]
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
            report.Heading("Five planners in the closed loop",
                           "Log replay is an oracle: it knows the recorded future."),
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
