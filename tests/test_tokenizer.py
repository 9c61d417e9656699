"""Quantisation round trips, gradients, sizes."""

import pytest
import torch

from drive_wm.tokenizer.fsq import FSQ, FSQConfig
from drive_wm.tokenizer.model import FrameTokenizer, TokenizerConfig, psnr, reconstruction_loss
from drive_wm.types import InputError

SMALL = TokenizerConfig(channels=(8, 8, 16, 16), decoder_blocks=1)


def test_tokens_digits_and_values_are_one_to_one() -> None:
    fsq = FSQ(FSQConfig(levels=(4, 3, 2), codes=2))
    tokens = torch.cartesian_prod(torch.arange(24), torch.arange(24))
    digits = fsq.digits_of_tokens(tokens)
    assert torch.equal(fsq.tokens(digits), tokens) and len(torch.unique(digits, dim=0)) == 576
    values = fsq.values(digits)
    assert float(values.min()) == -1 and float(values.max()) == 1
    assert torch.equal(fsq.digits(torch.atanh(values.clamp(-0.99999, 0.99999))), digits)


def test_an_illegal_token_raises() -> None:
    with pytest.raises(InputError, match="expected 0 to 4095"):
        FSQ(FSQConfig()).digits_of_tokens(torch.tensor([[0, 1, 4096]]))


def test_the_gradient_passes_the_grid() -> None:
    z = torch.tensor([[0.3, -2.0, 0.0, 5.0] * 3], requires_grad=True)
    FSQ(FSQConfig()).quantize(z).sum().backward()
    assert z.grad is not None and torch.allclose(z.grad, 1 - torch.tanh(z.detach()) ** 2)


@pytest.mark.parametrize("size", [(64, 112), (32, 48), (16, 16)])
def test_any_size_that_divides_by_16(size: tuple[int, int]) -> None:
    model = FrameTokenizer(SMALL)
    pixels = torch.rand(2, 3, *size)
    digits = model.encode(pixels)
    assert digits.shape == (2, size[0] // 16, size[1] // 16, 12)
    assert model.decode(digits).shape == pixels.shape


def test_other_sizes_raise() -> None:
    with pytest.raises(InputError, match="divisible by 16"):
        FrameTokenizer(SMALL).encode(torch.rand(1, 3, 60, 112))


def test_decoding_tokens_is_what_training_reconstructs() -> None:
    model = FrameTokenizer(SMALL).eval()
    pixels = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(model(pixels).clamp(0, 1), model.decode(model.encode(pixels)), atol=1e-5)


def test_it_learns_one_image() -> None:
    torch.manual_seed(0)
    model = FrameTokenizer(SMALL)
    pixels = torch.zeros(1, 3, 32, 32)
    pixels[:, 0, :16], pixels[:, 2, 16:, 8:] = 0.9, 0.6
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    before = float(psnr(model(pixels), pixels))
    for _ in range(60):
        optimizer.zero_grad()
        reconstruction_loss(model(pixels), pixels).backward()
        optimizer.step()
    assert float(psnr(model(pixels), pixels)) > before + 8


def test_psnr_of_a_known_error() -> None:
    grey, lighter = torch.full((1, 3, 4, 4), 0.5), torch.full((1, 3, 4, 4), 0.6)
    assert torch.allclose(psnr(lighter, grey), torch.tensor([20.0]), atol=1e-4)
