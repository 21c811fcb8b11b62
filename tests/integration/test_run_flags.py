"""What `run`, `prepare` and `run-prepared` say of flags that are wrong or contradict each other.

Every line of the tables in the documentation has a test on its text and exit status.
"""

from __future__ import annotations

import grp
import json
import os
from typing import TYPE_CHECKING

import pytest

from rkt_testkit.acibuilder import AciBuilder

if TYPE_CHECKING:
    from rkt_testkit.context import RktContext

OPEN = "--insecure-options=image"

# Words after `run`, and the line that comes; IMAGE is never looked for: it need not exist.
MISTAKES = [
    (["IMAGE", "--readonly-rootfs"], "flag needs an argument: --readonly-rootfs"),
    (["IMAGE", "--readonly-rootfs=maybe"],
     ('invalid argument "maybe" for --readonly-rootfs=maybe: '
     "--readonly-rootfs must be set with a boolean")),
    (["--exec=x", "IMAGE"], "--exec must follow an image"),
    (["--user=x", "IMAGE"], "--user must follow an image"),
    (["IMAGE", "--exec=a", "--exec=b"], ('invalid argument "b" for --exec=b: '
     "--exec specified multiple times for the same image")),
    (["IMAGE", "--signature=a", "--signature=b"], ('invalid argument "b" for --signature=b: '
     "--signature specified multiple times for the same image")),
    (["IMAGE", "--seccomp=mode=retain,a", "--seccomp=mode=retain,b"],
     ('invalid argument "mode=retain,b" for --seccomp=mode=retain,b: '
     "--seccomp specified multiple times for the same image")),
    (["IMAGE", "--supplementary-gids=1,a"],
     'invalid value in --supplementary-gids flag "a": --supplementary-gids must be integers'),
    (["IMAGE", "--annotation=foo"], 'invalid format of --annotation flag "foo"'),
    (["IMAGE", "--annotation=Foo=x"], ('invalid value in --annotation flag "Foo": '
     'ACIdentifier must contain only lower case alphanumeric characters plus "-._~/"')),
    (["IMAGE", "--user-annotation=foo"], 'invalid format of --user-annotation flag "foo"'),
    (["IMAGE", "--user-label=foo"], 'invalid format of --user-label flag "foo"'),
    (["IMAGE", "--environment==x"], 'invalid format of --environment flag "=x"'),
    (["IMAGE", "--memory=16m"], ('invalid value in --memory flag "16m": memory limit of 1 bytes '
     "too low. Try a reasonable value, such as --memory=16M")),
    (["IMAGE", "--memory=x"], ('invalid value in --memory flag "x": quantities must match the '
     "regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")),
    (["IMAGE", "--cpu=1Zi"], ('invalid value in --cpu flag "1Zi": quantities must match the '
     "regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")),
    (["IMAGE", "--cpu=0"], ('invalid value in --cpu flag "0": cpu limit of 0 too low. '
     "Try a reasonable value, such as --cpu=500m")),
    (["IMAGE", "--cpu=1u"], ('invalid value in --cpu flag "1u": cpu limit of 1u too low. '
     "Try a reasonable value, such as --cpu=500m")),
    (["IMAGE", "--cpu-shares=1"], ('invalid value in --cpu-shares flag "1": '
     "os/linux/cpu-shares must be between 2 and 262144, got 1")),
    (["IMAGE", "--cpu-shares=x"], 'invalid value in --cpu-shares flag "x": "x" is not an integer'),
    (["IMAGE", "--cpu-shares=\u0663"],
     'invalid value in --cpu-shares flag "\u0663": "\u0663" is not an integer'),
    (["IMAGE", "--oom-score-adj=--5"],
     'invalid value in --oom-score-adj flag "--5": "--5" is not an integer'),
    (["IMAGE", "--supplementary-gids=\u0663"], ('invalid value in --supplementary-gids flag '
     '"\u0663": --supplementary-gids must be integers')),
    (["IMAGE", "--oom-score-adj=1001"], ('invalid value in --oom-score-adj flag "1001": '
     "os/linux/oom-score-adj must be between -1000 and 1000, got 1001")),
    (["IMAGE", "--caps-retain=CAP_KILL", "--caps-remove=CAP_KILL"],
     "error: cannot use both --caps-retain and --caps-remove on the same image"),
    (["IMAGE", "--cap-retain=CAP_KILL", "--caps-remove=CAP_KILL"],
     "error: cannot use both --caps-retain and --caps-remove on the same image"),
    (["IMAGE", "--caps-retain="], "os/linux/capabilities-retain-set: set must be non-empty"),
    (["IMAGE", "--caps-retain=CAP_KILL,CAP_X"],
     'invalid value in --caps-retain flag "CAP_KILL,CAP_X": unknown capability "CAP_X"'),
    (["IMAGE", "--caps-remove=cap_kill"],
     'invalid value in --caps-remove flag "cap_kill": unknown capability "cap_kill"'),
    (["IMAGE", "--seccomp=mode=remove,errno=ENONE,chmod"], ("invalid seccomp command-line "
     'override "mode=remove,errno=ENONE,chmod": unknown errno "ENONE"')),
    (["IMAGE", "--seccomp=mode=foo,chmod"],
     'invalid seccomp mode command-line override "mode=foo,chmod"'),
    (["IMAGE", "--seccomp=chmod"], 'invalid seccomp mode command-line override "chmod"'),
    (["IMAGE", "--seccomp=mode=retain"], ('invalid seccomp command-line override "mode=retain": '
     "os/linux/seccomp-retain-set: set must be non-empty")),
    (["IMAGE", "--seccomp=mode=remove,errno=foo,chmod"],
     ('invalid seccomp command-line override "mode=remove,errno=foo,chmod": '
     "os/linux/seccomp-remove-set: errno must start with an 'E' character, got foo")),
    (["IMAGE", "--name=A_"], ('invalid value in --name flag "A_": '
     'ACName must contain only lower case alphanumeric characters plus "-"')),
    (["--volume=v", "IMAGE"], ('invalid value in --volume flag "v": unrecognized volume kind: '
     'should be one of "empty", "host"')),
    (["--volume=v,kind", "IMAGE"], ('invalid value in --volume flag "v,kind": malformed string '
     '"v,kind" - has a label without a value: kind')),
    (["--volume=V,kind=empty", "IMAGE"], ('invalid value in --volume flag "V,kind=empty": '
     'ACName must contain only lower case alphanumeric characters plus "-"')),
    (["--volume=v,kind=host", "IMAGE"],
     'invalid value in --volume flag "v,kind=host": source for host volume cannot be empty'),
    (["--volume=v,kind=host,source=x", "IMAGE"],
     ('invalid value in --volume flag "v,kind=host,source=x": source for host volume must be '
     "absolute path")),
    (["--volume=v,kind=host,source=/x,mode=0700", "IMAGE"],
     ('invalid value in --volume flag "v,kind=host,source=/x,mode=0700": mode for host volume '
     "cannot be set")),
    (["--volume=v,kind=empty,source=/x", "IMAGE"],
     ('invalid value in --volume flag "v,kind=empty,source=/x": source for empty volume must be '
     "empty")),
    (["--volume=v,kind=empty,foo=1", "IMAGE"],
     'invalid value in --volume flag "v,kind=empty,foo=1": unknown volume parameter "foo"'),
    (["--volume=v,kind=host,source=/x,source=/y", "IMAGE"],
     ('invalid value in --volume flag "v,kind=host,source=/x,source=/y": '
     'label source with multiple values ["/x" "/y"]')),
    (["--mount=volume=v,target=/x", "IMAGE"],
     'dangling mount point "/x": volume "v" not found'),
    (["IMAGE", "--mount=volume=v,target=/x"],
     'dangling mount point "/x": volume "v" not found'),
    (["--mount=volume=v,foo=/x", "IMAGE"],
     'invalid value in --mount flag "volume=v,foo=/x": unknown mount parameter "foo"'),
    (["--mount=volume=v,volume=x,target=/x", "IMAGE"],
     ('invalid value in --mount flag "volume=v,volume=x,target=/x": '
     'label volume with multiple values ["v" "x"]')),
    (["--mount=volume=V_,target=/x", "IMAGE"],
     ('invalid volume name "V_" in --mount flag "volume=V_,target=/x": '
     'ACName must contain only lower case alphanumeric characters plus "-"')),
    (["--net=default", "--port=x", "IMAGE"],
     'invalid value in --port flag "x": "x" is not in name:[ip:]port format'),
    (["--net=default", "--port=X_:80", "IMAGE"],
     ('invalid value in --port flag "X_:80": "X_" is not a valid port name: '
     'ACName must contain only lower case alphanumeric characters plus "-"')),
    (["--net=default", "--port=x:1.2.3:80", "IMAGE"],
     'invalid value in --port flag "x:1.2.3:80": "1.2.3" is not a valid IP'),
    (["--net=default", "--port=x:0", "IMAGE"],
     'invalid value in --port flag "x:0": "0" is not a valid port number'),
    (["--net=host", "--port=x:80", "IMAGE"], "--port flag does not work with 'host' networking"),
    (["--net=none", "--port=x:80", "IMAGE"], "--port flag does not work with 'none' networking"),
    (["--mds-register=maybe", "IMAGE"], ('invalid argument "maybe" for --mds-register=maybe: '
     "must be true or false, or auto")),
    (["--net=none", "--mds-register", "IMAGE"],
     ("--mds-register flag does not work with --net=none."
     " Please use 'host', 'default' or an equivalent network")),
    (["--set-env=x", "IMAGE"],
     'invalid argument "x" for --set-env=x: must be specified as key=value'),
    (["--set-env=x=1", "--set-env=x=2", "IMAGE"],
     'invalid argument "x=2" for --set-env=x=2: key "x" already set'),
    (["--ipc=foo", "IMAGE"],
     'invalid argument "foo" for --ipc=foo: must be "auto", "private" or "parent"'),
    (["--pull-policy=x", "IMAGE"],
     'invalid argument "x" for --pull-policy=x: must be "never", "new" or "update"'),
    (["--store-only", "--no-store", "IMAGE"], "both --store-only and --no-store specified"),
    (["--stage1-path=a", "--stage1-path=b", "IMAGE"], "--stage1-path already used"),
    (["--stage1-path=a", "--stage1-url=b", "IMAGE"],
     "flags --stage1-path and --stage1-url are mutually exclusive"),
    (["--interactive", "IMAGE", "IMAGE"], "interactive option only supports one image"),
    ([], "must provide at least one image or specify the pod manifest"),
    (["--", "x"], ("error parsing app image arguments: "
     "an image is required before any app arguments")),
    (["IMAGE", "--", "x", "---", "--", "y"], ("error parsing app image arguments: "
     "only one set of app arguments allowed per image")),
    (["--set-env-file=/no/such/file", "IMAGE"], ("cannot read the environment variables file: "
     '"/no/such/file": No such file or directory')),
    (["--pod-manifest=/no/such/file"], ("cannot read the pod manifest: "
     '"/no/such/file": No such file or directory')),
]  # fmt: skip


