"""Official split files: small ones in the official form, with the rows that they mean written by hand."""

import json
import runpy
from pathlib import Path

import fsspec
import pytest

from tats_ray.data.decode import View, decode_views
from tats_ray.data.frames import Pace
from tats_ray.data.listing import list_videos
from tats_ray.data.manifest import Manifest, ManifestError, VideoRecord
from tats_ray.data.scaling import Crop
from tats_ray.data.source import VideoSource
from tats_ray.data.splits.files import read_class_names
from tats_ray.data.splits.official import OfficialSplit
from tats_ray.data.splits.split import LabelledVideo, Span, SplitRow

PIPELINE = Path(__file__).parents[2] / "pipelines" / "index_videos.py"

UCF = {
    "classInd.txt": "1 ApplyEyeMakeup\r\n2 HandstandPushups\r\n3 Archery\r\n",
    "trainlist01.txt": "Archery/v_Archery_g08_c01.avi 3\r\nApplyEyeMakeup/v_ApplyEyeMakeup_g08_c02.avi 1\r\n",
    "testlist01.txt": "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi\nHandstandPushups/v_HandStandPushups_g01_c01.avi\n",
}
HMDB = {
    "wave_test_split1.txt": "#20_Rhythm_clap_u_nm_np1_fr_goo_0.avi 1 \n20060723sf_wave_f_cm.avi 2 \n",
    "brush_hair_test_split1.txt": "April_09_brush_hair_0.avi 0 \nsound of_it_brush_hair_1.avi 2 \nb_2.avi 1 \n",
    "brush_hair_test_split2.txt": "April_09_brush_hair_0.avi 2 \nsound of_it_brush_hair_1.avi 1 \nb_2.avi 0 \n",
    "classes": "brush_hair\nsit\nwave\n",
}
KINETICS = {
    "val.csv": "label,youtube_id,time_start,time_end,split,is_cc\n"
    '"making tea",-3B32lodo2M,59,69,val,0\nabseiling,_dbcJuKJQNs,3,13,val,0\n',
    "classes": "abseiling\nair_drumming\nmaking_tea\n",
}
SSV2 = {
    "something-something-v2-validation.json": json.dumps(
        [
            {
                "id": "78687",
                "label": "holding potato next to vicks vaporub bottle",
                "template": "Holding [something] next to [something]",
                "placeholders": ["potato", "vicks vaporub bottle"],
            },
            {"id": "42326", "label": "piling coins up", "template": "Piling [something] up", "placeholders": ["coins"]},
        ]
    ),
    "something-something-v2-labels.json": json.dumps(
        {"Piling something up": "1", "Holding something": "0", "Holding something next to something": "2"}
    ),
}
DIVING = {
    "Diving48_V2_test.json": json.dumps(
        [
            {"vid_name": "js2ub3aTJwI_00174", "label": 1, "start_frame": 0, "end_frame": 123},
            {"vid_name": "_8Vy3dlHg2w_00000", "label": 0, "start_frame": 0, "end_frame": 77},
        ]
    ),
    "Diving48_vocab.json": json.dumps([["Back", "15som", "05Twis", "FREE"], ["Back", "15som", "15Twis", "FREE"]]),
}
EPIC = {
    "EPIC_100_validation.csv": "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,"
    "stop_timestamp,start_frame,stop_frame,narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes\n"
    "P01_11_1,P01,P01_11,00:00:00.560,00:00:00.40,00:00:01.20,24,72,\"take plate, fork\",take,0,plate,2,"
    "\"['plate', 'fork']\",\"[2, 1]\"\n"
    "P01_11_0,P01,P01_11,00:00:00.560,00:00:00.40,00:00:00.80,24,48,open tap,open,1,tap,0,['tap'],[0]\n"
    "P02_03_7,P02,P02_03,01:00:00.560,01:02:03.04,01:02:05.00,1,2,take fork,take,0,fork,1,['fork'],[1]\n",
    "EPIC_100_verb_classes.csv": "id,key,instances,category\n0,take,\"['take', 'get']\",retrieve\n"
    "1,open,['open'],access\n",
    "EPIC_100_noun_classes.csv": "id,key,instances,category\n1,fork,['fork'],cutlery\n0,tap,['tap'],appliances\n"
    "2,plate,['plate'],crockery\n",
}  # fmt: skip


@pytest.fixture
def put(tmp_path):
    """Write files, by name; return their folder."""

    def write(files: dict[str, str], folder: str = "split") -> Path:
        for name, text in files.items():
            (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / name).write_text(text, newline="")
        return tmp_path / folder

    return write


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


