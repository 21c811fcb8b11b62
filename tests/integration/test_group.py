"""Members of the group `rkt`: what they may do without root, and what they cannot do to root.

A real unprivileged user, and a group that is only in this test's mount namespace.
"""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import stat
import struct
import subprocess
import tempfile
from typing import TYPE_CHECKING

import pytest

from rkt_testkit.acibuilder import AciBuilder
from rkt_testkit.probes import needs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rkt_testkit.acibuilder import Aci
    from rkt_testkit.context import Result, RktContext
    from rkt_testkit.keyring import Keyring

pytestmark = needs(
    "root", "namespaces", "rkt", "gpg", "other-users", "overlay", "oci-runtime", "busybox"
)

GROUP, MEMBER, OTHER, STRANGER = 64123, 64001, 64002, 64003
NAME = "example.com/app"


class Host:
    """A machine with a group `rkt`, a data directory that root set up, and some users."""

    def __init__(self, rkt: RktContext, keyring: Keyring, publisher: str) -> None:
        self.rkt = rkt
        self.keyring = keyring
        self.publisher = publisher
        self.home = f"{rkt.files}/home"
        os.mkdir(self.home)
        os.chown(self.home, MEMBER, MEMBER)
        os.rmdir(rkt.data)
        rkt.rkt("image", "gc")
        key = f"{rkt.files}/key"
        with open(key, "wb") as file:
            file.write(keyring.export(publisher))
        rkt.rkt("trust", f"--prefix={NAME}", "--skip-fingerprint-review", key)

    @property
    def cas(self) -> str:
        return f"{self.rkt.data}/cas"

    def words(self, *argv: str, uid: int = MEMBER) -> list[str]:
        groups = ["--clear-groups"] if uid == STRANGER else [f"--groups={GROUP}"]
        return [
            *self.rkt.enter_argv(), "setpriv", f"--reuid={uid}", f"--regid={uid}", *groups,
            "--no-new-privs", "--", *argv,
        ]  # fmt: skip

    def sh(self, script: str, uid: int = MEMBER) -> Result:
        """Run a shell script as a user."""
        return self.rkt.run(self.words("sh", "-c", script, uid=uid))

    def member(self, *args: str, status: int = 0, uid: int = MEMBER) -> Result:
        """Run rkt as a member of the group."""
        argv = self.rkt.argv(*args)[len(self.rkt.enter_argv()) :]
        result = self.rkt.run(self.words(*argv, uid=uid))
        assert result.status == status, result
        return result

    def refused(self, *args: str, uid: int = MEMBER) -> str:
        """Run rkt as a member; it must fail with one line, which is given."""
        result = self.member(*args, status=254, uid=uid)
        assert result.stdout == ""
        lines = [line for line in result.stderr.splitlines() if not line.startswith("hint: ")]
        assert len(lines) == 1, lines
        return lines[0]

    def root_refuses(self, *args: str) -> str:
        """Run rkt as root; it must fail without a trace of a pod, and gives stderr."""
        result = self.rkt.rkt(*args, status=254)
        assert "internal error" not in result.stderr
        assert "evil" not in result.stdout
        return result.stderr

    def sign(self, builder: AciBuilder, *, by: str = "") -> Aci:
        directory = tempfile.mkdtemp(dir=self.rkt.files)
        os.chmod(directory, 0o755)
        return builder.build(directory, keyring=self.keyring, fingerprint=by or self.publisher)

    def image(
        self, name: str = NAME, *, says: str = "good", by: str = "", version: str = "1.0.0"
    ) -> Aci:
        words = ["/bin/echo", says]
        return self.sign(AciBuilder(name, exec=words, version=version).busybox(), by=by)

    def row(self, statement: str, *values: object) -> None:
        """Change the database as a member can: with SQLite."""
        with contextlib.closing(sqlite3.connect(f"{self.cas}/db/db.sqlite")) as db, db:
            db.execute(statement, values)

    def blob(self, aci: Aci) -> str:
        return f"{self.cas}/blob/{aci.key}"