DEPRECATED = {
    flag: f"Flag {flag.partition('=')[0]} has been deprecated, please use {new}"
    for flag, new in (
        ("--store-only", "--pull-policy=never"), ("--no-store", "--pull-policy=update"),
        ("--cap-retain=CAP_KILL", "--caps-retain"), ("--cap-remove=CAP_KILL", "--caps-remove"),
    )
}  # fmt: skip


def without_notices(stderr: str) -> list[str]:
    """Give the lines but those about deprecated spellings."""
    return [line for line in stderr.splitlines() if not line.endswith(tuple(DEPRECATED.values()))]


@pytest.mark.parametrize("flag", DEPRECATED)
def test_deprecated_spellings_name_the_new_one(rkt: RktContext, flag: str) -> None:
    words = ("/no/such/image.aci", flag)
    result = rkt.rkt("run", *words, status=254)
    assert result.stderr.splitlines()[0] == DEPRECATED[flag]
    if not flag.startswith("--cap"):
        assert rkt.rkt("fetch", flag, words[0], status=254).stderr.startswith(DEPRECATED[flag])


def test_mistakes_are_told_before_anything_is_fetched(rkt: RktContext) -> None:
    wrong = []
    for words, text in MISTAKES:
        args = [word.replace("IMAGE", "/no/such/image.aci") for word in words]
        result = rkt.rkt("run", *args, status=None)
        first = without_notices(result.stderr)[0]
        if result.status != 254 or first != f"rkt: {text}":
            wrong.append(f"{words}: {result.status} {result.stderr!r}")
    assert not wrong, "\n".join(wrong)
    assert not os.path.exists(f"{rkt.data}/pods/run")


