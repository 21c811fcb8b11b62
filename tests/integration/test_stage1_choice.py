"""Stage1 images that are not the default one: how they are chosen, and what bad ones come to."""

from __future__ import annotations

import json
import os
import shutil
import signal
from typing import TYPE_CHECKING

import pytest

from rkt_testkit.acibuilder import AciBuilder
from rkt_testkit.foreign import P, pods, stage1
from rkt_testkit.probes import needs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rkt_testkit.acibuilder import Aci
    from rkt_testkit.context import Result, RktContext
    from rkt_testkit.keyring import Keyring

pytestmark = needs("root", "overlay", "busybox")

OPEN = "--insecure-options=image"
EXAMPLE = os.path.join(os.path.dirname(__file__), "../../examples/stage1-minimal")
MINIMAL = "example.com/stage1-minimal"


@pytest.fixture(autouse=True)
def _collect(rkt: RktContext) -> Iterator[None]:
    """Collect what a test leaves: a foreign stage1's mounts are the host's, and stay until gc."""
    yield
    for _ in range(2):
        rkt.rkt("gc", "--grace-period=0s")


def app(rkt: RktContext, script: str = "exit 0", name: str = "example.com/app") -> str:
    """Store the image of an app; gives its key."""
    exec = ("/bin/sh", "-c", script)  # noqa: A001
    aci = AciBuilder(name, exec=exec).busybox().build(rkt.files)
    return rkt.rkt(OPEN, "fetch", aci.path).stdout.strip()


def minimal(rkt: RktContext) -> str:
    """Build the stage1 of the examples, in shell, as its reader would."""
    path = f"{rkt.files}/stage1-minimal.aci"
    done = rkt.run(["sh", f"{EXAMPLE}/build", path, rkt.argv()[rkt.argv().index("--") + 1]])
    assert done.status == 0, done.stderr
    return path


def sign(path: str, keyring: Keyring, fingerprint: str) -> None:
    """Put a signature beside an image."""
    with open(path, "rb") as image, open(f"{path}.asc", "wb") as signature:
        signature.write(keyring.sign(fingerprint, image.read()))


def trust(rkt: RktContext, keyring: Keyring, fingerprint: str, prefix: str) -> None:
    """Trust a key for a prefix."""
    path = f"{rkt.files}/key.asc"
    with open(path, "wb") as file:
        file.write(keyring.export(fingerprint))
    rkt.rkt("trust", f"--prefix={prefix}", "--skip-fingerprint-review", path)


# --- the example, by every flag -------------------------------------------------------------------


def test_a_signed_stage1_by_every_flag(rkt: RktContext, keyring: Keyring, publisher: str) -> None:
    key = app(rkt, "echo from $AC_APP_NAME; hostname")
    path = minimal(rkt)
    refused = rkt.rkt(OPEN.replace("image", "none"), "run", f"--stage1-path={path}", key,
                      status=254)  # fmt: skip
    assert ".asc" in refused.stderr
    sign(path, keyring, publisher)
    refused = rkt.rkt("run", f"--stage1-path={path}", key, status=254)
    assert f'refusing to execute image "{MINIMAL}"' in refused.stderr
    assert f"rkt trust --prefix={MINIMAL}" in refused.stderr
    trust(rkt, keyring, publisher, MINIMAL)
    expected = "from app\nname\n"
    more = ("run", "--hostname=name")

    def run(*flags: str, before: tuple[str, ...] = ()) -> None:
        # The app itself is not signed: only the stage1 has to be, it is what is looked at here.
        assert rkt.rkt(*before, *more, *flags, app_key).stdout == expected

    app_key = signed_app(rkt, keyring, publisher, "echo from $AC_APP_NAME; hostname")
    run(f"--stage1-path={path}")
    run(before=(f"--stage1-image={path}",))
    run(f"--stage1-image={path}")
    run(f"--stage1-name={MINIMAL}")
    run(f"--stage1-name={MINIMAL}:1.0.0")
    run(before=(f"--stage1-image={MINIMAL}",))
    run(f"--stage1-url=file://{path}")
    stored = [line.split() for line in rkt.rkt("image", "list", "--no-legend", "--full").stdout
              .splitlines() if MINIMAL in line]  # fmt: skip
    run(f"--stage1-hash={stored[0][0]}")


