"""What is predicted of a token: errors by hand, token by token."""

import pytest
import torch

from tats_ray.data.batches import ClipBatch
from tats_ray.methods.targets import CodePrediction, CodesConfig, PixelPrediction, PixelsConfig, prediction_of
from tats_ray.nn.patches import normalized_patches
from tats_ray.tokenizer.fsq import FSQ

LEVELS = (4, 3)
CODES = torch.tensor([[0, 5, 11, 7], [2, 2, 9, 1]])
IDX = torch.tensor([[1, 3], [0, 2]])


def batch(codes: torch.Tensor | None = CODES) -> ClipBatch:
    importance = None if codes is None else torch.zeros(2, 4)
    return ClipBatch(torch.zeros(2, 2, 8, 8, 3, dtype=torch.uint8), torch.arange(2), codes=codes, importance=importance)


def test_the_error_of_codes_is_the_squared_distance_to_the_code() -> None:
    predict = prediction_of(CodesConfig(levels=LEVELS))
    assert predict.outputs(96) == 2
    prediction = torch.randn(2, 2, 2, requires_grad=True)
    error = predict.error(prediction, batch(), torch.zeros(2, 4, 96, dtype=torch.uint8), IDX)
    for clip in range(2):
        for place in range(2):
            number = int(CODES[clip, IDX[clip, place]])
            code = torch.tensor([(number % 4 - 2) / 2, float(number // 4 - 1)])
            assert error[clip, place].item() == pytest.approx(float((prediction[clip, place] - code).square().mean()))
    error.sum().backward()
    assert prediction.grad is not None


def test_the_cross_entropy_is_the_mean_over_dimensions() -> None:
    predict = prediction_of(CodesConfig(levels=LEVELS, loss="cross-entropy"))
    assert predict.outputs(96) == 7
    prediction = torch.randn(2, 2, 7)
    error = predict.error(prediction, batch(), torch.zeros(2, 4, 96, dtype=torch.uint8), IDX)
    for clip in range(2):
        for place in range(2):
            number = int(CODES[clip, IDX[clip, place]])
            first, second = prediction[clip, place, :4].log_softmax(0), prediction[clip, place, 4:].log_softmax(0)
            wanted = -(first[number % 4] + second[number // 4]) / 2
            assert error[clip, place].item() == pytest.approx(float(wanted), rel=1e-5)


def test_a_perfect_prediction_has_no_error() -> None:
    right = FSQ(LEVELS).code(CODES.gather(1, IDX))
    error = CodePrediction(CodesConfig(levels=LEVELS)).error(right, batch(), torch.zeros(2, 4, 96), IDX)
    assert error.abs().max() == 0


def test_pixels_are_normalised_by_their_own_patch() -> None:
    predict = prediction_of(PixelsConfig())
    assert isinstance(predict, PixelPrediction)
    assert predict.outputs(96) == 96
    patches = torch.randint(0, 256, (2, 4, 96), dtype=torch.uint8)
    chosen = torch.stack([patches[clip, IDX[clip]] for clip in range(2)])
    assert predict.error(normalized_patches(chosen), batch(None), patches, IDX).max() == 0


def test_clips_without_codes_or_with_others_are_refused() -> None:
    predict = CodePrediction(CodesConfig(levels=LEVELS))
    with pytest.raises(ValueError, match=r"model.prediction.kind=codes needs the codes of every clip; set data.codes"):
        predict.error(torch.zeros(2, 2, 2), batch(None), torch.zeros(2, 4, 96), IDX)
    with pytest.raises(ValueError, match="these are codes of other levels"):
        predict.error(torch.zeros(2, 2, 2), batch(CODES + 7), torch.zeros(2, 4, 96), IDX)
