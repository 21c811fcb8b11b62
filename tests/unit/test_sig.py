"""Signals as plain numbers: they are those of the module `signal`."""

from __future__ import annotations

import signal

import pytest

from rkt.linux import sig


def test_the_numbers_and_calls_are_those_of_the_library() -> None:
    names = [name for name in dir(signal) if name.startswith("SIG")]
    assert "SIGKILL" in names
    for name in names:
        assert getattr(sig, name) == getattr(signal, name), name
    assert sig.getsignal(sig.SIGUSR2) == signal.SIG_DFL


def test_a_signal_has_its_name_and_others_have_none() -> None:
    assert sig.name(15) == "SIGTERM"
    with pytest.raises(ValueError, match="99"):
        sig.name(99)
