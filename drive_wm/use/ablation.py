"""`drive-wm ablation`: what each choice of a training is worth, one change at a time, at the same number of steps."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from drive_wm.config import parse_overrides
from drive_wm.eval import report
from drive_wm.eval.run_folder import RunFolder
from drive_wm.eval.statistics import paired
from drive_wm.types import InputError
from drive_wm.use.scaling import claim, table

if TYPE_CHECKING:
    from drive_wm.model import DriveWM
    from drive_wm.scene import Scene
    from drive_wm.training.scaling import Ladder, Size

AS_IT_IS = "as it is"
CHANGES = ("latent prediction: model.latent=true", "AdamW for all: optimizer.muon_lr=0",
           "context without noise: objective.noise_max=0", "only last steps masked: objective.alternate=0",
           "agents not learned: objective.agent_weight=0", "layout never dropped: objective.drop_layout=0")
SECONDS = (1.0, 3.0)
NOTE = ("loss: cross-entropy in nats a digit of masked frame tokens on held-out windows, the same windows and masks "
        "for all. PSNR in dB of futures under the log's actions, mean over starts, without a picture decoder; modes "
        "know different things and must not be compared. One seed each: what lies within twice the standard error, or "
        "whose interval holds 0, is no difference.")


def ablation(out: Path, sources: Sequence[str] = (), validation: Sequence[str] = (),
             starts_of: str = "town:100010-100049", checkpoint: str = "tiny", changes: Sequence[str] = (),
             size: str = "", steps: int = 300, windows: int = 64, starts: int = 8, seed: int = 0,
             run: str = "tiny_world", overrides: Mapping[str, str] | None = None, workers: int = 1,
             resume: bool = False) -> dict[str, Any]:
    """Trains the run as it is and with each change, measures all on the same held-out windows and starts.

    changes: "NAME: key=value, key=value" each. size: WIDTHxLAYERS; empty takes the run's. starts: of ``starts_of``,
    where the ego moves. resume: what is finished stays, the rest goes on. Raises InputError.
    """
    from drive_wm.config import find_run, override
    from drive_wm.datasets.sources import open_source
    from drive_wm.eval.benchmark import moving_starts
    from drive_wm.eval.world.command import claim_order
    from drive_wm.model import DriveWM, find_checkpoint
    from drive_wm.training.scaling import Ladder, Size, tokens_of

    sources, validation = tuple(sources) or ("town:0-99",), tuple(validation) or ("town:100000-100007",)
    if shared := set(sources) & {*validation, starts_of}:
        raise InputError(f"{sorted(shared)[0]}: is trained on too; give drives that are held out")
    variants = {AS_IT_IS: {}, **dict(map(parsed, changes or CHANGES))}
    find_checkpoint(checkpoint)
    open_source(starts_of).log_ids()
    planned = Ladder(run, checkpoint, (), (), steps, windows, seed, overrides or {})
    planned.config(Size(32, 1))  # a run of another kind, or a wrong name, ends here
    own = override(find_run(run)(), planned.overrides).model.transformer
    shape = Size.parse(size) if size else Size(own.width, own.layers)
    ladders = {name: replace(planned, overrides={**planned.overrides, **change}) for name, change in variants.items()}
    configs = [ladder.config(shape) for ladder in ladders.values()]
    with RunFolder(out, "ablation", seed=seed, resume=resume) as folder:
        claim_order(folder, {"changes": variants, "sources": sources, "validation": validation, "starts_of": starts_of,
                             "checkpoint": checkpoint, "size": shape.name, "steps": steps, "windows": windows,
                             "starts": starts, "seed": seed, "run": run, "overrides": planned.overrides}, resume)
        folder.keep = True  # what is packed or trained from here on stays, to be resumed
        try:
            training, held_out = (tokens_of(given, folder.path / "shards", checkpoint, configs[0], workers)
                                  for given in (sources, validation))
            scenes, _ = moving_starts(starts_of, DriveWM.from_pretrained(checkpoint), starts)
            rows = [trial(name, replace(ladder, training=training, validation=held_out), shape, scenes, folder, i)
                    for i, (name, ladder) in enumerate(ladders.items())]
        finally:
            claim(folder)
        return write(folder, rows, {"checkpoint": checkpoint, "sources": list(sources), "validation": list(validation),
                                    "starts": [scene.log.id for scene in scenes], "size": shape.name, "steps": steps})


def parsed(change: str) -> tuple[str, dict[str, str]]:
    """'NAME: key=value, key=value' -> name and overrides; raises InputError for another form."""
    name, colon, pairs = change.partition(":")
    if not colon or not name.strip() or not pairs.strip() or name.strip() == AS_IT_IS:
        raise InputError(f"--change {change!r}: expected 'NAME: KEY=VALUE, ...', for example {CHANGES[0]!r}")
    return name.strip(), parse_overrides(pair.strip() for pair in pairs.split(","))


def trial(name: str, ladder: Ladder, size: Size, scenes: list[Scene], folder: RunFolder, number: int) -> dict[str, Any]:
    """One variant's row: read where it is finished, else trained and measured."""
    from drive_wm.model import DriveWM

    done = folder.path / f"trials/{number:02d}/trial.json"
    if not done.is_file():
        print(f"trial {number}: {name}", flush=True)
        row = ladder.climb(size, done.parent)
        model = DriveWM.from_pretrained(done.parent / "checkpoint")
        kept = {key: row[key] for key in ("loss_nats", "standard_error", "minutes")}
        folder.write_json(f"trials/{number:02d}/trial.json", {"change": name, **kept,
                                                              "starts": rolled_out(model, scenes, ladder.seed)})
    found: dict[str, Any] = json.loads(done.read_text(encoding="utf-8"))
    return found


