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
