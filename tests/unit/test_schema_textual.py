"""Text forms given on the command line."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING
from urllib.parse import quote as percent

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rkt.schema import textual
from rkt.schema.image import MountPoint, Port
from rkt.schema.pod import ExposedPort, Mount, Volume
from rkt.schema.textual import AppRef, appc_arch
from rkt.schema.types import BadValue

if TYPE_CHECKING:
    from collections.abc import Callable


def refused(text: str) -> pytest.RaisesExc[BadValue]:
    return pytest.raises(BadValue, match=f"^{re.escape(text)}$")


ACN_CHARS = 'ACName must contain only lower case alphanumeric characters plus "-"'


@pytest.mark.parametrize(
    ("text", "volume"),
    [
        ("work,kind=host,source=/srv", Volume("work", "host", "/srv")),
        ("work,source=/srv,kind=host", Volume("work", "host", "/srv")),
        (
            "w,kind=host,source=/a=b,readOnly=T,recursive=0",
            Volume("w", "host", "/a=b", read_only=True, recursive=False),
        ),
        ("w,kind=host,source=/a%2cb%20c", Volume("w", "host", "/a,b c")),
        ("w,kind=host,source=/srv/c++", Volume("w", "host", "/srv/c++")),
        ("w,kind=host,source=/gr%C3%BCn", Volume("w", "host", "/grün")),
        ("w,kind=empty", Volume("w", "empty", mode="0755", uid=0, gid=0)),
        ("w,kind=empty,mode=0700,uid=1,gid=2", Volume("w", "empty", mode="0700", uid=1, gid=2)),
    ],
)
def test_volume(text: str, volume: Volume) -> None:
    assert textual.parse_volume(text) == volume


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "ACName cannot be empty"),
        ("W,kind=empty", ACN_CHARS),
        ("w", 'unrecognized volume kind: should be one of "empty", "host"'),
        ("w,kind=nfs", 'unrecognized volume kind: should be one of "empty", "host"'),
        ("w,kind", 'malformed string "w,kind" - has a label without a value: kind'),
        ("w,", 'malformed string "w," - has a label without a value: '),
        ("w,kind=empty,kind=host", 'label kind with multiple values ["empty" "host"]'),
        ("w,name=x,kind=empty", 'label name with multiple values ["w" "x"]'),
        ("w,kind=empty,size=3", 'unknown volume parameter "size"'),
        ("w,kind=host", "source for host volume cannot be empty"),
        ("w,kind=host,source=x", "source for host volume must be absolute path"),
        ("w,kind=host,source=/x%00", "source for host volume must not contain a NUL character"),
        ("w,kind=host,source=/x,uid=0", "uid for host volume cannot be set"),
        ("w,kind=empty,uid=root", 'uid: "root" is not a number'),
        ("w,kind=empty,readOnly=yes", 'readOnly: bad boolean "yes" (must be true or false)'),
        ("w,kind=host,source=/100%", 'invalid URL escape "%"'),
        ("w,kind=host,source=/%zz/x", 'invalid URL escape "%zz"'),
        ("w,kind=host,source=/%ff", "text is not UTF-8"),
    ],
)
def test_volume_refuses(text: str, error: str) -> None:
    with refused(error):
        textual.parse_volume(text)


def test_volume_refuses_bytes_that_are_no_text() -> None:
    with pytest.raises(BadValue, match=r"text is not UTF-8$"):
        textual.parse_volume(os.fsdecode(b"w,kind=host,source=/\xff"))


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", 'malformed string "" - has a label without a value: '),
        ("work:/x", 'malformed string "work:/x" - has a label without a value: work:/x'),
        ("volume=w,target=/x,mode=1", 'unknown mount parameter "mode"'),
        ("volume=a,volume=b", 'label volume with multiple values ["a" "b"]'),
        ("volume=w", "path must be set"),
        ("target=/x", "volume must be set"),
    ],
)
def test_mount_refuses(text: str, error: str) -> None:
    with refused(error):
        textual.parse_mount(text)


def test_mount() -> None:
    assert textual.parse_mount("volume=w,target=/x") == Mount("w", "/x")
    assert textual.parse_mount("target=/a%2Cb,volume=w") == Mount("w", "/a,b")
    with refused(f'invalid volume name "W" in --mount flag "volume=W,target=/x": {ACN_CHARS}'):
        textual.parse_mount("volume=W,target=/x")


def test_mount_volume() -> None:
    assert textual.parse_mount_volume("w,kind=host,source=/s,target=/t") == (
        Volume("w", "host", "/s"),
        Mount("w", "/t"),
    )
    with refused("missing target= parameter"):
        textual.parse_mount_volume("w,kind=empty")


@pytest.mark.parametrize(
    ("text", "port"),
    [
        ("www:8080", ExposedPort("www", 8080)),
        ("www:127.0.0.1:80", ExposedPort("www", 80, "127.0.0.1")),
        ("8080-tcp:65535", ExposedPort("8080-tcp", 65535)),
        ("www:[::1]:8080", ExposedPort("www", 8080, "::1")),
        ("www:[2001:DB8:0::1]:80", ExposedPort("www", 80, "2001:db8::1")),
    ],
)
def test_port(text: str, port: ExposedPort) -> None:
    assert textual.parse_port(text) == port


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("www", '"www" is not in name:[ip:]port format'),
        ("", '"" is not in name:[ip:]port format'),
        ("a:b:c:d", '"a:b:c:d" is not in name:[ip:]port format'),
        ("WWW:80", f'"WWW" is not a valid port name: {ACN_CHARS}'),
        (":80", '"" is not a valid port name: ACName cannot be empty'),
        ("www:1.2.3:80", '"1.2.3" is not a valid IP'),
        ("www::80", '"" is not a valid IP'),
        ("www:::1:80", '"www:::1:80" is not in name:[ip:]port format'),
        ("www:[::1:80", '"www:[::1:80" is not in name:[ip:]port format'),
        ("www:[::1]80", '"www:[::1]80" is not in name:[ip:]port format'),
        ("www[::1]:80", '"www[::1]:80" is not in name:[ip:]port format'),
        ("www:[]:80", '"www:[]:80" is not in name:[ip:]port format'),
        ("www:[1.2.3.4]:80", '"www:[1.2.3.4]:80" is not in name:[ip:]port format'),
        ("www:[::g]:80", '"::g" is not a valid IP'),
        ("www:[fe80::1%eth0]:80", '"fe80::1%eth0" is not a valid IP'),
        ("www:[::1]:80:81", '"80:81" is not a valid port number'),
        ("a:b:[::1]:80", f'"a:b" is not a valid port name: {ACN_CHARS}'),
        ("www:0", '"0" is not a valid port number'),
        ("www:65536", '"65536" is not a valid port number'),
        ("www:-1", '"-1" is not a valid port number'),
        ("www:٨٠", '"٨٠" is not a valid port number'),
        ("www:" + "9" * 5000, None),
    ],
)
def test_port_refuses(text: str, error: str | None) -> None:
    if error is None:
        with pytest.raises(BadValue, match=r'^"9{200}\.\.\." is not a valid port number$'):
            textual.parse_port(text)
        return
    with refused(error):
        textual.parse_port(text)


@pytest.mark.parametrize(
    ("text", "ref"),
    [
        ("example.com/app", AppRef("example.com/app", {})),
        ("example.com/app:1.0", AppRef("example.com/app", {"version": "1.0"})),
        ("a:1,os=linux,arch=i386", AppRef("a", {"version": "1", "os": "linux", "arch": "i386"})),
        ("a,version=2", AppRef("a", {"version": "2"})),
        ("a,x=", AppRef("a", {"x": ""})),
        ("a,name=b", AppRef("b", {})),
    ],
)
def test_app_string(text: str, ref: AppRef) -> None:
    assert textual.parse_app_string(text) == ref
    assert textual.parse_app_string(str(ref)) == ref


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "ACIdentifier cannot be empty"),
        ("a:1:2", "malformed app string - colon may appear at most once"),
        ("a,b=c:1", "malformed app string - colon may appear only right after the app name"),
        ("a,b=1,b=2", 'label b with multiple values ["1" "2"]'),
        ("a:1,version=2", 'label version with multiple values ["1" "2"]'),
        ("a,b", 'malformed string "a,b" - has a label without a value: b'),
        (
            "A",
            'ACIdentifier must contain only lower case alphanumeric characters plus "-._~/"',
        ),
        ("a,=1", 'invalid label name "": ACIdentifier cannot be empty'),
    ],
)
def test_app_string_refuses(text: str, error: str) -> None:
    with refused(error):
        textual.parse_app_string(text)


def test_text_of_mount_points_and_ports() -> None:
    assert textual.parse_mount_point("db,path=/d,readOnly=true") == MountPoint(
        "db", "/d", read_only=True
    )
    assert textual.parse_app_port("www,protocol=tcp,port=80,count=2,socketActivated=true") == Port(
        "www", "tcp", 80, 2, socket_activated=True
    )


@pytest.mark.parametrize(
    ("parse", "text", "error"),
    [
        (textual.parse_mount_point, "db", "path must be set"),
        (textual.parse_mount_point, ",path=/x", "name must be set"),
        (textual.parse_mount_point, "db,mode=1", 'unknown mountpoint parameter "mode"'),
        (textual.parse_mount_point, "a,path=x,path=y", 'label path with multiple values ["x" "y"]'),
        (textual.parse_app_port, "www", "port must be in 1-65535 range"),
        (textual.parse_app_port, "www,ip=1", 'unknown port parameter "ip"'),
        (textual.parse_app_port, "www,port=x", 'port: "x" is not a number'),
    ],
)
def test_text_of_mount_points_and_ports_refuses(
    parse: Callable[[str], object], text: str, error: str
) -> None:
    with refused(error):
        parse(text)


@pytest.mark.parametrize(
    ("system", "arch", "variant", "label"),
    [
        ("linux", "amd64", "", "amd64"),
        ("linux", "386", "", "i386"),
        ("linux", "arm64", "v8", "aarch64"),
        ("linux", "arm", "", "armv6l"),
        ("linux", "arm", "v6", "armv6l"),
        ("linux", "arm", "v7", "armv7l"),
        ("linux", "s390x", "", "s390x"),
        ("darwin", "amd64", "", "x86_64"),
        ("darwin", "386", "", "i386"),
        ("freebsd", "386", "", "i386"),
        ("freebsd", "arm", "v7", "arm"),
    ],
)
def test_appc_arch(system: str, arch: str, variant: str, label: str) -> None:
    assert appc_arch(system, arch, variant) == label


def test_appc_arch_refuses() -> None:
    for system, arch, variant in (
        ("windows", "amd64", ""),
        ("linux", "arm", "v5"),
        ("linux", "x86_64", ""),
        ("darwin", "arm64", ""),
    ):
        with refused(f'unknown arch tuple: "{system}" - "{arch}" - "{variant}"'):
            appc_arch(system, arch, variant)


@pytest.mark.parametrize(
    ("machine", "label"),
    [("x86_64", "amd64"), ("i686", "i386"), ("aarch64", "aarch64"), ("riscv64", "riscv64")],
)
def test_host_arch(monkeypatch: pytest.MonkeyPatch, machine: str, label: str) -> None:
    names = os.uname_result(("Linux", "host", "6.1", "#1", machine))
    monkeypatch.setattr(os, "uname", lambda: names)
    assert textual.host_arch() == label


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_any_source_can_be_written_with_escapes(path: str) -> None:
    volume = textual.parse_volume(f"w,kind=host,source=/{percent(path)}")
    assert volume.source == f"/{path}"


@given(st.text())
def test_parsers_fail_with_one_bounded_line_only(text: str) -> None:
    for parse in (
        textual.parse_volume,
        textual.parse_mount,
        textual.parse_mount_volume,
        textual.parse_port,
        textual.parse_app_string,
        textual.parse_mount_point,
        textual.parse_app_port,
    ):
        try:
            parse(text)
        except BadValue as err:
            assert "\n" not in err.message
            assert len(err.message) < 5000


@pytest.mark.parametrize(
    ("text", "port"),
    [
        ("www:tcp:80::8080", ExposedPort("www", 8080, None, Port("www", "tcp", 80))),
        ("www:udp:80:1.2.3.4:81", ExposedPort("www", 81, "1.2.3.4", Port("www", "udp", 80))),
        ("www:tcp:80:[::1]:81", ExposedPort("www", 81, "::1", Port("www", "tcp", 80))),
    ],
)
def test_port_of_a_pod_without_apps(text: str, port: ExposedPort) -> None:
    assert textual.parse_sandbox_port(text) == port


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("www:tcp:80:81", "--port invalid format"),
        ("www:tcp:80:::1:81", "--port invalid format"),
        ("www:tcp", "--port invalid format"),
        ("www:xtp:80::81", 'invalid protocol "xtp"'),
        ("www:tcp:0::81", '"0" is not a valid port number'),
        ("www:tcp:80:[::g]:81", '"::g" is not a valid IP'),
    ],
)
def test_port_of_a_pod_without_apps_refuses(text: str, error: str) -> None:
    with refused(error):
        textual.parse_sandbox_port(text)
