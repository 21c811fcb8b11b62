"""A virtual machine with a kernel, a systemd and control groups of its own (version 2).

It is made of the distribution's packages, boots a disk image that no job changes, runs one job
and powers off.  QEMU emulates the processor (TCG): programs take some ten times as long.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from typing import NamedTuple

from rkt_testkit.probes import REPOSITORY

SUITE = "bookworm"
PACKAGES = (
    "linux-image-cloud-amd64", "kmod", "systemd", "systemd-sysv", "systemd-container", "dbus",
    "procps", "util-linux", "iproute2", "iptables", "python3", "crun", "runc", "catatonit",
    "containernetworking-plugins", "golang-github-containers-common", "busybox-static", "gpg",
    "gpg-agent", "gpgconf", "gpgv", "strace", "selinux-policy-default", "policycoreutils",
)  # fmt: skip
MODULES = ("virtio_pci", "virtio_blk")
"""What must be there before the root file system is."""
SIZE = "1500M"
END = "the job ended with status"
ENFORCING = "security=selinux enforcing=1"
"""What to tell the kernel for a machine with SELinux; without it there is none."""
_POLICY = f"{REPOSITORY}/examples/selinux/container.cil"

_KERNEL = "console=ttyS0 quiet panic=-1 systemd.unit=job.service mitigations=off"
_INIT = """#!/bin/busybox sh
/bin/busybox mount -t devtmpfs none /dev
{modules}
for _ in $(/bin/busybox seq 200); do [ -b /dev/vda ] && break; /bin/busybox usleep 20000; done
/bin/busybox mount -t ext4 -o rw /dev/vda /root && exec /bin/busybox switch_root /root /sbin/init
"""
_UNIT = rf"""[Unit]
Description=The one job of this machine
Wants=dbus.socket systemd-machined.service
After=basic.target dbus.socket
SuccessAction=poweroff-force
FailureAction=poweroff-force

[Service]
Type=oneshot
Delegate=yes
ExecStartPre=/sbin/modprobe virtio_console
ExecStart=/bin/sh -c 'mkdir /job && tar -xf /dev/vdb -C /job && cd /job && \
  until [ -c /dev/vport*p1 ]; do sleep 0.1; done; exec >$(echo /dev/vport*p1) 2>&1; \
  ./run; echo "{END} $$?"'
