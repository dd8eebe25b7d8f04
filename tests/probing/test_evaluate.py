"""Evaluations against plain loops over views, and what they refuse."""

import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from tats_ray.config.files import to_yaml
from tats_ray.config.overrides import ConfigError, change
from tats_ray.data.clips import load_view_clips
from tats_ray.data.guard import GuardConfig
from tats_ray.data.manifest import Manifest, ManifestError
from tats_ray.evaluation.knn import KNNConfig, knn_scores
from tats_ray.evaluation.ridge import RidgeConfig, ridge_scores
from tats_ray.probing.config import TASKS, EvaluationConfig, changed, tasks_of
from tats_ray.probing.decoding import Views
from tats_ray.probing.evaluate import evaluate
from tats_ray.probing.features import extract_here
from tats_ray.probing.frozen import FrozenEncoder
from tats_ray.probing.parts import FeatureError
from tats_ray.probing.work import ViewDecoder

METRICS = Path(__file__).parents[2] / "docs" / "metrics.md"
QUICK = {"knn": {"neighbors": 3}, "linear": {"epochs": 3}, "attentive": {"epochs": 2, "num_heads": 2}}
CONFIG = EvaluationConfig(**QUICK)


class Failing(ViewDecoder):
    """Some videos give no views."""

    def __init__(self, ids: set[str]) -> None:
        super().__init__(GuardConfig())
        self.ids = ids

    def __call__(self, record, layout):
        return Views(None, reason="it is gone") if record.id in self.ids else super().__call__(record, layout)


