#!/usr/bin/env python3
"""The main job of rkt on real input, told step by step; exits 0 only if every step did its work.

A publisher makes a key, signs images of a real server and puts them on the web; a user trusts the
key, fetches the image by name, runs it, looks at it, cleans up; then somebody changes one byte.
Everything happens in namespaces of its own, with private /etc, /var/lib/rkt, network and
processes, so nothing stays on this machine; the end of the demo checks that too.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

REPOSITORY = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(REPOSITORY, "tests"))

from rkt_testkit import leaks  # noqa: E402

DOMAIN = "example.com"
PREFIX = f"{DOMAIN}/redis"
PUBLISHER = "Example Publisher <publisher@example.com>"
COLOURS = sys.stdout.isatty() and "NO_COLOR" not in os.environ
WIDTH = 92


class StepFailed(Exception):
    """A step did not do what it should."""


def paint(text: str, code: str) -> str:
    """Colour text on a terminal."""
    return f"\x1b[{code}m{text}\x1b[0m" if COLOURS else text


def tell(text: str) -> None:
    """Say something to the reader."""
    print("\n".join(textwrap.wrap(" ".join(text.split()), WIDTH)), flush=True)


def heading(text: str) -> None:
    """Begin a step."""
    print("\n" + paint(f"== {text} " + "=" * (WIDTH - 4 - len(text)), "1"), flush=True)


def expect(holds: object, what: str) -> None:
    """Fail the step unless something holds."""
    if not holds:
        raise StepFailed(what)


def show_command(argv: list[str]) -> None:
    """Print a command line as a person would type it."""
    print(paint("# " + " ".join(argv), "36"), flush=True)


def run(*argv: str, answer: str = "", status: int = 0, shown: bool = True) -> str:
    """Run a command, show it and what it says; give its output.  Fails on another exit status."""
    if shown:
        show_command(list(argv))
    process = subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdin, process.stdout:
        process.stdin.write(answer)
        process.stdin.close()
        output = ""
        for line in process.stdout:
            output += line
            if shown:
                print("  " + line.rstrip(), flush=True)
    got = process.wait()
    if got != status:
        said = "" if shown else f"\n{output}"
        raise StepFailed(f"`{' '.join(argv)}`: exit status {got}, expected {status}{said}")
    return output


def pack(work: str) -> None:
    """Make the images from Debian's packages; outside the namespaces, for apt needs the network."""
    heading("1. A publisher packs redis as an image")
    tell(
        """redis-server, redis-cli and the libraries they need, out of Debian's packages; nothing is
        installed. An ACI is a tar archive of a manifest and a root file system."""
    )
    # The {name} of the discovery template is the full name: images lie below their domain.
    images = os.path.join(work, "site", "images", DOMAIN)
    show_command(["examples/redis/build.py", os.path.relpath(images, work)])
    builder = os.path.join(REPOSITORY, "examples/redis/build.py")
    made = run(sys.executable, builder, images, shown=False)
    for line in made.splitlines():
        name, version, path = line.split(maxsplit=2)
        size = os.path.getsize(path) / 1e6
        print(f"  {os.path.relpath(path, work)}: {name}:{version}, {size:.1f} MB")
    with open(os.path.join(work, "images"), "w", encoding="utf-8") as file:
        file.write(made)


