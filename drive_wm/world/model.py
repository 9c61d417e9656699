"""The world model: one transformer over [caption] [step 0] [step 1] ..., and a task expert for the segment behind.

A step is [action that led here: speed, curvature][agents][tokens of every camera]. Everything a step's frame positions
are told before they are known is added to their embedding: the ray, the layout drawn into the camera, and a prior: the
tokens of the frame before, carried here by geometry (see `reproject`; without it, small models ignore the action).

Axes: B batch, T steps, P frame positions of a step over all cameras, K tokens a position, D FSQ digits a position,
A agents, L caption tokens, d width, S = 2 + A + P positions of a step.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drive_wm.encoders import agents as agent_codec
from drive_wm.encoders import rays as ray_codec
from drive_wm.encoders.actions import action_bins, action_features
from drive_wm.tokenizer.fsq import FSQ, FSQConfig
from drive_wm.world.expert import ROUTE_POINTS, Seen, Segment, TaskExpert
from drive_wm.world.transformer import KeyValues, RMSNorm, Span, Transformer, TransformerConfig
from drive_wm.world.vocabulary import MAX_AGENTS, RANGES, TABLE_SIZE, special

CAPTION_LENGTH = 6
STATES = 4  # steps whose actions and agents tasks can see


@dataclass(frozen=True)
class WorldConfig:
    transformer: TransformerConfig = TransformerConfig()
    fsq: FSQConfig = FSQConfig()
    window: int = 8  # steps seen at once, the current one included
    agents: int = MAX_AGENTS
    layout_channels: int = 48
    plan_steps: int = 8
    expert: TransformerConfig | None = None  # of plans and words; None: as large as the world model's
    latent: bool = False  # learn to foresee hidden states as well, see training.objectives.latent_loss


@dataclass
class Steps:
    """A batch of T time steps, as tensors.

    digits: (B, T, P, D) long FSQ digits. masked: (B, T, P, K) True where a token is to be predicted, or None.
    seen: (B, T, P) False where no image was there. noise: (B, T) share of context tokens replaced, 0 to 1.
    actions: (B, T, 2) that led to each step, with actions_valid (B, T). dt_s: (B,).
    agents: (B, T, A, 12), agents_valid: (B, T, A). layout: one (B, T, 3, H, W) in [0, 1] a camera, or None.
    layout_valid: (B,). rays: (P, F), of the first clip's rig. cells: (P, 2) row, column. grids: rows, columns of each
    camera. first_step: time of step 0. carried: (B, T, P, D) digits of the frame before, carried to each step;
    carried_drawn: the same along the drawn depth, which holds where layout_valid. None: the frame before as it was.
    """

    digits: Tensor
    masked: Tensor | None
    seen: Tensor
    noise: Tensor
    actions: Tensor
    actions_valid: Tensor
    dt_s: Tensor
    agents: Tensor
    agents_valid: Tensor
    layout: list[Tensor] | None
    layout_valid: Tensor
    rays: Tensor
    cells: Tensor
    grids: list[tuple[int, int]]
    first_step: int = 0
    carried: Tensor | None = None
    carried_drawn: Tensor | None = None

    def part(self, start: int, stop: int) -> Steps:
        """Steps [start, stop), keeping their place in time."""
        def cut(x: Tensor) -> Tensor:
            return x[:, start:stop]

        return replace(self, digits=cut(self.digits), masked=None if self.masked is None else cut(self.masked),
                       seen=cut(self.seen), noise=cut(self.noise), actions=cut(self.actions),
                       actions_valid=cut(self.actions_valid), agents=cut(self.agents),
                       agents_valid=cut(self.agents_valid),
                       layout=None if self.layout is None else [cut(x) for x in self.layout],
                       carried=None if self.carried is None else cut(self.carried),
                       carried_drawn=None if self.carried_drawn is None else cut(self.carried_drawn),
                       first_step=self.first_step + start)


class LayoutEncoder(nn.Module):
    """A drawn layout (N, 3, H, W) -> (N, H/16 * W/16, d)."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.PixelUnshuffle(4), nn.Conv2d(48, channels * 2, 3, padding=1), nn.GELU(),
                                 nn.Conv2d(channels * 2, channels * 4, 2, stride=2), nn.GELU(),
                                 nn.Conv2d(channels * 4, width, 2, stride=2))

    def forward(self, layout: Tensor) -> Tensor:
        return self.net(layout * 2 - 1).flatten(2).transpose(1, 2)


