"""Network configurations and the value of --net."""

from __future__ import annotations

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rkt.errors import ConfigError, NetworkError, describe
from rkt.network import conf, request

PTP = {"name": "a", "type": "ptp"}


def texts(values: list[request.Wanted]) -> list[tuple[str, str]]:
    """Give names and arguments."""
    return [(item.name, item.args) for item in values]


def test_the_grammar_of_net() -> None:
    assert texts(request.parse("default")) == [("default", "")]
    assert texts(request.parse("a:IP=10.0.0.1;X=y,b")) == [("a", "IP=10.0.0.1;X=y"), ("b", "")]
    assert texts(request.parse("a:IP=fd00::7")) == [("a", "IP=fd00::7")]
    assert texts(request.parse("host")) == [("host", "")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "netname must not be empty"),
        ("a,", "netname must not be empty"),
        (":x=1", "netname must not be empty"),
        ("a,b,a:x=1", 'found duplicate netname "a"'),
        ("all:x=1", 'arguments are not supported by special netname "all"'),
        ("host:x=1", 'arguments are not supported by special netname "host"'),
        ("a:b:c", 'network "a" provided with invalid arguments: [b c]'),
        ("a:", 'network "a" provided with invalid arguments: []'),
        ("a:x", 'network "a" provided with invalid arguments: [x]'),
        ("none,a", 'network "none" cannot be combined with other networks'),
        (",".join(f"n{i}" for i in range(33)), "33 networks, at most 32 are possible"),
    ],
)
def test_what_net_refuses(text: str, message: str) -> None:
    with pytest.raises(NetworkError) as caught:
        request.parse(text)
    assert caught.value.message == message


@given(st.text(alphabet="ab:,;=.\0é", max_size=30))
def test_net_is_read_or_refused(text: str) -> None:
    try:
        found = request.parse(text)
    except NetworkError:
        return
    assert found
    assert all(item.name for item in found)


def write(folder: str, file: str, value: object) -> None:
    """Write a configuration."""
    os.makedirs(f"{folder}/net.d", exist_ok=True)
    with open(f"{folder}/net.d/{file}", "w") as out:
        out.write(value if isinstance(value, str) else json.dumps(value))


def test_the_built_in_networks(tmp_path: object) -> None:
    loaded = conf.load(str(tmp_path))
    assert [item.name for item in loaded.confs] == ["default-restricted", "default"]
    default = loaded.confs[1]
    assert default.masquerades
    assert default.plugins[0]["type"] == "ptp"
    assert default.ipam == {
        "type": "host-local", "subnet": "172.16.28.0/24", "routes": [{"dst": "0.0.0.0/0"}],
    }  # fmt: skip
    restricted = loaded.confs[0]
    assert not restricted.masquerades
    assert restricted.ipam == {"type": "host-local", "subnet": "172.31.0.0/16"}


def test_order_overriding_and_duplicates(tmp_path: object) -> None:
    folder = str(tmp_path)
    write(folder, "20-b.conf", {"name": "b", "type": "ptp"})
    write(folder, "10-a.conflist", {"cniVersion": "0.4.0", "name": "a", "plugins": [PTP, PTP]})
    write(folder, "30-a.conf", PTP)
    write(folder, "default.conf", {"name": "default", "type": "bridge"})
    write(folder, "ignored.json", {"name": "c", "type": "ptp"})
    write(folder, ".hidden.conf", {"name": "d", "type": "ptp"})
    loaded = conf.load(folder)
    files = [(item.name, item.file) for item in loaded.confs]
    assert files == [
        ("a", "10-a.conflist"), ("b", "20-b.conf"),
        ("default-restricted", "99-default-restricted.conf"), ("default", "default.conf"),
    ]  # fmt: skip
    assert loaded.notes == {
        "a": f'"a" network already defined, ignoring "{folder}/net.d/30-a.conf"',
        "default": f'overriding "default" network with one from "{folder}/net.d"',
    }
    chosen = conf.choose(loaded, request.parse("default,b:IP=1.2.3.4"))
    assert [(item.name, args) for item, args in chosen] == [("b", "IP=1.2.3.4"), ("default", "")]
    every = conf.choose(loaded, request.parse("all"))
    assert [item.name for item, _ in every] == ["a", "b", "default"]


