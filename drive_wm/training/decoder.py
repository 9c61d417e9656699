"""Teaches the picture decoder of a checkpoint, whose tokenizer stays as it is; the world model is not needed for it.

Its samples are made as generation makes its inputs: the tokens of a picture, some of them wrong; the picture before,
fresh, or as its tokens show it, or carried there itself; the layout, drawn or not.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from drive_wm.datasets.clips import draw_clip
from drive_wm.datasets.shards import ShardSpec, clips_of, ego_moves
from drive_wm.decoder.model import DecoderConfig, PictureDecoder
from drive_wm.model import DriveWM
from drive_wm.reproject import Drawn, Reprojector
from drive_wm.tokenizer.model import psnr, reconstruction_loss
from drive_wm.training.optimizer import OptimizerConfig, make_optimizer, schedule
from drive_wm.training.tokens import TokenizerCodec
from drive_wm.types import ByteArray, Clip, InputError, Log
from drive_wm.world.inputs import pixels_of


@dataclass(frozen=True)
class DecoderRun:
    """sources: drives to learn from. check: held-out ones. wrong: up to this share of a picture's tokens is replaced.

    carried_from: shares of fresh, tokenized and twice carried pictures. drop_layout: share without a layout.
    """

    name: str = "decoder"
    model: DecoderConfig = DecoderConfig()
    sources: tuple[str, ...] = ("town:0-199",)
    check: tuple[str, ...] = ("town:100000-100009",)
    spec: ShardSpec = ShardSpec(end_s=6.0)
    optimizer: OptimizerConfig = OptimizerConfig(lr=1e-3, warmup=40)
    steps: int = 1200
    batch: int = 48
    wrong: float = 0.2
    carried_from: tuple[float, float, float] = (0.5, 0.3, 0.2)
    drop_layout: float = 0.35


@dataclass(frozen=True)
class Samples:
    """N images of one size: truth, layout (N, H, W, 3), carried (N, 2, H, W, 3) without and with the drawn depth.

    digits: (N, h, w, D). known: (N,) whether a layout was drawn.
    """

    truth: ByteArray
    digits: ByteArray
    carried: ByteArray
    layout: ByteArray
    known: np.ndarray[Any, np.dtype[np.bool_]]

    def __len__(self) -> int:
        return len(self.truth)


def draw_samples(logs: Iterable[Log], run: DecoderRun, codec: TokenizerCodec, seed: int) -> list[Samples]:
    """Every image of every log's first clip that has one before it, by size."""
    rows: dict[tuple[int, ...], list[tuple[Any, ...]]] = {}
    rng = np.random.default_rng(seed)
    for log in logs:
        for clip, _ in clips_of(log, run.spec):
            for row in clip_rows(clip, draw_clip(log, clip), codec, run, rng):
                rows.setdefault(row[0].shape, []).append(row)
    if not rows:
        raise InputError(f"{', '.join(run.sources)}: no image has a valid one before it; give other --source")
    return [Samples(*(np.stack(column) for column in zip(*members))) for members in rows.values()]


def clip_rows(clip: Clip, drawn: Sequence[Drawn | None], codec: TokenizerCodec, run: DecoderRun,
              rng: np.random.Generator) -> Iterable[tuple[Any, ...]]:
    names, reprojector = clip.rig.names, Reprojector(clip.rig)
    digits = {n: codec.encode(clip.frames[n]) for n in names}
    shown = {n: codec.decode(digits[n]) for n in names}
    before = {n: (clip.frames[n][0], clip.frames[n][0]) for n in names}  # the newest carried pictures
    for t, move in enumerate(ego_moves(clip), 1):
        if not clip.actions_valid[t - 1]:
            before = {n: (clip.frames[n][t], clip.frames[n][t]) for n in names}
            continue
        kind = int(rng.choice(3, p=run.carried_from))
        agents = clip.agents[t - 1], clip.agents[t], clip.agents_valid[t - 1] & clip.agents_valid[t]
        made = []
        for i, known in enumerate((None, drawn[t])):
            old = {n: (clip.frames[n][t - 1], shown[n][t - 1], before[n][i])[kind] for n in names}
            made.append(reprojector.carry(old, move, known, *agents))
        before = {n: (made[0][n], made[1][n]) for n in names}
        now = drawn[t]
        for c, n in enumerate(names):
            if clip.frames_valid[t, c] and clip.frames_valid[t - 1, c]:
                layout = now.layout[n] if now is not None else np.zeros_like(clip.frames[n][t])
                yield clip.frames[n][t], digits[n][t], np.stack(before[n]), layout, now is not None


