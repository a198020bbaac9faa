import pytest

from benchmarks import sweep_speed


@pytest.mark.parametrize("models", [-4, 0, 2, 6])
def test_models_that_are_no_multiple_of_the_thresholds(models, capsys):
    with pytest.raises(SystemExit):
        sweep_speed.main(["--models", str(models)])
    error = capsys.readouterr().err
    assert f"--models must be a multiple of 4, got {models}" in error


def test_each_model_is_one_of_the_sweep(tmp_path):
    settings = sweep_speed.settings_of(8, 3, tmp_path, at_once=8)
    assert len(settings.grid()["threshold"]) * settings.seeds == 8