@pytest.mark.parametrize(
    "flag",
    [
        "IMAGE", "--volume=v,kind=empty", "--mount=volume=v,target=/x", "--port=x:80",
        "--pull-policy=never", "--pull-policy=update", "--store-only", "--no-store",
        "--inherit-env", "--set-env=A=b", "--set-env-file=/dev/null",
    ],
)  # fmt: skip
def test_what_a_pod_manifest_says_alone(rkt: RktContext, flag: str) -> None:
    for verb in ("run", "prepare"):
        result = rkt.rkt(verb, "--pod-manifest=/dev/null", flag, status=254)
        if flag == "--port=x:80" and verb == "run":
            flag = "--net=default"  # else the port is refused for the lack of a network
            result = rkt.rkt(verb, "--pod-manifest=/dev/null", flag, "--port=x:80", status=254)
            flag = "--port=x:80"
        line = without_notices(result.stderr)[0]
        assert line == "rkt: conflicting flags set with --pod-manifest (see --help)"


def test_files_of_the_environment(rkt: RktContext) -> None:
    aci = AciBuilder("example.com/env", exec=["/bin/env"]).busybox().build(rkt.files)
    first, second = f"{rkt.files}/one.env", f"{rkt.files}/two.env"
    with open(first, "w") as file:
        file.write('# comment\n; comment\n\nA=1 = one\nB=" quoted "\nEMPTY=\n')
    with open(second, "w") as file:
        file.write("C=c\n")
    flags = (f"--set-env-file={first}", f"--set-env-file={second}", "--set-env=C=explicit")
    result = rkt.rkt(OPEN, "run", *flags, aci.path, "--environment=A=low", "--environment=D=d")
    env = dict(line.split("=", 1) for line in result.stdout.splitlines())
    assert (env["A"], env["B"], env["C"], env["D"]) == ("1 = one", '" quoted "', "explicit", "d")
    assert env["EMPTY"] == ""
    for text, message in [
        ("A=2\n", f'environment variable "A" already set (file "{second}")'),
        ("novalue\n", f'environment variable must be specified as name=value (file "{second}")'),
        (" A=2\n", 'environment variable does not have valid identifier " A"'),
    ]:
        with open(second, "w") as file:
            file.write(text)
        result = rkt.rkt(OPEN, "run", *flags, aci.path, status=254)
        assert message in result.stderr


