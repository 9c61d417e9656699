"""A block-causal transformer: full attention within a time step, causal over steps, with a key-value cache.

Axes: B batch, N positions, S positions of one block, H query heads, G key-value heads, D head width.
The pieces are those of Llama and Qwen3 (RMSNorm, SwiGLU, QK-norm, grouped queries, rotary positions), with the rotary
pairs shared out over (time, row, column); text advances on the time axis alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drive_wm.types import InputError


@dataclass(frozen=True)
class TransformerConfig:
    width: int = 256
    layers: int = 6
    heads: int = 8
    kv_heads: int = 4
    mlp: int = 704
    rope_pairs: tuple[int, int, int] = (6, 4, 6)  # of time, row, column; their sum is half a head's width
    rope_base: float = 100.0
    head_width: int = 0  # of each; 0: the heads share the width
    qk_norm: bool = True  # queries and keys are normalised; not so in a Llama

    @property
    def head(self) -> int:
        return self.head_width or self.width // self.heads

    def __post_init__(self) -> None:
        if (not self.head_width and self.width % self.heads) or self.heads % self.kv_heads:
            raise InputError(f"width {self.width} must divide by heads {self.heads}, "
                             f"and heads by kv_heads {self.kv_heads}")
        if 2 * sum(self.rope_pairs) != self.head:
            raise InputError(f"rope_pairs {self.rope_pairs} must add up to half a head's width, "
                             f"{self.head // 2}")


class RMSNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), (x.shape[-1],), self.weight.float(), 1e-6).to(x.dtype)


def rotary(config: TransformerConfig, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Positions (..., N, 3) of time, row, column -> cosine and sine (..., N, D/2)."""
    angles = []
    for axis, pairs in enumerate(config.rope_pairs):
        frequency = config.rope_base ** (-torch.arange(pairs, device=positions.device, dtype=torch.float32) / pairs)
        angles.append(positions[..., axis, None].float() * frequency)
    angle = torch.cat(angles, -1)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """(B, N, heads, D) turned by (N, D/2) or (B, N, D/2)."""
    a, b = x.chunk(2, -1)
    cos, sin = cos.unsqueeze(-2).to(x.dtype), sin.unsqueeze(-2).to(x.dtype)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


KERNELS = ("auto", "matmul", "sdpa", "flash", "flex")
_kernel = "auto"


@contextmanager
def use_attention(kernel: str) -> Iterator[None]:
    """Attention by this kernel within the block, in the whole process; they agree to 1e-2 in bfloat16.

    matmul: plain matrix products. sdpa: torch's fused kernels. flash: the flash-attn package, on a GPU alone. flex:
    torch's FlexAttention, compiled; on a CPU without gradients. auto: matmul on a CPU, sdpa elsewhere. Futures that
    stand side by side behind one past (``Span.futures``) are plain matrix products under each.
    """
    global _kernel
    if kernel not in KERNELS:
        raise InputError(f"attention {kernel!r}: expected one of {', '.join(KERNELS)}")
    if kernel == "flash":
        _flash()
    before, _kernel = _kernel, kernel
    try:
        yield
    finally:
        _kernel = before


def attend(q: Tensor, k: Tensor, v: Tensor, causal: bool = False) -> Tensor:
    """q (B, S, H, D) over k, v (B, N, G, D) -> (B, S, H*D). causal: the queries are the newest S of the N positions."""
    kernel = _kernel if _kernel != "auto" else "sdpa" if q.is_cuda else "matmul"
    return {"matmul": _attend_matmul, "sdpa": _attend_sdpa, "flash": _attend_flash, "flex": _attend_flex}[kernel](
        q, k, v, causal)


WHOLE = 2**15  # scores of one group of heads; where there are more, the groups are taken one by one


