"""Official split files: small ones in the official form, with the rows that they mean written by hand."""

import runpy
from pathlib import Path

import fsspec
import pytest

from tats_ray.data.listing import list_videos
from tats_ray.data.manifest import ManifestError
from tats_ray.data.source import VideoSource
from tats_ray.data.splits.official import OfficialSplit
from tats_ray.data.splits.split import LabelledVideo, Span, SplitRow

MADE = runpy.run_path(str(Path(__file__).with_name("split_files.py")))
UCF, HMDB, KINETICS, SSV2, DIVING, EPIC = (MADE[name] for name in ("UCF", "HMDB", "KINETICS", "SSV2", "DIVING", "EPIC"))


def test_ucf101(put):
    folder = put(UCF)
    train = OfficialSplit("ucf101", folder / "trainlist01.txt").read()
    assert train.classes == ["ApplyEyeMakeup", "HandstandPushups", "Archery"]
    assert train.rows == [
        SplitRow("Archery/v_Archery_g08_c01.avi", 2, "v_Archery_g08_c01", "Archery"),
        SplitRow("ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c02.avi", 0, "v_ApplyEyeMakeup_g08_c02", "ApplyEyeMakeup"),
    ]
    test = OfficialSplit("ucf101", folder / "testlist01.txt").read()
    assert [(row.video, row.label) for row in test.rows] == [
        ("v_ApplyEyeMakeup_g01_c01", 0),
        ("v_HandStandPushups_g01_c01", 1),
    ]


@pytest.mark.parametrize(
    ("fold", "part", "rows"),
    [
        (1, "train", [("b_2", 0), ("#20_Rhythm_clap_u_nm_np1_fr_goo_0", 2)]),
        (1, "test", [("sound of_it_brush_hair_1", 0), ("20060723sf_wave_f_cm", 2)]),
        (2, "train", [("sound of_it_brush_hair_1", 0)]),
        (2, "test", [("April_09_brush_hair_0", 0)]),
    ],
)
def test_hmdb51(put, fold, part, rows):
    folder = put(HMDB)
    split = OfficialSplit("hmdb51", folder, classes=folder / "classes", fold=fold, part=part).read()
    assert split.classes == ["brush_hair", "sit", "wave"]
    assert [(row.video, row.label) for row in split.rows] == rows


def test_the_classes_of_hmdb51_are_in_alphabetical_order(put):
    names = [f"class_{number:02d}" for number in range(49)] + ["sit", "sit1"]
    folder = put({f"{name}_test_split3.txt": f"{name}.avi 2\n" for name in reversed(names)})
    split = OfficialSplit("hmdb51", folder, fold=3, part="test").read()
    assert split.classes == names
    assert [(row.name, row.label) for row in split.rows[-2:]] == [("sit/sit.avi", 49), ("sit1/sit1.avi", 50)]


def test_kinetics400(put):
    folder = put(KINETICS)
    split = OfficialSplit("kinetics400", folder / "val.csv", classes=folder / "classes").read()
    assert split.classes == ["abseiling", "air drumming", "making tea"]
    assert split.rows == [
        SplitRow("making tea/-3B32lodo2M_000059_000069", 2, "-3B32lodo2M_000059_000069", "making tea"),
        SplitRow("abseiling/_dbcJuKJQNs_000003_000013", 0, "_dbcJuKJQNs_000003_000013", "abseiling"),
    ]


def test_the_classes_of_kinetics400_are_in_alphabetical_order(put):
    names = [f"class {number:03d}" for number in range(398)] + ["ski jumping", "skiing slalom"]
    lines = [f"{name},id,0,10.0,train" for name in reversed(names)]
    folder = put({"train.csv": "\n".join(["label,youtube_id,time_start,time_end,split", *lines])})
    split = OfficialSplit("kinetics400", folder / "train.csv").read()
    assert split.classes == names
    assert [row.label for row in split.rows] == list(range(399, -1, -1))


def test_ssv2(put):
    split = OfficialSplit("ssv2", put(SSV2) / "something-something-v2-validation.json").read()
    assert split.classes == ["Holding something", "Piling something up", "Holding something next to something"]
    assert split.rows == [SplitRow("78687", 2, "78687"), SplitRow("42326", 1, "42326")]