BAD = {
    "ucf101 testlist01.txt": [
        ({"classInd.txt": None}, r"no class file classInd.txt beside \S+testlist01.txt; put it there, or .* --classes"),
        ({"classInd.txt": "1 A\n1 B\n"}, r"classInd.txt, line 2 must read .*, every number once, got '1 B'"),
        ({"classInd.txt": "1 A\n3 B\n"}, r"classInd.txt must number its 2 classes from 1 on, 2 is left out"),
        ({"classInd.txt": "1 A\n2 A\n"}, r"classInd.txt names the class 'A' 2 times; name each once"),
        ({"testlist01.txt": None}, r"no such split or class file: \S+testlist01.txt"),
        ({"testlist01.txt": " \n"}, r"testlist01.txt is empty"),
        ({"testlist01.txt": "Archery/a.avi\n\na.avi 1\n"}, r"line 3 must read 'Class/video.avi' and perhaps a number"),
        ({"testlist01.txt": "Archery/a.avi 3 4\n"}, r"line 1 must read .*, got 'Archery/a.avi 3 4'"),
        ({"testlist01.txt": "Archer/a.avi\n"}, r"line 1: the class 'Archer' is not in \S+classInd.txt"),
        ({"testlist01.txt": "Archery/a.avi 2\n"}, r"line 1: Archery is number 3 in \S+, the line says 2"),
        ({"testlist01.txt": "Archery/a.avi 4\n"}, r"line 1: Archery is number 3 in \S+, the line says 4"),
    ],
    "kinetics400 val.csv": [
        ({"val.csv": "youtube_id,time_start,time_end,split\na,0,1,test\n"}, r"columns \['label', .*\], it has \['yout"),
        ({"val.csv": "label,youtube_id,time_start,time_end,split\n"}, r"val.csv has a header and no rows"),
        (
            {"val.csv": "label,youtube_id,time_start,time_end\nmaking tea,,0,1\n"},
            r"val.csv, line 2: youtube_id is empty",
        ),
        ({"val.csv": "label,youtube_id,time_start,time_end\nmaking tea,a\n"}, r"val.csv, line 2: time_start is empty"),
        ({"val.csv": "label,youtube_id,time_start,time_end\nmaking tea,a,x,1\n"}, r"must be seconds, got 'x' and '1'"),
        ({"val.csv": "label,youtube_id,time_start,time_end\nmaking tea,a,inf,1\n"}, r"must be seconds, got 'inf'"),
        (
            {"val.csv": "label,youtube_id,time_start,time_end\nsinging,a,0,1\n"},
            r"line 2: the class 'singing' is not among",
        ),
        ({"val.csv": f"{KINETICS['val.csv']}abseiling,a,0,1,train,0\n"}, r"val.csv mixes the parts train, val; give"),
        ({"classes": "abseiling\nabseiling\n"}, r"names the class 'abseiling' 2 times"),
        ({"classes": None}, r"val.csv must hold all 400 classes .*, it has 2; give the names of all by --classes"),
    ],
    "hmdb51 .": [
        ({"classes": "wave\n"}, r"brush_hair_test_split1.txt: the class 'brush_hair' is not in \S+classes"),
        ({"classes": None}, r"must hold <class>_test_split1.txt of 51 classes, it has those of 2; complete it, or"),
        ({"wave_test_split1.txt": "a.avi 3\n"}, r"line 1 must read 'video.avi' and 0, 1 or 2, got 'a.avi 3'"),
        ({"wave_test_split1.txt": "a.avi\n"}, r"line 1 must read 'video.avi' and 0, 1 or 2, got 'a.avi'"),
        ({"deep/wave_test_split1.txt": "a.avi 1\n"}, r"holds wave_test_split1.txt twice"),
        ({name: None for name in HMDB if "split1" in name}, r"holds no file <class>_test_split1.txt"),
    ],
    "hmdb51 classes": [({}, r"split by a folder of <class>_test_split<fold>.txt; \S+classes is no folder")],
    "ssv2 something-something-v2-validation.json": [
        (
            {"something-something-v2-validation.json": '[{"id": "1"}]'},
            r"entry 0 must have \['id', 'template'\], it has",
        ),
        ({"something-something-v2-validation.json": "[]"}, r"must be a JSON list of objects .*, it is an empty list"),
        ({"something-something-v2-validation.json": "id,label"}, r"validation.json is not a JSON file"),
        (
            {"something-something-v2-validation.json": '[{"id": "1", "template": "Eating [something]"}]'},
            r"entry 0: the class 'Eating something' is not in \S+labels.json",
        ),
        ({"something-something-v2-labels.json": '{"a": "0", "b": "2"}'}, r"'b': the label must be .* from 0 to 1.*'2'"),
        ({"something-something-v2-labels.json": '{"a": "0", "b": "0"}'}, r"'a' and 'b' have the same number 0"),
        ({"something-something-v2-labels.json": '["a"]'}, r"must be a JSON object of classes and their numbers"),
        ({"something-something-v2-labels.json": None}, r"no class file .*labels.json or labels.json beside"),
    ],
    "diving48 Diving48_V2_test.json": [
        ({"Diving48_V2_test.json": '[{"vid_name": "a", "label": 2}]'}, r"entry 0: the label .* from 0 to 1, .* got 2"),
        ({"Diving48_V2_test.json": '[{"vid_name": "a", "label": true}]'}, r"the label must be an integer .* got True"),
        ({"Diving48_V2_test.json": '[{"name": "a", "label": 0}]'}, r"must have \['vid_name', 'label'\], it has \['nam"),
        ({"Diving48_V2_test.json": "[3]"}, r"entry 0 must have \['vid_name', 'label'\], it has int"),
        ({"Diving48_vocab.json": "{}"}, r"Diving48_vocab.json must be a JSON list of classes"),
        ({"Diving48_vocab.json": '[["a"], ["a"]]'}, r"names the class 'a' 2 times"),
    ],
    "epic100 EPIC_100_validation.csv": [
        ({"EPIC_100_verb_classes.csv": None}, r"no class file EPIC_100_verb_classes.csv beside"),
        ({"EPIC_100_verb_classes.csv": "id,key\n0,take\n"}, r"line 3, verb_class: the label .* from 0 to 0.* got '1'"),
        ({"EPIC_100_verb_classes.csv": "id,key\n0,take\n0,put\n"}, r"line 3: the id 0 is that of 'take' already"),
        (
            {"EPIC_100_verb_classes.csv": "number,key\n0,take\n"},
            r"the columns \['id', 'key'\], it has \['number', 'key'\]",
        ),
        (
            {"EPIC_100_validation.csv": EPIC["EPIC_100_validation.csv"].replace("verb_class", "x")},
            r"the columns \['narr",
        ),
        (
            {"EPIC_100_validation.csv": EPIC["EPIC_100_validation.csv"].replace("00:00:00.80", "0.8")},
            r"line 3, stop_timestamp must read HH:mm:ss.SS, got '0.8'",
        ),
        (
            {"EPIC_100_validation.csv": EPIC["EPIC_100_validation.csv"].replace("00:00:00.80", "00:00:00.40")},
            r"line 3: stop_timestamp must be later than start_timestamp, got 0.4 and 0.4 s",
        ),
    ],
}
FILES = {"ucf101": UCF, "kinetics400": KINETICS, "hmdb51": HMDB, "ssv2": SSV2, "diving48": DIVING, "epic100": EPIC}
MORE = {"hmdb51": {"fold": 1, "part": "test"}, "epic100": {"label": "verb"}}


