"""Teaches the picture decoder of a checkpoint, whose tokenizer stays as it is; the world model is not needed for it.

Its samples are made as generation makes its inputs: the tokens of a picture, some of them wrong; the picture before,
fresh, or as its tokens show it, or carried there itself; the layout, drawn or not. Agents are few pixels and all that
matters, so theirs weigh more. In the later rounds, or in all where a decoder is taught further, most are carried from
what the decoder of the round before made of a whole drive, picture after picture: without these it sharpens what it
has sharpened, and after some seconds of generation its own errors shine in all colours.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from drive_wm.config import override
from drive_wm.datasets.clips import draw_clip
from drive_wm.datasets.shards import ShardSpec, clips_of, ego_moves
from drive_wm.decoder.model import DecoderConfig, PictureDecoder
from drive_wm.model import DriveWM
from drive_wm.reproject import Drawn, Reprojector
from drive_wm.tokenizer.model import psnr, reconstruction_loss
from drive_wm.training.optimizer import OptimizerConfig, make_optimizer, schedule
from drive_wm.training.tokens import TokenizerCodec
from drive_wm.types import BoolArray, ByteArray, Clip, InputError, Log
from drive_wm.world.inputs import pixels_of


@dataclass(frozen=True)
class DecoderRun:
    """sources: drives to learn from, shared out among the rounds. check: held-out ones. steps: of each round.

    wrong: up to this share of a picture's tokens is replaced. carried_from: shares of fresh, tokenized and twice
    carried pictures; own: of those by the decoder itself, from the second round on. drop_layout: share without layout.
    """

    name: str = "decoder"
    model: DecoderConfig = DecoderConfig()
    sources: tuple[str, ...] = ("town:0-259",)
    check: tuple[str, ...] = ("town:100000-100009",)
    spec: ShardSpec = ShardSpec(width=0, end_s=8.0)
    optimizer: OptimizerConfig = OptimizerConfig(lr=1e-3, warmup=40)
    rounds: int = 2
    steps: int = 800
    batch: int = 48
    wrong: float = 0.2
    carried_from: tuple[float, float, float] = (0.5, 0.3, 0.2)
    own: float = 0.6
    drop_layout: float = 0.35
    agent_weight: float = 8.0  # that the loss of agents' pixels is added with once more


@dataclass(frozen=True)
class Samples:
    """N images of one size: truth, layout (N, H, W, 3), carried (N, 2, H, W, 3) without and with the drawn depth.

    digits: (N, h, w, D). known: (N,) whether a layout was drawn. agents: (N, H, W) where one is seen, if that is known.
    """

    truth: ByteArray
    digits: ByteArray
    carried: ByteArray
    layout: ByteArray
    known: BoolArray
    agents: BoolArray

    def __len__(self) -> int:
        return len(self.truth)


def draw_samples(logs: Iterable[Log], run: DecoderRun, model: DriveWM, seed: int) -> list[Samples]:
    """Every image of every log's clips that has one before it, by size; with a decoder, its own are carried too."""
    rows: dict[tuple[int, ...], list[tuple[Any, ...]]] = {}
    rng, codec = np.random.default_rng(seed), TokenizerCodec(model.tokenizer)
    for log in logs:
        for clip, _ in clips_of(log, run.spec):
            for row in clip_rows(clip, draw_clip(log, clip), codec, model, run, rng):
                rows.setdefault(row[0].shape, []).append(row)
    if not rows:
        raise InputError(f"{', '.join(run.sources)}: no image has a valid one before it; give other --source")
    return [Samples(*(np.stack(column) for column in zip(*members))) for members in rows.values()]


