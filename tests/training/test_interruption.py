import signal

import pytest

from sgdat_jax.training import interruption


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_the_first_signal_is_told_by_the_check_and_the_second_acts(name):
    class Acted(Exception):
        pass

    def act(number, frame):
        raise Acted(signal.Signals(number).name)

    number = signal.Signals[name]
    before = signal.signal(number, act)
    try:
        with interruption.until_signal() as check:
            check()
            signal.raise_signal(number)
            for _ in range(2):
                with pytest.raises(interruption.Interrupted, match=f"^{name}$"):
                    check()
            with pytest.raises(Acted, match=name):
                signal.raise_signal(number)
        assert signal.getsignal(number) is act
        with interruption.until_signal():
            assert signal.getsignal(number) is not act
        assert signal.getsignal(number) is act
    finally:
        signal.signal(number, before)