def rolled_out(model: DriveWM, scenes: list[Scene], seed: int) -> list[dict[str, float]]:
    """PSNR of each start's futures: {"given 1 s": dB, ..., "copy last 3 s": dB}."""
    from drive_wm.scene import action_variant
    from drive_wm.use import MODES, horizon_table, imagine

    out = []
    for scene in scenes:
        row: dict[str, float] = {}
        actions = action_variant("log", scene, round(max(SECONDS) * model.config.rate_hz))
        for mode in MODES:
            for at in horizon_table(imagine(model, scene, actions, mode=mode, seed=seed).rows):
                if at["time_s"] in SECONDS:
                    row[f"{mode} {at['time_s']:g} s"] = at["psnr_db"]
                    row[f"copy last {at['time_s']:g} s"] = at["copy_last_psnr_db"]
        out.append(row)
    return out


def write(folder: RunFolder, rows: list[dict[str, Any]], order: Mapping[str, Any]) -> dict[str, Any]:
    """ablation.json, report.html and the summary; differences are paired over starts."""
    names = list(rows[0]["starts"][0])
    values = {row["change"]: {name: [start[name] for start in row["starts"]] for name in names} for row in rows}
    measured = [{"change": row["change"], "loss_nats": row["loss_nats"], "standard_error": row["standard_error"],
                 **{name: float(np.mean(values[row["change"]][name])) for name in names}, "minutes": row["minutes"]}
                for row in rows]
    gaps = []
    for row in rows[1:]:
        found = {name: paired(values[row["change"]][name], values[AS_IT_IS][name])
                 for name in names if not name.startswith("copy")}
        gaps.append({"change": row["change"], "loss_nats": row["loss_nats"] - rows[0]["loss_nats"],
                     **{name: f"{gap.difference:+.2f} ({gap.low:+.2f} to {gap.high:+.2f})"
                        for name, gap in found.items()}})
    results = {**order, "trials": measured, "differences": gaps}
    folder.write_json("ablation.json", results)
    sections: list[Any] = [report.KeyValues(order), report.Heading("Measured", NOTE), table(measured)]
    sections += [report.Heading(f"Against {AS_IT_IS}"), table(gaps)] if gaps else []
    report.write_report(folder, "Ablation", sections, "What is each choice worth?")
    folder.finish(results)
    return results