"""


class Image(NamedTuple):
    """What QEMU starts: paths."""

    disk: str
    kernel: str
    initrd: str


def image(cache: str) -> Image:
    """Give the machine's image out of a directory; makes it there in about a minute."""
    digest = hashlib.sha256()
    for path in (__file__, _POLICY):
        with open(path, "rb") as file:
            digest.update(file.read())
    place = f"{cache}/vm-{digest.hexdigest()[:12]}"
    made = Image(f"{place}/disk", f"{place}/kernel", f"{place}/initrd")
    os.makedirs(cache, exist_ok=True)
    with open(f"{cache}/vm.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.isdir(place):
            for name in os.listdir(cache):
                if name.startswith("vm-"):
                    shutil.rmtree(f"{cache}/{name}")
            with tempfile.TemporaryDirectory(prefix="vm-", dir=cache) as work:
                _make(work)
                os.mkdir(f"{work}/image")
                for name in Image._fields:
                    os.rename(f"{work}/{name}", f"{work}/image/{name}")
                os.rename(f"{work}/image", place)
    return made


def run(
    machine: Image, job: str, *, kernel: str = "", memory: int = 2048, timeout: float = 850
) -> str:
    """Boot, run `run` of a directory that is copied into the machine; gives what it printed.

    `kernel` is what to tell the kernel besides.

    Raises AssertionError with the console's output if the job did not come to its end.
    """
    with tempfile.TemporaryDirectory(prefix="rkt-vm-") as work:
        with tarfile.open(f"{work}/job.tar", "w") as tar:
            tar.add(job, arcname=".")
        os.truncate(f"{work}/job.tar", (os.path.getsize(f"{work}/job.tar") + 511) // 512 * 512)
        disk = "if=none,format=raw,snapshot=on"
        argv = [
            "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2",
            "-m", str(memory), "-nodefaults", "-display", "none", "-no-reboot",
            "-kernel", machine.kernel, "-initrd", machine.initrd,
            "-append", f"{_KERNEL} {kernel}",
            "-drive", f"file={machine.disk},id=root,{disk}", "-device", "virtio-blk-pci,drive=root",
            "-drive", f"file={work}/job.tar,id=job,{disk}", "-device", "virtio-blk-pci,drive=job",
            "-serial", f"file:{work}/console",
            "-device", "virtio-serial-pci", "-chardev", f"file,id=out,path={work}/out",
            "-device", "virtserialport,chardev=out",
        ]  # fmt: skip
        # Its snapshots are temporary files.
        done = subprocess.run(
            argv, env={**os.environ, "TMPDIR": work}, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout, check=False,
        )  # fmt: skip
        output, console = _read(f"{work}/out"), _read(f"{work}/console")
    assert END in output, f"{output}\n--- {done.stdout.decode()}\n--- console\n{console}"
    return output


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except FileNotFoundError:
        return ""


def _make(work: str) -> None:
    root = f"{work}/root"
    _command(
        "mmdebstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}",
        "--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/locale/*",
        "--dpkgopt=path-exclude=/usr/share/doc/*", SUITE, root,
    )  # fmt: skip
    with open(f"{root}/etc/systemd/system/job.service", "w", encoding="ascii") as file:
        file.write(_UNIT)
    open(f"{root}/etc/fstab", "w").close()
    (version,) = os.listdir(f"{root}/lib/modules")
    os.rename(f"{root}/boot/vmlinuz-{version}", f"{work}/kernel")
    shutil.rmtree(f"{root}/boot")
    _label(root)
    _initrd(root, f"{root}/lib/modules/{version}", work)
    _command("mke2fs", "-q", "-t", "ext4", "-d", root, f"{work}/disk", SIZE)
    shutil.rmtree(root)


def _label(root: str) -> None:
    """Complete the SELinux policy, and give every file its context."""
    policy, contexts = "/etc/selinux/default", "contexts/files/file_contexts"
    shutil.copy(_POLICY, f"{root}/root/container.cil")
    _command("chroot", root, "semodule", "-n", "-i", "/root/container.cil")
    os.unlink(f"{root}/root/container.cil")
    label = f"mount -t proc proc {root}/proc && chroot {root} setfiles -F {policy}/{contexts} /"
    _command("unshare", "--mount", "--propagation=private", "sh", "-c", label)


def _initrd(root: str, modules: str, work: str) -> None:
    """Make what loads the disk's driver and starts the system on it."""
    top = f"{work}/early"
    for name in ("bin", "dev", "root", "modules"):
        os.makedirs(f"{top}/{name}")
    shutil.copy(f"{root}/bin/busybox", f"{top}/bin/busybox")
    with open(f"{modules}/modules.dep", encoding="ascii") as file:
        depends = dict(line.rstrip("\n").split(":", 1) for line in file)
    paths: list[str] = []
    for name in MODULES:
        path = next(path for path in depends if path.endswith(f"/{name}.ko"))
        for one in (*reversed(depends[path].split()), path):
            if one not in paths:
                paths.append(one)
                shutil.copy(f"{modules}/{one}", f"{top}/modules/")
    lines = "\n".join(f"/bin/busybox insmod /modules/{os.path.basename(path)}" for path in paths)
    with open(f"{top}/init", "w", encoding="ascii") as out:
        out.write(_INIT.format(modules=lines))
    os.chmod(f"{top}/init", 0o755)
    _command("sh", "-c", f"cd {top} && find . | busybox cpio -o -H newc >{work}/initrd 2>/dev/null")


def _command(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{argv[0]} failed: {done.stderr[-2000:]}"
