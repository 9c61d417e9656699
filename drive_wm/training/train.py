"""A training run from its name to its checkpoint: resolve the config, pack the clips, fit, export."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import TQDMProgressBar
from torch.utils.data import DataLoader, IterableDataset

from drive_wm.config import config_hash, find_run, override, to_json
from drive_wm.datasets.shards import (
    READY,
    Sample,
    Shard,
    ShardSpec,
    WindowSampler,
    find_shards,
    pack_sources,
    prefetched,
)
from drive_wm.model import DriveWM, ModelConfig
from drive_wm.tokenizer.model import FrameTokenizer
from drive_wm.training.sheets import tokenizer_sheet, world_sheet
from drive_wm.training.state import CsvLog, last_state, load_state, save_state
from drive_wm.training.tasks import DataConfig, Task, TokenizerRun, TokenizerTask, WorldRun, WorldTask
from drive_wm.training.tokens import fingerprint
from drive_wm.types import InputError
from drive_wm.world.language_model import begin_from, shaped_like
from drive_wm.world.model import WorldModel

Run = TokenizerRun | WorldRun


def train_tokenizer(name: str, *, sources: Sequence[str] = (), out: str | Path, seed: int = 0,
                    overrides: Mapping[str, str] | None = None, from_: str | None = None,
                    max_minutes: float | None = None, resume: bool = False, wandb: bool = False) -> dict[str, Any]:
    """Trains a frame tokenizer and writes a checkpoint folder ``out/checkpoint``; returns a summary."""
    run = _resolve(name, TokenizerRun, sources, overrides)
    assert isinstance(run, TokenizerRun)
    base = _base(from_, out, resume)
    if base is not None:
        run = replace(run, model=base.config.tokenizer)
    torch.manual_seed(seed)
    network = base.tokenizer if base is not None else FrameTokenizer(run.model)
    task = TokenizerTask(network, run, seed)
    return _fit(task, run, (1, 1), Path(out), seed, base, max_minutes, resume, wandb)


def train_world(name: str, *, sources: Sequence[str] = (), out: str | Path, seed: int = 0,
                overrides: Mapping[str, str] | None = None, from_: str | None = None, max_minutes: float | None = None,
                resume: bool = False, wandb: bool = False) -> dict[str, Any]:
    """Trains a world model on the tokens of a frozen tokenizer: that of ``tokenizer=FOLDER``, or else of ``--from``."""
    run = _resolve(name, WorldRun, sources, overrides)
    assert isinstance(run, WorldRun)
    base = _base(from_, out, resume)
    if base is not None:
        run = replace(run, model=base.config.world)
    tokenizer = DriveWM.from_pretrained(run.tokenizer).tokenizer if run.tokenizer else base.tokenizer if base else None
    if tokenizer is None:
        raise InputError("a world model needs a tokenizer: give --from CHECKPOINT or --set tokenizer=CHECKPOINT")
    torch.manual_seed(seed)
    if run.language_model and base is not None:
        raise InputError("language_model gives initial weights, and --from has weights already; give one of both")
    if run.language_model:
        run = replace(run, model=shaped_like(run.language_model, run.model))
    network = base.world if base is not None else WorldModel(replace(run.model, fsq=tokenizer.config.fsq))
    if run.language_model:
        begin_from(run.language_model, network)
    task = WorldTask(network, tokenizer, run, seed)
    return _fit(task, run, run.window, Path(out), seed, base, max_minutes, resume, wandb)


def _resolve(name: str, kind: type[Run], sources: Sequence[str], overrides: Mapping[str, str] | None) -> Run:
    run = find_run(name)()
    if not isinstance(run, kind):
        raise InputError(f"run {name!r} is a {type(run).__name__}, not a {kind.__name__}; "
                         f"use drive-wm train {'world' if isinstance(run, WorldRun) else 'tokenizer'} {name}")
    if sources:
        run = replace(run, data=replace(run.data, sources=tuple(sources), weights=()))
    return override(run, overrides or {})


def _base(from_: str | None, out: str | Path, resume: bool) -> DriveWM | None:
    state = Path(out) / "state"
    if state.exists() and not resume:
        raise InputError(f"{out} holds a training run already; add --resume to go on with it, or give another --out")
    return DriveWM.from_pretrained(from_) if from_ else None


class StepDataset(IterableDataset[list[Sample]]):
    """Batches by training step, read ahead by a thread."""

    def __init__(self, sampler: WindowSampler, start: int, stop: int) -> None:
        self.sampler, self.start, self.stop = sampler, start, stop

    def __len__(self) -> int:
        return max(0, self.stop - self.start)

    def __iter__(self) -> Iterator[list[Sample]]:
        return prefetched(self.sampler, self.start, self.stop)


def pack(data: DataConfig, out: Path, steps: int) -> list[str | Path]:
    """The run's clips as shards, one folder a source; what is packed, such as ``shards:ADDRESS``, is kept."""
    root = Path(data.shards) if data.shards else out / "shards"
    spec = ShardSpec(data.width, data.height, data.rate_hz, data.phases, data.start_s, data.end_s, min_steps=steps,
                     questions_every_s=data.questions_every_s)
    folders: list[str | Path] = []
    for source in data.sources:
        if source.startswith(READY):
            folders.append(source.removeprefix(READY))
        else:
            print(f"packing {source}", flush=True)
            folders += pack_sources([source], root, spec, workers=data.pack_workers)
    return folders


