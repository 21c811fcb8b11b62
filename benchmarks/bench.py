#!/usr/bin/env python3
"""Figures side by side, from alternating runs on one machine: what rkt does and what else would.

    bench.py [--runs N] [--fetch-runs N] [--megabytes N] [WHAT ...]

start  `rkt version` and `rkt list` against an interpreter that does nothing
run    `rkt run` of a stored image against `podman run` and the bare OCI runtime
five   a pod of five apps against `podman pod create` and five times `podman run`
fifty  50 pods started at once against `podman run` 50 times; the memory they keep beside the apps
network  `rkt run --private-net` against `podman run` on its default bridge
metadata  requests a second of `rkt metadata-service` on one core
docker  `rkt fetch docker://` against `podman pull` and skopeo + umoci, from a registry on loopback
fetch  `rkt fetch` (verify, store, unpack) against gpgv, sha512sum and tar by hand; disk used
images  `rkt image list` of 1000 stored images against an interpreter that does nothing
pods   `rkt list` and `rkt gc` of 1000 pods against `podman ps -a` and `podman rm` of containers
stop   `rkt stop` of a sleeping app against `podman stop -t 0`
logs   600 MB of short lines into the log of a pod against conmon's

All sides run in one private mount and network namespace, where a hybrid host's version 2 control
group tree is hidden (crun 1.8 refuses to run while it sees it), with the same runtime.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

REPOSITORY = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [REPOSITORY, os.path.join(REPOSITORY, "tests")]

from benchmarks import many  # noqa: E402
from benchmarks.images import big_image, big_layer, registry  # noqa: E402
from benchmarks.metadata import ASK, TOKEN, register  # noqa: E402
from benchmarks.pods import Pods  # noqa: E402
from benchmarks.sides import ENV, Side, command, compare, goal, output, ratio, table  # noqa: E402

from rkt_testkit.acibuilder import AciBuilder  # noqa: E402
from rkt_testkit.keyring import Keyring  # noqa: E402
from rkt_testkit.oci import Image, Layer  # noqa: E402
from rkt_testkit.probes import SEARCH, rkt_binary  # noqa: E402

KINDS = (
    "start", "run", "five", "fifty", "network", "metadata", "docker", "fetch", "images",
    "pods", "stop", "logs",
)  # fmt: skip
UNIFIED = "/sys/fs/cgroup/unified"
PODS = 50


class Bench:
    """The three comparisons; all files lie below `work`."""

    def __init__(self, work: str, options: argparse.Namespace) -> None:
        self.work = work
        self.runs: int = options.runs
        self.fetch_runs: int = options.fetch_runs
        self.megabytes: int = options.megabytes
        self.pod_count: int = options.pods
        self._pods: Pods | None = None
        self.rkt = [
            rkt_binary(), f"--dir={work}/data", f"--system-config={work}/system",
            f"--local-config={work}/local",
        ]  # fmt: skip

    # --- start -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Compare start-up with a bare interpreter."""
        with open(rkt_binary(), encoding="utf-8") as file:
            interpreter = file.readline().removeprefix("#!").split()[0]
        times = compare("Start-up", [
            Side("rkt version", command(rkt_binary(), "version")),
            Side("rkt list (no pods)", command(*self.rkt, "list")),
            Side("bare interpreter", command(interpreter, "-IS", "-c", "pass")),
        ], self.runs)  # fmt: skip
        bare = min(times["bare interpreter"])
        for name, budget in (("rkt version", 5), ("rkt list (no pods)", 60)):
            over = (min(times[name]) - bare) * 1000
            verdict = "ok" if over <= budget else "MISSED"
            print(f"  {name}: {over:.1f} ms over it (min), aim: at most {budget} -> {verdict}")

    def images(self) -> None:
        """Compare listing a full store with a bare interpreter."""
        with open(rkt_binary(), encoding="utf-8") as file:
            interpreter = file.readline().removeprefix("#!").split()[0]
        there = [rkt_binary(), f"--dir={self.work}/many", "--insecure-options=image"]
        paths = []
        for number in range(1000):
            directory = f"{self.work}/aci{number}"
            os.mkdir(directory)
            paths.append(AciBuilder(f"example.com/image-{number}").build(directory).path)
        command(*there, "fetch", *paths)()
        times = compare("Listing 1000 images", [
            Side("rkt image list", command(*there, "image", "list")),
            Side("rkt image list --format=json", command(*there, "image", "list", "--format=json")),
            Side("bare interpreter", command(interpreter, "-IS", "-c", "pass")),
        ], self.runs)  # fmt: skip
        bare = min(times["bare interpreter"])
        for name in ("rkt image list", "rkt image list --format=json"):
            over = (min(times[name]) - bare) * 1000
            verdict = "ok" if over <= 250 else "MISSED"
            print(f"  {name}: {over:.1f} ms over it (min), aim: at most 250 -> {verdict}")

    # --- docker ----------------------------------------------------------------------------------

    def docker(self) -> None:
        """Compare fetching an image of 10 layers, then one that shares 8 of them."""
        host = "127.0.0.1:5127"
        with registry(self.work, host):
            shared = [big_layer(number) for number in range(8)]
            for name, first in (("one", 8), ("two", 10)):
                layers = [*shared, big_layer(first), big_layer(first + 1)]
                layout = Image([Layer.of(raw) for raw in layers]).write(f"{self.work}/{name}", "x")
                copy = ("skopeo", "copy", "--quiet", "--dest-tls-verify=false")
                command(*copy, f"oci:{layout}:x", f"docker://{host}/{name}")()
            whole = self.pulls("Fetching 10 layers, 400 MB, 20 000 files", f"{host}/one", None)
            goal("rkt fetch : podman pull", ratio(whole, "rkt fetch", "podman pull"), 0.6)
            goal("rkt fetch : skopeo + umoci", ratio(whole, "rkt fetch", "skopeo + umoci"), 0.5)
            part = self.pulls("The same, 8 of 10 layers stored", f"{host}/two", f"{host}/one")
            share = statistics.median(part["rkt fetch"]) / statistics.median(whole["rkt fetch"])
            goal("rkt fetch with 8 of 10 layers : without", share, 0.4)

    def pulls(self, title: str, image: str, earlier: str | None) -> dict[str, list[float]]:
        """Compare pulling an image into a new store, which may hold an earlier one."""
        where = ""
        number = 0

        def fresh() -> None:
            # Never a directory whose files were just removed: ext4 looks long for free inodes then.
            nonlocal where, number
            number += 1
            where = f"{self.work}/pull-{image[-3:]}-{number}"
            os.mkdir(where)
            os.sync()  # rkt writes to disk before it ends: not what the one before it has left

        def rkt(name: str) -> None:
            command(*self.rkt[:1], f"--dir={where}/rkt", "--insecure-options=image,http", "fetch",
                    f"docker://{name}")()  # fmt: skip

        def podman(name: str) -> None:
            runtime = shutil.which("crun", path=SEARCH) or "runc"
            start = self.podman(runtime)
            start[1] = f"--root={where}/podman"
            command(*start, "pull", "--quiet", "--tls-verify=false", f"docker://{name}")()

        def skopeo(name: str) -> None:
            copy = ("skopeo", "copy", "--quiet", "--src-tls-verify=false")
            command(*copy, f"docker://{name}", f"oci:{where}/layout:x")()
            command("umoci", "unpack", "--image", f"{where}/layout:x", f"{where}/bundle")()

        def prepare(pull: Callable[[str], None]) -> Callable[[], None]:
            def before() -> None:
                fresh()
                if earlier is not None:
                    pull(earlier)
                    os.sync()

            return before

        sides = [
            Side("rkt fetch", lambda: rkt(image), prepare(rkt)),
            Side("podman pull", lambda: podman(image), prepare(podman)),
        ]
        if earlier is None:
            sides.append(Side("skopeo + umoci", lambda: skopeo(image), prepare(skopeo)))
        return compare(title, sides, self.fetch_runs)

    # --- run -------------------------------------------------------------------------------------

    def run(self) -> None:
        """Compare running /bin/true."""
        runtime = self.runtime()
        key, name = self.image("true", ["/bin/true"])
        podman = self.podman(runtime)
        there = [*podman, "run", "--network=host", *limits(), name, "/bin/true"]
        times = compare(f"Running /bin/true, host network, {os.path.basename(runtime)}", [
            Side("rkt run", command(*self.rkt, "--insecure-options=image", "run", key)),
            Side("podman run", command(*there)),
            Side("bare runtime", self.bare(runtime, f"{self.work}/true")),
        ], self.runs)  # fmt: skip
        goal("rkt run : podman run", ratio(times, "rkt run", "podman run"), 0.6)
        self.collect()

    def image(self, name: str, program: list[str]) -> tuple[str, str]:
        """Give one image to rkt and to podman: its key, and its name there."""
        image = AciBuilder(f"example.com/{name}", exec=program).busybox()
        aci = image.build(f"{self.work}/{name}.aci")
        key = output(*self.rkt, "--insecure-options=image", "fetch", aci.path).split()[-1]
        root = f"{self.work}/{name}"
        os.mkdir(root)
        command("tar", "-xf", aci.path, "-C", root)()
        command("tar", "-C", f"{root}/rootfs", "-cf", f"{root}.tar", ".")()
        command(*self.podman(self.runtime()), "import", f"{root}.tar", f"localhost/{name}")()
        return key, f"localhost/{name}"

    def collect(self) -> None:
        """Remove the pods that have ended."""
        command(*self.rkt, "gc", "--grace-period=0s")()
        command(*self.rkt, "gc", "--grace-period=0s")()

    def runtime(self) -> str:
        """Give the runtime that all sides use: RKT_OCI_RUNTIME, else crun, else runc."""
        for name in (os.environ.get("RKT_OCI_RUNTIME", ""), "crun", "runc"):
            path = shutil.which(name, path=SEARCH) if name else None
            if path:
                ENV["RKT_OCI_RUNTIME"] = path
                return path
        raise SystemExit("neither crun nor runc is installed")

    def podman(self, runtime: str) -> list[str]:
        """Give podman's command line with storage of its own."""
        path = shutil.which("podman", path=SEARCH)
        if path is None:
            raise SystemExit("podman is not installed (make bench installs it)")
        return [
            path, f"--root={self.work}/podman", f"--runroot={self.work}/podman-run",
            f"--tmpdir={self.work}/podman-tmp", "--storage-driver=overlay",
            "--cgroup-manager=cgroupfs", "--events-backend=none", f"--runtime={runtime}",
        ]  # fmt: skip

    def bare(self, runtime: str, bundle: str) -> Callable[[], None]:
        """Make a bundle that asks for little more than the runtime's own example does."""
        command(runtime, "spec", cwd=bundle)()
        with open(f"{bundle}/config.json", encoding="utf-8") as file:
            config = json.load(file)
        config["process"].update(terminal=False, args=["/bin/true"])
        kinds = config["linux"]["namespaces"]
        config["linux"]["namespaces"] = [kind for kind in kinds if kind["type"] != "network"]
        with open(f"{bundle}/config.json", "w", encoding="utf-8") as file:
            json.dump(config, file)
        state = f"--root={self.work}/bare"
        return command(runtime, state, "run", "--bundle", bundle, "rkt-bench-bare")

    # --- pods ------------------------------------------------------------------------------------

    def many(self) -> Pods:
        """Make pods and containers of one image."""
        if self._pods is None:
            runtime = self.runtime()
            self._pods = Pods(self.work, self.rkt, self.podman(runtime), ENV)
        return self._pods

    def pods(self) -> None:
        """Compare listing and removing many."""
        many = self.many()
        many.fill(self.pod_count, limits())
        title = f"Listing {self.pod_count}"
        times = compare(title, [
            Side("rkt list", command(*self.rkt, "list")),
            Side("podman ps -a", command(*many.podman, "ps", "-a")),
        ], self.runs)  # fmt: skip
        goal("rkt list : podman ps -a", ratio(times, "rkt list", "podman ps -a"), 0.3)
        ours, theirs = many.take_away()
        table(f"Removing {self.pod_count}", {"rkt gc": [ours], "podman rm": [theirs]})
        goal("rkt gc : podman rm", ours / theirs, 0.2)

    def stop(self) -> None:
        """Compare stopping an app that sleeps."""
        ours, stop_ours, end_ours, theirs, stop_theirs, end_theirs = self.many().stopping(limits())
        times = compare("Stopping a sleeping app", [
            Side("rkt stop", stop_ours, ours),
            Side("podman stop -t 0", stop_theirs, theirs),
        ], self.runs)  # fmt: skip
        end_ours()
        end_theirs()
        goal("rkt stop : podman stop", ratio(times, "rkt stop", "podman stop -t 0"), 0.5)

    def logs(self) -> None:
        """Compare keeping a log."""
        many = self.many()
        found = [(*many.flood_ours(), many.flood_theirs(limits())) for _ in range(self.fetch_runs)]
        rate, memory, conmon = (statistics.median(column) for column in zip(*found, strict=True))
        print(f"\nLogging 600 MB of 100-byte lines: rkt {rate:.0f} MB/s, conmon {conmon:.0f} MB/s")
        goal("wanted (100 MB/s or twice conmon's) : rkt", min(100, 2 * conmon) / rate, 1.0)
        goal("memory of the supervisor in MB", memory / 1e6, 20)

    def five(self) -> None:
        """Compare a pod of five apps."""
        runtime = self.runtime()
        key, name = self.image("five", ["/bin/true"])
        apps = [word for number in range(5) for word in (key, f"--name=app{number}")]
        here = [*self.rkt, "--insecure-options=image", "run", *apps]
        # The pod's own container has limits only from there.
        with open(f"{self.work}/containers.conf", "w", encoding="ascii") as file:
            wanted = [word.removeprefix("--ulimit=") for word in limits()]
            file.write(f"[containers]\ndefault_ulimits = {json.dumps(wanted)}\n")
        podman = ["/usr/bin/env", f"CONTAINERS_CONF={file.name}", *self.podman(runtime)]
        there = [*podman, "run", "--pod=bench", name, "/bin/true"]

        def by_podman() -> None:
            command(*podman, "pod", "create", "--name=bench", "--network=host")()
            for _ in range(5):
                command(*there)()

        sides = [
            Side("rkt run, five apps", command(*here)),
            Side("podman pod create, run x 5", by_podman,
                 command(*podman, "pod", "rm", "--force", "--ignore", "bench")),
        ]  # fmt: skip
        times = compare(f"A pod of five apps, {os.path.basename(runtime)}", sides, self.runs // 3)
        goal("rkt : podman", ratio(times, sides[0].name, sides[1].name), 0.4)
        sides[1].before()
        self.collect()

    def fifty(self) -> None:
        """Compare starting 50 pods at once, and look at the memory that they keep."""
        runtime = self.runtime()
        key, name = self.image("fifty", ["/bin/sleep", "1000"])
        podman = self.podman(runtime)
        there = [*podman, "run", "--detach", "--network=host", *limits(), name, "sleep", "1000"]
        here = [*self.rkt, "--insecure-options=image", "run", "--detach", key]
        memory: dict[str, float] = {}

        def end() -> None:
            pods = output(*self.rkt, "list", "--full", "--no-legend").splitlines()
            running = [words[0] for words in map(str.split, pods) if "running" in words]
            containers = output(*podman, "ps", "--quiet").split()
            for kind, found in (("rkt", running), ("podman", containers)):
                if found and len(found) != PODS:
                    raise SystemExit(f"{kind}: {len(found)} of {PODS} run")
                if found:
                    memory[kind] = many.beside_apps(self.work) / PODS / 1e6
            if running:
                command(*self.rkt, "stop", "--force", *running)()
                self.collect()
            command(*podman, "rm", "--force", "--all", "--time=0")()

        times = compare(f"{PODS} pods started at once, {os.path.basename(runtime)}", [
            Side("rkt run --detach", lambda: many.start(here, PODS, ENV), end),
            Side("podman run --detach", lambda: many.start(there, PODS, ENV), end),
        ], self.fetch_runs)  # fmt: skip
        end()
        goal("rkt : podman", ratio(times, "rkt run --detach", "podman run --detach"), 1 / 1.5)
        print(f"  MB (PSS) beside the app of a podman container: {memory['podman']:.2f}")
        goal("MB (PSS) beside the app of a pod", memory["rkt"], 6.0)

    # --- network ---------------------------------------------------------------------------------

    def network(self) -> None:
        """Compare running /bin/true with a network of its own."""
        runtime = self.runtime()
        key, name = self.image("net", ["/bin/true"])
        podman = self.podman(runtime)
        rkt = [*self.rkt, "--insecure-options=image", "run"]
        there = [*podman, "run", *limits(), name, "/bin/true"]
        times = compare(f"Running /bin/true, private network, {os.path.basename(runtime)}", [
            Side("rkt run --private-net", command(*rkt, "--private-net", key)),
            Side("podman run (default bridge)", command(*there)),
            Side("rkt run (host network)", command(*rkt, key)),
        ], self.runs)  # fmt: skip
        sides = ("rkt run --private-net", "podman run (default bridge)")
        goal("rkt run --private-net : podman run", ratio(times, *sides), 0.5)
        self.collect()

    def metadata(self) -> None:
        """Ask the metadata service on one core, from another one if there is one."""
        cores = sorted(os.sched_getaffinity(0))
        pin = ["taskset", "-c", str(cores[-1])]
        service = subprocess.Popen(
            [*pin, *self.rkt, "metadata-service", f"--state-dir={self.work}/metadata"],
            stderr=subprocess.PIPE, env=ENV,
        )  # fmt: skip
        assert service.stderr is not None
        os.chmod(self.work, 0o711)  # the service is another user
        line = b"starting"
        while b"running" not in line:
            line = service.stderr.readline()
            if not line or b"rkt: " in line:
                raise SystemExit(f"the metadata service does not run: {line.decode()}")
        threading.Thread(target=service.stderr.read, daemon=True).start()
        register()
        text = output("taskset", "-c", str(cores[0]), sys.executable, "-c", ASK, TOKEN)
        service.terminate()
        service.wait()
        rate, failed = text.split()
        print(f"\nMetadata service: {rate} requests/s on one core, {failed} failed")
        goal("2000 : requests a second", 2000 / float(rate), 1.0)

    # --- fetch -----------------------------------------------------------------------------------

    def fetch(self) -> None:
        """Compare fetching a big signed image."""
        with Keyring() as keyring:
            fingerprint = keyring.make("Bench <bench@example.com>")
            with open(f"{self.work}/key.asc", "wb") as file:
                file.write(keyring.export(fingerprint))
            with open(f"{self.work}/key.gpg", "wb") as file:
                file.write(keyring.export(fingerprint, armored=False))
            image = big_image(self.work, self.megabytes)
            with open(image, "rb") as data, open(f"{image}.asc", "wb") as file:
                file.write(keyring.sign(fingerprint, data.read()))
        trust = ("trust", "--prefix=example.com/big", "--skip-fingerprint-review")
        command(*self.rkt, *trust, f"{self.work}/key.asc")()
        tree = f"{self.work}/by-hand"
        cas = f"{self.work}/data/cas"

        def by_hand() -> None:
            gpgv()
            digest()
            untar()

        def fresh_tree() -> None:
            shutil.rmtree(tree, ignore_errors=True)
            os.mkdir(tree)

        gpgv = command("gpgv", "--keyring", f"{self.work}/key.gpg", f"{image}.asc", image)
        digest = command("sha512sum", image)
        untar = command("tar", "--numeric-owner", "-xpzf", image, "-C", tree)
        size = os.path.getsize(image) / 1e6
        times = compare(f"Fetching {self.megabytes} MB ({size:.0f} MB compressed)", [
            Side("rkt fetch", command(*self.rkt, "fetch", image),
                 lambda: shutil.rmtree(cas, ignore_errors=True)),
            Side("gpgv + sha512sum + tar x by hand", by_hand, fresh_tree),
            Side("  of it gpgv", gpgv),
            Side("  of it sha512sum", digest),
            Side("  of it tar x", untar, fresh_tree),
        ], self.fetch_runs)  # fmt: skip
        hand = "gpgv + sha512sum + tar x by hand"
        goal("rkt fetch : by hand", ratio(times, "rkt fetch", hand), 1.3)
        used, unpacked = disk(cas), disk(tree)
        print(f"\nDisk: store {used / 1e6:.1f} MB, unpacked tree {unpacked / 1e6:.1f} MB")
        goal("store : tree", used / unpacked, 1.2)


def limits() -> list[str]:
    """Give flags that keep podman from raising limits, which not every root may do."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return [f"--ulimit=nofile={files}:{files}", "--ulimit=nproc=4096:4096"]


def disk(path: str) -> int:
    """Give the bytes that a directory takes on disk."""
    return int(output("du", "-s", "--block-size=1", path).split()[0])


def main() -> int:
    """Enter namespaces, run what was asked for."""
    parser = argparse.ArgumentParser(description="Compare rkt with other ways to do its work.")
    parser.add_argument("what", nargs="*", default=list(KINDS))
    parser.add_argument("--runs", type=int, default=21)
    parser.add_argument("--fetch-runs", type=int, default=3)
    parser.add_argument("--megabytes", type=int, default=300)
    parser.add_argument("--pods", type=int, default=1000)
    parser.add_argument("--inside", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    unknown = set(options.what) - set(KINDS)
    if unknown:
        parser.error(f"no such comparison: {', '.join(sorted(unknown))}")
    if options.inside:
        inside(options)
        return 0
    if os.geteuid() != 0:
        raise SystemExit("the benchmarks run pods: they need root")
    before = set(podman_groups())
    work = tempfile.mkdtemp(prefix="rkt-bench-")
    try:
        words = [sys.executable, os.path.abspath(__file__), f"--inside={work}", *sys.argv[1:]]
        namespaces = ["unshare", "--mount", "--net", "--propagation", "private"]
        return subprocess.run([*namespaces, *words], check=False).returncode
    finally:
        shutil.rmtree(work, ignore_errors=True)  # the mounts went with their namespace
        for group in podman_groups():
            if group not in before:
                os.rmdir(group)


def podman_groups() -> list[str]:
    """Give the control groups that podman leaves behind, children first."""
    top = "/sys/fs/cgroup"
    found = [place for place, _, _ in os.walk(top, topdown=False) if "/libpod_parent" in place]
    return sorted(found, reverse=True)


def inside(options: argparse.Namespace) -> None:
    """Run the comparisons in the new namespaces."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    if os.path.ismount(UNIFIED):
        subprocess.run(["umount", UNIFIED], check=True)
    for place in ("/var/lib/cni", "/run/rkt"):  # leases and sockets are this run's own
        os.makedirs(place, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "none", place], check=True)
    bench = Bench(options.inside, options)
    for name in options.what:
        getattr(bench, name)()


if __name__ == "__main__":
    sys.exit(main())