def test_ports_of_no_app_or_of_two(rkt: RktContext) -> None:
    ports = [{"name": "www", "protocol": "tcp", "port": 80}]
    aci = AciBuilder("example.com/www", app={"ports": ports}).busybox().build(rkt.files)
    result = rkt.rkt(OPEN, "run", "--net=default", "--port=ftp:80", aci.path, status=254)
    assert 'rkt: error: port name "ftp" could not be found in any apps\n' in result.stderr
    two = (aci.path, aci.path, "--name=two")
    result = rkt.rkt(OPEN, "run", "--net=default", "--port=www:80", *two, status=254)
    assert 'rkt: error: port name "www" defined multiple apps\n' in result.stderr


def test_bytes_that_no_manifest_can_hold(rkt: RktContext) -> None:
    def refused(name: str, shown: str) -> str:
        return f'invalid argument "{shown}" for --{name}={shown}: text is not UTF-8'

    path = AciBuilder("example.com/app").busybox().build(rkt.files).path
    with open(f"{rkt.files}/env", "wb") as file:
        file.write(b"A=caf\xe9\n")
    text = r'environment variable "A" is not UTF-8: "caf\xe9"'
    bad = "caf\udce9"
    for words, problem, env in (
        ((f"--set-env-file={rkt.files}/env", path), text, {}),
        ((f"--set-env=A={bad}", path), text, {}),
        (("--inherit-env", path), text, {"A": bad}),
        ((path, f"--environment=A={bad}"), text, {}),
        ((path, "--", bad), r'argument is not UTF-8: "caf\xe9"', {}),
        *(
            ((path, f"--{name}={bad}"), refused(name, r"caf\xe9"), {})
            for name in ("user", "group", "exec", "working-dir", "health-cmd", "seccomp")
        ),
        *(
            ((path, f"--{name}=a={bad}"), refused(name, r"a=caf\xe9"), {})
            for name in ("annotation", "user-annotation", "user-label")
        ),
        *(
            ((f"--{name}={bad}", path), rf'invalid value "caf\xe9" for --{name}', {})
            for name in ("dns-search", "dns-opt", "dns-domain")
        ),
    ):
        result = rkt.rkt(OPEN, "run", *words, status=254, env=env)
        assert result.stderr.splitlines()[-1] == f"rkt: {problem}"
    for name in ("annotation", "user-annotation", "user-label"):
        result = rkt.rkt("app", "sandbox", f"--{name}=a={bad}", status=1)
        assert result.stderr == "rkt: " + refused(name, r"a=caf\xe9") + "\n"