def _attend_matmul(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    """Large products one after the other stay within a core's cache: twice as fast as in one batch, bit for bit."""
    batch, s, heads, width = q.shape
    groups = k.shape[2]
    ratio = heads // groups
    folded = (q * width**-0.5).reshape(batch, s, groups, ratio, width)
    folded = folded.permute(0, 2, 3, 1, 4).reshape(batch * groups, ratio * s, width)
    keys, values = k.permute(0, 2, 3, 1).flatten(0, 1), v.transpose(1, 2).flatten(0, 1)
    hidden = ~causal_mask(s, k.shape[1], q.device).repeat(ratio, 1) if causal else None

    def mixed(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = q @ k
        if hidden is not None:
            scores = scores.masked_fill(hidden, -1e4)
        return torch.softmax(scores, -1).to(v.dtype) @ v

    if folded.shape[1] * keys.shape[2] <= WHOLE:
        out = mixed(folded, keys, values)
    else:
        out = torch.stack([mixed(*one) for one in zip(folded.unbind(), keys.unbind(), values.unbind())])
    return out.view(batch, groups, ratio, s, width).permute(0, 3, 1, 2, 4).reshape(batch, s, heads * width)


def _attend_sdpa(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    mask = causal_mask(q.shape[1], k.shape[1], q.device) if causal else None
    out = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=mask,
                                         enable_gqa=True)
    return out.transpose(1, 2).flatten(2)


def _attend_flash(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    if not q.is_cuda or q.dtype not in (torch.bfloat16, torch.float16):
        raise InputError(f"attention \"flash\" needs half precision on a GPU, got {q.dtype} on {q.device.type}; "
                         "use \"auto\"")
    return _flash()(q, k, v, causal=causal).flatten(2)  # its causal mask, too, ends at the newest of both


def _attend_flex(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    from torch.nn.attention.flex_attention import create_block_mask

    if not q.is_cuda and torch.is_grad_enabled() and q.requires_grad:
        raise InputError("attention \"flex\" has no gradients on a CPU; use \"auto\" to train")
    s, n = q.shape[1], k.shape[1]
    block = None
    if causal:
        block = create_block_mask(lambda b, h, row, column: column <= row + (n - s), None, None, s, n,
                                  device=q.device.type)
    out = _flex()(q.transpose(1, 2).contiguous(), k.transpose(1, 2).contiguous(), v.transpose(1, 2).contiguous(),
                  block_mask=block, enable_gqa=True)
    return out.transpose(1, 2).flatten(2)


@cache
def _flash() -> Callable[..., Tensor]:
    try:
        call: Callable[..., Tensor] = import_module("flash_attn").flash_attn_func
    except ImportError:
        raise InputError("attention \"flash\" needs the package flash-attn: pip install \"drive-wm[flash]\"") from None
    return call


@cache
def _flex() -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention)


def causal_mask(s: int, n: int, device: torch.device) -> Tensor:
    """(s, n) True where a query may look: the newest s of n positions, each at what came before it and at itself."""
    return torch.ones(s, n, dtype=torch.bool, device=device).tril(n - s)


@dataclass
class Span:
    """One block of a sequence: positions [start, stop) see everything before ``stop``, or only their own past.

    futures: so many futures of one past stand in it side by side, one after the other; each sees the first ``shared``
    positions of the past, and of what follows (blocks of the same kind) and of the span its own part alone.
    """

    start: int
    stop: int
    causal: bool = False
    futures: int = 0
    shared: int = 0


class Attention(nn.Module):
    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads, self.groups, self.head_width = config.heads, config.kv_heads, config.head
        self.qkv = nn.Linear(config.width, (config.heads + 2 * config.kv_heads) * self.head_width, bias=False)
        self.out = nn.Linear(config.heads * config.head, config.width, bias=False)
        self.q_norm, self.k_norm = ((RMSNorm(self.head_width) if config.qk_norm else nn.Identity()) for _ in range(2))

    def project(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        sizes = [self.heads, self.groups, self.groups]
        q, k, v = self.qkv(x).unflatten(-1, (-1, self.head_width)).split(sizes, -2)
        return rotate(self.q_norm(q), cos, sin), rotate(self.k_norm(k), cos, sin), v

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, spans: list[Span], past: tuple[Tensor, Tensor] | None
                ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """(B, N, width) -> the same, with the keys and values of these N positions."""
        q, k, v = self.project(x, cos, sin)
        own = (k, v)
        offset = 0
        if past is not None:
            offset = past[0].shape[1]
            k, v = torch.cat([past[0].to(k.dtype), k], 1), torch.cat([past[1].to(v.dtype), v], 1)
        pieces = []
        for span in spans:
            seen = offset + span.stop
            if span.futures:
                pieces.append(attend_futures(q[:, span.start:span.stop], k[:, :seen], v[:, :seen], span))
                continue
            pieces.append(attend(q[:, span.start:span.stop], k[:, :seen], v[:, :seen], span.causal))
        return self.out(torch.cat(pieces, 1)), own


def attend_futures(q: Tensor, k: Tensor, v: Tensor, span: Span) -> Tensor:
    """q (1, F*S, H, D) of F futures over k, v (1, shared + blocks*F*S, G, D) -> (1, F*S, H*D).

    The past is looked at once for all and never copied; a causal span is causal within the last block of each future.
    """
    count, groups, width = span.futures, k.shape[2], q.shape[3]
    s, ratio = q.shape[1] // count, q.shape[2] // groups

    def own(x: Tensor) -> Tensor:  # (G, F, blocks*S, D)
        return x[0, span.shared:].unflatten(0, (-1, count, s)).permute(3, 1, 0, 2, 4).flatten(2, 3)

    folded = (q[0] * width**-0.5).view(count, s, groups, ratio, width).permute(2, 0, 3, 1, 4)  # (G, F, R, S, D)
    past_k, past_v = k[0, :span.shared].transpose(0, 1), v[0, :span.shared].transpose(0, 1)  # (G, N, D)
    past = (folded.reshape(groups, -1, width) @ past_k.transpose(1, 2)).unflatten(1, (count, -1))
    mine = folded.reshape(groups, count, -1, width) @ own(k).transpose(2, 3)
    if span.causal:
        later = torch.ones(s, mine.shape[-1], dtype=torch.bool, device=q.device).triu(mine.shape[-1] - s + 1)
        mine = mine.masked_fill(later.repeat(ratio, 1), -1e4)
    weight = torch.softmax(torch.cat([past, mine], -1), -1).to(v.dtype)
    mixed = (weight[..., :span.shared].flatten(1, 2) @ past_v).unflatten(1, (count, -1))
    mixed = mixed + weight[..., span.shared:] @ own(v)
    return mixed.unflatten(2, (ratio, s)).permute(1, 3, 0, 2, 4).reshape(1, count * s, -1)


class SwiGLU(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate_up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, -1)
        return self.down(F.silu(gate) * up)


class Layer(nn.Module):
    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.attention_norm, self.attention = RMSNorm(config.width), Attention(config)
        self.mlp_norm, self.mlp = RMSNorm(config.width), SwiGLU(config.width, config.mlp)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, spans: list[Span], past: tuple[Tensor, Tensor] | None
                ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        mixed, own = self.attention(self.attention_norm(x), cos, sin, spans, past)
        x = x + mixed
        return x + self.mlp(self.mlp_norm(x)), own


KeyValues = list[tuple[Tensor, Tensor]]  # one pair (B, N, G, D) a layer


class Transformer(nn.Module):
    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = RMSNorm(config.width)
        self.apply(self._initialise)

    def _initialise(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=self.config.width**-0.5 * 0.7)
        if isinstance(module, (Attention, SwiGLU)):
            last = module.out if isinstance(module, Attention) else module.down
            nn.init.zeros_(last.weight)

    def forward(self, x: Tensor, positions: Tensor, spans: list[Span], past: KeyValues | None = None
                ) -> tuple[Tensor, KeyValues]:
        """x (B, N, width) at positions (N, 3) or (B, N, 3) -> hidden (B, N, width) and the keys and values of x."""
        cos, sin = rotary(self.config, positions)
        keys: KeyValues = []
        for i, layer in enumerate(self.layers):
            x, own = layer(x, cos, sin, spans, past[i] if past is not None else None)
            keys.append(own)
        return self.norm(x), keys


def joined(past: KeyValues | None, new: KeyValues) -> KeyValues:
    """Both, one after the other."""
    if past is None:
        return new
    return [(torch.cat([a, c], 1), torch.cat([b, d], 1)) for (a, b), (c, d) in zip(past, new)]


class Cache:
    """Keys and values of what was read: a prefix that stays, and the newest ``window`` blocks, oldest dropped first."""

    def __init__(self, window: int) -> None:
        self.window = window
        self.prefix: KeyValues | None = None
        self.blocks: list[KeyValues] = []

    def add(self, block: KeyValues) -> None:
        self.blocks = [*self.blocks, block][-self.window:] if self.window else []

    def past(self) -> KeyValues | None:
        parts = ([self.prefix] if self.prefix is not None else []) + self.blocks
        if not parts:
            return None
        return [(torch.cat([p[i][0] for p in parts], 1), torch.cat([p[i][1] for p in parts], 1))
                for i in range(len(parts[0]))]

    def copy(self) -> Cache:
        """A cache of its own over the same tensors: futures of one past share what they have read."""
        other = Cache(self.window)
        other.prefix, other.blocks = self.prefix, list(self.blocks)
        return other

    def expand(self, count: int) -> Cache:
        """The cache of one past (B = 1) for ``count`` futures, without copying memory."""
        other = Cache(self.window)

        def widen(block: KeyValues) -> KeyValues:
            return [(k.expand(count, -1, -1, -1), v.expand(count, -1, -1, -1)) for k, v in block]

        other.prefix = widen(self.prefix) if self.prefix is not None else None
        other.blocks = [widen(block) for block in self.blocks]
        return other
