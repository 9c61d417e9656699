"""`tokens` and `info`: a log as the model sees it, and what a checkpoint is."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import numpy as np

from drive_wm.eval import report
from drive_wm.eval.run_folder import RunFolder
from drive_wm.media import contact_sheet, write_png
from drive_wm.model import DriveWM, find_checkpoint
from drive_wm.scene import load_log
from drive_wm.types import InputError
from drive_wm.use.pictures import mean_psnr, one_row, write_arrays, zoomed


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
    with RunFolder(out, "tokens", seed=seed) as run:
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
        report.write_report(run, "Tokens", [
            report.Picture(run.path / "tokens.png", "truth and what the tokens stand for"),
            report.Table(list(quality[0]), [list(q.values()) for q in quality])], drive.id)
        run.finish({"log": drive.id, "checkpoint": model.name, "cameras": quality})
    return ids


def info(checkpoint: str = "tiny", cameras: int | None = None) -> dict[str, Any]:
    """What a checkpoint or a preset is and costs (see ``drive_wm.costs``), and what this machine offers.

    A preset that has no weights is never filled with numbers, so the largest costs nothing to ask for. cameras: of the
    rig that the costs are for; the preset's, six for another checkpoint. Raises InputError for a name of neither.
    """
    import torch

    from drive_wm import __version__
    from drive_wm.config import config_hash
    from drive_wm.costs import costs_of, figures
    from drive_wm.presets import GAIA1_NOTE, GAIA1_PAPER, PRESETS

    preset, folder = PRESETS.get(checkpoint), None
    try:
        folder = find_checkpoint(checkpoint)
    except InputError as error:
        if preset is None:
            raise InputError(f"{error}, or a preset ({', '.join(PRESETS)})") from None
    facts: dict[str, Any] = {"checkpoint": str(checkpoint)}
    if folder is not None:
        model = DriveWM.from_pretrained(folder)
        config = model.config
        size = sum(f.stat().st_size for f in folder.glob("*.safetensors"))
        facts |= {"name": model.name, "megabytes": round(size / 1e6, 1)}
    else:
        assert preset is not None
        config = preset.config()
        facts = {"preset": checkpoint}
    compared = checkpoint == "gaia1" and folder is None
    facts |= {"config": config_hash(config), "image": f"{config.height} x {config.width}", "rate_hz": config.rate_hz,
              "context_steps": config.context, "drive_wm": __version__, "torch": torch.__version__,
              "python": platform.python_version(),
              "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
              "threads": torch.get_num_threads(), **({"compared": GAIA1_NOTE} if compared else {})}
    costs = costs_of(config, cameras or (preset.cameras if preset is not None else 6))
    return {**facts, **figures(costs, GAIA1_PAPER if compared else None)}