@pytest.fixture
def host(rkt: RktContext, keyring: Keyring, publisher: str) -> Iterator[Host]:
    with open("/etc/group", encoding="utf-8") as file:
        lines = [line for line in file if not line.startswith("rkt:")]
    with open(f"{rkt.files}/group", "w", encoding="utf-8") as file:
        file.write("".join(lines) + f"rkt:x:{GROUP}:\n")
    enter = rkt.enter_argv()
    assert rkt.run([*enter, "mount", "--bind", f"{rkt.files}/group", "/etc/group"]).status == 0
    try:
        yield Host(rkt, keyring, publisher)
    finally:
        rkt.run([*enter, "umount", "/etc/group"])


# --- what members do --------------------------------------------------------------------------


def test_modes(host: Host) -> None:
    def mode(path: str) -> tuple[int, int, str]:
        info = os.stat(f"{host.rkt.data}/{path}")
        return info.st_uid, info.st_gid, f"{stat.S_IMODE(info.st_mode):o}"

    for path in ("", "pods", "locks", "cas"):
        assert mode(path) == (0, GROUP, "2750"), path
    for path in ("blob", "db", "imagelocks", "manifest", "partial", "sig"):
        assert mode(f"cas/{path}") == (0, GROUP, "2770"), path
    assert mode("cas/tmp") == (0, GROUP, "3770")
    for path in ("tree", "split", "treelocks", "trust"):
        assert mode(f"cas/{path}") == (0, 0, "700"), path
    host.rkt.rkt("--insecure-options=image", "run", host.image().path)
    for path in ("pods/run", "pods/prepared", "pods/embryo"):
        assert mode(path) == (0, GROUP, "2750"), path


def test_a_day_of_a_member(host: Host) -> None:
    aci = host.image()
    fetched = host.member("fetch", "--full", aci.path)
    assert fetched.stdout == aci.key + "\n"
    assert "rkt: signature verified:" in fetched.stderr
    for path in (host.blob(aci), f"{host.cas}/sig/{aci.key}", f"{host.cas}/manifest/{aci.key}"):
        info = os.stat(path)
        assert (info.st_uid, info.st_gid, stat.S_IMODE(info.st_mode)) == (MEMBER, GROUP, 0o640)
    assert os.listdir(f"{host.cas}/tree") == []
    assert f"{aci.key}\t{NAME}:1.0.0" in host.member("image", "list", uid=OTHER).stdout
    assert '"status": "verified"' in host.member("image", "inspect", NAME, uid=OTHER).stdout
    assert NAME in host.member("image", "cat-manifest", NAME, uid=OTHER).stdout
    assert host.member("image", "verify", "--all").stdout.startswith("successfully verified")
    host.member("image", "export", NAME, f"{host.home}/x.aci")
    host.member("image", "extract", NAME, f"{host.home}/x")
    assert sorted(os.listdir(f"{host.home}/x")) == ["manifest", "rootfs"]
    assert os.stat(f"{host.home}/x/rootfs/bin/sh").st_uid == MEMBER
    removed = host.member("image", "rm", NAME, uid=OTHER)
    assert removed.stderr == (
        f'rkt: successfully removed aci for imageID: "{aci.key}"\n'
        "rkt: 1 image(s) successfully removed\n"
    )
    assert [os.listdir(f"{host.cas}/{kind}") for kind in ("blob", "sig", "manifest")] == [[]] * 3