def signed_app(rkt: RktContext, keyring: Keyring, fingerprint: str, script: str) -> str:
    """Store the image of an app that is trusted; gives its key."""
    name = "example.com/signed/app"
    builder = AciBuilder(name, exec=("/bin/sh", "-c", script)).busybox()
    aci = builder.build(rkt.files, keyring=keyring, fingerprint=fingerprint)
    trust(rkt, keyring, fingerprint, name)
    return rkt.rkt("fetch", aci.path).stdout.strip()


def test_the_contract_from_start_to_gc(rkt: RktContext) -> None:
    """A stage1 that knows nothing but the contract: run, list, enter, stop, status, gc."""
    key = app(rkt, "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 1 & wait; done")
    pod = rkt.spawn(OPEN, "run", f"--stage1-path={minimal(rkt)}", key)
    assert pod.stdout is not None
    assert pod.stdout.readline() == b"up\n"
    (uuid,) = (os.path.basename(path) for path in pods(rkt))
    entered = rkt.rkt("enter", uuid, "/bin/sh", "-c", "cat /proc/1/comm; exit 9", status=9)
    assert entered.stdout == "busybox\n"
    assert rkt.pod_state(uuid) == "running"
    assert "pid=" in rkt.rkt("status", uuid).stdout
    # What this stage1 has not, it is asked for in vain, and rkt says so.
    attached = rkt.rkt("attach", uuid, status=254)
    assert f'stage1 image "{MINIMAL}": entrypoint "attach" not found' in attached.stderr
    rkt.rkt("stop", uuid)
    assert pod.wait(60) == 3
    assert pod.stdout.read() == b"bye\n"
    assert pod.stderr is not None
    assert b"/dev/null" not in (said := pod.stderr.read()), said
    assert b"kill" not in said
    assert "\napp=3\n" in rkt.rkt("status", uuid, status=None).stdout
    rkt.rkt("gc", "--grace-period=0s")
    rkt.rkt("gc", "--grace-period=0s")
    assert not pods(rkt)


def test_several_apps_and_a_failing_one(rkt: RktContext) -> None:
    one = app(rkt, "trap 'exit 0' TERM; sleep 1000 & wait", "example.com/one")
    two = app(rkt, "exit 5", "example.com/two")
    rkt.rkt(OPEN, "run", f"--stage1-path={minimal(rkt)}", one, two, status=5)


def test_stop_with_force(rkt: RktContext) -> None:
    key = app(rkt, "trap '' TERM; echo up; sleep 1000")
    pod = rkt.spawn(OPEN, "run", f"--stage1-path={minimal(rkt)}", key)
    assert pod.stdout is not None
    assert pod.stdout.readline() == b"up\n"
    (uuid,) = (os.path.basename(path) for path in pods(rkt))
    rkt.rkt("stop", "--force", uuid)
    assert pod.wait(60) == 128 + signal.SIGKILL


def test_what_an_old_interface_lacks_is_a_warning(rkt: RktContext) -> None:
    script = 'echo "$@"'
    aci = stage1(rkt, {"run": script}, annotations={})
    flags = ["--hostname=h", "--dns=8.8.8.8", "--ipc=private", f"--stage1-path={aci.path}"]
    key = app(rkt)
    result = rkt.rkt(f"{OPEN},seccomp,paths,capabilities", "run", *flags, key)
    assert "warning: --hostname option is not supported by stage1\n" in result.stderr
    assert "warning: --dns-conf-mode option not supported by stage1\n" in result.stderr
    assert "warning: --ipc option is not supported by stage1\n" in result.stderr
    words = result.stdout.split()
    assert words[0] == "--net=host"
    assert not [word for word in words if word.startswith(("--host", "--dns", "--ipc", "--dis"))]


