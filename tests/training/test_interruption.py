import contextlib
import signal

import pytest

from sgdat_jax.training import interruption


@contextlib.contextmanager
def _handling(number, handler):
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_the_first_signal_is_told_by_the_check_and_the_second_acts(name):
    class Acted(Exception):
        pass

    def act(number, frame):
        raise Acted(signal.Signals(number).name)

    number = signal.Signals[name]
    told = []
    with _handling(number, act):
        with interruption.until_signal(told.append) as check:
            check()
            signal.raise_signal(number)
            assert told == [number]
            for _ in range(2):
                with pytest.raises(interruption.Interrupted, match=f"^{name}$"):
                    check()
            # As it ends with its terminal, a shell sends its own SIGHUP, too.
            is_repeated = name == "SIGHUP"
            with contextlib.nullcontext() if is_repeated else pytest.raises(Acted):
                signal.raise_signal(number)
        assert signal.getsignal(number) is act
        with interruption.until_signal():
            assert signal.getsignal(number) is not act
        assert signal.getsignal(number) is act


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_what_is_ignored_from_the_start_stays_so(name):
    number = signal.Signals[name]
    with _handling(number, signal.SIG_IGN):
        with interruption.until_signal() as check, interruption.noticed():
            signal.raise_signal(number)
            check()
        assert signal.getsignal(number) == signal.SIG_IGN


def test_an_interrupt_that_a_library_turns_into_an_error():
    with pytest.raises(KeyboardInterrupt), interruption.noticed():
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise ImportError("initialization failed") from None
