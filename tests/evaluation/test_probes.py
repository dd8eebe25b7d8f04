"""What each trained probe can learn, against scikit-learn's logistic regression, and that seeds decide all of it."""

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from tats_ray.evaluation import probes
from tats_ray.evaluation.probes import AttentiveConfig, LinearConfig, attentive_scores, linear_scores

QUICK = AttentiveConfig(epochs=2, num_heads=4)


def blobs(rows: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Four classes with some overlap, on features of very different scale."""
    centres = 0.7 * torch.randn(4, 10, generator=torch.Generator().manual_seed(99))
    labels = torch.arange(rows) % 4
    noise = torch.randn(rows, 10, generator=torch.Generator().manual_seed(seed))
    return (centres[labels] + noise) * torch.logspace(-3, 3, 10) + 2, labels


def marked_tokens(rows: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """A marked token points along its class, an unmarked one the other way: the mean over tokens knows nothing."""
    direction = torch.randn(2, 15, generator=torch.Generator().manual_seed(99))
    direction = 3 * direction / direction.norm(dim=1, keepdim=True)
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(rows) % 2
    tokens = 0.3 * torch.randn(rows, 12, 16, generator=generator)
    marked, other = torch.stack([torch.randperm(12, generator=generator)[:2] for _ in range(rows)]).unbind(1)
    row = torch.arange(rows)
    tokens[row, marked, 0] += 3
    tokens[row, marked, 1:] += direction[labels]
    tokens[row, other, 1:] -= direction[labels]
    return tokens, labels


def top1(scores: Tensor, labels: Tensor) -> float:
    return (scores.argmax(1) == labels).double().mean().item()


def test_the_linear_probe_is_as_good_as_logistic_regression() -> None:
    train, labels = blobs(400, seed=0)
    test, test_labels = blobs(1000, seed=1)
    scaler = StandardScaler().fit(train)
    theirs = LogisticRegression().fit(scaler.transform(train), labels).score(scaler.transform(test), test_labels)
    ours = top1(linear_scores(train, labels, test, num_classes=4, config=LinearConfig(), seed=0), test_labels)
    assert 0.8 < theirs < 0.99  # far from chance, and with room above
    assert ours == pytest.approx(theirs, abs=0.015)  # 15 of 1000 videos: it stops short of the optimum


def test_the_attentive_probe_learns_what_mean_pooling_cannot() -> None:
    train, labels = marked_tokens(320, seed=0)
    test, test_labels = marked_tokens(400, seed=1)
    config = AttentiveConfig(epochs=20)
    attentive = attentive_scores(train.half(), labels, test.half(), num_classes=2, config=config, seed=0)
    pooled = linear_scores(train.mean(1), labels, test.mean(1), num_classes=2, config=LinearConfig(), seed=0)
    assert top1(attentive, test_labels) > 0.95
    assert 0.4 < top1(pooled, test_labels) < 0.6  # chance, within four deviations of 400 coin tosses


def run(probe: str, *, seed: int = 0, test_rows: int = 60) -> Tensor:
    if probe == "linear":
        train, labels = blobs(60, seed=0)
        config = LinearConfig(epochs=2, batch=16)
        return linear_scores(train, labels, train[:test_rows], num_classes=4, config=config, seed=seed)
    train, labels = marked_tokens(60, seed=0)
    return attentive_scores(train, labels, train[:test_rows], num_classes=2, config=QUICK, seed=seed)


@pytest.mark.parametrize("probe", ["linear", "attentive"])
def test_a_seed_decides_and_the_global_generator_is_left_alone(probe: str) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = run(probe)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert torch.equal(run(probe), first)
    assert not torch.equal(run(probe, seed=1), first)


@pytest.mark.parametrize("probe", ["linear", "attentive"])
def test_scores_are_shares(probe: str) -> None:
    scores = run(probe)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores.sum(1), torch.ones(60))
    assert not scores.requires_grad


@pytest.mark.parametrize("probe", ["linear", "attentive"])
def test_gradients_that_are_off_for_the_caller_are_on_for_the_probe(probe: str) -> None:
    wanted = run(probe)
    with torch.no_grad():
        assert torch.equal(run(probe), wanted)


def test_features_that_were_made_in_inference_mode_can_be_learnt_from() -> None:
    with torch.inference_mode():
        train, labels = marked_tokens(60, seed=0)
    scores = attentive_scores(train, labels, train, num_classes=2, config=QUICK, seed=0)
    assert torch.equal(scores, run("attentive"))


@pytest.mark.parametrize("probe", ["linear", "attentive"])
def test_chunks_of_test_rows_change_nothing(probe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(probe)
    monkeypatch.setattr(probes, "_CHUNK_VALUES", 7 * 12 * 16)
    torch.testing.assert_close(run(probe), whole, atol=1e-6, rtol=0)  # products of other shapes round otherwise


@pytest.mark.parametrize("probe", ["linear", "attentive"])
def test_a_row_is_scored_alone_as_in_company(probe: str) -> None:
    # Nothing is learnt from test rows, not even a mean. Products of other shapes round otherwise.
    torch.testing.assert_close(run(probe, test_rows=1), run(probe)[:1], atol=1e-6, rtol=0)


def test_several_views_are_several_rows() -> None:
    train, labels = marked_tokens(60, seed=0)
    test = train[:8]
    views = test.repeat_interleave(3, dim=0)
    once = attentive_scores(train, labels, test, num_classes=2, config=QUICK, seed=0)
    thrice = attentive_scores(train, labels, views, num_classes=2, config=QUICK, seed=0)
    torch.testing.assert_close(thrice[::3], once)


def test_fewer_tokens_in_test_than_in_training_are_scored() -> None:
    train, labels = marked_tokens(60, seed=0)
    scores = attentive_scores(train, labels, train[:, :3], num_classes=2, config=QUICK, seed=0)
    assert scores.shape == (60, 2)


@pytest.mark.parametrize("epochs", [1, 3])
def test_a_batch_larger_than_the_set_and_a_long_warmup_are_taken(epochs: int) -> None:
    train, labels = blobs(6, seed=0)
    config = LinearConfig(epochs=epochs, batch=64, warmup_share=0.99)
    assert linear_scores(train, labels, train, num_classes=4, config=config, seed=0).isfinite().all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("room", [True, False])
def test_a_gpu_finds_what_a_cpu_finds(room: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the tokens go there once or a batch at a time."""
    monkeypatch.setattr(probes, "_has_room", lambda rows, device: room)
    train, labels = marked_tokens(320, seed=0)
    test, test_labels = marked_tokens(400, seed=1)
    config = AttentiveConfig(epochs=20)
    scores = attentive_scores(train, labels, test, num_classes=2, config=config, seed=0, device="cuda")
    assert scores.device.type == "cpu"
    assert top1(scores, test_labels) > 0.95