def test_root_verifies_what_a_member_fetched(host: Host) -> None:
    aci = host.image()
    host.member("fetch", aci.path)
    result = host.rkt.rkt("run", NAME)
    assert result.stdout == "good\n"
    assert "rkt: signature verified:" in result.stderr
    assert aci.key in os.listdir(f"{host.cas}/trust")
    assert not os.path.exists(host.blob(aci))
    # from now on it is root's
    assert "signature verified" not in host.rkt.rkt("run", NAME).stderr
    only_root = f'image "{aci.key}" is unpacked: only root can '
    assert only_root + "read its files" in host.refused(
        "image", "export", NAME, f"{host.home}/x.aci"
    )
    assert only_root + "read its files" in host.refused("image", "extract", NAME, f"{host.home}/x")
    assert os.listdir(host.home) == []
    assert '"sizeOnDisk": null' in host.member("image", "inspect", NAME).stdout
    verify = host.member("image", "verify", NAME, status=254)
    assert only_root + "verify it" in verify.stderr
    refusal = host.member("image", "rm", NAME, status=254).stderr
    assert f'rkt: image "{aci.key}" is used by pods "' in refusal
    host.rkt.rkt("gc", "--grace-period=0s")
    host.rkt.rkt("gc", "--grace-period=0s")
    removed = host.member("image", "rm", NAME)
    assert "rkt: 1 image(s) removed but left some stale files\n" in removed.stderr
    assert aci.key in os.listdir(f"{host.cas}/tree")
    host.rkt.rkt("image", "gc")
    for kind in ("tree", "split", "trust", "blob"):
        assert aci.key not in os.listdir(f"{host.cas}/{kind}")


def test_what_needs_root_says_so(host: Host) -> None:
    host.member("fetch", host.image().path)
    for words in (("run", NAME), ("prepare", NAME), ("gc",), ("image", "gc"),
                  ("image", "render", NAME, f"{host.home}/r")):  # fmt: skip
        assert host.refused(*words) == "rkt: cannot run as unprivileged user"


def test_a_member_cannot_touch_a_running_pod(host: Host) -> None:
    uuid = host.rkt.rkt("app", "sandbox", "--detach").stdout.strip()
    for flags in ((), ("--force",)):
        result = host.member("stop", *flags, uuid, status=254)
        assert result.stderr == (
            f'rkt: error stopping "{uuid}": only root can stop a pod that runs\n'
            "rkt: failed to stop 1 pod(s)\n"
        )
    for words in (("app", "add", uuid, NAME), ("app", "start", uuid, "--app=x"),
                  ("app", "stop", uuid, "--app=x"), ("app", "rm", uuid, "--app=x")):  # fmt: skip
        assert host.refused(*words) == "rkt: cannot run as unprivileged user"
    assert host.member("app", "list", uuid).stdout == "NAME\tSTATE\n"
    host.rkt.rkt("stop", uuid)
    host.rkt.rkt("status", "--wait", uuid)
    stopped = host.member("stop", uuid)
    assert stopped.stdout == f'pod "{uuid}" is already stopped\n'


def test_a_stranger_is_kept_out(host: Host) -> None:
    aci = host.image()
    host.rkt.rkt("--insecure-options=image", "prepare", aci.path)
    commands = {
        ("fetch", aci.path): 254, ("image", "rm", aci.key): 254, ("image", "list"): 254,
        ("list",): 254, ("status", "x"): 254, ("stop", "x"): 254, ("stats",): 254,
        ("events",): 254, ("app", "list", "x"): 1, ("app", "status", "x", "--app=x"): 1,
    }  # fmt: skip
    for words, status in commands.items():
        line, hint = host.member(*words, status=status, uid=STRANGER).stderr.splitlines()
        assert re.match(f'rkt: [a-z ]+ "{host.rkt.data}/[^"]*": Permission denied', line), line
        assert hint == (
            'hint: only root and members of the group "rkt" may do this, some of it root alone'
        )
    # Not where the group would not help, nor to who is in it.
    result = host.member("image", "build", "/root", f"{host.home}/x.aci", status=254, uid=STRANGER)
    assert "hint: only root" not in result.stderr
    result = host.member("image", "export", aci.key, f"{host.home}/x.aci", status=254)
    assert "hint: only root" not in result.stderr


