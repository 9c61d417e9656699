"""`drive-wm scaling`: how the loss falls with size, and whether that foretells a size that was not trained yet."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from drive_wm.eval import report
from drive_wm.eval.run_folder import RunFolder
from drive_wm.types import InputError

if TYPE_CHECKING:
    from drive_wm.training.scaling import Ladder, Size

SIZES = ("32x2", "64x3", "96x4", "128x5", "192x6")
OVER = {"training_flops": "operations of the training", "parameters": "parameters of the transformer"}
NOTE = ("loss = c + (x / a)^b through all sizes but the largest, whose loss was foretold before it was trained. low "
        "and high: the same with one of the others left out. by the last: the error of taking the largest fitted "
        "size's loss instead. Losses are cross-entropies in nats a digit of masked frame tokens on held-out windows, "
        "the same windows and masks for all sizes; every size read the same batches.")


def scaling(out: Path, sources: Sequence[str] = (), validation: Sequence[str] = (), checkpoint: str = "tiny",
            sizes: Sequence[str] = SIZES, steps: int = 300, windows: int = 64, seed: int = 0, run: str = "tiny_world",
            overrides: Mapping[str, str] | None = None, workers: int = 1, resume: bool = False) -> dict[str, Any]:
    """Trains the sizes, fits the law to all but the largest, foretells that one, then trains it too.

    checkpoint: whose tokenizer makes the tokens. sizes: WIDTHxLAYERS each, at least four. windows: of validation, at
    most. resume: sizes that are finished stay as they are, the others go on. Raises InputError.
    """
    from drive_wm.datasets.shards import READY, find_shards
    from drive_wm.datasets.sources import open_source
    from drive_wm.eval.world.command import claim_order
    from drive_wm.model import find_checkpoint
    from drive_wm.training.scaling import FEWEST, Ladder, Size, tokens_of

    sources, validation = tuple(sources) or ("town:0-99",), tuple(validation) or ("town:100000-100007",)
    rungs = sorted(dict.fromkeys(map(Size.parse, sizes)), key=lambda size: (size.width**2 * size.layers, size.width))
    if len(rungs) <= FEWEST:
        raise InputError(f"--size: got {len(rungs)} different sizes, expected at least {FEWEST + 1}: {FEWEST} for "
                         "the law, and one more that it foretells")
    if shared := set(sources) & set(validation):
        raise InputError(f"--validation {sorted(shared)[0]}: is trained on too; give drives that are held out")
    find_checkpoint(checkpoint)
    for source in (*sources, *validation):
        if source.startswith(READY):
            find_shards(source.removeprefix(READY))
        else:
            open_source(source).log_ids()
    # Without the tokens' places, which are known when they are made; a wrong name or override ends here.
    planned = Ladder(run, checkpoint, (), (), steps, windows, seed, overrides or {})
    config = planned.config(rungs[0])
    with RunFolder(out, "scaling", seed=seed, resume=resume) as folder:
        claim_order(folder, {"sizes": [r.name for r in rungs], "sources": sources, "validation": validation,
                             "checkpoint": checkpoint, "steps": steps, "windows": windows, "seed": seed, "run": run,
                             "overrides": planned.overrides}, resume)
        folder.keep = True  # what is packed or trained from here on stays, to be resumed
        try:
            training, held_out = (tokens_of(given, folder.path / "shards", checkpoint, config, workers)
                                  for given in (sources, validation))
            ladder = replace(planned, training=training, validation=held_out)
            rows = [rung(ladder, size, folder) for size in rungs[:-1]]
            said = foretold(rows, ladder, rungs[-1], folder)
            rows.append(rung(ladder, rungs[-1], folder))
        finally:
            claim(folder)
        return write(folder, rows, said, checkpoint, sources, validation)


def claim(folder: RunFolder) -> None:
    """What training and packing wrote belongs to the run as well."""
    files = [path.relative_to(folder.path) for path in folder.path.rglob("*") if path.is_file()]
    folder.expect(sorted(file.as_posix() for file in files if file.as_posix() != "summary.json"))


def rung(ladder: Ladder, size: Size, folder: RunFolder) -> dict[str, Any]:
    """A size's row: read where it is finished, else trained."""
    done = folder.path / f"rungs/{size.name}/rung.json"
    if not done.is_file():
        print(f"size {size.name}", flush=True)
        folder.write_json(f"rungs/{size.name}/rung.json", ladder.climb(size, done.parent))
    row: dict[str, Any] = json.loads(done.read_text(encoding="utf-8"))
    return row