@pytest.mark.parametrize(
    ("net", "has"), [("host", "the network of the host"), ("none", "no network")]
)
def test_ports_of_a_prepared_pod_without_a_network(rkt: RktContext, net: str, has: str) -> None:
    ports = [{"name": "www", "protocol": "tcp", "port": 80}]
    aci = AciBuilder("example.com/www", app={"ports": ports}).busybox().build(rkt.files)
    uuid = rkt.rkt(OPEN, "prepare", "--port=www:8080", aci.path).stdout.strip()
    result = rkt.rkt("run-prepared", f"--net={net}", uuid)
    assert result.stderr == f"rkt: warning: no ports are forwarded, as the pod has {has}: www\n"


@pytest.mark.parametrize("label", ["os", "arch"])
def test_an_image_without_platform(rkt: RktContext, label: str) -> None:
    builder = AciBuilder("example.com/any").busybox()
    labels = builder.manifest["labels"]
    assert isinstance(labels, list)
    labels[:] = [item for item in labels if item["name"] != label]
    result = rkt.rkt(OPEN, "run", builder.build(rkt.files).path, status=254)
    assert f"missing {label} label in the image manifest" in result.stderr


def test_an_image_without_an_app(rkt: RktContext) -> None:
    builder = AciBuilder("example.com/base").busybox()
    del builder.manifest["app"]
    aci = builder.build(rkt.files)
    result = rkt.rkt(OPEN, "run", aci.path, status=254)
    assert (
        "rkt: error: image example.com/base has no app section and --exec argument is not provided"
        in result.stderr
    )
    result = rkt.rkt(OPEN, "run", aci.path, "--exec=/bin/id", "--", "-u")
    assert result.stdout == "0\n"


def test_an_empty_exec(rkt: RktContext) -> None:
    aci = AciBuilder("example.com/empty", exec=[]).busybox().build(rkt.files)
    result = rkt.rkt(OPEN, "run", aci.path, status=254)
    assert 'image "example.com/empty" has an empty "exec" (try --exec=BINARY)' in result.stderr


def test_exec_replaces_everything_but_the_arguments(rkt: RktContext) -> None:
    aci = AciBuilder("example.com/echo", exec=["/bin/echo", "one", "two"]).busybox()
    path = aci.build(rkt.files).path
    assert rkt.rkt(OPEN, "run", path, "--", "three").stdout == "one two three\n"
    assert rkt.rkt(OPEN, "run", path, "--exec=/bin/printf", "--", "three").stdout == "three"
    assert rkt.rkt(OPEN, "run", path, "--exec=echo", "--", "", "a", "--", "-x").stdout == (
        "a -- -x\n"
    )