def test_what_is_closed_to_members(host: Host) -> None:
    done = host.sh(
        f"cd {host.cas}; for d in tree split trust treelocks; do ls $d; touch $d/x; done;"
        "mv tree x; mkdir new; rmdir blob; mv tmp x; ln -s / link; ls ../pods; touch ../pods/x"
    )
    assert done.stdout == ""
    assert done.stderr.count("Permission denied") == 14, done.stderr
    os.mkdir(f"{host.cas}/tmp/of-root", 0o700)
    done = host.sh(f"cd {host.cas}/tmp; mv of-root x; rmdir of-root; touch of-root/x")
    assert "Operation not permitted" in done.stderr
    assert os.listdir(f"{host.cas}/tmp") == ["of-root"]


@pytest.mark.parametrize("overlay", [True, False])
def test_pods_are_seen_but_their_programs_are_out_of_reach(host: Host, overlay: bool) -> None:
    script = "cp /bin/busybox /v/tool; cp /bin/busybox /tool; chmod 4755 /v/tool /tool; exit 3"
    image = AciBuilder(NAME, exec=["/bin/sh", "-c", script]).busybox()
    image.file("bin/old", b"#!", mode=0o4755)
    image.manifest["app"]["mountPoints"] = [{"name": "v", "path": "/v"}]  # type: ignore[index]
    aci = host.sign(image)
    flags = [] if overlay else ["--no-overlay"]
    host.rkt.rkt("run", "--volume=v,kind=empty", *flags, aci.path, status=3)
    (uuid,) = os.listdir(f"{host.rkt.data}/pods/run")
    pod = f"{host.rkt.data}/pods/run/{uuid}"
    programs = [
        f"{place}/{file}"
        for place, _, files in os.walk(pod)
        for file in files
        if os.lstat(f"{place}/{file}").st_mode & stat.S_ISUID
    ]
    assert {os.path.basename(path) for path in programs} >= {"tool"}
    for path in programs:
        assert "Permission denied" in host.sh(f"{path} true").stderr, path
    assert "app=3" in host.member("status", uuid).stdout
    assert uuid[:8] in host.member("list").stdout
    assert NAME in host.member("cat-manifest", uuid).stdout


# --- what members cannot do to root -----------------------------------------------------------


def test_forged_verification(host: Host) -> None:
    aci = host.image(says="evil")
    host.member("--insecure-options=image", "fetch", aci.path)
    host.row("UPDATE images SET status = 'verified', fingerprint = ?", host.publisher)
    assert "\tverified" in host.rkt.rkt("image", "list").stdout
    text = host.root_refuses("run", NAME)
    assert f'refusing to execute image "{NAME}": it was fetched without verification' in text
    # Nor does it help that root has unpacked it.
    host.rkt.rkt("image", "render", NAME, f"{host.rkt.files}/rendered")
    assert "it was fetched without verification" in host.root_refuses("run", NAME)
    assert host.rkt.rkt("--insecure-options=image", "run", NAME).stdout == "evil\n"
    assert "it was fetched without verification" in host.root_refuses("run", NAME)


def test_forged_verification_of_a_signed_image(host: Host) -> None:
    stranger = host.keyring.make("Group Stranger <stranger@example.org>")
    aci = host.image(says="evil", by=stranger)
    assert "is stored unverified" in host.member("fetch", aci.path).stderr
    host.row("UPDATE images SET status = 'verified'")
    text = host.root_refuses("prepare", NAME)
    assert f"it is signed by key {stranger[-16:].upper()}, which is not trusted for it" in text
    assert f"hint: rkt trust --prefix={NAME}" in text