def clip_rows(clip: Clip, drawn: Sequence[Drawn | None], codec: TokenizerCodec, model: DriveWM, run: DecoderRun,
              rng: np.random.Generator) -> Iterable[tuple[Any, ...]]:
    """The samples of a clip, as in ``Samples``; of two runs through it, without a layout and with it."""
    names, reprojector = clip.rig.names, Reprojector(clip.rig)
    digits = {n: codec.encode(clip.frames[n]) for n in names}
    shown = {n: codec.decode(digits[n]) for n in names}
    first = {n: clip.frames[n][0] for n in names}
    carried, own = [first, first], [first, first]  # the newest carried pictures; the newest that the decoder made
    share = np.array([*run.carried_from, 0.0]) * (1 - run.own) + [0, 0, 0, run.own]
    for t, move in enumerate(ego_moves(clip), 1):
        now, fresh = drawn[t], {n: clip.frames[n][t] for n in names}
        if not clip.actions_valid[t - 1]:
            carried, own = [fresh, fresh], [fresh, fresh]
            continue
        kind = int(rng.choice(4, p=share) if model.decoder else rng.choice(3, p=run.carried_from))
        agents = clip.agents[t - 1], clip.agents[t], clip.agents_valid[t - 1] & clip.agents_valid[t]
        for i, known in enumerate((None, now)):
            old = ({n: clip.frames[n][t - 1] for n in names}, {n: shown[n][t - 1] for n in names}, carried[i], own[i])
            carried[i] = reprojector.carry(old[kind], move, known, *agents)
            if model.decoder:
                mine = reprojector.carry(own[i], move, known, *agents)
                own[i] = sharpened(model, {n: digits[n][t] for n in names}, mine, known)
        for c, n in enumerate(names):
            if clip.frames_valid[t, c] and clip.frames_valid[t - 1, c]:
                layout = now.layout[n] if now is not None else np.zeros_like(fresh[n])
                agents_there = np.zeros(layout.shape[:2], bool) if now is None or now.slot is None else now.slot[n] >= 0
                yield (fresh[n], digits[n][t], np.stack([carried[0][n], carried[1][n]]), layout, now is not None,
                       agents_there)


@torch.no_grad()
def sharpened(model: DriveWM, digits: dict[str, ByteArray], carried: dict[str, ByteArray],
              drawn: Drawn | None) -> dict[str, ByteArray]:
    """What the decoder makes of a step: digits (h, w, D) and carried (H, W, 3) by camera -> (H, W, 3) by camera."""
    names = list(digits)
    grids = [(len(digits[n]), digits[n].shape[1]) for n in names]
    flat = torch.cat([torch.from_numpy(digits[n]).flatten(0, 1) for n in names])[None].long().to(model.device)
    with torch.autocast(model.device.type, torch.bfloat16):
        made = model.pictures(flat, grids, names, [carried[n][None] for n in names], drawn)
    return {n: picture[0] for n, picture in zip(names, made)}


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
                  sources: Sequence[str] = (), overrides: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Trains a picture decoder for a checkpoint and writes both to ``out``; returns its gain on held-out drives.

    One of that size that the checkpoint has is taught further.
    """
    if Path(out).exists() and any(Path(out).iterdir()):
        raise InputError(f"--out {out}: is not empty; name a new folder")
    run = override(replace(run, sources=tuple(sources)) if sources else run, overrides or {})
    check = logs_of(run.check)  # opened first, so that a wrong name is told before the work
    model, began, images = DriveWM.from_pretrained(from_), time.process_time(), 0
    if model.decoder is not None and model.decoder.config != run.model:
        model.decoder = None
    torch.manual_seed(seed)
    decoder = model.decoder or PictureDecoder(run.model)
    for number in range(run.rounds):
        groups = draw_samples(logs_of(run.sources, number, run.rounds), run, model, seed + number)
        images += sum(map(len, groups))
        print(f"round {number + 1}: {sum(map(len, groups))} images, {time.process_time() - began:.0f} s", flush=True)
        model = DriveWM(model.config, model.tokenizer, model.world, model.name, decoder)
        learn(model, groups, run, seed + number)
    facts = {"seed": seed, "images": images, "steps": run.rounds * run.steps,
             "cpu_minutes": round((time.process_time() - began) / 60, 1),
             "check": judge(model, draw_samples(check, run, model, seed), run)}
    model.save_pretrained(out)
    (Path(out) / "decoder.json").write_text(json.dumps(facts, indent=1))
    return facts


def logs_of(sources: Sequence[str], part: int = 0, parts: int = 1) -> Iterable[Log]:
    """Every ``parts``-th log from number ``part`` on."""
    from drive_wm.datasets.health import load_fit
    from drive_wm.datasets.sources import open_source

    opened = open_source(tuple(sources))
    return (load_fit(opened, log_id) for log_id in opened.log_ids()[part::parts])


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
        agents = torch.from_numpy(samples.agents[rows, None]).to(truth.device)
        loss = reconstruction_loss(made, truth)
        loss = loss + run.agent_weight * reconstruction_loss(torch.where(agents, made, truth.to(made.dtype)), truth)
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