def test_what_of_an_app_ends_in_the_pod_manifest(rkt: RktContext) -> None:
    aci = AciBuilder("example.com/app", app={"userLabels": {"a": "image"}}).busybox()
    uuid = rkt.rkt(
        OPEN, "prepare", "--quiet", "--volume=v,kind=empty", aci.build(rkt.files).path,
        "--name=renamed", "--user=alice", "--group=1001", "--supplementary-gids=1,2",
        "--supplementary-gids=3", "--readonly-rootfs=true", "--working-dir=/tmp",
        "--annotation=example.com/a=one", "--annotation=example.com/a=two",
        "--user-annotation=Any Key=<v>", "--user-label=a=flag", "--memory=64M", "--cpu=500m",
        "--cpu-shares=512", "--oom-score-adj=100", "--cap-remove=CAP_KILL",
        "--seccomp=mode=remove,errno=EPERM,chmod", "--mount=volume=v,target=/v",
    ).stdout.strip()  # fmt: skip
    text = rkt.rkt("cat-manifest", uuid).stdout
    assert r'"Any Key": "\u003cv\u003e"' in text  # as Go writes it
    (app,) = json.loads(text)["apps"]
    assert (app["name"], app["readOnlyRootFS"]) == ("renamed", True)
    assert app["mounts"] == [{"volume": "v", "path": "/v"}]
    assert app["annotations"] == [{"name": "example.com/a", "value": "two"}]
    section = app["app"]
    assert (section["user"], section["group"]) == ("alice", "1001")
    assert section["supplementaryGIDs"] == [1, 2, 3]
    assert section["workingDirectory"] == "/tmp"
    assert section["userAnnotations"] == {"Any Key": "<v>"}
    assert section["userLabels"] == {"a": "flag"}
    assert {item["name"]: item["value"] for item in section["isolators"]} == {
        "resource/memory": {"request": "64M", "limit": "64M"},
        "resource/cpu": {"request": "500m", "limit": "500m"},
        "os/linux/cpu-shares": 512,
        "os/linux/oom-score-adj": 100,
        "os/linux/capabilities-remove-set": {"set": ["CAP_KILL"]},
        "os/linux/seccomp-remove-set": {"set": ["chmod"], "errno": "EPERM"},
    }


def test_isolators_of_flags_replace_those_of_the_image(rkt: RktContext) -> None:
    isolators = [
        {"name": "resource/memory", "value": {"request": "1G", "limit": "1G"}},
        {"name": "os/linux/capabilities-retain-set", "value": {"set": ["CAP_CHOWN"]}},
        {"name": "os/linux/seccomp-retain-set", "value": {"set": ["@appc.io/all"]}},
        {"name": "os/linux/no-new-privileges", "value": True},
    ]
    aci = AciBuilder("example.com/app", app={"isolators": isolators}).busybox().build(rkt.files)
    flags = ("--memory=64M", "--caps-remove=CAP_KILL", "--seccomp=mode=remove,chmod")
    uuid = rkt.rkt(OPEN, "prepare", aci.path, *flags).stdout.strip()
    (app,) = json.loads(rkt.rkt("cat-manifest", uuid).stdout)["apps"]
    assert [item["name"] for item in app["app"]["isolators"]] == [
        "os/linux/no-new-privileges", "resource/memory", "os/linux/capabilities-remove-set",
        "os/linux/seccomp-remove-set",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("os/linux/capabilities-remove-set", {"set": ["CAP_X"]}, 'unknown capability "CAP_X"'),
        ("os/linux/seccomp-remove-set", {"set": ["chmod"], "errno": "ENONE"},
         'unknown errno "ENONE"'),
        ("resource/cpu", {"limit": "0"}, "limit of 0 too low"),
        ("resource/memory", {"limit": "16m"}, "limit of 16m too low"),
        ("resource/block-iops", {"default": True, "limit": "0"}, "limit of 0 too low"),
    ],
)  # fmt: skip
def test_isolators_that_no_app_can_run_with(
    rkt: RktContext, name: str, value: dict[str, object], text: str
) -> None:
    isolators = [{"name": name, "value": value}]
    image = AciBuilder("example.com/app", app={"isolators": isolators}).busybox().build(rkt.files)
    one = {"name": "one", "image": {"id": image.id}}
    bad: dict[str, object] = {"acKind": "PodManifest", "acVersion": "0.8.11", "apps": [one]}
    pod = {**bad, "apps": [{**one, "app": PLAIN}]}
    rkt.rkt(OPEN, "fetch", image.path)
    for words, owner in (
        ((image.path,), 'app "app"'),
        ((f"--pod-manifest={_write(rkt, bad)}",), 'app "one"'),
        ((f"--pod-manifest={_write(rkt, {**pod, 'isolators': isolators})}",), "pod"),
    ):
        for verb in ("run", "prepare"):
            result = rkt.rkt(OPEN, verb, *words, status=254)
            assert result.stderr.splitlines()[-1] == f"rkt: {owner}: {name}: {text}"
    assert not any(names for _, _, names in os.walk(f"{rkt.data}/pods"))