class MotionPrior(nn.Module):
    """What was carried here, mended: a convolution that the action modulates (FiLM), camera by camera."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = RMSNorm(width)
        self.modulate = nn.Sequential(nn.Linear(7, width), nn.GELU(), nn.Linear(width, 2 * width))
        self.ray = nn.Linear(ray_codec.FEATURES, 2 * width, bias=False)
        self.mix1 = nn.Conv2d(width, width, 3, padding=1)
        self.mix2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, carried: Tensor, action: Tensor, rays: Tensor, grids: list[tuple[int, int]]) -> Tensor:
        """carried (N, P, d), action (N, 7) -> (N, P, d). As a scale meets a ray, a turn moves left and right apart."""
        scale, shift = (self.modulate(action)[:, None] * (1 + self.ray(rays))).chunk(2, -1)
        x = self.norm(carried) * (1 + scale) + shift
        out = []
        for x_camera, (rows, columns) in zip(x.split([r * c for r, c in grids], 1), grids):
            image = x_camera.transpose(1, 2).unflatten(2, (rows, columns))
            out.append(self.mix2(F.gelu(self.mix1(image))).flatten(2).transpose(1, 2))
        return carried + torch.cat(out, 1)


class WorldModel(nn.Module):
    """Embeds a batch of steps, runs the transformer, reads frames, agents' motion and text off its hidden states."""

    digit_offset: Tensor

    def __init__(self, config: WorldConfig = WorldConfig()) -> None:
        super().__init__()
        self.config = config
        d, fsq = config.transformer.width, config.fsq
        self.fsq = FSQ(fsq)
        offsets = [sum(fsq.all_levels[:i]) for i in range(fsq.dims)]
        self.register_buffer("digit_offset", torch.tensor(offsets), persistent=False)
        self.table = nn.Embedding(TABLE_SIZE, d)
        self.code = nn.Embedding(sum(fsq.all_levels), d)  # one vector a level of every digit; a token is their sum
        self.mask_code = nn.Parameter(torch.zeros(fsq.codes, d))
        self.unseen = nn.Parameter(torch.zeros(d))
        self.ray = nn.Sequential(nn.Linear(ray_codec.FEATURES, d), nn.GELU(), nn.Linear(d, d))
        self.agent = nn.Sequential(nn.Linear(agent_codec.FEATURES, d), nn.GELU(), nn.Linear(d, d))
        self.no_agent = nn.Parameter(torch.zeros(d))
        self.step_info = nn.Linear(2, d)  # noise level, seconds a step
        self.layout = LayoutEncoder(config.layout_channels, d)
        self.no_layout = nn.Parameter(torch.zeros(d))
        self.prior = MotionPrior(d)
        self.transformer = Transformer(config.transformer)
        self.frame_head = nn.Linear(d, sum(fsq.all_levels))
        self.motion_head = nn.Linear(d, agent_codec.ACCEL_BINS + agent_codec.TURN_BINS)
        self.latent_head = nn.Sequential(nn.Linear(d, d), nn.GELU(), nn.Linear(d, d)) if config.latent else None
        self.expert = TaskExpert(config.expert or config.transformer, config.transformer)
        for parameter in (self.table.weight, self.code.weight, self.mask_code, self.unseen, self.no_agent,
                          self.no_layout):
            nn.init.normal_(parameter, std=0.1)

    # --- embeddings -----------------------------------------------------------------------------------------------

    def frame_tokens(self, digits: Tensor, masked: Tensor | None, seen: Tensor) -> Tensor:
        """(B, T, P, D), (B, T, P, K), (B, T, P) -> (B, T, P, d): known tokens by their digits, the others by a mask."""
        fsq = self.config.fsq
        per_code = self.code(digits + self.digit_offset).unflatten(-2, (fsq.codes, len(fsq.levels))).sum(-2)
        if masked is not None:
            per_code = torch.where(masked[..., None], self.mask_code.to(per_code.dtype), per_code)
        return torch.where(seen[..., None], per_code.sum(-2), self.unseen.to(per_code.dtype))

    def embed(self, steps: Steps, before: Tensor | None = None, told: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """-> positions' embeddings (B, T, S, d), and the plain frame embeddings (B, T, P, d).

        before: the plain frame embedding (B, P, d) of the step before the first, for the prior; None at the start.
        told: what ``told`` gave for these steps, where it is known already.
        """
        frames = self.frame_tokens(steps.digits, steps.masked, steps.seen)
        if told is None:
            start = torch.zeros_like(frames[:, :1]) if before is None else before[:, None]
            told = self.told(steps, torch.cat([start, frames[:, :-1]], 1))
        head, frame = told.split([2 + self.config.agents, frames.shape[2]], 2)
        return torch.cat([head, frame + frames], 2), frames

    def told(self, steps: Steps, previous: Tensor) -> Tensor:
        """(B, T, S, d): all that is added to the frames' tokens, and the action and the agents beside them.

        previous: (B, T, P, d) plain frame embeddings of the step before each. The same in all passes of decoding.
        """
        b, t = steps.noise.shape
        frame = self.ray(steps.rays) + self._layout(steps)
        if steps.masked is not None:  # what is known needs no guess
            guessed = steps.masked.flatten(2).any(-1)[..., None, None]
            frame = frame + self._prior(steps, previous) * guessed
        frame = frame.expand(b, t, -1, -1)
        info = torch.stack([steps.noise, steps.dt_s[:, None].expand(b, t)], -1)
        return torch.cat([self._actions(steps), self._agents(steps), frame], 2) + self.step_info(info)[:, :, None]

    def _prior(self, steps: Steps, previous: Tensor) -> Tensor:
        b, t = steps.noise.shape
        valid = steps.actions_valid[..., None]
        features = action_features(steps.actions, steps.dt_s[:, None].expand(b, t)) * valid
        features = torch.cat([features, valid], -1).to(previous.dtype)
        carried = self._carried(steps, previous)
        return self.prior(carried.flatten(0, 1), features.flatten(0, 1), steps.rays, steps.grids).unflatten(0, (b, t))

    def _carried(self, steps: Steps, previous: Tensor) -> Tensor:
        if steps.carried is None:
            return previous
        digits = steps.carried
        if steps.carried_drawn is not None:
            digits = torch.where(steps.layout_valid[:, None, None, None], steps.carried_drawn, digits)
        return self.frame_tokens(digits, None, torch.ones_like(digits[..., 0], dtype=torch.bool))

    def _layout(self, steps: Steps) -> Tensor:
        if steps.layout is None:
            return self.no_layout
        b, t = steps.noise.shape
        drawn = torch.cat([self.layout(x.flatten(0, 1)) for x in steps.layout], 1).unflatten(0, (b, t))
        return torch.where(steps.layout_valid[:, None, None, None], drawn, self.no_layout.to(drawn.dtype))

    def _actions(self, steps: Steps) -> Tensor:
        bins = action_bins(steps.actions)
        ids = bins + torch.tensor([RANGES["past_speed"].start, RANGES["past_curvature"].start], device=bins.device)
        return self.table(torch.where(steps.actions_valid[..., None], ids, special("<no action>")))

    def _agents(self, steps: Steps) -> Tensor:
        features = agent_codec.agent_features(steps.agents).to(self.no_agent.dtype)
        return torch.where(steps.agents_valid[..., None], self.agent(features), self.no_agent.to(features.dtype))

    def positions(self, steps: Steps) -> Tensor:
        """(T*S, 3) time, row, column; actions stand at row -1, agents at row -2."""
        t, slots = steps.noise.shape[1], steps.agents.shape[2]
        device = steps.digits.device
        head = torch.tensor([[-1, 0], [-1, 1]] + [[-2, 0]] * slots, device=device)  # agents are a set: no order
        cells = torch.cat([head, steps.cells], 0)
        time = (CAPTION_LENGTH + steps.first_step + torch.arange(t, device=device)).repeat_interleave(len(cells))
        return torch.cat([time[:, None], cells.repeat(t, 1)], 1)

    # --- passes ---------------------------------------------------------------------------------------------------

    def caption(self, ids: Tensor) -> KeyValues:
        """The prefix (B, L) of caption ids -> its keys and values."""
        return self.transformer(self.table(ids), self._caption_positions(ids), [Span(0, ids.shape[1])])[1]

    def _caption_positions(self, ids: Tensor) -> Tensor:
        time = torch.arange(ids.shape[1], device=ids.device)
        return torch.stack([time, torch.zeros_like(time), torch.zeros_like(time)], -1)

    def forward(self, caption: Tensor, steps: Steps, segment: Segment | None = None,
                route: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """All steps at once, block-causal -> hidden (B, T, S, d), and the hidden (B, N, d) of a segment, which comes
        with a route as of ``Seen``."""
        hidden, keys = self.read(caption, steps)
        if segment is None:
            return hidden, None
        assert route is not None
        last = steps.part(hidden.shape[1] - 1, hidden.shape[1])
        return hidden, self.expert(segment, self.look(last, keys, route))[0]

    def read(self, caption: Tensor, steps: Steps) -> tuple[Tensor, KeyValues]:
        """All steps at once, block-causal -> hidden (B, T, S, d), and keys and values of caption and steps."""
        x, _ = self.embed(steps)
        t, s = x.shape[1:3]
        length = caption.shape[1]
        spans = [Span(0, length)] + [Span(length + i * s, length + (i + 1) * s) for i in range(t)]
        positions = torch.cat([self._caption_positions(caption), self.positions(steps)], 0)
        hidden, keys = self.transformer(torch.cat([self.table(caption), x.flatten(1, 2)], 1), positions, spans)
        return hidden[:, length:].unflatten(1, (t, s)), keys

    def look(self, last: Steps, past: KeyValues, route: Tensor) -> Seen:
        """What the expert sees behind the step ``last`` (T = 1), which ``past`` ends with; see ``TaskExpert.look``.

        Of the frames it reads the last alone, which has read all others, and of the last STATES steps their actions
        and agents: less than half the work.
        """
        state = 2 + last.agents.shape[2]
        length = state + last.digits.shape[2]
        total = past[0][0].shape[1]
        back = total - torch.arange(total, device=past[0][0].device)  # places from the end, 1 and more
        steps = min(total // length, STATES)
        rows = ((back <= length) | ((back <= steps * length) & (-back % length < state))).nonzero()[:, 0]
        time = CAPTION_LENGTH + last.first_step + 1
        return self.expert.look(last.agents[:, 0], last.agents_valid[:, 0], route, time,
                                [(k[:, rows], v[:, rows]) for k, v in past])

    def step(self, steps: Steps, past: KeyValues | None, before: Tensor | None,
             told: Tensor | None = None) -> tuple[Tensor, KeyValues, Tensor]:
        """One step (T = 1) against a cache -> hidden (B, S, d), keys and values, plain frame embedding (B, P, d)."""
        x, frames = self.embed(steps, before, told)
        hidden, keys = self.transformer(x[:, 0], self.positions(steps), [Span(0, x.shape[2])], past)
        return hidden, keys, frames[:, 0]

    def state(self, steps: Steps, past: KeyValues | None, shared: int) -> tuple[Tensor, KeyValues]:
        """Actions and agents of one step (T = 1) of B futures, side by side behind one past; no frames.

        past: of batch 1, ``shared`` positions of which belong to all -> hidden (B, 2 + A, d), keys of batch 1.
        """
        info = torch.stack([steps.noise, steps.dt_s[:, None]], -1)
        x = torch.cat([self._actions(steps), self._agents(steps)], 2) + self.step_info(info)[:, :, None]
        b, _, s, d = x.shape
        positions = self.positions(steps)[:s].repeat(b, 1)
        hidden, keys = self.transformer(x.reshape(1, b * s, d), positions, [Span(0, b * s, futures=b, shared=shared)],
                                        past)
        return hidden.view(b, s, d), keys

    # --- heads ----------------------------------------------------------------------------------------------------

    def frame_hidden(self, hidden: Tensor) -> Tensor:
        """(..., S, d) -> (..., P, d)."""
        return hidden[..., 2 + self.config.agents:, :]

    def motion_logits(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """(..., S, d) -> acceleration (..., A, bins) and turn (..., A, bins) of every agent to the next step."""
        out = self.motion_head(hidden[..., 2:2 + self.config.agents, :])
        return out.split([agent_codec.ACCEL_BINS, agent_codec.TURN_BINS], -1)

    def digit_logits(self, hidden: Tensor) -> list[Tensor]:
        """(..., d) at frame positions -> D tensors (..., levels of that digit)."""
        return list(self.frame_head(hidden).split(self.config.fsq.all_levels, -1))


__all__ = ["CAPTION_LENGTH", "ROUTE_POINTS", "LayoutEncoder", "MotionPrior", "Seen", "Segment", "Steps", "WorldConfig",
           "WorldModel"]
