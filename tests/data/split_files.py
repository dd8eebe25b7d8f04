"""Split files of six data sets, in their official forms."""

import json

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