@pytest.mark.parametrize("version", range(1, 7))
def test_each_interface_gets_what_it_knows(rkt: RktContext, version: int) -> None:
    programs = {"run": 'echo "$@"', "gc": 'echo "gc $*" >&2'}
    aci = stage1(rkt, programs, annotations={"interface-version": str(version)})
    result = rkt.rkt(
        f"{OPEN},seccomp,paths,capabilities", "run", "--hostname=h", "--ipc=private",
        f"--stage1-path={aci.path}", app(rkt),
    )  # fmt: skip
    names = {word.partition("=")[0] for word in result.stdout.split()}
    disable = {"--disable-capabilities-restriction", "--disable-paths", "--disable-seccomp"}
    since = {"--hostname": 2, **dict.fromkeys(disable, 3), "--dns-conf-mode": 4, "--ipc": 6}
    for flag, first in since.items():
        assert (flag in names) == (version >= first), flag
    collected = "".join(rkt.rkt("gc", "--grace-period=0s").stderr for _ in range(2))
    assert "gc " in collected
    assert ("--local-config" in collected) == (version >= 5)


# --- configuration --------------------------------------------------------------------------------


def configure(layer: str, **values: str) -> None:
    """Write the file of a layer's stage1.d."""
    os.makedirs(f"{layer}/stage1.d", exist_ok=True)
    with open(f"{layer}/stage1.d/stage1.json", "w") as file:
        json.dump({"rktKind": "stage1", "rktVersion": "v1", **values}, file)


def shown(rkt: RktContext, *flags: str) -> dict[str, str]:
    """Give what `rkt config` says of stage1."""
    documents = json.loads(rkt.rkt(*flags, "config").stdout)["stage0"]
    found: dict[str, str] = next(d for d in documents if d["rktKind"] == "stage1")
    return found


def test_layers_of_configuration(rkt: RktContext) -> None:
    key = app(rkt)
    images = {}
    for layer in ("system", "local", "user", "flag"):
        images[layer] = stage1(rkt, {"run": f"echo {layer}"}, name=f"example.com/{layer}").path
    user = f"{rkt.files}/user"
    chosen = [OPEN]

    def run(*flags: str) -> str:
        return rkt.rkt(*chosen, "run", *flags, key).stdout

    configure(rkt.system, location=images["system"])
    assert run() == "system\n"
    configure(rkt.local, location=images["local"])
    assert run() == "local\n"
    assert shown(rkt)["location"] == images["local"]
    configure(user, location=f"file://{images['user']}")
    chosen.append(f"--user-config={user}")
    assert run() == "user\n"
    assert shown(rkt, chosen[-1])["location"] == f"file://{images['user']}"
    assert run(f"--stage1-path={images['flag']}") == "flag\n"
    # A name in the store comes before any location.
    configure(rkt.local, name="example.com/flag", version="1.0.0", location=images["local"])
    assert run() == "flag\n"
    configure(rkt.local, name="example.com/flag", version="9-dirty", location=images["local"])
    assert run() == "user\n"


def test_a_configured_stage1_is_verified_unless_it_is_installed(rkt: RktContext) -> None:
    aci = stage1(rkt, {"run": "echo mine"})
    key = app(rkt)
    configure(rkt.local, location=aci.path)
    refused = rkt.rkt("--insecure-options=none", "run", key, status=254)
    assert "signature" in refused.stderr
    images = f"{rkt.files}/images"
    os.mkdir(images)
    shutil.copy(aci.path, f"{images}/odd.aci")
    os.makedirs(f"{rkt.local}/paths.d")
    with open(f"{rkt.local}/paths.d/paths.json", "w") as file:
        json.dump({"rktKind": "paths", "rktVersion": "v1", "stage1-images": images}, file)
    configure(rkt.local, location=f"{images}/odd.aci")
    inspected = rkt.rkt(OPEN, "run", key)
    assert inspected.stdout == "mine\n"
    record = rkt.rkt("image", "inspect", "example.com/odd").stdout
    assert "trusted" in record