def check_tokens(groups: list[list[Shard]], task: Task) -> None:
    """Tokens are for the world model alone, and for the tokenizer that made them."""
    made_by = {shard.facts.tokenizer for shards in groups for shard in shards} - {""}
    if isinstance(task, WorldTask):
        made_by -= {fingerprint(task.tokenizer)}
    if made_by:
        raise InputError(f"the shards hold tokens of another tokenizer ({', '.join(sorted(made_by))}), no frames; "
                         "pack them anew from shards with frames: drive-wm data pack --source shards:DIR --tokens ...")


def _fit(task: Task, run: Run, window: tuple[int, int], out: Path, seed: int, base: DriveWM | None,
         max_minutes: float | None, resume: bool, wandb: bool) -> dict[str, Any]:
    out.mkdir(parents=True, exist_ok=True)
    _write_json(out / "config.json", {"run": to_json(run), "hash": config_hash(run), "seed": seed})
    groups = [find_shards(folder) for folder in pack(run.data, out, window[1])]
    check_tokens(groups, task)
    unasked = run.unasked if isinstance(run, WorldRun) else 1.0
    sampler = WindowSampler(groups, window[0], run.data.batch_size, seed, weights=list(run.data.weights) or None,
                            least=window[1], unasked=unasked, camera_dropout=run.data.camera_dropout)
    writer = StateWriter(task, run, out, seed, base, sampler, max_minutes, resume)
    loader = DataLoader(StepDataset(sampler, task.done, run.steps), batch_size=None, shuffle=False)
    trainer = lightning.Trainer(
        max_steps=-1, max_epochs=1, accelerator="auto", devices=1, precision="bf16-mixed",
        logger=_wandb(out, run, wandb), enable_checkpointing=False, gradient_clip_val=run.optimizer.clip,
        callbacks=[writer, TQDMProgressBar(refresh_rate=10)], enable_model_summary=False, num_sanity_val_steps=0,
        log_every_n_steps=10)
    if task.done < run.steps:
        trainer.fit(task, loader)
    return writer.finish(time.monotonic())


def _wandb(out: Path, run: Run, wanted: bool) -> Any:
    if not wanted:
        return False
    from lightning.pytorch.loggers import WandbLogger

    return WandbLogger(project="drive_wm", name=run.name, save_dir=str(out), offline="WANDB_API_KEY" not in os.environ)


