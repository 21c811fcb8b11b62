"""When apps start again, how long they may take, what a health check is: read from annotations."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from rkt import const
from rkt.errors import SchemaError
from rkt.stage1.app import policy
from rkt.stage1.app.policy import PodPolicy, Restarts
from rkt.stage1.streams import applog

if TYPE_CHECKING:
    from rkt.stage1.app.manifest import App

FAST, LONG = 0.5, 10.0


def restarts(text: str) -> Restarts:
    return Restarts(PodPolicy({const.POD_RESTART: text}))


def test_what_holds_without_annotations() -> None:
    found = PodPolicy({})
    assert (found.restart, found.limit) == ("no", -1)
    assert (found.stop_timeout, found.log_size) == (10.0, applog.DEFAULT_SIZE)


def test_what_the_manifest_says() -> None:
    found = PodPolicy({
        const.POD_RESTART: "on-failure:3", const.POD_STOP_TIMEOUT: "0.25",
        const.POD_LOG_SIZE: "0",
    })  # fmt: skip
    assert (found.restart, found.limit) == ("on-failure", 3)
    assert (found.stop_timeout, found.log_size) == (0.25, 0)


@pytest.mark.parametrize(("name", "text", "message"), [
    (const.POD_RESTART, "", 'pod manifest: invalid restart policy ""'),
    (const.POD_RESTART, "sometimes", 'pod manifest: invalid restart policy "sometimes"'),
    (const.POD_RESTART, "always:3", 'pod manifest: invalid restart policy "always:3"'),
    (const.POD_RESTART, "on-failure:x", 'pod manifest: invalid restart policy "on-failure:x"'),
    (const.POD_RESTART, "on-failure:-1", 'pod manifest: invalid restart policy "on-failure:-1"'),
    (const.POD_RESTART, "on-failure:\u00b2",
     'pod manifest: invalid restart policy "on-failure:\u00b2"'),
    (const.POD_RESTART, f"on-failure:{'9' * 5000}",
     f'pod manifest: invalid restart policy "on-failure:{"9" * 5000}"'),
    (const.POD_LOG_SIZE, "\u00b2", 'pod manifest: invalid log size "\u00b2"'),
    (const.POD_LOG_SIZE, "32Mi", 'pod manifest: invalid log size "32Mi"'),
    *((const.POD_STOP_TIMEOUT, text,
       f'pod manifest: annotation "{const.POD_STOP_TIMEOUT}": invalid number of seconds "{text}"')
      for text in ("", "10s", "-1", "nan", "inf", "864001")),
])  # fmt: skip
def test_what_makes_no_sense_is_refused(name: str, text: str, message: str) -> None:
    with pytest.raises(SchemaError) as info:
        PodPolicy({name: text})
    assert str(info.value) == message


def test_by_default_nothing_starts_again() -> None:
    for status in (0, 1, 137):
        rule = restarts("no")
        assert rule.after(status, FAST) is None
        assert rule.count == 0


def test_on_failure_a_success_is_the_end() -> None:
    rule = restarts("on-failure")
    assert rule.after(1, FAST) == 0.1
    assert rule.after(137, FAST) == 0.2
    assert rule.after(0, FAST) is None
    assert rule.count == 2


@pytest.mark.parametrize("limit", [0, 1, 3])
def test_so_many_times_and_no_more(limit: int) -> None:
    rule = restarts(f"on-failure:{limit}")
    delays = [rule.after(1, FAST) for _ in range(limit + 2)]
    assert [delay is not None for delay in delays] == [True] * limit + [False, False]
    assert rule.count == limit


def test_a_long_run_does_not_give_back_a_limit() -> None:
    rule = restarts("on-failure:1")
    assert rule.after(1, LONG) == 0.1
    assert rule.after(1, LONG) is None


def test_the_delay_doubles_up_to_a_minute() -> None:
    rule = restarts("always")
    delays = [rule.after(0, FAST) for _ in range(13)]
    assert delays == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 60.0, 60.0, 60.0]
    assert rule.count == 13


def test_an_app_that_ran_for_long_begins_anew_with_the_shortest_delay() -> None:
    rule = restarts("always")
    assert [rule.after(1, FAST) for _ in range(4)] == [0.1, 0.2, 0.4, 0.8]
    assert rule.after(1, LONG - 0.001) == 1.6
    assert rule.after(1, LONG) == 0.1
    assert rule.after(1, FAST) == 0.2


class Annotated:
    """What `policy.health` looks at of an app."""

    name = "web"

    def __init__(self, image: dict[str, str], given: dict[str, str]) -> None:
        self.image_annotations = image
        self.annotations = given


def plan(given: dict[str, str], image: dict[str, str] | None = None) -> policy.HealthPlan | None:
    app: App = Annotated(image or {}, given)  # type: ignore[assignment]  # two of its attributes
    return policy.health(app)


def test_no_health_check() -> None:
    assert plan({}) is None
    assert plan({const.HEALTH_INTERVAL: "1"}) is None


def test_a_health_check_of_the_image_is_overridden_one_by_one() -> None:
    image = {const.HEALTH_CMD: '["/check"]', const.HEALTH_RETRIES: "7", const.HEALTH_START: "2"}
    found = plan({const.HEALTH_RETRIES: "1", const.HEALTH_TIMEOUT: "0.5"}, image)
    assert found is not None
    assert (found.command, found.retries, found.start_period) == (["/check"], 1, 2.0)
    assert (found.interval, found.timeout) == (30.0, 0.5)


@pytest.mark.parametrize("text", ["x", "[", "{}", "[]", "[1]", '"true"', json.dumps(["a\0b"])])
def test_health_commands_refused(text: str) -> None:
    with pytest.raises(SchemaError) as info:
        plan({const.HEALTH_CMD: text})
    assert str(info.value) == f'app "web": health command "{text}" is not an array of words'


@pytest.mark.parametrize("text", ["0", "-1", "x", "", "\u00b2"])
def test_health_retries_refused(text: str) -> None:
    with pytest.raises(SchemaError) as info:
        plan({const.HEALTH_CMD: '["x"]', const.HEALTH_RETRIES: text})
    assert str(info.value) == f'app "web": invalid number of health retries "{text}"'
