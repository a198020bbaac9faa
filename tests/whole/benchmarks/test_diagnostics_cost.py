import json

import pytest

from benchmarks import diagnostics_cost


@pytest.mark.slow
def test_result_holds_what_is_printed(tmp_path, capsys):
    words = ["--width", "0.1", "--rounds", "5", "--out", str(tmp_path)]
    diagnostics_cost.main(words)
    printed = capsys.readouterr().out
    (file,) = tmp_path.iterdir()
    result = json.loads(file.read_text())
    assert result["rounds"] == 5
    assert f"a step takes {1e3 * result['step_seconds']:.1f} ms" in printed
    assert f"with diagnostics {result['ratio']['median']:.3f} of it" in printed
    assert f"takes {1e3 * result['epoch_seconds']:.1f} ms more" in printed
