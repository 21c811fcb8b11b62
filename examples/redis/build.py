#!/usr/bin/env python3
"""Make two signed-to-be images out of Debian's packages: the redis server, and a client of it.

    build.py [--cache DIRECTORY] OUTPUT-DIRECTORY

An ACI is a tar archive of `manifest` and `rootfs/`.  The packages are downloaded with apt-get and
unpacked with dpkg-deb, nothing is installed; a program brings along exactly the libraries that its
ELF headers ask for.  The same packages give the same bytes.  One line an image on stdout:
NAME VERSION FILE.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = os.path.dirname(os.path.abspath(__file__))
DOMAIN = "example.com"
PACKAGES = ("redis-server", "redis-tools", "busybox-static")
# Directories that are links into /usr on a merged-/usr system, as the images are.
MERGED = ("bin", "sbin", "lib", "lib64")
APPC_ARCH = {"x86_64": "amd64", "aarch64": "aarch64", "i686": "i386", "ppc64le": "ppc64le"}
USER = "redis"
UID = 100


class Entry(NamedTuple):
    """A file to be: where it comes from (or what it says), and how it looks in the image."""

    kind: bytes
    source: str = ""
    content: bytes = b""
    target: str = ""
    mode: int = 0o755
    owner: int = 0


# --- packages ------------------------------------------------------------------------------------


def run(*argv: str, cwd: str | None = None) -> str:
    """Run a program and give its output; its own words explain a failure."""
    done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(argv)}: {done.stderr.strip() or done.returncode}")
    return done.stdout


def locations(names: set[str]) -> list[tuple[str, str]]:
    """Ask apt for the file name and the SHA-256 of each package's archive."""
    answer = run("apt-get", "download", "--print-uris", "-qq", *sorted(names))
    found = re.findall(r"^'[^']+' (\S+) \d+ SHA256:([0-9a-f]{64})", answer, re.MULTILINE)
    if len(found) != len(names):
        raise SystemExit(f"apt-get knows no archive for some of: {' '.join(sorted(names))}")
    return found


def download(names: set[str], cache: str) -> list[str]:
    """Give the archives of packages, downloading those that the cache does not hold."""
    try:
        return download_listed(names, cache)
    except SystemExit:
        if os.geteuid() != 0:
            raise
    run("apt-get", "update", "-qq")  # there were no package lists, or old ones
    return download_listed(names, cache)


def download_listed(names: set[str], cache: str) -> list[str]:
    """Do so by the package lists as they are."""
    wanted = locations(names)
    if not all(is_intact(os.path.join(cache, file), digest) for file, digest in wanted):
        # apt's sandbox user may not write here; the archives are checked against apt's digests.
        sandbox = ("-o", "APT::Sandbox::User=root") if os.geteuid() == 0 else ()
        run("apt-get", "download", "-qq", *sandbox, *sorted(names), cwd=cache)
    for file, digest in wanted:
        if not is_intact(os.path.join(cache, file), digest):
            raise SystemExit(f"{file}: the digest is not the one that apt announced")
    return [os.path.join(cache, file) for file, _ in wanted]


def is_intact(path: str, digest: str) -> bool:
    """Say whether a file exists and has this SHA-256."""
    if not os.path.exists(path):
        return False
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == digest


def unpack_with_libraries(cache: str, into: str) -> str:
    """Unpack the packages and all libraries they depend on; give the version of the server."""
    version = ""
    todo, seen = set(PACKAGES), set[str]()
    while todo:
        seen |= todo
        wanted = set[str]()
        for archive in download(todo, cache):
            run("dpkg-deb", "-x", archive, os.path.join(into, os.path.basename(archive)))
            fields = run("dpkg-deb", "-f", archive, "Package", "Version", "Depends")
            if re.search(r"^Package: redis-server$", fields, re.MULTILINE):
                version = re.findall(r"^Version: (?:\d+:)?(\d+\.\d+)", fields, re.MULTILINE)[0]
            depends = "".join(re.findall(r"^Depends: (.*)$", fields, re.MULTILINE))
            firsts = [clause.split("|")[0].split()[0] for clause in depends.split(",") if clause]
            wanted |= {name.split(":")[0] for name in firsts if name.startswith("lib")}
        todo = wanted - seen
    return version


# --- programs and their libraries ----------------------------------------------------------------


def merged(path: str) -> str:
    """Give the place of a path on a system whose /bin, /lib, ... are links into /usr."""
    path = path.lstrip("/")
    return f"usr/{path}" if path.split("/")[0] in MERGED else path