def foretold(rows: Sequence[Mapping[str, Any]], ladder: Ladder, size: Size, folder: RunFolder) -> list[dict[str, Any]]:
    """prediction.json: the law over each measure of size, and what it says of the next; written once, before that."""
    from drive_wm.training.scaling import FEWEST, fit_power_law

    path = folder.path / "prediction.json"
    if not path.is_file():
        ahead, said = ladder.foreseen(size), []
        loss = [row["loss_nats"] for row in rows]
        for name in OVER:
            x = [row[name] for row in rows]
            law = fit_power_law(x, loss)
            others = [fit_power_law(x[:i] + x[i + 1:], loss[:i] + loss[i + 1:])(ahead[name])
                      for i in range(len(x)) if len(x) > FEWEST]
            said.append({"over": name, "c": law.c, "a": law.a, "b": law.b, "x": ahead[name],
                         "predicted": law(ahead[name]), "low": min(others, default=None),
                         "high": max(others, default=None)})
        folder.write_json("prediction.json", {"size": size.name, "laws": said})
    laws: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["laws"]
    return laws


def write(folder: RunFolder, rows: list[dict[str, Any]], said: list[dict[str, Any]], checkpoint: str,
          sources: Sequence[str], validation: Sequence[str]) -> dict[str, Any]:
    """scaling.json, rungs.parquet, report.html and the summary."""
    truth, last = rows[-1]["loss_nats"], rows[-2]["loss_nats"]
    laws = [{**law, "truth": truth, "error_percent": 100 * (law["predicted"] - truth) / truth,
             "by_the_last_percent": 100 * (last - truth) / truth} for law in said]
    results = {"checkpoint": checkpoint, "sources": list(sources), "validation": list(validation),
               "held_out": rows[-1]["size"], "sizes": rows, "laws": laws}
    folder.write_json("scaling.json", results)
    folder.write_parquet("rungs.parquet", rows)
    sections: list[Any] = [
        report.KeyValues({key: value for key, value in results.items() if key not in ("sizes", "laws")}),
        report.Heading("Foretold and found", NOTE), table(laws), *(curve(rows, law) for law in laws),
        report.Heading("Sizes", "Operations: 6 N a position and attention, see drive_wm/costs.py."), table(rows)]
    report.write_report(folder, "Scaling", sections, "Does size pay, and can it be foretold?")
    folder.finish(results)
    return results


def table(rows: Sequence[Mapping[str, Any]]) -> report.Table:
    return report.Table(list(rows[0]), [list(row.values()) for row in rows])


def curve(rows: Sequence[Mapping[str, Any]], law: Mapping[str, Any]) -> report.Chart:
    """What was measured, and the law from the smallest size to the one it foretells."""
    from drive_wm.training.scaling import PowerLaw

    x = np.array([row[law["over"]] for row in rows])
    line, law_of = np.geomspace(x.min(), x.max(), 60), PowerLaw(law["a"], law["b"], law["c"])
    series = {"law of all but the last": np.array([[math.log10(v), law_of(v)] for v in line]),
              "measured": np.stack([np.log10(x), [row["loss_nats"] for row in rows]], -1)}
    return report.Chart(series, f"log10 of the {OVER[law['over']]}", "nats a digit",
                        f"Loss on held-out windows over {OVER[law['over']]}.")