@pytest.mark.parametrize(
    ("split", "changes", "message"),
    [pytest.param(split, *row, id=f"{split}-{number}") for split in BAD for number, row in enumerate(BAD[split])],
)
def test_broken_files_are_named_with_their_line(put, split, changes, message):
    dataset, _, name = split.partition(" ")
    files = {**FILES[dataset], **changes}
    folder = put({name: text for name, text in files.items() if text is not None})
    classes = folder / "classes" if files.get("classes") else None
    with pytest.raises(ManifestError, match=message):
        OfficialSplit(dataset, folder / name, classes=classes, **MORE.get(dataset, {})).read()


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


def test_files_are_not_text(tmp_path):
    (tmp_path / "a").write_bytes(b"\xff\xfe")
    with pytest.raises(ManifestError, match="a is not a text file in UTF-8"):
        OfficialSplit("kinetics400", tmp_path / "a").read()


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


def index(*arguments: object) -> int:
    return runpy.run_path(str(PIPELINE))["main"]([str(argument) for argument in arguments])


def shown(record: VideoRecord, read_numbers) -> list[int]:
    """Decode every frame of a row; return the numbers that the frames show."""
    times = Pace(num_frames=record.num_frames, frame_stride=1).times(record, 0)
    views = [View(times, Crop(0, 0, record.width, record.height))]
    return read_numbers(decode_views(record.source, views, frame_size=(record.width, record.height), size=64)[0])