def test_networks_that_are_not_there(tmp_path: object) -> None:
    folder = str(tmp_path)
    with pytest.raises(NetworkError) as caught:
        conf.choose(conf.load(folder), request.parse("x,default,y"))
    assert describe(caught.value) == "failed to setup network: networks not found: x, y"
    assert caught.value.hint == "networks here: default-restricted, default"
    write(folder, "10-x.conf", "{nonsense")
    with pytest.raises(NetworkError) as caught:
        conf.choose(conf.load(folder), request.parse("x"))
    assert str(caught.value.hint).startswith(f'failed to parse "{folder}/net.d/10-x.conf": ')
    assert conf.choose(conf.load(folder), request.parse("default"))
    with pytest.raises(ConfigError):
        conf.choose(conf.load(folder), request.parse("all"))


def test_a_net_d_that_is_no_directory(tmp_path: object) -> None:
    with open(f"{tmp_path}/net.d", "w"):
        pass
    with pytest.raises(ConfigError, match=r'expected ".*/net\.d" to be a directory'):
        conf.load(str(tmp_path))


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ([], '"f": expected an object'),
        ({"type": "ptp"}, '"f": $.name: null is not a valid network name'),
        ({"name": "../x", "type": "p"}, '"f": $.name: "../x" is not a valid network name'),
        ({"name": "a b", "type": "p"}, '"f": $.name: "a b" is not a valid network name'),
        ({"name": "é", "type": "p"}, '"f": $.name: "\\u00e9" is not a valid network name'),
        ({"name": "-a", "type": "p"}, '"f": $.name: "-a" is not a valid network name'),
        ({"name": "a"}, '"f": $.type: expected the name of a plugin'),
        ({"name": "a", "type": ".."}, '"f": $.type: ".." is not the name of a plugin'),
        ({"name": "a", "type": "p", "cniVersion": "2.0.0"},
         '"f": $.cniVersion: "2.0.0" is not supported (0.1.0 to 1.0.0 are)'),
        ({"name": "a", "type": "p", "ipam": []}, '"f": $.ipam: expected an object'),
        ({"name": "a", "type": "p", "ipam": {"x": 1}},
         '"f": $.ipam.type: expected the name of a plugin'),
        ({"name": "a", "plugins": {}}, '"f": $.plugins: expected 1 to 32 plugins'),
        ({"name": "a", "plugins": [1]}, '"f": $.plugins[0]: expected an object'),
        ({"name": "a", "plugins": [{"type": "x/y"}]},
         '"f": $.plugins[0].type: "x/y" is not the name of a plugin'),
    ],
)  # fmt: skip
def test_what_a_configuration_may_not_say(raw: object, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        conf.parse(raw, "f", "")
    assert caught.value.message == message


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=12,
)


@given(JSON, JSON, JSON, JSON)
def test_any_json_is_a_configuration_or_refused(a: object, b: object, c: object, d: object) -> None:
    for raw in (a, {"name": a, "type": b, "ipam": c, "cniVersion": d}, {"name": "x", "plugins": a}):
        try:
            found = conf.parse(raw, "f", "")
        except ConfigError:
            continue
        assert found.plugins
        assert found.version in conf.VERSIONS
        assert isinstance(found.masquerades, bool)
        assert isinstance(found.ipam, dict)


def test_where_plugins_are_looked_for() -> None:
    assert conf.plugin_path("/etc/rkt", "/mine:/other")[:4] == [
        "/mine", "/other", "/etc/rkt/net.d", "/usr/lib/rkt/plugins/net",
    ]  # fmt: skip
    assert {"/usr/lib/cni", "/opt/cni/bin"} <= set(conf.plugin_path("/etc/rkt"))
