import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch

from tats_ray.config.files import read_run, to_yaml
from tats_ray.config.overrides import change
from tats_ray.geometry import TokenGrid
from tats_ray.nn.patches import patchify
from tats_ray.probing.frozen import FrozenEncoder, kept_per_slot, kept_tokens, ordered, slot_means
from tats_ray.training.state import CheckpointError, load_module
from tats_ray.worker import build

CPU = torch.device("cpu")
GRID = TokenGrid(time=4, height=3, width=4)
KEYS = [f"video/{number}" for number in range(400)]


def clips(count: int) -> torch.Tensor:
    noise = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 4, 16, 16, 3), dtype=torch.uint8, generator=noise)


def test_kept_tokens_are_equally_many_in_every_slot():
    for ratio, count in ((0.25, 3), (0.01, 1), (0.5, 6), (0.99, 12)):
        assert kept_per_slot(GRID, ratio) == count
        idx = kept_tokens(GRID, ratio, keys=KEYS[:20], seed=0)
        assert idx.shape == (20, 4 * count)
        assert (idx.diff(dim=1) > 0).all()  # sorted, and none twice
        assert (idx.reshape(20, 4, count) // 12 == torch.arange(4)[:, None]).all()


def test_kept_tokens_are_a_function_of_seed_and_key_alone():
    every = kept_tokens(GRID, 0.25, keys=KEYS, seed=0)
    assert torch.equal(kept_tokens(GRID, 0.25, keys=KEYS[7:9], seed=0), every[7:9])
    assert not torch.equal(kept_tokens(GRID, 0.25, keys=KEYS, seed=1), every)
    assert len({tuple(row) for row in every.tolist()}) > 390
    more = kept_tokens(GRID, 0.5, keys=KEYS, seed=0)
    assert all(set(few) < set(many) for few, many in zip(every.tolist(), more.tolist(), strict=True))


def test_each_token_is_kept_equally_often():
    often = Counter(kept_tokens(GRID, 0.25, keys=KEYS, seed=0).flatten().tolist())
    # 400 draws of chance 1 / 4: mean 100, standard deviation 8.7; none of 48 is five of them away.
    assert len(often) == 48
    assert all(abs(count - 100) < 44 for count in often.values())


def test_frames_are_shown_in_the_order_asked_for():
    video = clips(30)
    keys = KEYS[:30]
    assert torch.equal(ordered(video, keys=keys, order="in_order", seed=0), video)
    assert torch.equal(ordered(video, keys=keys, order="reversed", seed=0), video[:, [3, 2, 1, 0]])
    shuffled = ordered(video, keys=keys, order="shuffled", seed=0)
    assert torch.equal(ordered(video[4:5], keys=keys[4:5], order="shuffled", seed=0), shuffled[4:5])
    used = set()
    for found, frames in zip(shuffled, video, strict=True):
        used.add(tuple(next(i for i in range(4) if torch.equal(one, frames[i])) for one in found))
    assert all(sorted(order) == [0, 1, 2, 3] for order in used)  # a permutation: no frame twice, none lost
    assert len(used) > 10  # of each view its own


def test_features_are_those_of_the_trained_encoder(frozen, made):
    method = build(frozen.run, 1, CPU)
    load_module(made.checkpoint, "autoencoder", method.autoencoder)
    encoder = method.autoencoder.encoder.eval()
    video, keys = clips(3), KEYS[:3]
    patches = patchify(video, frozen.grid)
    with torch.no_grad():
        every = encoder(patches)
        few = encoder(patches, kept_tokens(frozen.grid, 0.25, keys=keys, seed=5))
    found = frozen.encode(video, keys=keys, token_ratio=1.0, order="in_order", seed=5)
    assert torch.equal(found, every)
    assert torch.equal(frozen.encode(video, keys=keys, token_ratio=0.25, order="in_order", seed=5), few)
    assert few.shape[1] == frozen.num_tokens(0.25) == 8  # of 2 slots of 16
    by_hand = torch.stack([every[:, :16].mean(1), every[:, 16:].mean(1)], dim=1)
    assert torch.allclose(slot_means(found, frozen.grid), by_hand, atol=1e-6)  # float32 sums in another order


def test_loading_says_where_it_is_from_and_draws_nothing(frozen, made):
    before = torch.random.get_rng_state()
    again = FrozenEncoder.load(made.checkpoint, device=CPU)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert (again.checkpoint, again.folder, again.step, again.run_id) == (made.checkpoint, made.folder, 7, "parent")
    assert again.digest == frozen.digest
    assert not any(parameter.requires_grad for parameter in again.encoder.parameters())
    assert not again.encoder.training


def test_an_encoder_is_shown_longer_clips_than_it_was_trained_on(frozen, made):
    longer = FrozenEncoder.load(made.checkpoint, device=CPU, num_frames=8)
    assert (longer.grid.time, longer.digest) == (2 * frozen.grid.time, frozen.digest)
    video = torch.cat([clips(2), clips(2).flip(1)], 1)
    seen = longer.encode(video, keys=KEYS[:2], token_ratio=1.0, order="in_order", seed=0)
    assert seen.shape == (2, longer.grid.num_tokens, frozen.dim)
    short = frozen.encode(video[:, :4], keys=KEYS[:2], token_ratio=1.0, order="in_order", seed=0)
    assert not torch.allclose(seen[:, : frozen.grid.num_tokens], short)  # it attends to the later frames as well


def test_a_name_stands_for_its_newest_run_with_a_checkpoint(made, tmp_path: Path):
    for number in ("0009", "0010"):
        shutil.copytree(made.folder, tmp_path / "name" / number)
    (tmp_path / "name" / "0011").mkdir()  # killed before its first checkpoint
    assert FrozenEncoder.load(tmp_path / "name", device=CPU).folder == tmp_path / "name" / "0010"


def test_what_is_no_checkpoint_of_this_model_is_refused(made, tmp_path: Path):
    def copy(name: str) -> Path:
        return Path(shutil.copytree(made.folder, tmp_path / name))

    def refusal(place: Path) -> str:
        with pytest.raises(CheckpointError) as refused:
            FrozenEncoder.load(place, device=CPU)
        return str(refused.value)

    assert "is neither a checkpoint (it has no checkpoint.json) nor the folder of a run" in refusal(tmp_path)
    assert "is neither a checkpoint" in refusal(tmp_path / "nowhere")
    bare = copy("bare")
    (bare / "run.yaml").unlink()
    assert f"{bare / 'run.yaml'} is missing, which says what model it is" in refusal(bare)
    wider = copy("wider")
    run = change(read_run(wider / "run.yaml"), [("model.encoder.embed_dim", 32)])
    (wider / "run.yaml").write_text(to_yaml(run))
    assert "autoencoder.safetensors does not fit this model: size mismatch for encoder" in refusal(wider)
    altered = copy("altered")
    weights = altered / "checkpoints" / made.checkpoint.name / "autoencoder.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert "was altered since it was written" in refusal(altered)
