import json

import pytest

from benchmarks import reliability


@pytest.mark.slow
def test_a_little_of_each_fault_of_files(tmp_path, capsys):
    words = ["--parts", "files", "--share", "0.01", "--out", str(tmp_path)]
    reliability.main(words)
    file = tmp_path / "files.json"
    counted = json.loads(file.read_text())["counted"]
    assert {name: row["tried"] for name, row in counted.items()} == {
        "full disks": 1,
        "damaged files": 2,
        "strange files": 1,
    }
    assert counted["strange files"]["found again"] > 150
    assert not [row["faults"] for row in counted.values() if row["faults"]]
    assert "damaged files: tried 2, faults 0" in capsys.readouterr().out


def test_parts_go_on_and_faults_fail(tmp_path):
    row = {"tried": 1, "faults": ["lost"]}
    file = tmp_path / "files.json"
    file.write_text(json.dumps({"counted": {"full disks": row}}))
    words = ["--parts", "files", "--share", "0.01", "--only", "full disks"]
    with pytest.raises(SystemExit, match="1 faults"):
        reliability.main([*words, "--out", str(tmp_path)])
    assert json.loads(file.read_text())["counted"]["full disks"] == row


@pytest.mark.slow
def test_a_few_kills_of_each_job(tmp_path):
    words = ["--parts", "kills", "--share", "0.1", "--out", str(tmp_path)]
    reliability.main(words)
    counted = json.loads((tmp_path / "kills.json").read_text())["counted"]
    assert len(counted) == 5
    assert all(row["kills"] for row in counted.values())
