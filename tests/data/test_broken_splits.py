"""Split files that break their form are named with the line."""

import runpy
from pathlib import Path

import pytest

from tats_ray.data.manifest import ManifestError
from tats_ray.data.splits.official import OfficialSplit

MADE = runpy.run_path(str(Path(__file__).with_name("split_files.py")))
UCF, HMDB, KINETICS, SSV2, DIVING, EPIC = (MADE[name] for name in ("UCF", "HMDB", "KINETICS", "SSV2", "DIVING", "EPIC"))


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


def test_files_are_not_text(tmp_path):
    (tmp_path / "a").write_bytes(b"\xff\xfe")
    with pytest.raises(ManifestError, match="a is not a text file in UTF-8"):
        OfficialSplit("kinetics400", tmp_path / "a").read()