def inputs_of(samples: Samples, rows: Any, model: DriveWM, run: DecoderRun, rng: np.random.Generator,
              wrong: float) -> tuple[tuple[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """What the decoder is given for those rows, and the truth (B, 3, H, W)."""
    device = model.device
    known = samples.known[rows] & (rng.random(len(rows)) >= run.drop_layout)
    carried = np.where(known[:, None, None, None], samples.carried[rows, 1], samples.carried[rows, 0])
    digits = samples.digits[rows].astype(np.int64)
    levels = np.array(model.tokenizer.fsq.config.all_levels)
    bad = rng.random(digits.shape[:3]) < wrong * rng.random((len(rows), 1, 1))
    near = np.clip(digits + rng.integers(-2, 3, digits.shape), 0, levels - 1)
    decoded = model.tokenizer.decode(torch.from_numpy(np.where(bad[..., None], near, digits)).to(device))
    return ((decoded, pixels_of(carried, device), pixels_of(samples.layout[rows], device),
             torch.from_numpy(known).to(device)), pixels_of(samples.truth[rows], device))


def train_decoder(from_: str, out: Path | str, seed: int = 0, run: DecoderRun = DecoderRun(),
                  sources: Sequence[str] = ()) -> dict[str, Any]:
    """Trains a picture decoder for a checkpoint and writes both to ``out``; returns its gain on held-out drives."""
    if Path(out).exists() and any(Path(out).iterdir()):
        raise InputError(f"--out {out}: is not empty; name a new folder")
    run = replace(run, sources=tuple(sources)) if sources else run
    model, began = DriveWM.from_pretrained(from_), time.process_time()
    codec = TokenizerCodec(model.tokenizer)
    groups = draw_samples(logs_of(run.sources), run, codec, seed)
    print(f"{sum(map(len, groups))} images, {time.process_time() - began:.0f} s", flush=True)
    torch.manual_seed(seed)
    model = DriveWM(model.config, model.tokenizer, model.world, model.name, PictureDecoder(run.model))
    learn(model, groups, run, seed)
    facts = {"seed": seed, "images": sum(map(len, groups)), "steps": run.steps,
             "cpu_minutes": round((time.process_time() - began) / 60, 1),
             "check": judge(model, draw_samples(logs_of(run.check), run, codec, seed), run)}
    model.save_pretrained(out)
    return facts


def logs_of(sources: Sequence[str]) -> Iterable[Log]:
    from drive_wm.datasets.health import load_fit
    from drive_wm.datasets.sources import open_source

    for source in sources:
        opened = open_source(source)
        yield from (load_fit(opened, log_id) for log_id in opened.log_ids())


def learn(model: DriveWM, groups: Sequence[Samples], run: DecoderRun, seed: int) -> None:
    assert model.decoder is not None
    rng = np.random.default_rng(seed)
    decoder = model.decoder.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = make_optimizer(decoder, run.optimizer)
    share = np.array([len(g) for g in groups]) / sum(map(len, groups))
    for step in range(run.steps):
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * schedule(run.optimizer, step, run.steps)
        samples = groups[int(rng.choice(len(groups), p=share))]
        rows = rng.integers(len(samples), size=run.batch)
        with torch.autocast(model.device.type, torch.bfloat16):
            given, truth = inputs_of(samples, rows, model, run, rng, run.wrong)
            made = decoder(*given)
        loss = reconstruction_loss(made, truth)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), run.optimizer.clip)
        optimizer.step()
        if step % 100 == 0:
            gained = float((psnr(made.detach(), truth) - psnr(given[0], truth)).mean())
            print(f"step {step} of {run.steps}, loss {float(loss.detach()):.4f}, {gained:+.2f} dB", flush=True)
    decoder.eval()


@torch.no_grad()
def judge(model: DriveWM, groups: Sequence[Samples], run: DecoderRun) -> dict[str, dict[str, float]]:
    """PSNR in dB of the tokens alone, of what is carried alone, and of the decoder; without a layout, and with one."""
    assert model.decoder is not None
    out = {}
    for name, drop in (("no layout", 1.0), ("layout", 0.0)):
        found: list[Tensor] = []
        for samples in groups:
            for rows in np.array_split(np.arange(len(samples)), max(1, len(samples) // 64)):
                with torch.autocast(model.device.type, torch.bfloat16):
                    given, truth = inputs_of(samples, rows, model, replace(run, drop_layout=drop),
                                             np.random.default_rng(0), 0.0)
                    made = model.decoder(*given)
                found.append(torch.stack([psnr(x.float().clamp(0, 1), truth) for x in (given[0], given[1], made)]))
        values = torch.cat(found, 1).mean(1).tolist()
        out[name] = dict(zip(("tokens_db", "carried_db", "decoder_db"), (round(v, 2) for v in values)))
    return out