def test_a_configured_stage1_that_is_not_there(rkt: RktContext) -> None:
    key = app(rkt)
    configure(rkt.local, location="/nonexistent/stage1.aci")
    result = rkt.rkt(OPEN, "run", key, status=254)
    assert "cannot find the configured stage1 image" in result.stderr
    assert '"/nonexistent/stage1.aci"' in result.stderr
    assert not os.path.isdir(f"{rkt.data}/pods") or not pods(rkt)


def installed(rkt: RktContext) -> str:
    """Configure a directory of installed stage1 images; gives it."""
    images = f"{rkt.files}/images"
    os.mkdir(images)
    os.makedirs(f"{rkt.local}/paths.d")
    with open(f"{rkt.local}/paths.d/paths.json", "w") as file:
        json.dump({"rktKind": "paths", "rktVersion": "v1", "stage1-images": images}, file)
    return images


def install(rkt: RktContext, images: str, name: str, version: str, says: str) -> None:
    """Put a stage1 image there that says something."""
    aci = stage1(rkt, {"run": f"echo {says}"}, name=name, labels={"version": version})
    shutil.move(aci.path, f"{images}/{says}.aci")


def test_the_names_of_what_make_install_installs(rkt: RktContext) -> None:
    key = app(rkt, "echo app")
    version = rkt.rkt("version").stdout.split()[2]
    for name in ("coreos.com/rkt/stage1-oci", f"coreos.com/rkt/stage1-fly:{version}"):
        # The signature of the app is another matter: it was fetched without.
        ran = rkt.rkt(OPEN, "run", f"--stage1-name={name}", key)
        assert ran.stdout == "app\n"
    assert "fly" in {os.readlink(f"{rkt.data}/pods/{pod}/flavor") for pod in pods(rkt)}
    other = "--stage1-name=coreos.com/rkt/stage1-fly:7"
    missing = rkt.rkt(OPEN, "run", "--pull-policy=never", other, key, status=254)
    assert 'cannot find aci satisfying name: "coreos.com/rkt/stage1-fly"' in missing.stderr


def test_an_installed_stage1_by_its_name(
    rkt: RktContext, keyring: Keyring, publisher: str
) -> None:  # fmt: skip
    images = installed(rkt)
    install(rkt, images, "example.com/odd", "1.2.3", "one")
    install(rkt, images, "example.com/even", "1.2.3", "two")
    key = signed_app(rkt, keyring, publisher, "exit 0")
    for flags in (["--stage1-name=example.com/odd"], ["--stage1-name=example.com/odd:1.2.3"],
                  ["--stage1-image=example.com/odd"]):  # fmt: skip
        assert rkt.rkt("--insecure-options=none", "run", *flags, key).stdout == "one\n"
    assert "trusted-location" in rkt.rkt("image", "inspect", "example.com/odd").stdout
    # What is stored under that name does not come before what is installed.
    other = stage1(rkt, {"run": "echo stored"}, name="example.com/even", labels={"version": "2"})
    rkt.rkt(OPEN, "fetch", other.path)
    assert rkt.rkt("run", "--stage1-name=example.com/even", key).stdout == "two\n"
    assert rkt.rkt(OPEN, "run", "--stage1-name=example.com/even:2", key).stdout == "stored\n"
    # The configuration can name it as well, also before it is in the store.
    install(rkt, images, "example.com/new", "3-dirty", "new")
    configure(rkt.local, name="example.com/new", version="3-dirty")
    assert rkt.rkt("run", key).stdout == "new\n"


def test_a_name_of_several_installed_images(rkt: RktContext) -> None:
    images = installed(rkt)
    install(rkt, images, "example.com/odd", "1", "one")
    install(rkt, images, "example.com/odd", "2", "two")
    key = app(rkt)
    assert rkt.rkt(OPEN, "run", "--stage1-name=example.com/odd:2", key).stdout == "two\n"
    result = rkt.rkt(OPEN, "run", "--stage1-name=example.com/odd", key, status=254)
    assert ('"example.com/odd" is the name of several installed stage1 images: "one.aci", "two.aci"'
            in result.stderr)  # fmt: skip


