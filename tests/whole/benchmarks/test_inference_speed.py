import json

from benchmarks import inference


def test_programs_predict_the_same_where_they_shall(tmp_path, capsys):
    words = ["--models", "DigitsNet", "--width", "0.1", "--batch", "2", "--rounds", "5"]
    words += ["--programs", "plain bfloat16", "folded int8", "--out", str(tmp_path)]
    inference.main(words)
    assert "folded int8" in capsys.readouterr().out
    (file,) = tmp_path.iterdir()
    plain, rounded, folded = json.loads(file.read_text())["rows"]
    assert plain["over_plain"]["median"] == 1
    assert folded["program"] == "folded int8"
    assert folded["same_predictions"] == 1
    assert 0 < rounded["same_predictions"] < 1  # that predictions agree says something
    for row in (plain, rounded, folded):
        assert row["rounds"] == 5
        assert row["images_per_second"] == 2 / row["seconds"]["median"]