def test_forged_name(host: Host) -> None:
    other = host.keyring.make("Other <other@example.org>")
    key = f"{host.rkt.files}/other"
    with open(key, "wb") as file:
        file.write(host.keyring.export(other))
    host.rkt.rkt("trust", "--prefix=example.com/other", "--skip-fingerprint-review", key)
    aci = host.image("example.com/other", says="evil", by=other)
    host.member("fetch", aci.path)
    host.row("UPDATE images SET name = ?", NAME)
    assert "is not trusted for it" in host.root_refuses("run", NAME)
    host.row("UPDATE images SET name = 'example.com/other' WHERE name = ?", NAME)
    assert host.rkt.rkt("run", "example.com/other").stdout == "evil\n"  # as it may
    host.row("UPDATE images SET name = ? WHERE key = ?", NAME, aci.key)
    text = host.root_refuses("run", NAME)
    assert f'the database of the store calls it "{NAME}"' in text
    assert 'it is another: "example.com/other"' in text


def test_forged_labels_and_digest(host: Host) -> None:
    old = host.image(says="evil", version="1.0.0")
    host.member("fetch", old.path)
    labels = '[["version","2.0.0"],["os","linux"],["arch","amd64"]]'
    host.row("UPDATE images SET labels = ?", labels)
    assert "but with its labels it is another" in host.root_refuses("run", f"{NAME}:2.0.0")
    host.row("UPDATE images SET digest = ? WHERE key = ?", "0" * 128, old.key)
    for words in (("run", NAME), ("image", "list"), ("image", "verify", "--all")):
        result = host.rkt.rkt(*words, status=None)
        assert f'image "{old.key}": its row in the database is damaged' in result.stderr
        assert "internal error" not in result.stderr
    assert "no image IDs found" in host.root_refuses("run", old.key)


@pytest.mark.parametrize("column", ["import_time", "labels", "size", "name", "status"])
def test_values_of_another_type(host: Host, column: str) -> None:
    aci = host.image()
    host.member("fetch", aci.path)
    value = "x" if column in ("import_time", "size") else b"\xff\x1b[31m"
    host.row(f"UPDATE images SET {column} = ?", value)
    for words in (("image", "list"), ("image", "gc"), ("run", NAME), ("image", "rm", aci.key)):
        result = host.rkt.rkt(*words, status=None)
        assert "internal error" not in result.stderr, result
        assert "\x1b" not in result.stdout + result.stderr


@pytest.mark.parametrize("change", ["size = 'x'", "digest = 'a' || digest", "labels = '{'"])
def test_an_image_with_a_damaged_record_can_be_removed(host: Host, change: str) -> None:
    aci = host.image()
    uuid = host.rkt.rkt("prepare", aci.path).stdout.strip()
    host.row(f"UPDATE images SET {change} WHERE key = ?", aci.key)
    said = f'rkt: image "{aci.key}": its row in the database is damaged'
    hint = f"hint: rkt image rm {aci.key}\n"
    for words in (("image", "gc"), ("image", "rm", NAME), ("fetch", aci.path)):
        text = host.root_refuses(*words)
        assert said in text
        assert text.endswith(hint)
    assert f'is used by pod "{uuid}"' in host.root_refuses("image", "rm", aci.id)
    host.rkt.rkt("rm", uuid)
    done = host.rkt.rkt("image", "rm", aci.id)
    assert done.stdout == f'successfully removed aci for image: "{aci.key}"\n'
    assert not os.path.exists(f"{host.cas}/tree/{aci.key}")
    host.rkt.rkt("fetch", aci.path)
    host.rkt.rkt("image", "verify", "--all")