def test_a_damaged_installed_image_is_no_obstacle(rkt: RktContext) -> None:
    images = installed(rkt)
    install(rkt, images, "example.com/odd", "1", "one")
    with open(f"{images}/broken.aci", "wb") as file:
        file.write(b"no archive")
    aci = stage1(rkt, {"run": "echo out"}, name="example.com/out")
    os.symlink(aci.path, f"{images}/link.aci")
    key = app(rkt)
    result = rkt.rkt(OPEN, "run", "--stage1-name=example.com/odd", key)
    assert result.stdout == "one\n"
    assert f'warning: stage1 image "{images}/broken.aci" is left out: ' in result.stderr
    result = rkt.rkt(OPEN, "run", "--pull-policy=never", "--stage1-name=example.com/out", key,
                     status=254)  # fmt: skip
    assert "cannot find aci" in result.stderr  # the link leads out of the directory


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("flags", "text"), [
    (["--stage1-path=a", "--stage1-path=b"], "--stage1-path already used"),
    (["--stage1-path=a", "--stage1-url=b"],
     "flags --stage1-path and --stage1-url are mutually exclusive"),
    (["--stage1-name=a", "--stage1-hash=b"],
     "flags --stage1-name and --stage1-hash are mutually exclusive"),
    (["--stage1-image=a", "--stage1-from-dir=b"],
     "flags --stage1-from-dir and --stage1-image are mutually exclusive"),
    (["--stage1-url=/some/file.aci"], '"/some/file.aci": --stage1-url takes a URL'),
    (["--stage1-name=./file.aci"], '"./file.aci": --stage1-name takes the name of an image'),
    (["--stage1-from-dir=../x.aci"],
     '"../x.aci": --stage1-from-dir takes a file name without directories'),
    (["--stage1-from-dir=missing.aci"], '/missing.aci" does not exist'),
    (["--stage1-hash=sha512-0123456789abcdef"],
     'cannot resolve stage1 image ID "sha512-0123456789abcdef": no image IDs found\n'),
    (["--stage1-hash=x"], 'cannot resolve stage1 image ID "x": wrong key prefix\n'),
    (["--stage1-path=/missing.aci"], "/missing.aci"),
])  # fmt: skip
@pytest.mark.parametrize("command", ["run", "prepare", "app sandbox"])
def test_flags_that_cannot_be(rkt: RktContext, command: str, flags: list[str], text: str) -> None:
    words = [] if command == "app sandbox" else ["sha512-0123456789abcdef"]
    status = 1 if command == "app sandbox" else 254
    result = rkt.rkt(OPEN, *command.split(), *flags, *words, status=status)
    assert text in result.stderr
    assert not os.path.isdir(f"{rkt.data}/pods") or not pods(rkt)


def refused(rkt: RktContext, aci: Aci, *flags: str) -> Result:
    """Try to run a pod with a stage1 that is refused before there is a pod."""
    result = rkt.rkt(OPEN, "run", f"--stage1-path={aci.path}", *flags, app(rkt), status=254)
    assert not os.path.isdir(f"{rkt.data}/pods") or not pods(rkt)
    lines = [line for line in result.stderr.splitlines() if "warning" not in line]
    assert len(lines) == 1 or (len(lines) == 2 and lines[1].startswith("hint: ")), result.stderr
    return result


def test_an_image_that_is_no_stage1(rkt: RktContext) -> None:
    aci = AciBuilder("example.com/plain").busybox().build(rkt.files)
    text = refused(rkt, aci).stderr
    assert 'stage1 image "example.com/plain": entrypoint "run" not found' in text


def test_an_entrypoint_without_its_program(rkt: RktContext) -> None:
    aci = stage1(rkt, {"run": "exit 0"}, annotations={"gc": "/lost"})
    text = refused(rkt, aci).stderr
    assert 'entrypoint "gc" not found: "/lost": no such file or directory' in text


def test_an_entrypoint_that_leads_out(rkt: RktContext) -> None:
    builder = AciBuilder("example.com/out").symlink("run", "/bin/sh")
    builder.manifest["annotations"] = [{"name": f"{P}run", "value": "/run"}]
    text = refused(rkt, builder.build(rkt.files)).stderr
    assert 'entrypoint "run": "/run" is a link that leads out of the image' in text