def all_files(unpacked: str) -> dict[str, str]:
    """Map every path of all packages (without the leading slash) to where it was unpacked."""
    found = {}
    for package in sorted(os.listdir(unpacked)):
        root = os.path.join(unpacked, package)
        for directory, _, files in os.walk(root):
            for name in files:
                path = os.path.join(directory, name)
                found[merged(os.path.relpath(path, root))] = path
    return found


def elf_needs(path: str) -> tuple[str, list[str]]:
    """Read the interpreter and the names of the needed libraries out of a 64-bit ELF file."""
    with open(path, "rb") as file:
        data = file.read()
    if data[:5] != b"\x7fELF\x02":
        return "", []
    order = "<" if data[5] == 1 else ">"
    (table,) = struct.unpack_from(order + "Q", data, 32)
    size, count = struct.unpack_from(order + "HH", data, 54)
    interpreter, dynamic, loads = "", b"", []
    for index in range(count):
        kind, _, offset, address, _, length = struct.unpack_from(
            order + "IIQQQQ", data, table + index * size
        )
        if kind == 1:
            loads.append((address, offset, length))
        elif kind == 2:
            dynamic = data[offset : offset + length]
        elif kind == 3:
            interpreter = data[offset : offset + length].rstrip(b"\0").decode()
    entries = list(struct.iter_unpack(order + "QQ", dynamic))
    strings = next((value for tag, value in entries if tag == 5), 0)
    for address, offset, length in loads:
        if address <= strings < address + length:
            strings += offset - address
            break
    starts = [strings + value for tag, value in entries if tag == 1]
    return interpreter, [data[start : data.index(b"\0", start)].decode() for start in starts]


def follow(files: dict[str, str], path: str) -> Iterator[tuple[str, Entry]]:
    """Give a file and, one by one, the symbolic links on the way to it."""
    path = merged(path)
    while os.path.islink(files[path]):
        target = os.readlink(files[path])
        yield path, Entry(tarfile.SYMTYPE, target=target)
        path = merged(os.path.normpath(os.path.join("/", os.path.dirname(path), target)))
    mode = 0o755 if os.access(files[path], os.X_OK) else 0o644
    yield path, Entry(tarfile.REGTYPE, source=files[path], mode=mode)


def program(files: dict[str, str], path: str) -> dict[str, Entry]:
    """Give a program with its links, its interpreter and all libraries it needs."""
    places: dict[str, str] = {}
    for place in sorted(files):  # deeper directories (hwcaps variants, plugins) come later: ignored
        if re.fullmatch(r"usr/lib(64)?(/[^/]+-linux-gnu[^/]*)?/[^/]+\.so[.0-9]*", place):
            places.setdefault(os.path.basename(place), place)
    result: dict[str, Entry] = {}
    todo = [path]
    while todo:
        chain = dict(follow(files, todo.pop()))
        result |= chain
        interpreter, libraries = elf_needs(list(chain.values())[-1].source)
        missing = [name for name in libraries if name not in places]
        if missing:
            raise SystemExit(f"{path} needs {missing}, which no package brings")
        wanted = [places[name] for name in libraries] + ([interpreter] if interpreter else [])
        todo += [place for place in wanted if merged(place) not in result]
    return result


# --- images --------------------------------------------------------------------------------------


def base() -> dict[str, Entry]:
    """Give what every image has: links of a merged /usr, users, an empty /tmp."""
    entries = {name: Entry(tarfile.SYMTYPE, target=f"usr/{name}") for name in MERGED}
    entries |= {f"usr/{name}": Entry(tarfile.DIRTYPE) for name in MERGED}
    passwd = f"root:x:0:0::/root:/bin/sh\n{USER}:x:{UID}:{UID}::/var/lib/redis:/bin/sh\n"
    entries["etc/passwd"] = text(passwd)
    entries["etc/group"] = text(f"root:x:0:\n{USER}:x:{UID}:\n")
    entries["tmp"] = Entry(tarfile.DIRTYPE, mode=0o1777)
    return entries


def text(content: str, mode: int = 0o644) -> Entry:
    """Make a file of given content."""
    return Entry(tarfile.REGTYPE, content=content.encode(), mode=mode)


def own_file(name: str, mode: int = 0o644) -> Entry:
    """Take a file that lies beside this script."""
    with open(os.path.join(HERE, name), encoding="utf-8") as file:
        return text(file.read(), mode)


def server(files: dict[str, str]) -> dict[str, Entry]:
    """Put together the server's file system."""
    entries = base() | program(files, "usr/bin/redis-server")
    entries["etc/redis/redis.conf"] = own_file("redis.conf")
    entries["var/lib/redis"] = Entry(tarfile.DIRTYPE, mode=0o750, owner=UID)
    return entries | licences(files, "redis")