class Demo:
    """The story, inside the namespaces; `work` holds all files."""

    def __init__(self, work: str) -> None:
        self.work = work
        self.site = os.path.join(work, "site")
        self.gnupg = os.path.join(work, "gnupg")
        with open(os.path.join(work, "images"), encoding="utf-8") as file:
            made = [line.rstrip("\n").split(maxsplit=2) for line in file]
        self.version, self.image = next(rest for name, *rest in made if name == PREFIX)
        self.fingerprint = ""
        self.uuid = ""
        self.log = os.path.join(work, "pod.log")
        self.read = 0
        self.origin: subprocess.Popen[str] | None = None
        self.facts: list[tuple[str, str]] = []

    def steps(self) -> list[tuple[str, Callable[[], None]]]:
        """Give the steps in order."""
        return [
            ("The publisher makes a key and signs", self.sign),
            ("The publisher's site goes up", self.publish),
            ("You: trust the publisher for one prefix of names", self.trust),
            ("You: fetch the image by its name", self.fetch),
            ("You: run a pod of two apps", self.start),
            ("You: look at what runs", self.look),
            ("You: end it from inside", self.end),
            ("You: clean up", self.collect),
            ("Somebody changes one byte of the image", self.tamper),
        ]

    # --- the publisher ---------------------------------------------------------------------------

    def sign(self) -> None:
        """Make an OpenPGP key and one detached signature an image."""
        os.mkdir(self.gnupg, 0o700)
        os.environ["GNUPGHOME"] = self.gnupg
        run(
            "gpg", "--batch", "--quiet", "--passphrase", "", "--quick-generate-key",
            PUBLISHER, "ed25519", "sign", "1y", shown=False,
        )  # fmt: skip
        show_command(["gpg", "--quick-generate-key", f'"{PUBLISHER}"', "ed25519", "sign", "1y"])
        listing = run("gpg", "--batch", "--with-colons", "--list-keys", shown=False)
        self.fingerprint = re.findall(r"^fpr:+([0-9A-F]{40}):", listing, re.MULTILINE)[0]
        print(f"  key {self.fingerprint}")
        for directory, _, files in os.walk(os.path.join(self.site, "images")):
            for file in sorted(files):
                path = os.path.join(directory, file)
                run("gpg", "--batch", "--quiet", "--armor", "--detach-sign", path, shown=False)
                show_command(["gpg", "--armor", "--detach-sign", os.path.relpath(path, self.work)])
        key = run("gpg", "--armor", "--export", self.fingerprint, shown=False)
        with open(os.path.join(self.site, "pubkeys.gpg"), "w", encoding="ascii") as public:
            public.write(key)
        for words in (("--kill", "all"), ("--remove-socketdir",)):
            subprocess.run(["gpgconf", *words], check=False, capture_output=True)

    def publish(self) -> None:
        """Serve images, signatures, key and discovery page over real TLS."""
        tell(
            f"""Images, signatures, the public key and the page that meta discovery reads, on
            https://{DOMAIN}/ with a certificate of the demo's own authority. The name leads to this
            machine's loopback address, in the demo's private network only."""
        )
        page = (
            f'<html><head>\n<meta name="ac-discovery" content="{DOMAIN} '
            f'https://{DOMAIN}/images/{{name}}-{{version}}-{{os}}-{{arch}}.{{ext}}">\n'
            f'<meta name="ac-discovery-pubkeys" content="{PREFIX} https://{DOMAIN}/pubkeys.gpg">\n'
            "</head></html>\n"
        )
        with open(os.path.join(self.site, "discovery.html"), "w", encoding="ascii") as file:
            file.write(page)
        for line in page.splitlines():
            print("  " + line)
        certificate, key = self.certificate()
        with open("/etc/hosts", "a", encoding="ascii") as file:
            file.write(f"\n127.0.0.1 {DOMAIN}\n")
        self.origin = subprocess.Popen(
            [sys.executable, os.path.join(REPOSITORY, "examples/origin/serve.py"), "--root",
             self.site, "--cert", certificate, "--key", key],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        assert self.origin.stdout is not None
        expect(self.origin.stdout.readline().startswith("serving"), "the site does not come up")

    def certificate(self) -> tuple[str, str]:
        """Make an authority, let this machine (the demo's private view of it) trust it, use it."""
        path = {name: f"{self.work}/{name}" for name in ("ca.pem", "ca.key", "tls.pem", "tls.key")}
        curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")
        run(
            "openssl", "req", "-x509", *curve, "-subj", "/CN=Demo authority",
            "-keyout", path["ca.key"], "-out", path["ca.pem"], shown=False,
        )  # fmt: skip
        run(
            "openssl", "req", "-x509", *curve, "-subj", f"/CN={DOMAIN}",
            "-addext", f"subjectAltName=DNS:{DOMAIN}", "-addext", "basicConstraints=CA:FALSE",
            "-CA", path["ca.pem"], "-CAkey", path["ca.key"],
            "-keyout", path["tls.key"], "-out", path["tls.pem"], shown=False,
        )  # fmt: skip
        with open(path["ca.pem"], encoding="ascii") as file:
            authority = file.read()
        for bundle in ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"):
            if os.path.exists(bundle):
                with open(bundle, "a", encoding="ascii") as file:
                    file.write("\n" + authority)
        digest = run("openssl", "x509", "-hash", "-noout", "-in", path["ca.pem"], shown=False)
        with open(f"/etc/ssl/certs/{digest.strip()}.0", "w", encoding="ascii") as file:
            file.write(authority)
        return path["tls.pem"], path["tls.key"]

    # --- the user --------------------------------------------------------------------------------

    def trust(self) -> None:
        """Trust the key after a look at its fingerprint."""
        tell("rkt finds the key by itself and shows its fingerprint; you compare, you answer yes.")
        output = run("rkt", "trust", f"--prefix={PREFIX}", answer="yes\n")
        groups = re.sub(r"\s", "", output).upper()
        expect(self.fingerprint in groups, "the fingerprint was not shown")
        directory = f"/etc/rkt/trustedkeys/prefix.d/{PREFIX}"
        expect(os.listdir(directory) == [self.fingerprint.lower()], "the key is not in its place")
        self.facts.append(("trust", f"key {self.fingerprint[-16:]} for names below {PREFIX}"))

    def fetch(self) -> None:
        """Fetch and verify."""
        output = run("rkt", "fetch", f"{PREFIX}:{self.version}")
        expect("signature verified" in output, "the signature was not reported as verified")
        expect(PUBLISHER in output, "the signer was not named")
        key = re.search(r"^sha512-[0-9a-f]{32}$", output, re.MULTILINE)
        expect(key, "no image key was printed")
        self.facts.append(("fetch", f"{PREFIX}:{self.version} found by name, signature verified"))

    def start(self) -> None:
        """Run both apps; the client is fetched on the way."""
        tell(
            """The server from the store, and a client that is fetched now. Both are in one pod:
            they share the network, so the client finds redis on localhost."""
        )
        server, client = f"{PREFIX}:{self.version}", f"{PREFIX}/client:{self.version}"
        command = ["rkt", "run", server, client, "--", "hold"]
        show_command(command)
        with open(self.log, "wb") as log:
            self.pod = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        output = self.follow(lambda text: "waiting for a word" in text)
        expect("ping -> PONG" in output, "the client did not reach the server")
        expect("get greeting -> hello from the next app" in output, "the value did not come back")
        self.facts.append(
            ("run", "two apps in one pod talked over localhost: PING, SET, GET, INCR")
        )

    def follow(self, until: Callable[[str], bool]) -> str:
        """Show the pod's output as it comes, until something holds or the pod ends."""
        deadline = time.monotonic() + 60
        text = ""
        while True:
            ended = self.pod.poll() is not None
            with open(self.log, encoding="utf-8", errors="replace") as file:
                text = file.read()
            whole = text.rfind("\n") + 1
            for line in text[self.read : whole].splitlines():
                print("  " + line, flush=True)
            self.read = max(self.read, whole)
            if ended or until(text):
                return text
            expect(time.monotonic() < deadline, "the pod does not come to the expected point")
            time.sleep(0.1)

    def look(self) -> None:
        """List pods and images, ask for the state."""
        pod = re.search(r"^([0-9a-f]{8})\s+redis\s+\S+\s+running", run("rkt", "list"), re.MULTILINE)
        expect(pod, "the pod is not listed as running")
        self.uuid = pod[1] if pod else ""
        expect("state=running" in run("rkt", "status", self.uuid), "wrong state")
        images = run("rkt", "image", "list")
        expect(f"{PREFIX}:{self.version}" in images, "the image is not listed")
        expect(f"{PREFIX}/client:{self.version}" in images, "the client is not listed")

    def end(self) -> None:
        """Enter the running pod, tell the client to stop the server: the pod ends."""
        tell("A second process in the pod's client gives the word; the client stops redis.")
        run(
            "rkt", "enter", "--app=client", self.uuid,
            "/usr/bin/redis-cli", "lpush", "stop", "now",
        )  # fmt: skip
        tell("And the pod, still in its terminal:")
        self.follow(lambda _: False)
        expect(self.pod.wait() == 0, f"`rkt run` ended with status {self.pod.returncode}")
        status = run("rkt", "status", self.uuid)
        for line in ("state=exited", "redis=0", "client=0"):
            expect(line in status.splitlines(), f"{line} is missing")
        self.facts.append(("status", "pod ended by itself, exit status 0 of both apps"))

    def collect(self) -> None:
        """Remove the pod: marked in one pass, removed in the next."""
        output = run("rkt", "gc", "--grace-period=0s")
        if "Garbage collecting" not in output:
            output += run("rkt", "gc", "--grace-period=0s")
        expect(f'Garbage collecting pod "{self.uuid}' in output, "gc did not remove the pod")
        expect(self.uuid not in run("rkt", "list"), "the pod is still listed")
        self.facts.append(("gc", "pod removed, images stay for the next run"))

    def tamper(self) -> None:
        """Change a byte on the origin: the same run must be refused, nothing may start."""
        before = run("rkt", "image", "list", shown=False)
        with open(self.image, "r+b") as file:
            middle = os.path.getsize(self.image) // 2
            file.seek(middle)
            old = file.read(1)
            file.seek(middle)
            file.write(bytes([old[0] ^ 1]))
        tell(
            f"""Byte {middle} of the image on the site is another one now; the signature is the
            old one. You ask for the newest image and run it:"""
        )
        output = run("rkt", "run", "--pull-policy=update", f"{PREFIX}:{self.version}", status=254)
        expect("signature" in output, "the refusal does not speak of the signature")
        expect(run("rkt", "list").count("\n") <= 1, "a pod was made of a forged image")
        tell("Refused, nothing was started. The good image is still in the store:")
        after = run("rkt", "image", "list")
        expect(keys(after) == keys(before), "the store changed")
        self.facts.append(
            ("forgery", "one changed byte: refused, nothing started, store unchanged")
        )

    def tell_it(self) -> int:
        """Go through all steps; give the exit status."""
        failure = ""
        try:
            for number, (title, step) in enumerate(self.steps(), 2):
                heading(f"{number}. {title}")
                step()
        except StepFailed as err:
            failure = str(err)
            print(paint(f"FAILED: {failure}", "31"))
        finally:
            if self.origin is not None:
                self.origin.kill()
                self.origin.wait()
        with open(f"{self.work}/outcome.json", "w", encoding="utf-8") as file:
            json.dump({"facts": self.facts, "failure": failure, "pods": self.all_pods()}, file)
        return 1 if failure else 0

    def all_pods(self) -> list[str]:
        """Give the UUIDs of all pods that there were: the one seen, and any that should not be."""
        names = [name for _, pods, _ in os.walk("/var/lib/rkt/pods") for name in pods]
        return [self.uuid, *names] if self.uuid else names


def keys(listing: str) -> set[str]:
    """Give the image keys of an image list."""
    return set(re.findall(r"sha512-[0-9a-f]+", listing))


def private_view(work: str) -> None:
    """Cover what the demo writes to: overlays, and empty directories for rkt's own."""
    scratch = f"{work}/scratch"
    os.mkdir(scratch)
    for name in ("etc", "var/lib"):
        for part in ("upper", "work"):
            os.makedirs(f"{scratch}/{name}.{part}")
        options = f"lowerdir=/{name},upperdir={scratch}/{name}.upper,workdir={scratch}/{name}.work"
        run("mount", "-t", "overlay", "overlay", "-o", options, f"/{name}", shown=False)
    # The data directory is no overlay itself: pods are made of overlays.
    for path in ("/var/lib/rkt", "/etc/rkt"):
        os.makedirs(path, exist_ok=True)
        os.makedirs(f"{scratch}{path}")
        run("mount", "--bind", f"{scratch}{path}", path, shown=False)
    run("mount", "-t", "tmpfs", "tmpfs", "/run", shown=False)
    os.mkdir(f"{work}/tmp")
    os.environ["TMPDIR"] = f"{work}/tmp"
    run("ip", "link", "set", "lo", "up", shown=False)


def inside(work: str) -> int:
    """Run in the new namespaces."""
    private_view(work)
    os.environ["PATH"] = os.path.join(REPOSITORY, ".venv/bin") + ":" + os.environ["PATH"]
    return Demo(work).tell_it()


class Outcome(NamedTuple):
    """What the steps left to tell."""

    facts: list[tuple[str, str]]
    failure: str
    pods: list[str]


def outcome_of(work: str) -> Outcome:
    """Read what the inner process wrote at its end."""
    try:
        with open(f"{work}/outcome.json", encoding="utf-8") as file:
            return Outcome(**json.load(file))
    except FileNotFoundError:
        return Outcome([], "the demo broke off", [])


def summary(outcome: Outcome, leaked: list[str], seconds: float) -> int:
    """Print what was shown in one screen; give the exit status."""
    heading("Summary")
    for name, fact in outcome.facts:
        print(f"  {paint('ok', '32')}  {name:<8} {fact}")
    if leaked:
        print(f"  {paint('no', '31')}  {'left':<8} these stayed on this machine:")
        for line in leaked:
            print(f"      {line}")
    else:
        print(f"  {paint('ok', '32')}  {'left':<8} nothing on this machine")
    if outcome.failure:
        print(f"  {paint('no', '31')}  {outcome.failure}")
    good = not outcome.failure and not leaked
    verdict = paint("The demo succeeded", "32") if good else paint("The demo FAILED", "31")
    print(f"\n{verdict} in {seconds:.0f} s.  Next: docs/getting-started.md")
    return 0 if good else 1


def main() -> int:
    """Make the namespaces, run in them, check that nothing is left."""
    if sys.argv[1:2] == ["--inside"]:
        return inside(sys.argv[2])
    if os.geteuid() != 0:
        print("The demo runs pods: it needs root.", file=sys.stderr)
        return 1
    begun = time.monotonic()
    before = leaks.snapshot(pods=())
    work = tempfile.mkdtemp(prefix="redis-demo-")
    os.chmod(work, 0o755)
    try:
        try:
            pack(work)
        except StepFailed as err:
            return summary(Outcome([], str(err), []), [], time.monotonic() - begun)
        subprocess.run(
            ["unshare", "--mount", "--net", "--uts", "--ipc", "--pid", "--fork", "--kill-child",
             "--mount-proc", "--propagation", "private",
             sys.executable, os.path.abspath(__file__), "--inside", work],
            check=False,
        )  # fmt: skip
        outcome = outcome_of(work)
        return summary(outcome, settled(before, outcome.pods), time.monotonic() - begun)
    finally:
        shutil.rmtree(work)


def settled(before: leaks.Snapshot, pods: list[str]) -> list[str]:
    """Compare with before; the kernel takes a moment to let go of control groups."""
    deadline = time.monotonic() + 3
    while True:
        leaked = leaks.differences(before, leaks.snapshot(pods=pods))
        if not leaked or time.monotonic() > deadline:
            return leaked
        time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
