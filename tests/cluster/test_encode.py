"""Encoding on Ray: the files that encoding alone writes, whatever becomes of the actors."""

import runpy
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from tats_ray.cluster import encode
from tats_ray.cluster.encode import encode_on_ray
from tats_ray.data import part_files
from tats_ray.data.manifest import Manifest
from tats_ray.data.part_files import part_file
from tats_ray.encoding import EncodedData, EncodingConfig, FrozenTokenizer, encode_here, encode_part, plan
from tats_ray.probing.config import ExtractionConfig

MADE = runpy.run_path(str(Path(__file__).parents[1] / "tokenizer" / "made.py"))
dying_once = runpy.run_path(str(Path(__file__).with_name("made.py")))["dying_once"]


@pytest.mark.ray
def test_ray_writes_what_one_process_writes_though_an_actor_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(part_files, "PART_VIDEOS", 2)
    monkeypatch.setattr(encode, "encode_part", dying_once(encode_part))
    manifest = Manifest.read(MADE["write_videos"](tmp_path / "videos"))
    frozen = FrozenTokenizer.load(MADE["save_tokenizer"](tmp_path), device=torch.device("cpu"))
    config = EncodingConfig(data=EncodedData(num_frames=8, crops=3, flip=True))
    plans: Any = [plan(frozen, manifest, config, folder=tmp_path / name) for name in ("alone", "ray")]
    for one in plans:
        one.about.write(one.folder)
    encode_here(frozen, manifest, plans[0])
    told: list[int] = []
    encode_on_ray(frozen, manifest, plans[1], config=ExtractionConfig(use_gpu=False), advance=told.append)
    assert (tmp_path / "ray" / "died").exists()
    assert sum(told) == 5
    for number in range(3):
        alone, ray = (pq.read_table(part_file(one.folder, number)) for one in plans)
        assert alone.drop_columns("importance").equals(ray.drop_columns("importance"))
        pairs = zip(alone["importance"].to_pylist(), ray["importance"].to_pylist(), strict=True)
        assert all(one == pytest.approx(other, rel=1e-2) for one, other in pairs)  # other threads, other sums
    encode_on_ray(frozen, manifest, plans[1], config=ExtractionConfig(use_gpu=False), advance=told.append)
    assert told[-1] == 5  # nothing is made twice
