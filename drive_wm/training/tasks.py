"""The Lightning modules. A step depends on (seed, step) and the weights alone; all else is derived from them."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import lightning
import numpy as np
import torch
from torch import Tensor, nn

from drive_wm.datasets.clips import part_of
from drive_wm.datasets.shards import Sample, tokenized
from drive_wm.tokenizer.model import FrameTokenizer, TokenizerConfig, psnr, reconstruction_loss
from drive_wm.training.objectives import (
    ObjectiveConfig,
    add_noise,
    agent_loss,
    drop_caption,
    drop_conditions,
    frame_loss,
    latent_loss,
    mask_steps,
)
from drive_wm.training.optimizer import OptimizerConfig, make_optimizer, schedule
from drive_wm.training.segments import is_plan, routes_at, segment_losses, segments_of
from drive_wm.training.tokens import TokenizerCodec
from drive_wm.world.inputs import caption_ids, pixels_of, steps_from_clips
from drive_wm.world.model import Steps, WorldConfig, WorldModel


@dataclass(frozen=True)
class DataConfig:
    """sources: KIND:PATH each. shards: a folder of packed clips to use or fill; empty puts them into the run folder."""

    sources: tuple[str, ...] = ("town:0-999",)
    weights: tuple[float, ...] = ()
    shards: str = ""
    width: int = 112
    height: int = 64
    rate_hz: float = 2.0
    phases: int = 1
    start_s: float = 0.0
    end_s: float = 1e9
    questions_every_s: float = 0.0  # town drives come with questions, and with the true causes of what is decided
    batch_size: int = 4
    camera_dropout: float = 0.3
    pack_workers: int = 2


@dataclass(frozen=True)
class TokenizerRun:
    name: str = "tiny_tokenizer"
    model: TokenizerConfig = TokenizerConfig()
    data: DataConfig = DataConfig(batch_size=8, camera_dropout=0.0)
    optimizer: OptimizerConfig = OptimizerConfig()
    steps: int = 4000
    checkpoint_every: int = 200
    sheet_every: int = 500


@dataclass(frozen=True)
class WorldRun:
    name: str = "tiny_world"
    tokenizer: str = ""  # a folder with a trained tokenizer; empty takes that of --from
    language_model: str = ""  # a folder or hub id of a Llama or Qwen3: the shape and the initial weights
    model: WorldConfig = WorldConfig()
    data: DataConfig = DataConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    task_share: float = 0.25  # of the batches that learn to plan and to explain instead of to see
    expert_only: bool = False  # every batch learns tasks, and the world model stays as it is, to the bit
    context: int = 4  # steps of context of those
    questions: int = 12  # of a clip, at most
    drills: int = 0  # of a clip, at most: short questions made up from its agents
    unasked: float = 1.0  # weight of the windows that no question is about, next to the others
    steps: int = 6000
    checkpoint_every: int = 200
    sheet_every: int = 500

    @property
    def window(self) -> tuple[int, int]:
        """Steps of a sample, and how many of them must be there: a plan may reach beyond the end of a drive."""
        whole = self.context + self.model.plan_steps
        return (whole, self.context) if self.expert_only else (max(whole, self.model.window), self.model.window)


Network = TypeVar("Network", bound=nn.Module)


class Task(lightning.LightningModule, Generic[Network]):
    """What both trainings share: the weights and their running mean, the optimizer, the seed of every step."""

    network: Network
    ema: Network

    def __init__(self, network: Network, config: OptimizerConfig, steps: int, seed: int, start: int = 0) -> None:
        super().__init__()
        self.network = network
        self.ema = copy.deepcopy(network).requires_grad_(False)
        self.config, self.steps, self.seed, self.done = config, steps, seed, start
        self.metrics: dict[str, float] = {}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return make_optimizer(self.network, self.config)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return batch  # samples are arrays; a step moves the tensors it makes of them

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        torch.manual_seed(self.seed * 1_000_003 + self.done)
        share = schedule(self.config, self.done, self.steps)
        for group in self.optimizers().param_groups:  # type: ignore[union-attr]
            group["lr"] = group["peak"] * share

    def finish_step(self) -> None:
        """Moves the running mean and the step count on; called once after every optimizer step."""
        decay = min(self.config.ema, (1 + self.done) / (10 + self.done))
        with torch.no_grad():
            for mean, value in zip(self.ema.parameters(), self.network.parameters()):
                mean.lerp_(value, 1 - decay)
        self.done += 1


class TokenizerTask(Task[FrameTokenizer]):
    def __init__(self, network: FrameTokenizer, run: TokenizerRun, seed: int, start: int = 0) -> None:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch does not list it
        super().__init__(network, run.optimizer, run.steps, seed, start)

    def training_step(self, batch: list[Sample], batch_idx: int) -> Tensor:
        total, quality, count = torch.zeros((), device=self.device), 0.0, 0
        for pixels in images_by_size(batch, self.device):
            reconstruction = self.network(pixels)
            total = total + reconstruction_loss(reconstruction, pixels) * len(pixels)
            quality += float(psnr(reconstruction.detach(), pixels).sum())
            count += len(pixels)
        loss = total / count
        self.metrics = {"loss": float(loss.detach()), "psnr_db": quality / count, "images": count}
        return loss


def images_by_size(batch: list[Sample], device: torch.device) -> list[Tensor]:
    """Valid images of a batch as (N, 3, H, W) in [0, 1], one tensor a size."""
    groups: dict[tuple[int, int], list[np.ndarray]] = {}
    for sample in batch:
        for i, camera in enumerate(sample.clip.rig.cameras):
            images = sample.clip.frames[camera.name][sample.clip.frames_valid[:, i]]
            groups.setdefault((camera.height, camera.width), []).extend(images)
    return [pixels_of(np.stack(images), device).contiguous(memory_format=torch.channels_last)
            for images in groups.values() if images]


class WorldTask(Task[WorldModel]):
    def __init__(self, network: WorldModel, tokenizer: FrameTokenizer, run: WorldRun, seed: int,
                 start: int = 0) -> None:
        super().__init__(network, run.optimizer, run.steps, seed, start)
        self.run = run
        if run.expert_only:
            network.requires_grad_(False)
            network.expert.requires_grad_(True)
        self._frozen = [tokenizer.eval().requires_grad_(False)]  # in a list: neither trained nor in the state
        self.codec = TokenizerCodec(self.tokenizer)

    @property
    def tokenizer(self) -> FrameTokenizer:
        return self._frozen[0]

    def training_step(self, batch: list[Sample], batch_idx: int) -> Tensor:
        self.tokenizer.to(self.device)
        share = 1.0 if self.run.expert_only else self.run.task_share
        tasks = np.random.default_rng((self.seed, self.done, 1)).random() < share
        seen = [part_of(s.clip, 0, self.run.context if tasks else self.run.model.window) for s in batch]
        clips = [clip if clip.digits is not None else tokenized(clip, self.codec) for clip in seen]
        steps = steps_from_clips(clips, self.tokenizer, self.device, self.network.config.agents)
        caption = drop_caption(caption_ids([s.clip.look for s in batch], self.device), self.run.objective.drop_caption)
        steps = drop_conditions(steps, self.run.objective)
        loss = self._learn_tasks(batch, steps, caption) if tasks else self._learn_frames(steps, caption)
        self.metrics |= {"loss": float(loss.detach()), "tokens": float(steps.digits[..., 0].numel())}
        return loss

    def _learn_frames(self, steps: Steps, caption: Tensor) -> Tensor:
        network, objective = self.network, self.run.objective
        levels = torch.tensor(network.config.fsq.all_levels)
        noisy = add_noise(steps, objective.noise_max, levels)
        masked = mask_steps(steps, objective, network.config.fsq.codes)
        some = masked.any(-1).any(-1)
        noisy = replace(noisy, noise=noisy.noise * ~some)
        inputs = replace(noisy, masked=masked, digits=torch.where(some[:, :, None, None], steps.digits, noisy.digits))
        hidden, _ = network(caption, inputs)
        asked = masked & steps.seen[..., None]
        frames = frame_loss(network, network.frame_hidden(hidden), steps.digits, asked)
        agents = agent_loss(network, hidden, steps)
        self.metrics = {"frame_nats": float(frames.detach()), "agent_nats": float(agents.detach())}
        loss = frames + objective.agent_weight * agents
        if network.latent_head is None:
            return loss
        with torch.no_grad():
            teacher, _ = self.ema.read(caption, steps)
        latent = latent_loss(network.latent_head, network.frame_hidden(hidden), self.ema.frame_hidden(teacher), asked)
        self.metrics["latent"] = float(latent.detach())
        return loss + objective.latent_weight * latent

    def _learn_tasks(self, batch: list[Sample], steps: Steps, caption: Tensor) -> Tensor:
        now = self.run.context - 1
        past = add_noise(steps, self.run.objective.noise_max,
                         torch.tensor(self.network.config.fsq.all_levels))
        with torch.set_grad_enabled(not self.run.expert_only):
            _, keys = self.network.read(caption, past)
        seen = self.network.look(steps.part(now, now + 1), keys, routes_at(batch, now, self.device))
        losses, plans = [], []
        for segment in segments_of(batch, now, self.network.config.plan_steps, self.run.questions, self.run.drills,
                                   self.seed * 7919 + self.done, self.device):
            losses.append(segment_losses(self.network, seen, segment))
            assert segment.loss_on is not None
            plans.append(is_plan(segment)[segment.loss_on[:, :-1]])
        if not sum(map(len, losses)):  # no pose ahead, and nothing said
            return self.network.expert.bias.sum() * 0.0
        nats, acts = torch.cat(losses), torch.cat(plans)
        self.metrics = {name: float(nats[some].detach().mean())
                        for name, some in (("plan_nats", acts), ("words_nats", ~acts)) if some.any()}
        return nats.mean()