@pytest.mark.parametrize("how", ["link", "pipe", "directory", "huge", "other", "gone"])
def test_another_thing_in_the_place_of_an_archive(host: Host, how: str) -> None:
    aci, evil = host.image(), host.image(says="evil", version="2.0.0")
    host.member("fetch", aci.path)
    host.member("--insecure-options=image", "fetch", evil.path)
    blob = host.blob(aci)
    script, text = {
        "link": ("ln -s /etc/shadow {}", "Too many levels of symbolic links"),
        "pipe": ("mkfifo {}", "is not a regular file"),
        "directory": ("mkdir {}", "is not a regular file"),
        "huge": ("truncate -s 100T {} || truncate -s 15T {}", "is larger than 68719476736 bytes"),
        "other": (f"mv {host.blob(evil)} {{}}", "bad signature"),
        "gone": ("true", "it was fetched without verification"),
    }[how]
    done = host.sh(f"rm {blob}; {script.replace('{}', blob)}")
    assert done.status == 0, done.stderr
    wanted = f"{NAME}:1.0.0"
    assert text in host.root_refuses("run", wanted)
    assert "is damaged" in host.root_refuses("image", "verify", aci.key)
    host.rkt.rkt("image", "rm", aci.key)
    assert not os.path.lexists(blob)
    assert os.path.getsize("/etc/shadow") > 0


