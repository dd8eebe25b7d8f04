"""Statistics against torch's, whatever the chunk and the type."""

import pytest
import torch

from tats_ray.evaluation import standardize
from tats_ray.evaluation.standardize import fit_standardizer


@pytest.mark.parametrize("shape", [(40, 6), (40, 5, 6)])
def test_standardised_training_rows_have_mean_zero_and_deviation_one(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 7 + 300
    fitted = fit_standardizer(rows)
    flat = fitted(rows, dtype=torch.float64).flatten(0, -2)
    torch.testing.assert_close(flat.mean(0), torch.zeros(6).double(), atol=1e-12, rtol=0)
    torch.testing.assert_close(flat.std(0, correction=0), torch.ones(6).double())
    monkeypatch.setattr(standardize, "_CHUNK_VALUES", 3 * rows[0].numel())
    chunked = fit_standardizer(rows)
    torch.testing.assert_close(chunked.mean, fitted.mean)  # float64 sums in another order
    torch.testing.assert_close(chunked.scale, fitted.scale)


def test_a_constant_feature_becomes_zero_in_test_too() -> None:
    rows = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    rows[:, 1] = 0.1  # not exact in binary, so that sums of it round
    rows[:, 2] = 1.0 + 1e-7 * rows[:, 2]  # the noise of float32
    fitted = fit_standardizer(rows)
    assert fitted.scale[1:].tolist() == [0, 0]
    assert fitted(torch.full((2, 3), 5.0), dtype=torch.float32)[:, 1:].abs().max() == 0


def test_float16_is_summed_beyond_its_range() -> None:
    rows = torch.full((5000, 2), 60000.0).half()
    rows[::2] = 50000.0
    fitted = fit_standardizer(rows)
    assert fitted.mean.tolist() == pytest.approx([55000, 55000], rel=1e-3)  # float16 holds four digits
    assert fitted.scale.tolist() == pytest.approx([1 / 5000] * 2, rel=1e-2)
