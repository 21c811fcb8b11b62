"""Names of pods: whoever has one, and what a killed command leaves."""

from __future__ import annotations

import os

import pytest

from rkt.errors import PodStateError
from rkt.pod import lifecycle, naming, state


def test_a_name_belongs_to_one_pod(tmp_path: object) -> None:
    data = str(tmp_path)
    with lifecycle.create(data) as pod, lifecycle.create(data) as other:
        naming.claim(pod, "web")
        pod.move(state.RUN)
        with pytest.raises(PodStateError, match=f'pod name "web" is in use by pod "{pod.uuid}"'):
            naming.claim(other, "web")
        found = lifecycle.named(data, "web")
        assert found is not None
        found.close()
        naming.release(pod)
        naming.claim(other, "web")
        assert os.readlink(f"{data}/podnames/web") == other.uuid


@pytest.mark.parametrize("step", ["symlink", "rename"])
def test_a_command_killed_while_it_claims_a_name(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    data = str(tmp_path)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with lifecycle.create(data) as pod:
        with monkeypatch.context() as patch:
            patch.setattr(os, step, killed)
            with pytest.raises(KeyboardInterrupt):
                naming.claim(pod, "web")
        assert lifecycle.named(data, "web") is None
        naming.release(pod)
        assert os.listdir(f"{data}/podnames") == []