def test_diving48(put):
    split = OfficialSplit("diving48", put(DIVING) / "Diving48_V2_test.json").read()
    assert split.classes == ["Back 15som 05Twis FREE", "Back 15som 15Twis FREE"]
    assert split.rows == [
        SplitRow("js2ub3aTJwI_00174", 1, "js2ub3aTJwI_00174"),
        SplitRow("_8Vy3dlHg2w_00000", 0, "_8Vy3dlHg2w_00000"),
    ]


@pytest.mark.parametrize(
    ("label", "labels", "classes"),
    [("verb", [0, 1, 0], ["take", "open"]), ("noun", [2, 0, 1], ["tap", "fork", "plate"])],
)
def test_epic100(put, label, labels, classes):
    split = OfficialSplit("epic100", put(EPIC) / "EPIC_100_validation.csv", label=label).read()
    assert split.classes == classes
    assert [row.label for row in split.rows] == labels
    assert [(row.video, row.trimmed, row.span) for row in split.rows] == [
        ("P01_11", "P01_11_1", Span("P01_11_1", 0.4, 1.2)),
        ("P01_11", "P01_11_0", Span("P01_11_0", 0.4, 0.8)),
        ("P02_03", "P02_03_7", Span("P02_03_7", 3723.04, 3725.0)),
    ]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"dataset": "ucf11"}, r"the set of a split must be one of ucf101, hmdb51, .*, got 'ucf11'"),
        ({"dataset": "ucf101", "fold": 1}, r"--fold 1 is for hmdb51, the split is of ucf101; leave it out"),
        ({"dataset": "hmdb51", "part": "test"}, r"a split of hmdb51 needs --fold 1\|2\|3"),
        ({"dataset": "hmdb51", "fold": 1}, r"a split of hmdb51 needs --part train\|test"),
        ({"dataset": "hmdb51", "part": "test", "fold": 4}, r"--fold must be 1\|2\|3, got 4"),
        ({"dataset": "epic100"}, r"a split of epic100 needs --label verb\|noun"),
        ({"dataset": "ssv2", "label": "noun"}, r"--label noun is for epic100, the split is of ssv2; leave it out"),
    ],
)
def test_settings_of_other_sets_and_missing_ones_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        OfficialSplit(**{"place": "x", **given})


def test_places_are_relative_to_the_working_folder(put, monkeypatch):
    folder = put({**UCF, "elsewhere/names.txt": "1 Archery\n2 ApplyEyeMakeup\n3 HandstandPushups\n"})
    monkeypatch.chdir(folder)
    assert OfficialSplit("ucf101", "trainlist01.txt").read().rows[0].label == 2
    (folder / "trainlist01.txt").write_text("Archery/a.avi\n")
    assert OfficialSplit("ucf101", "trainlist01.txt", "elsewhere/names.txt").read().rows[0].label == 0


def test_a_source_without_any_video_of_the_split_is_one_error(put):
    split = OfficialSplit("ucf101", put(UCF) / "testlist01.txt")
    videos = put({"b.mp4": ""}, "videos")
    message = (
        r"videos holds none of the 2 rows of \S+testlist01.txt; of the first, ApplyEyeMakeup/\S+\.avi: no video v_App"
    )
    with pytest.raises(ManifestError, match=message):
        list_videos(videos, split=split)
    with pytest.raises(ManifestError, match="no such folder, list or video"):
        list_videos("none", split=split)


def test_splits_and_videos_behind_a_uri():
    files = fsspec.filesystem("memory")
    for name, text in DIVING.items():
        files.pipe_file(f"/diving/{name}", text.encode())
    files.pipe_file("/dives/_8Vy3dlHg2w_00000.mp4", b"x")
    got = list_videos("memory://dives", split=OfficialSplit("diving48", "memory://diving/Diving48_V2_test.json"))
    assert got.videos == [LabelledVideo(VideoSource("memory://dives/_8Vy3dlHg2w_00000.mp4"), 0)]
    assert [name for name, _ in got.missing] == ["js2ub3aTJwI_00174"]
    with pytest.raises(ManifestError, match=r"nowhere:// URIs cannot be opened here"):
        OfficialSplit("diving48", "nowhere://diving/Diving48_V2_test.json").read()