def test_an_entrypoint_that_is_no_program(rkt: RktContext) -> None:
    builder = AciBuilder("example.com/text").file("run", "words", mode=0o644)
    builder.manifest["annotations"] = [{"name": f"{P}run", "value": "/run"}]
    assert '"/run" is not an executable file' in refused(rkt, builder.build(rkt.files)).stderr


@pytest.mark.parametrize(("version", "text"), [
    ("7", "interface version 7 is newer than this rkt knows (6)"),
    ("0", 'bad interface version "0"'), ("-1", 'bad interface version "-1"'),
    ("six", 'bad interface version "six"'), ("99999999999", "bad interface version"),
])  # fmt: skip
def test_interfaces_that_are_not_known(rkt: RktContext, version: str, text: str) -> None:
    aci = stage1(rkt, {"run": "exit 0"}, annotations={"interface-version": version})
    assert text in refused(rkt, aci).stderr


def test_another_architecture(rkt: RktContext) -> None:
    aci = stage1(rkt, {"run": "exit 0"}, labels={"arch": "ppc64"})
    text = refused(rkt, aci).stderr
    assert 'stage1 image "example.com/odd" is for linux/ppc64, this host is linux/' in text


def test_a_stage1_without_app_add_is_no_sandbox(rkt: RktContext) -> None:
    aci = stage1(rkt, {"run": "exit 0"})
    result = rkt.rkt(OPEN, "app", "sandbox", f"--stage1-path={aci.path}", status=1)
    assert "stage1 does not support mutable pods" in result.stderr
    assert not os.path.isdir(f"{rkt.data}/pods") or not pods(rkt)


def test_a_link_in_the_directory_of_stage1_images(rkt: RktContext) -> None:
    aci = stage1(rkt, {"run": "exit 0"})
    images = f"{rkt.files}/images"
    os.mkdir(images)
    os.symlink(aci.path, f"{images}/link.aci")
    os.makedirs(f"{rkt.local}/paths.d")
    with open(f"{rkt.local}/paths.d/paths.json", "w") as file:
        json.dump({"rktKind": "paths", "rktVersion": "v1", "stage1-images": images}, file)
    result = rkt.rkt(OPEN, "run", "--stage1-from-dir=link.aci", app(rkt), status=254)
    assert 'link.aci" is a link that leads out of its directory' in result.stderr
    # Its own name says nothing of the file that it links to: that one is verified.
    result = rkt.rkt("run", f"--stage1-path={images}/link.aci", app(rkt), status=254)
    assert "signature" in result.stderr


def test_a_program_for_another_machine(rkt: RktContext) -> None:
    """What the kernel cannot execute: the pod is an exited one, without mounts."""
    builder = AciBuilder("example.com/foreign")
    builder.file("run", "\x7fELF\x01\x02\x01" + "\0" * 57, mode=0o755)
    builder.manifest["annotations"] = [{"name": f"{P}run", "value": "/run"}]
    path = builder.build(rkt.files).path
    result = rkt.rkt(OPEN, "run", f"--stage1-path={path}", app(rkt), status=254)
    assert "cannot execute the run program of stage1" in result.stderr
    assert "format error" in result.stderr.lower()
    assert not rkt.leaked()
    (pod,) = pods(rkt)
    assert pod.startswith("run/")
    assert rkt.pod_state(os.path.basename(pod)) == "exited"


def test_a_run_that_ends_before_it_wrote_a_pid(rkt: RktContext) -> None:
    aci = stage1(rkt, {"run": "echo cannot: no idea >&2; exit 254", "enter": "", "gc": "exit 0",
                       "stop": ""})  # fmt: skip
    result = rkt.rkt(OPEN, "run", f"--stage1-path={aci.path}", app(rkt), status=254)
    assert "cannot: no idea" in result.stderr
    (uuid,) = (os.path.basename(path) for path in pods(rkt))
    assert rkt.pod_state(uuid) == "exited"
    rkt.rkt("rm", uuid)
    assert not pods(rkt)