@pytest.fixture(scope="module")
def features(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("features")


@pytest.fixture(scope="module")
def evaluation(frozen, train, test, features):
    return evaluate(frozen, train, test, TASKS, CONFIG, features=features)


def relabelled(manifest: Manifest, labels: list[int | None]) -> Manifest:
    records = [manifest.record(row) for row in range(len(manifest))]
    return Manifest.of([replace(record, label=label) for record, label in zip(records, labels, strict=True)])


def by_hand(frozen: FrozenEncoder, manifest: Manifest, *, segments: int, crops: int, ratio: float) -> torch.Tensor:
    """Slot means of every view, ``[videos, views, time, dim]``, a view at a time."""
    slots = []
    for row in range(len(manifest)):
        record = manifest.record(row)
        clips = load_view_clips(record, frozen.run.data, segments=segments, crops=crops)  # type: ignore[arg-type]
        tokens = [
            frozen.encode(
                torch.from_numpy(clip.video)[None],
                keys=[f"{record.id}/{view}"],
                token_ratio=ratio,
                order="in_order",
                seed=0,
            )
            for view, clip in enumerate(clips)
        ]
        slots.append(torch.cat(tokens).reshape(len(clips), frozen.grid.time, -1, frozen.dim).mean(2))
    return torch.stack(slots)


@pytest.mark.parametrize("ratio", [1.0, 0.25])
def test_scores_are_plain_averages_over_views(frozen, train, test, evaluation, ratio):
    known = by_hand(frozen, train, segments=1, crops=1, ratio=ratio)[:, 0]
    asked = by_hand(frozen, test, segments=2, crops=3, ratio=ratio)
    labels = torch.tensor(train.table["label"].to_pylist())
    wanted = {
        "knn": torch.stack(
            [
                knn_scores(known.mean(1), labels, views.mean(1), num_classes=3, config=KNNConfig(neighbors=3)).mean(0)
                for views in asked
            ]
        ),
        "ridge": torch.stack(
            [
                ridge_scores(known.flatten(1), labels, views.flatten(1), num_classes=3, config=RidgeConfig()).mean(0)
                for views in asked
            ]
        ),
    }
    for task, scores in wanted.items():
        (result,) = [one for one in evaluation.results if (one.task, one.token_ratio) == (task, ratio)]
        # float32 features of other batches differ by 1e-6; k-NN's votes by 1 / temperature = 14 times that
        assert torch.allclose(result.scores, scores.float(), atol=1e-3)
        truth = torch.tensor(test.table["label"].to_pylist())
        assert result.accuracy.top1 == (result.scores.argmax(1) == truth).double().mean().item()
        assert result.num_views.tolist() == [6] * 6


def test_every_metric_is_documented_and_every_documented_one_is_there(evaluation):
    section = METRICS.read_text().partition("## Frozen encoders")[2].partition("\n## ")[0]
    of_probes = set(re.findall(r"^\| probe \| `([^`]+)`", section, flags=re.MULTILINE))
    of_health = set(re.findall(r"^\| health \| `([^`]+)`", section, flags=re.MULTILINE))
    probes = [f"{task}{ratio}" for task in TASKS[:4] for ratio in ("", "_25")]
    # top5 says nothing of three classes and is absent
    wanted = {f"{probe}/{name}" for probe in probes for name in of_probes - {"top5"}} | of_health
    assert set(evaluation.metrics()) == wanted | {"health/rankme_25", "health/centred_rank_25"}
    assert all(np.isfinite(value) for value in evaluation.metrics().values())


def test_health_turns_frames_around_for_one_ridge(evaluation):
    assert evaluation.health["health/ridge_in_order"] == evaluation.metrics()["ridge/top1"]
    assert set(evaluation.spectra) == {"100 % of the tokens", "25 % of the tokens"}


def test_a_second_evaluation_decodes_nothing_and_says_the_same(frozen, train, test, evaluation, features):
    everything = {*train.table["id"].to_pylist(), *test.table["id"].to_pylist()}
    extract = partial(extract_here, decoder=Failing(everything))
    again = evaluate(frozen, train, test, TASKS, CONFIG, features=features, extract=extract)
    assert again.metrics() == evaluation.metrics()
    assert not again.test_failures


def test_an_undecodable_test_video_is_wrong_and_named_and_a_training_one_left_out(frozen, train, test, tmp_path):
    lost, left_out = test.record(1), train.record(4)
    extract = partial(extract_here, decoder=Failing({lost.id, left_out.id}))
    found = evaluate(frozen, train, test, ("ridge",), CONFIG, features=tmp_path, extract=extract)
    assert [(one.row, one.path, one.reason) for one in found.test_failures] == [(1, lost.path, "it is gone")]
    assert [one.row for one in found.train_failures] == [4]
    for result in found.results:
        assert result.accuracy.coverage == 5 / 6
        assert result.accuracy.num_videos == 6
        assert result.scores[1].isnan().all()
        truth = torch.tensor(test.table["label"].to_pylist())
        kept = torch.tensor([0, 2, 3, 4, 5])
        right = (result.scores[kept].argmax(1) == truth[kept]).sum().item()
        assert result.accuracy.top1 == pytest.approx(right / 6)


def test_a_class_whose_training_videos_are_all_lost_is_refused(frozen, train, test, tmp_path):
    extract = partial(extract_here, decoder=Failing({train.record(row).id for row in (1, 4, 7)}))
    with pytest.raises(FeatureError, match=r"no training video of class 1 could be decoded \(3 of 9 failed"):
        evaluate(frozen, train, test, ("knn",), CONFIG, features=tmp_path, extract=extract)


def test_several_training_views_are_rows_but_for_ridge(frozen, train, test, tmp_path):
    config = CONFIG.model_copy(update={"train_segments": 3, "token_ratios": (1.0,), "crops": 1, "segments": 1})
    found = evaluate(frozen, train, test, ("knn", "ridge"), config, features=tmp_path)
    known = by_hand(frozen, train, segments=3, crops=1, ratio=1.0)
    asked = by_hand(frozen, test, segments=1, crops=1, ratio=1.0)[:, 0]
    labels = torch.tensor(train.table["label"].to_pylist())
    votes = knn_scores(
        known.mean(2).flatten(0, 1),
        labels.repeat_interleave(3),
        asked.mean(1),
        num_classes=3,
        config=KNNConfig(neighbors=3),
    )
    middle = ridge_scores(known[:, 1].flatten(1), labels, asked.flatten(1), num_classes=3, config=RidgeConfig())
    for result, wanted in zip(found.results, (votes, middle), strict=True):
        assert torch.allclose(result.scores, wanted.float(), atol=1e-3)  # as above


def test_one_video_a_class_is_enough_for_every_probe(frozen, train, test, tmp_path):
    few = Manifest.of([train.record(row) for row in (0, 1, 2)])
    found = evaluate(frozen, few, test, TASKS, CONFIG, features=tmp_path)
    assert all(np.isfinite(value) for value in found.metrics().values())


def test_labels_that_do_not_fit_are_refused(frozen, train, test, tmp_path):
    def refusal(train: Manifest, test: Manifest) -> str:
        with pytest.raises(ManifestError) as refused:
            evaluate(frozen, train, test, ("knn",), CONFIG, features=tmp_path)
        return str(refused.value)

    some = relabelled(test, [0, None, 1, 2, None, 0])
    assert re.match(
        r"2 of 6 videos of .* have no label: \S+0001.mp4, \S+0004.mp4; index a list of paths", refusal(train, some)
    )
    negative = relabelled(train, [0, 1, 2, -1, 0, 1, 2, 0, 1])
    assert re.match(r"labels of .* must be class numbers from 0, got -1 for \S+0003.mp4", refusal(negative, test))
    other = relabelled(test, [0, 7, 1, 2, 4, 0])
    assert re.match(r"classes 4, 7 of .* are absent in .*, so no probe can know them; add", refusal(train, other))
    one = relabelled(train, [2] * 9), relabelled(test, [2] * 6)
    assert re.match(r".* has one class only \(2\), and there is nothing to tell apart", refusal(*one))
    assert not list(tmp_path.iterdir())


def test_videos_that_were_seen_before_are_refused_unless_allowed(frozen, made, train, test, tmp_path):
    seen = Manifest.of([*(test.record(row) for row in range(6)), Manifest.read(made.pretraining).record(2)])
    with pytest.raises(
        ManifestError, match=r"1 of 7 test videos of .* are among those that .* was pre-trained on: \S+0002"
    ):
        evaluate(frozen, train, seen, ("knn",), CONFIG, features=tmp_path)
    # Elsewhere and under another id, but the same bytes.
    copied = replace(train.record(5), id="f" * 16, path="/elsewhere.mp4")
    unknown = replace(train.record(6), content=None)  # of which only the id is known
    both = Manifest.of([*(test.record(row) for row in range(6)), copied, unknown])
    with pytest.raises(ManifestError, match=r"2 of 8 test videos of .* are in .* too: /elsewhere.mp4, .*allow_overlap"):
        evaluate(frozen, train, both, ("knn",), CONFIG, features=tmp_path)
    allowed = CONFIG.model_copy(update={"allow_overlap": True})
    overlaps = evaluate(frozen, train, seen, ("knn",), allowed, features=tmp_path).overlaps
    assert (overlaps.pretraining, overlaps.train) == (1, 0)


def test_a_lost_manifest_of_the_pretraining_is_told(frozen, train, test, tmp_path):
    lost = replace(frozen, run=change(frozen.run, [("data.manifest", "/nowhere.parquet")]))
    with pytest.raises(ManifestError, match=r"whether the encoder was trained on test videos cannot be told: no such"):
        evaluate(lost, train, test, ("knn",), CONFIG, features=tmp_path)
    evaluate(lost, train, test, ("knn",), CONFIG.model_copy(update={"allow_overlap": True}), features=tmp_path)


def test_settings_that_do_not_fit_the_videos_are_refused_before_anything_is_extracted(frozen, train, test, tmp_path):
    def refusal(encoder=frozen, **changes) -> str:
        with pytest.raises(ConfigError) as refused:
            evaluate(encoder, train, test, TASKS, CONFIG.model_copy(update=changes), features=tmp_path)
        return str(refused.value)

    long = frozen.run.data.model_copy(update={"frame_stride": 4})
    shown = replace(frozen, run=frozen.run.model_copy(update={"data": long}))
    assert re.match(r"a view of 4 frames at data.frame_stride=4, .*longest: 10 frames", refusal(shown))
    assert "knn.neighbors must be at most the 9 rows to train on, got 10" in refusal(knn=KNNConfig(neighbors=10))
    assert re.match(
        r"the tokens .* would take 5.\d+e-05 GiB .* features_gib=1e-06; raise that", refusal(features_gib=1e-6)
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("crops", "2", r"crops: input should be 1 or 3, got '2'"),
        ("segments", "0", r"segments: .*greater than or equal to 1, got '0'"),
        ("segments", True, r"segments: must be int, got true"),
        ("segment", "3", r"there is no knob 'segment'; did you mean segments"),
        ("token_ratios", ["0"], r"token_ratios\.0: .*greater than 0, got '0'"),
        ("token_ratios", ["0.25", "0.251"], r"token_ratios must differ by a per cent at least"),
        ("token_ratios", [], r"token_ratios: .*at least 1 item"),
        ("knn.neighbours", "3", r"there is no knob 'knn.neighbours'; did you mean knn.neighbors"),
        ("knn.temperature", "inf", r"knn.temperature: must be finite, got inf"),
        ("ridge.penalties", ["-1"], r"penalties must be positive and finite"),
        ("allow_overlap", "1", r"allow_overlap: .*valid boolean, got '1'"),
        ("cluster.num_workers", "-1", r"cluster\.num_workers: .*greater than or equal to 0"),
        ("short_videos", "wrap", r"short_videos: .*'hold', 'loop' or 'refuse', got 'wrap'"),
    ],
)
def test_wrong_settings_are_refused_by_name(path, value, message):
    with pytest.raises(ConfigError, match=message):
        changed(EvaluationConfig(), [(path, value)])


def test_settings_are_changed_by_dotted_path():
    config = changed(EvaluationConfig(), [("crops", "1"), ("attentive.epochs", "3"), ("token_ratios", ["0.5"])])
    assert (config.crops, config.attentive.epochs, config.token_ratios) == (1, 3, (0.5,))
    assert config.knn == EvaluationConfig().knn


def test_tasks_are_known_and_in_their_order():
    assert tasks_of(["health", "knn", "knn"]) == ("knn", "health")
    for names, said in ((["svm"], "got 'svm'"), ([], "got none")):
        with pytest.raises(ConfigError, match=f"--task must .* knn ridge linear attentive health, {said}"):
            tasks_of(names)


def test_the_settings_of_the_run_are_read_back(made, frozen):
    assert (made.folder / "run.yaml").read_text() == to_yaml(frozen.run)