PLAIN = {"exec": ["/bin/true"], "user": "0", "group": "0"}


def _write(rkt: RktContext, manifest: dict[str, object]) -> str:
    path = f"{rkt.files}/pod{len(os.listdir(rkt.files))}.json"
    with open(path, "w") as file:
        json.dump(manifest, file)
    return path


@pytest.mark.parametrize("stream", ["stdin", "stdout", "stderr"])
@pytest.mark.parametrize("command", ["run", "prepare"])
def test_modes_of_streams(rkt: RktContext, command: str, stream: str) -> None:
    path = AciBuilder("example.com/app").busybox().build(rkt.files).path
    env = {"RKT_EXPERIMENT_ATTACH": "true"}
    result = rkt.rkt(OPEN, command, path, f"--{stream}=odd", status=254, env=env)
    assert f'rkt: invalid {stream} mode "odd"' in result.stderr.splitlines()


def test_without_a_group(rkt: RktContext) -> None:
    """rkt v1.30 said it every time; nobody needs that."""
    try:
        grp.getgrnam("rkt")
    except KeyError:
        pass
    else:
        pytest.skip("this machine has a group rkt")
    text = 'group "rkt" not found, will use default gid when rendering images'
    path = AciBuilder("example.com/app").busybox().build(rkt.files).path
    assert text in rkt.rkt("--debug", OPEN, "fetch", path).stderr
    assert text not in rkt.rkt(OPEN, "fetch", path).stderr


def test_arguments_without_the_separator(rkt: RktContext) -> None:
    path = AciBuilder("example.com/app").busybox().build(rkt.files).path
    hint = 'hint: arguments of an app follow "--", as in: rkt run IMAGE -- ARGUMENT...\n'
    for word in ("/bin/sh", "no such", "sha512-00"):
        assert rkt.rkt(OPEN, "run", path, word, status=254).stderr.endswith(hint)
    # Not where arguments were given, nor of the only image.
    for words in ((path, "--", "x", "---", "sha512-00"), ("sha512-00",)):
        assert "hint:" not in rkt.rkt(OPEN, "run", *words, status=254).stderr


def test_help_is_of_the_command_that_was_given(rkt: RktContext) -> None:
    for verb in ("enter", "app exec"):
        result = rkt.rkt(*verb.split(), status=254)
        assert result.stdout.startswith(f"NAME:\n\t{verb} - ")
        assert result.stderr == "rkt: a pod UUID is needed\n"
    for verb in ("run", "prepare"):
        text = "rkt: must provide at least one image or specify the pod manifest\n"
        assert rkt.rkt(verb, status=254).stderr == f"{text}hint: rkt help {verb}\n"


def test_run_prepared_wants_one_uuid(rkt: RktContext) -> None:
    for words in ((), ("a", "b")):
        result = rkt.rkt("run-prepared", *words, status=254)
        assert "USAGE:\n\trkt run-prepared UUID\n" in result.stdout
    aci = AciBuilder("example.com/app").busybox().build(rkt.files)
    uuid = rkt.rkt(OPEN, "prepare", aci.path, aci.path, "--name=two").stdout.strip()
    result = rkt.rkt("run-prepared", "--interactive", uuid, status=254)
    assert result.stderr == "rkt: interactive option only supports pods with one app\n"
    assert rkt.pod_state(uuid) == "prepared"


def test_ipc_of_the_pod_or_of_the_host(rkt: RktContext) -> None:
    aci = AciBuilder("example.com/ipc", exec=["/bin/readlink", "/proc/self/ns/ipc"]).busybox()
    path = aci.build(rkt.files).path
    host = os.readlink("/proc/self/ns/ipc")
    seen = {
        mode: rkt.rkt(OPEN, "run", *([f"--ipc={mode}"] if mode else []), path).stdout.strip()
        for mode in ("", "auto", "private", "parent")
    }
    assert seen.pop("parent") == host
    assert host not in seen.values()


