"""The task expert: weights of its own for what stands at the end of a sequence, plans, decisions, causes and words.

It attends to the keys and values that the world model left of what it has read, to the agents of the last step, which
it embeds anew with their slots and with the words that people have for them (to point at a slot one must see which it
is; to speak of a red car one must know that it is called so), and to its own segment. The world model never attends to
it (a mixture of transformers, as in pi0 and BAGEL). So plans and words can be taught, and taught anew, without
changing one generated frame. Axes: B segments, N ids of each, d width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from drive_wm.encoders import agents as agent_codec
from drive_wm.encoders.words import agent_words
from drive_wm.types import InputError
from drive_wm.world.transformer import KeyValues, Span, Transformer, TransformerConfig, joined
from drive_wm.world.vocabulary import MAX_AGENTS, RANGES, TABLE_SIZE

ROUTE_POINTS = 8


@dataclass
class Segment:
    """A task at the end of a sequence. ids: (B, N) of the vocabulary; loss_on: (B, N) where the NEXT id is learned.

    route: (B, 2 * ROUTE_POINTS + 2): points ahead in the rig frame / 20 m, whether there is a route, the speed / 10.
    of: (B,) the sequence of the batch that each stands at the end of; None: each at the end of its own.
    """

    ids: Tensor
    route: Tensor
    loss_on: Tensor | None = None
    of: Tensor | None = None


class TaskExpert(nn.Module):
    """Ids of a segment, behind a past that was read -> the hidden states that say the next id of each."""

    def __init__(self, config: TransformerConfig, world: TransformerConfig) -> None:
        super().__init__()
        for name in ("layers", "kv_heads", "head", "rope_pairs", "rope_base"):
            if getattr(config, name) != getattr(world, name):
                raise InputError(f"the expert's {name} must be the world model's, whose keys it reads: got "
                                 f"{getattr(config, name)}, expected {getattr(world, name)}")
        d = config.width
        self.table = nn.Embedding(TABLE_SIZE, d)
        self.route = nn.Sequential(nn.Linear(2 * ROUTE_POINTS + 2, d), nn.GELU(), nn.Linear(d, d))
        self.agent = nn.Sequential(nn.Linear(agent_codec.FEATURES, d), nn.GELU(), nn.Linear(d, d))
        self.slot = nn.Embedding(MAX_AGENTS, d)
        self.nobody = nn.Parameter(torch.zeros(d))
        self.transformer = Transformer(config)
        self.bias = nn.Parameter(torch.zeros(TABLE_SIZE))
        for weight in (self.table.weight, self.slot.weight, self.nobody):
            nn.init.normal_(weight, std=0.1)

    def look(self, agents: Tensor, valid: Tensor, time: int, past: KeyValues | None) -> KeyValues:
        """The keys ``past`` of the last step, and behind them its agents (B, A, 12): what a segment then sees."""
        x = self.agent(agent_codec.agent_features(agents).to(self.nobody.dtype))
        x = x + self.table(agent_words(agents) + RANGES["text"].start).sum(-2)
        x = torch.where(valid[..., None], x, self.nobody.to(x.dtype)) + self.slot.weight[:agents.shape[1]]
        place = torch.tensor([time, -2, 0], device=agents.device).expand(agents.shape[1], 3)
        return joined(past, self.transformer(x, place, [Span(0, agents.shape[1])], past)[1])

    def head(self, hidden: Tensor) -> Tensor:
        """(..., d) -> logits (..., TABLE_SIZE). By the table itself, so that a word attended to can be said."""
        return nn.functional.linear(hidden, self.table.weight.to(hidden.dtype), self.bias.to(hidden.dtype))

    def embed(self, segment: Segment) -> Tensor:
        """(B, N, d); the route is added to the first position."""
        x = self.table(segment.ids)
        route = self.route(segment.route.to(x.dtype))
        return torch.cat([x[:, :1] + route[:, None], x[:, 1:]], 1)

    def positions(self, time: int, length: int, device: torch.device) -> Tensor:
        """(N, 3): ids follow each other on the axis of time, from ``time`` on, at row -3."""
        times = time + torch.arange(length, device=device)
        return torch.stack([times, torch.full_like(times, -3), torch.zeros_like(times)], -1)

    def forward(self, segment: Segment, time: int, past: KeyValues | None) -> tuple[Tensor, KeyValues]:
        """-> hidden (B, N, d), and the segment's own keys and values. past: what ``look`` gave, of the batch that
        ``segment.of`` names."""
        if past is not None and segment.of is not None:
            past = [(k[segment.of], v[segment.of]) for k, v in past]
        x = self.embed(segment)
        length = x.shape[1]
        return self.transformer(x, self.positions(time, length, x.device), [Span(0, length, causal=True)], past)
