import pytest
import torch
from torch import Tensor

from tats_ray.methods.reconstruction import token_error


def plain(prediction: Tensor, target: Tensor) -> Tensor:
    return (prediction.float() - target).square().mean(-1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_error_and_gradient_are_the_plain_ones(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    prediction = torch.randn(2, 5, 96).to(dtype).requires_grad_()
    target, coefficient = torch.randn(2, 5, 96), torch.randn(2, 5)
    fast, slow = token_error(prediction, target), plain(prediction, target)
    assert fast.dtype == torch.float32
    assert torch.allclose(fast, slow, rtol=1e-6)  # a root and its square: two roundings
    got, expected = (torch.autograd.grad((error * coefficient).sum(), prediction)[0] for error in (fast, slow))
    assert got.dtype == dtype
    # Equal up to one rounding in the dtype of the prediction.
    assert torch.allclose(got, expected, rtol=2 * torch.finfo(dtype).eps, atol=0)


def test_a_perfect_prediction_has_no_gradient() -> None:
    target = torch.randn(1, 2, 6)
    prediction = target.clone().requires_grad_()
    token_error(prediction, target).sum().backward()
    assert prediction.grad is not None
    assert prediction.grad.count_nonzero() == 0  # where the slope of a norm would be undefined