@pytest.mark.ray
def test_ucf101_becomes_a_labelled_manifest(put, count_video, tmp_path, capsys):
    lists = put({**UCF, "testlist01.txt": f"{UCF['testlist01.txt']}Archery/v_b.avi\nArchery/v_a.avi\n"})
    videos = put({"Archery/v_b.avi": "no video", "Archery/v_not_listed.avi": ""}, "UCF-101")
    for name in ("Archery/v_a", "HandstandPushups/v_HandStandPushups_g01_c01"):
        (videos / name).parent.mkdir(exist_ok=True)
        count_video(videos / f"{name}.avi", frames=5, codec="mpeg4")
    out = tmp_path / "out" / "ucf_test.parquet"
    assert index(videos, "--split", f"ucf101:{lists}/testlist01.txt", "--out", out) == 0
    said = capsys.readouterr().out
    assert "2 of the 4 rows of the split; 1 not found and 1 without frames are listed in" in said
    manifest = Manifest.read(out)
    rows = [manifest.record(row) for row in range(len(manifest))]
    assert [(Path(row.path).name, row.label) for row in rows] == [
        ("v_HandStandPushups_g01_c01.avi", 1),
        ("v_a.avi", 2),
    ]
    assert read_class_names(str(out.with_suffix(".classes.txt"))) == ["ApplyEyeMakeup", "HandstandPushups", "Archery"]
    header, missing, broken = out.with_suffix(".rejected.csv").read_text().splitlines()
    assert header == "path,reason"
    assert missing.startswith("ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi,no video v_ApplyEyeMakeup_g01_c01 (with")
    assert broken.startswith(f"{videos}/Archery/v_b.avi,Invalid data")


@pytest.mark.ray
def test_the_actions_of_epic100_are_rows_that_show_their_own_frames(put, count_video, read_numbers, tmp_path, capsys):
    late = "P02_03_8,P02,P02_03,,00:00:02.32,00:00:02.46,1,2,open tap,open,1,tap,0,['tap'],[0]\n"  # from 2.40 s nothing
    lists = put({**EPIC, "EPIC_100_validation.csv": EPIC["EPIC_100_validation.csv"] + late})
    videos = tmp_path / "EPIC-KITCHENS"
    for name in ("P01_11", "P02_03"):
        (videos / name[:3] / "videos").mkdir(parents=True)
        video = count_video(tmp_path / f"{name}.mp4", frames=60)
        video.rename(videos / name[:3] / "videos" / f"{name}.MP4")
    out = tmp_path / "nouns.parquet"
    assert index(videos, "--split", f"epic100:{lists}/EPIC_100_validation.csv", "--label", "noun", "--out", out) == 0
    said = capsys.readouterr().out
    assert "2 videos, 3 stretches in" in said
    assert "3 of the 4 rows of the split; 0 not found and 1 without frames are listed in" in said
    manifest = Manifest.read(out)
    rows = [manifest.record(row) for row in range(len(manifest))]
    assert [(Path(row.path).name, row.label) for row in rows] == [
        ("P01_11.MP4", 2),
        ("P01_11.MP4", 0),
        ("P02_03.MP4", 0),
    ]
    assert [shown(row, read_numbers) for row in rows] == [
        list(range(10, 30)),  # from 0.4 to 1.2 s at 25 frames a second
        list(range(10, 20)),
        [58, 59],
    ]
    assert rows[0].content == rows[1].content
    (_, rejected) = out.with_suffix(".rejected.csv").read_text().splitlines()
    assert rejected == (
        f'{videos}/P02/videos/P02_03.MP4#P02_03_7,"P02_03_7 is from 3723.04 to 3725 s, and the video ends at 2.4 s"'
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--fold 1", "--fold 1 is for --split SET:FILE; add that, or leave --fold out"),
        ("--classes x", "--classes x is for --split SET:FILE; add that, or leave --classes out"),
        ("--split testlist01.txt", "--split must read SET:FILE, the set one of ucf101, hmdb51, kinetics400, ssv2, "),
        ("--split ucf101:", "--split must read SET:FILE"),
        ("--split hmdb51:x --fold 1", "a split of hmdb51 needs --part train|test"),
        ("--split ucf101:x --window 2", "window=2 would make other rows than the split lists; leave one of them out"),
        ("--split ssv2:none.json --classes none.json", "no such split or class file: "),
    ],
)
def test_wrong_commands_say_what_is_expected(arguments, message, tmp_path, capsys):
    assert index(tmp_path, "--out", tmp_path / "m.parquet", *arguments.split()) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {message}")
    assert said.count("\n") == 1
