"""One manifest or several, with weights: how they are named on the command line and in files."""

import pytest

from tats_ray.config.files import read_run, to_yaml
from tats_ray.config.overrides import ConfigError, change, flatten, parse_override
from tats_ray.data.manifest import WeightedManifest
from tats_ray.recipes import recipe

A, B = WeightedManifest(path="a.parquet", weight=2), WeightedManifest(path="b.parquet")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("a.parquet", (WeightedManifest(path="a.parquet"),)),
        ("s3://bucket/a.parquet", (WeightedManifest(path="s3://bucket/a.parquet"),)),
        ("[{path: a.parquet, weight: 2}, {path: b.parquet}]", (A, B)),
        ("[{path: a.parquet, weight: 2}, b.parquet]", (A, B)),
        ("null", None),
    ],
)
def test_manifests_are_named_alike_on_the_command_line_and_in_files(text, named, tmp_path):
    run = change(recipe("tiny"), [parse_override(f"data.manifest={text}")])
    assert run.data.manifest == named
    (tmp_path / "run.yaml").write_text(to_yaml(run))
    assert read_run(tmp_path / "run.yaml") == run


def test_one_path_is_recorded_as_it_was_given():
    run = change(recipe("tiny"), [("data.manifest", "a.parquet")])
    assert flatten(run.model_dump(mode="json"))["data.manifest"] == "a.parquet"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", r"data\.manifest must be a path or a list of \{path, weight\}, got \[\]"),
        ("{path: a.parquet}", r"data\.manifest must be a path or a list of \{path, weight\}, got \{"),
        ("[{path: a.parquet, weight: 0}]", r"data\.manifest\.0\.weight: input should be greater than 0, got '0'"),
        ("[b.parquet, {path: a.parquet, weight: inf}]", r"data\.manifest\.1\.weight: input should be a finite number"),
        ("[{weight: 2}]", r"data\.manifest\.0\.path: field required"),
    ],
)
def test_what_is_no_manifest_is_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        change(recipe("tiny"), [parse_override(f"data.manifest={text}")])


@pytest.mark.parametrize(
    ("batch", "fewest", "message"),
    [
        (8, 5, r"cluster\.min_workers must be at most cluster\.num_workers, got 5 and 4"),
        (8, 2, r"multiple of each number from cluster\.min_workers=2 to cluster\.num_workers, .*global_batch=12"),
        (9, None, r"must be a multiple of cluster\.num_workers, got 9 and 4; try training\.global_batch=12"),
    ],
)
def test_every_number_of_workers_must_divide_the_batch(batch, fewest, message):
    knobs = [("training.global_batch", batch), ("cluster.num_workers", 4), ("cluster.min_workers", fewest)]
    with pytest.raises(ConfigError, match=message):
        change(recipe("tiny"), knobs)
    assert list(change(recipe("tiny"), [("training.global_batch", 12), *knobs[1:2]]).worker_counts) == [4]
    elastic = change(recipe("tiny"), [("training.global_batch", 12), *knobs[1:2], ("cluster.min_workers", 2)])
    assert list(elastic.worker_counts) == [2, 3, 4]
