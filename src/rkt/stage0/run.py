"""Start a prepared pod: mount its roots and become stage1."""

from __future__ import annotations

import os
import sys

from rkt import const, log
from rkt.errors import KernelError, RktError, describe
from rkt.linux import atomic, libc, mounts, sig
from rkt.pod import state
from rkt.stage0 import listening, nameservice, registration
from rkt.stage0.entrypoint import Stage1

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from rkt.linux.userns import Range
    from rkt.pod.lifecycle import Pod
    from rkt.stage0.request import RunRequest


def run(pod: Pod, request: RunRequest) -> NoReturn:
    """Replace this process by the pod's stage1.  The caller holds the pod's lock in state `run`.

    Raises RktError if that cannot be done; the pod is then an exited one, which says why and which
    gc takes away.
    """
    assert pod.where == state.RUN
    try:
        _run(pod, request)
    except RktError as err:
        try:
            data = f"{describe(err)}\n".encode("utf-8", "replace")
            atomic.write_file(f"{pod.path}/{const.NOT_STARTED}", data, durable=False)
        except OSError as full:  # what is raised counts, not this
            log.debug(f"cannot note why the pod was not started: {full.strerror}")
        raise


def _run(pod: Pod, request: RunRequest) -> NoReturn:
    os.umask(0o022)  # the caller's is not that of the apps
    stage1 = Stage1(pod)
    users = _private_users(pod)
    os.chdir(pod.path)
    contexts = _selinux(pod)
    is_private = stage1.private_mounts
    os.environ.pop(const.HOST_MOUNTS_ENV, None)
    try:
        if pod.exists("overlay-prepared"):
            if is_private:
                _leave_host_mounts(stage1)
            _mount_roots(pod, users, contexts[1])
        elif contexts[1]:
            from rkt.linux import selinux

            selinux.set_contexts_below("stage1/rootfs", contexts[1])
        _become(pod, stage1, request, users, contexts)
    except BaseException as err:
        if not is_private:
            mounts.detach_below(pod.path)
        if isinstance(err, OSError):
            raise RktError(f'pod "{pod.uuid}": cannot start it') from err
        raise


def _leave_host_mounts(stage1: Stage1) -> None:
    """Go into a mount namespace of our own, and hand on the old one to a stage1 that wants it."""
    old = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    mounts.leave_host_mounts()
    if stage1.manifest.annotation(const.STAGE1_HOST_MOUNTS) == "true":
        os.set_inheritable(old, True)
        os.environ[const.HOST_MOUNTS_ENV] = str(old)
    else:
        os.close(old)


def _selinux(pod: Pod) -> tuple[str, str]:
    """Give the SELinux contexts of the pod's processes and files, "" where there are none."""
    if not os.path.exists(const.SELINUX_ENFORCE):
        return "", ""
    from rkt.stage0 import selinux

    return selinux.assign(pod)


def _become(
    pod: Pod, stage1: Stage1, request: RunRequest, users: Range | None, contexts: tuple[str, str]
) -> NoReturn:
    """Execute stage1's run program."""
    _record_boot()
    nameservice.write(request.dns)
    token = registration.register(pod, request)
    argv = arguments(stage1, request, pod.uuid, token, users)
    os.set_inheritable(pod.fd, True)
    environment = dict(os.environ)
    environment[const.LOCK_FD_ENV] = str(pod.fd)
    environment.pop(const.READY_FD_ENV, None)
    if request.ready_fd >= 0:
        os.set_inheritable(request.ready_fd, True)
        environment[const.READY_FD_ENV] = str(request.ready_fd)
    environment[const.SELINUX_CONTEXT_ENV], environment[const.SELINUX_MOUNT_CONTEXT_ENV] = contexts
    listening.hand_on(request.sockets, environment)
    sys.stdout.flush()
    shown = ["--mds-token=****" if word.startswith("--mds-token=") else word for word in argv]
    log.debug(f"starting stage1: {' '.join(shown)}")
    try:
        sig.end_by_default()
        os.execve(argv[0], argv, environment)
    except OSError as err:
        raise KernelError("cannot execute the run program of stage1", err, argv[0]) from err


def _private_users(pod: Pod) -> Range | None:
    if not pod.exists("private-users-prepared"):
        return None
    from rkt.stage0 import privateusers

    return privateusers.read(pod)


def _record_boot() -> None:
    """Note which boot of the host the pod belongs to: a later one tells why it ended."""
    with open("/proc/sys/kernel/random/boot_id", "rb") as file:
        atomic.write_file(const.BOOT_ID, file.read(), durable=False)


