"""Losses beside the pixels, against numbers by hand and against the formula of a discriminator that is known."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import resnet50

from tats_ray.tokenizer.adversarial import (
    Discriminator,
    PerceptualDistance,
    discriminator_loss,
    generator_loss,
    slope_penalty,
)


def test_losses_by_hand() -> None:
    logit = torch.tensor([0.0, 2.0])
    assert generator_loss(logit).tolist() == pytest.approx([math.log(2), math.log(1 + math.exp(-2))])
    real, rebuilt = torch.tensor([1.0]), torch.tensor([-3.0])
    assert discriminator_loss(real, rebuilt).item() == pytest.approx(
        math.log(1 + math.exp(-1)) + math.log(1 + math.exp(-3))
    )


def test_the_penalty_is_half_the_squared_slope_of_each_clip() -> None:
    pixels = torch.rand(3, 3, 2, 4, 4, requires_grad=True)
    weight = torch.randn(3, 2, 4, 4, requires_grad=True)
    penalty = slope_penalty((pixels.square() * weight).sum((1, 2, 3, 4)), pixels)
    wanted = (2 * pixels * weight).square().sum((1, 2, 3, 4)) / 2
    assert torch.allclose(penalty, wanted)
    penalty.sum().backward()
    assert weight.grad is not None
    assert torch.allclose(weight.grad, (4 * pixels.square() * weight).sum(0), atol=1e-4)


@pytest.mark.parametrize(("frames", "side"), [(4, 16), (8, 20)])
def test_a_discriminator_learns_to_tell(frames: int, side: int) -> None:
    torch.manual_seed(0)
    network = Discriminator(channels=4, frames=frames, side=side)
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    losses = []
    for _ in range(40):
        real = torch.rand(4, 3, frames, side, side, requires_grad=True)
        rebuilt = torch.full((4, 3, frames, side, side), 0.2)
        verdict = network(real)
        assert verdict.shape == (4,)
        loss = (discriminator_loss(verdict, network(rebuilt)) + 0.001 * slope_penalty(verdict, real)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert min(losses[-5:]) < 0.5 * losses[0]


def test_perceptual_distance_is_of_a_file_of_the_users(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = resnet50(weights=None).eval()
    pth, tensors = tmp_path / "resnet50.pth", tmp_path / "resnet50.safetensors"
    torch.save(network.state_dict(), pth)
    save_file(network.state_dict(), tensors)
    real, rebuilt = torch.rand(2, 3, 2, 32, 32), torch.rand(2, 3, 2, 32, 32, requires_grad=True)
    distance = PerceptualDistance(pth)(rebuilt, real)
    assert torch.equal(distance, PerceptualDistance(tensors)(rebuilt, real))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])

    def logits(clip: int, frame: int, pixels: torch.Tensor) -> torch.Tensor:
        return network(((pixels[clip, :, frame] - mean[:, None, None]) / std[:, None, None])[None])

    slow = [
        torch.stack([(logits(i, t, rebuilt) - logits(i, t, real)).square().mean() for t in range(2)]).mean()
        for i in range(2)
    ]
    assert distance.tolist() == pytest.approx([float(one.detach()) for one in slow], rel=1e-4)
    distance.sum().backward()
    assert rebuilt.grad is not None
    assert rebuilt.grad.abs().max() > 0
    assert not any(parameter.requires_grad for parameter in PerceptualDistance(pth).parameters())


def test_other_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"losses.perceptual_weights=.*nowhere.pth cannot be used.*No such file"):
        PerceptualDistance(tmp_path / "nowhere.pth")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other.pth cannot be used: .*ResNet.*torchvision's ResNet-50"):
        PerceptualDistance(tmp_path / "other.pth")