def test_archive_that_changes_all_the_time(host: Host) -> None:
    """Between check and use there is no gap in which another archive could slip."""
    aci, evil = host.image(), host.image(says="evil", version="2.0.0")
    host.member("fetch", aci.path)
    blob = host.blob(aci)
    work = f"{host.cas}/partial"
    script = (
        f"cp {blob} {work}/good; cp {evil.path} {work}/evil; echo ready; while :; do"
        f" cp {work}/evil {work}/n; mv {work}/n {blob}; cat {work}/good >{blob};"
        f" cp {work}/good {work}/n; mv {work}/n {blob}; cat {work}/evil >{blob}; done"
    )
    flipper = subprocess.Popen(
        host.words("sh", "-c", script), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        assert flipper.stdout is not None
        assert flipper.stdout.readline() == b"ready\n"
        for _ in range(8):
            result = host.rkt.rkt("run", f"{NAME}:1.0.0", status=None)
            assert "evil" not in result.stdout
            assert "internal error" not in result.stderr
            assert result.status in (0, 254)
    finally:
        flipper.kill()
        flipper.communicate()


def test_forged_signature_manifest_and_record(host: Host) -> None:
    aci = host.image()
    host.member("fetch", aci.path)
    for kind in ("sig", "manifest"):
        host.sh(f"cd {host.cas}/{kind}; mv {aci.key} kept; ln -s /etc/shadow {aci.key}")
        assert "Too many levels of symbolic links" in host.root_refuses("run", NAME)
        host.sh(f"cd {host.cas}/{kind}; rm {aci.key}; truncate -s 2G {aci.key}")
        assert "is larger than" in host.root_refuses("run", NAME)
        host.sh(f"cd {host.cas}/{kind}; rm {aci.key}; mkfifo {aci.key}")
        assert "is not a regular file" in host.root_refuses("run", NAME)
        host.sh(f"cd {host.cas}/{kind}; rm {aci.key}; mv kept {aci.key}")
    assert host.rkt.rkt("run", NAME).stdout == "good\n"


def test_a_manifest_that_hides_a_dependency(host: Host) -> None:
    """A member swaps the manifest: what the real one depends on is verified all the same."""
    base = AciBuilder(f"{NAME}/base").busybox()
    evil = host.sign(base, by=host.keyring.make("Base <base@example.org>"))
    top = AciBuilder(NAME, exec=["/bin/echo", "evil"])
    top.manifest["dependencies"] = [{"imageName": f"{NAME}/base"}]
    aci = host.sign(top)
    host.member("fetch", evil.path)
    host.member("fetch", "--pull-policy=new", aci.path)
    path = f"{host.cas}/manifest/{aci.key}"
    with open(path, encoding="utf-8") as file:
        real = file.read()
    forged = real.replace('"dependencies"', '"nothing"')
    assert forged != real
    assert host.sh(f"cat >{path} <<'END'\n{forged}\nEND").status == 0
    text = host.root_refuses("run", NAME)
    assert f'refusing to execute image "{NAME}/base", which is not verified' in text


def test_a_forged_journal_deletes_no_file(host: Host) -> None:
    """SQLite deletes what a rollback journal names as its super-journal."""
    host.member("fetch", host.image().path)
    victim = f"{host.rkt.files}/victim"
    with open(victim, "w", encoding="ascii") as file:
        file.write("precious\n")
    database = f"{host.cas}/db/db.sqlite"
    name = victim.encode()
    magic = bytes.fromhex("d9d505f920a163d7")
    pages = os.path.getsize(database) // 4096
    head = (magic + struct.pack(">IIIII", 0, 1, pages, 512, 4096)).ljust(512, b"\0")
    tail = struct.pack(">I", 0x40000000 // 4096 + 1) + name
    tail += struct.pack(">II", len(name), sum(name)) + magic
    with open(f"{host.home}/journal", "wb") as file:
        file.write(head + tail)
    for words in (("image", "list"), ("image", "gc"), ("run", NAME)):
        host.sh(f"cp {host.home}/journal {database}-journal")
        result = host.rkt.rkt(*words, status=None)
        assert "internal error" not in result.stderr
        assert os.path.exists(victim), words


@pytest.mark.parametrize("name", ["db.sqlite", "db.sqlite-wal", "db.sqlite-shm"])
def test_a_database_that_leads_elsewhere(host: Host, name: str) -> None:
    host.member("fetch", host.image().path)
    target = f"{host.rkt.files}/of-root"
    with contextlib.closing(sqlite3.connect(target)) as db, db:
        db.execute("CREATE TABLE precious(x)")
    os.chmod(target, 0o600)
    with open(target, "rb") as file:
        before = file.read()
    host.sh(f"cd {host.cas}/db; rm -f {name}; ln -s {target} {name}")
    for words in (("image", "list"), ("image", "gc")):
        text = host.root_refuses(*words)
        assert text.startswith(f'rkt: image store "{host.cas}/db/db.sqlite": '), text
    with open(target, "rb") as file:
        assert file.read() == before
    host.sh(f"cd {host.cas}/db; rm -f {name}; ln -s {host.rkt.files}/new {name}")
    host.root_refuses("image", "gc")
    assert not os.path.exists(f"{host.rkt.files}/new")


def test_locks_that_are_no_files(host: Host) -> None:
    aci = host.image()
    host.member("fetch", aci.path)
    path = f"{host.cas}/imagelocks/{aci.key}"
    secret = f"{host.rkt.files}/secret"
    with open(secret, "w", encoding="ascii") as file:
        file.write("x")
    os.chmod(secret, 0o600)
    host.sh(f"ln -s {secret} {path}")
    assert "Too many levels of symbolic links" in host.root_refuses("run", NAME)
    os.unlink(path)
    os.link(secret, path)  # what a member could where fs.protected_hardlinks is off
    host.rkt.rkt("run", NAME)
    assert stat.S_IMODE(os.stat(secret).st_mode) == 0o600
    host.sh(f"mkdir {path}")
    host.rkt.rkt("gc", "--grace-period=0s")
    host.rkt.rkt("gc", "--grace-period=0s")
    assert "Is a directory" in host.root_refuses("image", "rm", NAME)


def test_rubbish_in_the_store_does_not_stop_collection(host: Host) -> None:
    host.sh(
        f"cd {host.cas}; mkdir -p blob/d/e manifest/sha512-dead; ln -s /etc sig/link;"
        "mkfifo blob/p; mkdir tmp/mine; ln -s /etc tmp/link; touch 'blob/a\nb'"
    )
    result = host.rkt.rkt("image", "gc")
    assert "\nb" not in result.stderr
    for kind in ("blob", "manifest", "sig"):
        assert os.listdir(f"{host.cas}/{kind}") == []
    assert os.path.isdir("/etc")