def client(files: dict[str, str]) -> dict[str, Entry]:
    """Put together the client's file system: redis-cli, a shell, and what it does with them."""
    entries = base() | program(files, "usr/bin/redis-cli")
    shell = "usr/bin/busybox"
    entries |= program(files, shell)
    for applet in ("sh", "sleep", "cat", "ls", "ps", "id", "hostname"):
        entries[f"usr/bin/{applet}"] = Entry(tarfile.SYMTYPE, target="busybox")
    entries["usr/bin/talk"] = own_file("talk.sh", 0o755)
    return entries | licences(files, "redis", "busybox")


def licences(files: dict[str, str], *names: str) -> dict[str, Entry]:
    """Take along the copyright files of packages whose names begin like this."""
    return {
        path: Entry(tarfile.REGTYPE, source=source, mode=0o644)
        for path, source in files.items()
        if re.fullmatch(rf"usr/share/doc/({'|'.join(names)})[^/]*/copyright", path)
        and not os.path.islink(source)
    }


def manifest(name: str, version: str, architecture: str, app: dict[str, object]) -> bytes:
    """Write an image manifest."""
    labels = {"version": version, "os": "linux", "arch": architecture}
    value = {
        "acKind": "ImageManifest",
        "acVersion": "0.8.11",
        "name": name,
        "labels": [{"name": key, "value": text} for key, text in labels.items()],
        "app": app,
    }
    return json.dumps(value, indent=2).encode() + b"\n"


def write_aci(path: str, image_manifest: bytes, entries: dict[str, Entry], time: int) -> None:
    """Write the archive: sorted, owned by root, one time stamp, no name of the machine in it."""
    entries = dict(entries)
    for place in list(entries):
        while place := os.path.dirname(place):
            entries.setdefault(place, Entry(tarfile.DIRTYPE))
    entries[""] = Entry(tarfile.DIRTYPE)
    with (
        open(path, "wb") as file,
        gzip.GzipFile("", "wb", 6, file, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        add(archive, "manifest", Entry(tarfile.REGTYPE, content=image_manifest, mode=0o644), time)
        for place in sorted(entries):
            add(archive, os.path.join("rootfs", place).rstrip("/"), entries[place], time)


def add(archive: tarfile.TarFile, name: str, entry: Entry, time: int) -> None:
    """Append one entry to the archive."""
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.mtime = entry.kind, entry.target, time
    member.mode = 0o777 if entry.kind == tarfile.SYMTYPE else entry.mode
    member.uid = member.gid = entry.owner
    content = entry.content
    if entry.source:
        with open(entry.source, "rb") as file:
            content = file.read()
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def build(output: str, cache: str) -> list[tuple[str, str, str]]:
    """Make both images; give name, version and file of each."""
    architecture = APPC_ARCH[os.uname().machine]
    os.makedirs(output, exist_ok=True)
    os.makedirs(cache, exist_ok=True)
    unpacked = tempfile.mkdtemp(prefix="redis-packages-")
    try:
        version = unpack_with_libraries(cache, unpacked)
        files = all_files(unpacked)
        newest = int(max(os.lstat(path).st_mtime for path in files.values()))
        time = int(os.environ.get("SOURCE_DATE_EPOCH", newest))
        serve: dict[str, object] = {
            "exec": ["/usr/bin/redis-server", "/etc/redis/redis.conf"],
            "user": USER, "group": USER, "workingDirectory": "/var/lib/redis",
            "ports": [{"name": "redis", "protocol": "tcp", "port": 6379}],
        }  # fmt: skip
        talk: dict[str, object] = {"exec": ["/usr/bin/talk"], "user": USER, "group": USER}
        made = []
        for name, app, entries in (
            (f"{DOMAIN}/redis", serve, server(files)),
            (f"{DOMAIN}/redis/client", talk, client(files)),
        ):
            file = f"{name.removeprefix(DOMAIN + '/')}-{version}-linux-{architecture}.aci"
            path = os.path.join(output, file)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            write_aci(path, manifest(name, version, architecture, app), entries, time)
            made.append((name, version, path))
        return made
    finally:
        shutil.rmtree(unpacked)


def main() -> int:
    """Read the command line, make the images."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("output")
    parser.add_argument("--cache", default=os.path.join(HERE, "../../.cache/redis-packages"))
    options = parser.parse_args()
    for made in build(options.output, os.path.abspath(options.cache)):
        print(*made)
    return 0


if __name__ == "__main__":
    sys.exit(main())