def test_a_run_that_is_killed_after_it_wrote_a_pid(rkt: RktContext) -> None:
    aci = stage1(rkt, {"run": "echo $$ >pid; kill -9 $$", "gc": "kill -9 $$"})
    rkt.rkt(OPEN, "run", f"--stage1-path={aci.path}", app(rkt), status=-signal.SIGKILL)
    (uuid,) = (os.path.basename(path) for path in pods(rkt))
    assert rkt.pod_state(uuid) == "exited"
    refused = rkt.rkt("enter", uuid, "/bin/sh", status=254)
    assert f'pod "{uuid}" isn\'t currently running' in refused.stderr
    # The gc program dies too: that is said, and the pod is taken away all the same.
    removed = rkt.rkt("rm", uuid)
    assert f'pod "{uuid}": stage1 gc' in removed.stderr
    assert not pods(rkt)


def test_a_stage1_that_writes_no_pid(rkt: RktContext) -> None:
    programs = {
        "run": "echo up; exec sleep 1000", "enter": "exit 0", "gc": "exit 0",
        "stop": 'echo "stop: no pod" >&2; exit 1',
    }  # fmt: skip
    aci = stage1(rkt, programs)
    pod = rkt.spawn(OPEN, "run", f"--stage1-path={aci.path}", app(rkt))
    assert pod.stdout is not None
    assert pod.stdout.readline() == b"up\n"
    (uuid,) = (os.path.basename(path) for path in pods(rkt))
    assert rkt.pod_state(uuid) == "running"
    assert "pid=-1\n" in rkt.rkt("status", uuid).stdout
    assert f'pod "{uuid}" has not started yet' in rkt.rkt("enter", uuid, "sh", status=254).stderr
    stopped = rkt.rkt("stop", uuid, status=254)
    assert f'error stopping "{uuid}"' in stopped.stderr
    assert "stop: no pod" in stopped.stderr
    pod.kill()
    pod.wait(60)
    rkt.rkt("rm", uuid)
    assert not pods(rkt)


@pytest.mark.parametrize(("program", "command"), [
    ("stop", ["stop"]), ("enter", ["enter"]),
])  # fmt: skip
def test_programs_that_are_not_declared(rkt: RktContext, program: str, command: list[str]) -> None:
    aci = stage1(rkt, {"run": "echo $$ >pid; echo up; exec sleep 1000", "gc": "exit 0"})
    pod = rkt.spawn(OPEN, "run", f"--stage1-path={aci.path}", app(rkt))
    assert pod.stdout is not None
    assert pod.stdout.readline() == b"up\n"
    (uuid,) = (os.path.basename(path) for path in pods(rkt))
    words = ["/bin/sh"] if program == "enter" else []
    result = rkt.rkt(*command, uuid, *words, status=254)
    text = {
        "stop": "rkt stop not implemented for pod's stage1: example.com/odd",
        "enter": 'stage1 image "example.com/odd": entrypoint "enter" not found',
    }
    assert text[program] in result.stderr
    pod.kill()
    pod.wait(60)


def test_a_crash_in_enter_and_stop(rkt: RktContext) -> None:
    crash = "kill -SEGV $$"
    programs = {"run": "echo $$ >pid; echo up; exec sleep 1000", "enter": crash, "stop": crash}
    aci = stage1(rkt, programs)
    pod = rkt.spawn(OPEN, "run", f"--stage1-path={aci.path}", app(rkt))
    assert pod.stdout is not None
    assert pod.stdout.readline() == b"up\n"
    (uuid,) = (os.path.basename(path) for path in pods(rkt))
    rkt.rkt("enter", uuid, "/bin/sh", status=-signal.SIGSEGV)
    stopped = rkt.rkt("stop", uuid, status=254)
    assert f'error stopping "{uuid}"' in stopped.stderr
    assert "SIGSEGV" in stopped.stderr
    pod.kill()
    pod.wait(60)
    removed = rkt.rkt("rm", uuid)
    assert 'entrypoint "gc" not found' in removed.stderr
    assert not pods(rkt)