def arguments(
    stage1: Stage1, request: RunRequest, uuid: str, token: str = "", users: Range | None = None
) -> list[str]:
    """Give the argv of the run entrypoint in the order of the contract."""
    inside = stage1.manifest.annotation(const.STAGE1_PREFIX + "run") or ""
    program = f"{stage1.pod.path}/stage1/rootfs" + os.path.normpath("/" + inside.lstrip("/"))
    if not os.path.isfile(program):
        raise RktError(f'stage1 image "{stage1.manifest.name}": entrypoint "run" not found')
    argv = [program]
    if request.debug:
        argv.append("--debug")
    argv.append(f"--net={request.net}")
    if request.interactive:
        argv.append("--interactive")
    if users is not None:
        argv.append(f"--private-users={users}")
    if token:
        argv.append(f"--mds-token={token}")
    if request.local_config:
        argv.append(f"--local-config={request.local_config}")
    if request.hostname:
        if stage1.interface >= 2:
            argv.append(f"--hostname={request.hostname}")
        else:
            log.warning("--hostname option is not supported by stage1")
    if stage1.interface >= 4:
        argv.append(f"--dns-conf-mode=resolv={request.dns.resolv},hosts={request.dns.hosts}")
    elif (request.dns.resolv, request.dns.hosts) != ("default", "default"):
        log.warning("--dns-conf-mode option not supported by stage1")
    if stage1.interface >= 3:
        if request.disable_capabilities:
            argv.append("--disable-capabilities-restriction")
        if request.disable_paths:
            argv.append("--disable-paths")
        if request.disable_seccomp:
            argv.append("--disable-seccomp")
    if request.mutable:
        argv.append("--mutable")
    if request.ipc:
        if stage1.interface >= 6:
            argv.append(f"--ipc={request.ipc}")
        else:
            log.warning("--ipc option is not supported by stage1")
    argv.append(uuid)
    return argv


def _mount_roots(pod: Pod, users: Range | None, context: str) -> None:
    stage1_tree = _tree_of(pod, "stage1TreeStoreID")
    _mount(stage1_tree, "", "stage1/rootfs", context)
    _mount_places(context)
    for app in sorted(os.listdir("appsinfo")):
        tree = _tree_of(pod, f"appsinfo/{app}/treeStoreID")
        target = f"{const.STAGE2_DIR}/{app}/rootfs"
        os.makedirs(target)
        if users is None:
            _mount(tree, f"/{app}", target, context)
        else:
            _mount_shifted(tree, app, target, users, context)


def _mount_places(context: str) -> None:
    """Have a place for the roots of apps that is gone with their mounts."""
    os.makedirs(const.STAGE2_DIR, exist_ok=True)
    options = "mode=700,size=1m" + (f',context="{context}"' if context else "")
    flags = libc.MS_NOSUID | libc.MS_NODEV | libc.MS_NOEXEC
    try:
        libc.mount("stage2", const.STAGE2_DIR, "tmpfs", flags, options)
    except OSError as err:
        raise KernelError("cannot mount a tmpfs", err, const.STAGE2_DIR) from err


def _tree_of(pod: Pod, name: str) -> str:
    tree = pod.read_text(name)
    if not tree or "/" in tree:
        raise RktError(f'pod "{pod.uuid}": file "{name}" is missing or damaged')
    return tree


def _mount(tree: str, app: str, target: str, context: str) -> None:
    lower = f"../../../cas/tree/{tree}/rootfs"
    upper, work = f"overlay/{tree}/upper{app}", f"overlay/{tree}/work{app}"
    if not os.path.isdir(lower):
        raise RktError(f'tree "{tree}" is not in the store',
                       hint="fetch the image again, then prepare the pod again")  # fmt: skip
    _share(lower, context)
    mounts.mount_overlay(lower, upper, work, target, label=context)


def _share(tree: str, context: str) -> None:
    if context:
        from rkt.linux import selinux

        selinux.share(tree)


def _mount_shifted(tree: str, app: str, target: str, users: Range, context: str) -> None:
    """Mount the root of an app so that its files belong to the pod's users."""
    from rkt.linux import libc, userns

    lower = f"overlay/{tree}/lower"
    try:
        os.mkdir(lower, 0o700)
    except FileExistsError:
        pass
    _share(f"../../../cas/tree/{tree}/rootfs", context)
    space = userns.namespace(users)
    try:
        userns.bind(f"../../../cas/tree/{tree}/rootfs", lower, space)
        upper, work = f"overlay/{tree}/upper/{app}", f"overlay/{tree}/work/{app}"
        mounts.mount_overlay(lower, upper, work, target, label=context)
        libc.umount(lower, libc.MNT_DETACH)
    except OSError as err:
        raise KernelError("cannot shift the owners of a mount", err, target) from err
    finally:
        os.close(space)