class StateWriter(lightning.Callback):
    """Logs every step's metrics, saves the state, draws sheets and stops in time."""

    def __init__(self, task: Task, run: Run, out: Path, seed: int, base: DriveWM | None, sampler: WindowSampler,
                 max_minutes: float | None, resume: bool) -> None:
        self.task, self.run, self.out, self.seed, self.base, self.sampler = task, run, out, seed, base, sampler
        self.deadline = time.monotonic() + 60 * max_minutes if max_minutes else float("inf")
        self.started = self.last = time.monotonic()
        self.resumed: Path | None = None
        self.first_loss = self.last_loss = float("nan")
        if resume and (found := last_state(out / "state")):
            meta = load_state(found, task.network, task.ema, None)
            task.done, self.resumed = meta["step"], found
            self._same_run(meta)
        self.csv = CsvLog(out / "metrics.csv", task.done)

    def _same_run(self, meta: dict[str, Any]) -> None:
        if meta["seed"] != self.seed or meta["hash"] != config_hash(self.run):
            raise InputError(f"{self.out} was trained with seed {meta['seed']} and config {meta['hash']}, "
                             f"this call has {self.seed} and {config_hash(self.run)}; resume with the same settings")

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if self.resumed is not None:
            load_state(self.resumed, self.task.network, self.task.ema, trainer.optimizers[0])

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any,
                           batch: Any, batch_idx: int) -> None:
        self.task.finish_step()  # here, as Lightning calls callbacks before the module's own hook
        now, done, metrics = time.monotonic(), self.task.done, dict(self.task.metrics)
        rate = metrics.pop("tokens", 0.0) / max(now - self.last, 1e-6)
        self.last, self.last_loss = now, metrics["loss"]
        self.csv.add({"step": done - 1, **metrics})
        self.task.log_dict({**metrics, **({"tokens_per_s": rate} if rate else {})}, prog_bar=True, batch_size=1)
        stop = now > self.deadline or done >= self.run.steps
        if done % self.run.checkpoint_every == 0 or stop:
            self.save()
        if done % self.run.sheet_every == 0 or stop:
            self.sheet()
        if stop:
            trainer.should_stop = True

    def save(self) -> None:
        optimizer = self.task.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Optimizer)
        save_state(self.out / "state", self.task.done, self.task.network, self.task.ema, optimizer,
                   {"seed": self.seed, "hash": config_hash(self.run)})

    def model(self) -> DriveWM:
        """The running mean of the weights as a usable model, completed by what this run does not train."""
        data = self.run.data
        world: WorldModel | None = None
        if isinstance(self.task, WorldTask):
            world, tokenizer = self.task.ema, self.task.tokenizer
        else:
            tokenizer = self.task.ema
        assert isinstance(tokenizer, FrameTokenizer)
        if world is None:
            world = self.base.world if self.base else WorldModel(replace(WorldRun().model, fsq=tokenizer.config.fsq))
        assert isinstance(world, WorldModel)
        width, height = data.width or 112, data.height
        config = ModelConfig(tokenizer.config, world.config, data.rate_hz, width, height)
        return DriveWM(config, tokenizer, world, self.run.name, self.base.decoder if self.base else None)

    def sheet(self) -> None:
        if isinstance(self.run, WorldRun) and self.run.expert_only:
            return  # no frame of it changes
        samples = self.sampler.batch(10**9 + self.task.done)[:4]
        training = self.task.network.training
        draw = world_sheet if isinstance(self.task, WorldTask) else tokenizer_sheet
        draw(self.model(), samples, self.out / "sheets" / f"step-{self.task.done:06d}.png")
        self.task.network.train(training)

    def finish(self, now: float) -> dict[str, Any]:
        checkpoint = self.model().save_pretrained(self.out / "checkpoint")
        summary = {"run": self.run.name, "hash": config_hash(self.run), "seed": self.seed, "steps": self.task.done,
                   "loss": self.last_loss, "minutes": round((now - self.started) / 60, 2),
                   "windows": self.sampler.windows, "checkpoint": checkpoint.name, "data": asdict(self.run.data)}
        _write_json(self.out / "summary.json", summary)
        return summary


def _write_json(path: Path, value: Any) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(value, indent=1))
    os.replace(temporary, path)