def test_the_hostname(rkt: RktContext) -> None:
    script = "hostname; cat /etc/hostname; grep -c named /etc/hosts"
    aci = AciBuilder("example.com/host", exec=["/bin/sh", "-c", script]).busybox()
    path = aci.build(rkt.files).path
    assert rkt.rkt(OPEN, "run", "--hostname=named", path).stdout.split() == ["named", "named", "1"]
    uuid = rkt.rkt(OPEN, "prepare", path).stdout.strip()
    result = rkt.rkt("run-prepared", uuid, status=1)
    assert result.stdout.split() == [f"rkt-{uuid}", f"rkt-{uuid}", "0"]


# Pod manifests


def pod(rkt: RktContext, *apps: dict[str, object], **more: object) -> str:
    """Write a pod manifest and give its path."""
    path = f"{rkt.files}/pod.json"
    manifest = {"acKind": "PodManifest", "acVersion": "0.8.11", "apps": apps, **more}
    with open(path, "w") as file:
        json.dump(manifest, file)
    return path


def test_a_pod_manifest_is_run(rkt: RktContext) -> None:
    aci = AciBuilder("example.com/app", exec=["/bin/echo", "from the image"]).busybox()
    image = aci.build(rkt.files)
    rkt.rkt(OPEN, "fetch", image.path)
    own = {"exec": ["/bin/sh", "-c", "echo own; ls /data"], "user": "0", "group": "0"}
    path = pod(
        rkt,
        {"name": "one", "image": {"id": image.id}},
        {"name": "two", "image": {"id": image.key}, "app": own,
         "mounts": [{"volume": "data", "path": "/data"}]},
        volumes=[{"name": "data", "kind": "host", "source": rkt.files}],
    )  # fmt: skip
    out = rkt.rkt(OPEN, "run", f"--pod-manifest={path}").stdout
    lines = sorted(line.split(": ", 1)[1] for line in out.splitlines())
    assert lines == sorted(["from the image", "own", *os.listdir(rkt.files)])


def test_pod_manifests_that_cannot_be(rkt: RktContext) -> None:
    builder = AciBuilder("example.com/app").busybox()
    image = builder.build(rkt.files)
    rkt.rkt(OPEN, "fetch", image.path)
    del builder.manifest["app"]
    builder.manifest["name"] = "example.com/base"
    base = builder.build(rkt.files)
    rkt.rkt(OPEN, "fetch", base.path)
    one: dict[str, object] = {"name": "one", "image": {"id": image.id}}
    cases: list[tuple[str, str]] = [
        (pod(rkt), "pod must contain at least one application"),
    ]
    for text, apps, more in (
        ('duplicate apps of name "one"', [one, one], {}),
        ('duplicate volume name "v"', [one], {"volumes": [{"name": "v", "kind": "empty"}] * 2}),
        ("no app section in the pod manifest or the image manifest",
         [{"name": "one", "image": {"id": base.id}}], {}),
        ('dangling mount point "/x": volume "v" not found',
         [{**one, "mounts": [{"volume": "v", "path": "/x"}]}], {}),
        ('image ID', [{"name": "one", "image": {"id": "sha512-" + "0" * 64}}], {}),
        ('error: port name "www" could not be found in any apps', [one],
         {"ports": [{"name": "www", "hostPort": 80}]}),
        ('missing or bad ACKind (must be "PodManifest")', [one], {"acKind": "ImageManifest"}),
    ):  # fmt: skip
        manifest = {"acKind": "PodManifest", "acVersion": "0.8.11", "apps": apps, **more}
        path = f"{rkt.files}/pod{len(cases)}.json"
        with open(path, "w") as file:
            json.dump(manifest, file)
        cases.append((path, text))
    with open(f"{rkt.files}/empty.json", "w") as file:
        json.dump({"acKind": "PodManifest", "acVersion": "0.8.11", "apps": []}, file)
    wrong = []
    for path, text in [(f"{rkt.files}/empty.json", cases[0][1]), *cases[1:]]:
        result = rkt.rkt(OPEN, "run", f"--pod-manifest={path}", status=None)
        if result.status != 254 or text not in result.stderr:
            wrong.append(f"{text}: {result.status} {result.stderr}")
    assert not wrong, "\n".join(wrong)
    assert not os.listdir(f"{rkt.data}/pods/run") if os.path.exists(f"{rkt.data}/pods/run") else 1
