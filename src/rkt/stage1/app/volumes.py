"""Which mounts an app gets (rkt-internals 6)."""

from __future__ import annotations

import os
import stat

from rkt import log
from rkt.const import SELINUX_MOUNT_CONTEXT_ENV
from rkt.errors import CommandError, KernelError, NotFound, RktError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rkt.linux.userns import Range
    from rkt.stage1.app.manifest import App, MountPoint, Pod, Volume
    from rkt.stage1.app.rootfs import Root

# What of /proc may be covered: by lxcfs and the like.
_PROC_FILES = frozenset(
    f"/proc/{name}"
    for name in (
        "cpuinfo",
        "diskstats",
        "loadavg",
        "meminfo",
        "slabinfo",
        "stat",
        "swaps",
        "uptime",
    )
)
# What runtimes put into every app; in a user namespace they bind the host's over all else.
_DEVICES = frozenset(
    f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom", "tty")
)
_FIXED = ("/dev/pts/", "/dev/mqueue/")  # file systems of the kernel: nothing can be made there


class Bind:
    """A directory or a file to bind into an app."""

    __slots__ = ("asked", "device", "own", "read_only", "recursive", "source", "target")

    def __init__(
        self, source: str, target: str, *, read_only: bool, recursive: bool = True
    ) -> None:
        self.source = source
        self.target = target
        self.asked = target  # before links were resolved
        self.own = False  # the source is the pod's own directory
        self.read_only = read_only
        self.recursive = recursive
        self.device: tuple[str, int, int] | None = None


class Fill:
    """A copy of an image's directory into a new volume; `fd` is that directory.

    The volume is one that no app has seen yet: `cp` writes through links that it finds there.
    """

    __slots__ = ("argv", "destination", "fd")

    def __init__(self, fd: int, destination: str) -> None:
        self.fd = fd
        self.destination = destination
        # The fd is the directory itself: no path of the image is resolved outside of its root.
        self.argv = ["cp", "-a", "--reflink=auto", f"/proc/self/fd/{fd}/.", destination]

    def run(self) -> None:
        """Copy, and close the directory.  Raises CommandError."""
        from rkt.linux import proc

        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        try:
            program = proc.find_program(self.argv[0]) or self.argv[0]
            pid = proc.spawn_tied([program, *self.argv[1:]], env=proc.BASE_ENV,
                                  stdio=(null, null, 2), keep=self.fd)  # fmt: skip
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        finally:
            os.close(null)
            self.close()
        if status != 0:
            raise CommandError(
                f'cannot fill the volume "{self.destination}": cp {proc.ending(status)}',
                status=status,
            )

    def close(self) -> None:
        """Let go of the image's directory."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def discard(self) -> None:
        """Take the volume away again, so that whoever needs it next finds none half filled."""
        from rkt.linux import tree

        self.close()
        try:
            tree.remove(self.destination)
        except OSError as err:
            log.warning(f'cannot remove the volume "{self.destination}": {err.strerror}')


def clean(path: str) -> str:
    """Give the normal absolute form of a path in an app."""
    return os.path.normpath("/" + path.strip("/"))


def resolve(
    app: App, pod: Pod, pod_dir: str, root: Root, fills: list[Fill] | None = None
) -> list[Bind]:
    """Match mounts and mount points with volumes; make empty volumes.

    What is to be copied into such a volume is copied at once, or with `fills` noted there.

    Gives the binds with parents before children.  Raises NotFound for a volume or a source that
    does not exist.
    """
    points = {point.name: point for point in app.mount_points}
    binds: dict[str, Bind] = {}
    for mount in app.mounts:
        volume = mount.volume or pod.volumes.get(mount.volume_name)
        if volume is None:
            raise NotFound(f'could not find volume "{mount.volume_name}"')
        target = clean(mount.path)
        if target not in binds:
            binds[target] = _bind(volume, target, points.get(volume.name), pod_dir, root.users)
    for point in app.mount_points:
        target = clean(point.path)
        if target in binds:
            continue
        volume = pod.volumes.get(point.name)
        if volume is not None:
            binds[target] = _bind(volume, target, point, pod_dir, root.users)
        else:
            binds[target] = _implicit(app, point, target, pod_dir, root, fills)
    return sorted(binds.values(), key=lambda bind: bind.target.rstrip("/").count("/"))


def place(binds: list[Bind], root: Root) -> list[Bind]:
    """Make the targets of all binds and resolve the links on the way, parents first.

    Raises RktError for targets where nothing may be mounted, or two of them in one place.
    """
    placed: dict[str, Bind] = {}
    for bind in binds:
        wanted = bind.target
        try:
            bind.target = root.make_target(wanted, directory=os.path.isdir(bind.source))
        except OSError as err:
            raise KernelError(f'cannot make the target "{wanted}"', err, root.path) from err
        refuse(bind.target, wanted)
        _refuse_over_devices(bind, private=root.users is not None)
        if bind.target in placed:
            raise RktError(f'two mounts at one place: "{placed[bind.target].asked}" and "{wanted}"')
        placed[bind.target] = bind
    for target, bind in placed.items():
        _inside_of_host(target, bind, placed)
    return sorted(binds, key=lambda bind: bind.target.count("/"))


def refuse(target: str, wanted: str) -> None:
    """Raise RktError for a target, without links, where nothing may be mounted."""
    if target == "/":
        raise RktError(f'cannot mount at "{wanted}": it is the root of the app')
    if (target == "/proc" or target.startswith("/proc/")) and target not in _PROC_FILES:
        raise RktError(f'cannot mount at "{wanted}": /proc belongs to the pod')


def _refuse_over_devices(bind: Bind, *, private: bool) -> None:
    """Refuse a mount that takes from an app, or from the runtime, what neither can do without."""
    if bind.target == "/dev" and not _has_null(bind.source):
        raise RktError(f'cannot mount at "{bind.asked}": the volume has no device "null"')
    if bind.target == "/dev/ptmx" or (bind.target in _DEVICES and (bind.device is None or private)):
        raise RktError(f'cannot mount at "{bind.asked}": the device belongs to the pod')
    if bind.target in _PROC_FILES and os.path.isdir(bind.source):
        raise RktError(f'cannot mount a directory at "{bind.asked}": it is a file')


def _has_null(source: str) -> bool:
    from rkt.stage1.app.rootfs import Root

    volume = Root(source, follow=True)
    try:
        info = volume.stat("null")
    finally:
        volume.close()
    return info is not None and stat.S_ISCHR(info.st_mode)


def _refuse_inside_of_kernel(bind: Bind) -> None:
    """Refuse a mount for which a directory would have to be made where the kernel makes none."""
    if bind.target.startswith(_FIXED):
        top = "/".join(bind.target.split("/")[:3])
        raise RktError(f'cannot mount at "{bind.asked}": {top} belongs to the pod')
    if bind.target.startswith("/sys/") and not os.path.exists(bind.target):
        raise RktError(f'cannot mount at "{bind.asked}": the kernel has no such file or directory')


def _inside_of_host(target: str, bind: Bind, placed: dict[str, Bind]) -> None:
    """Refuse a mount for which a directory on the host would have to be made."""
    parent = os.path.dirname(target)
    while parent != "/" and parent not in placed:
        parent = os.path.dirname(parent)
    outer = placed.get(parent)
    if outer is None:
        _refuse_inside_of_kernel(bind)
    if outer is None or outer.own:
        return
    from rkt.stage1.app.rootfs import Root

    inner = Root(outer.source, follow=True)
    try:
        found = inner.stat(target[len(parent) :])
    finally:
        inner.close()
    if found is None:
        raise RktError(f'cannot mount at "{bind.asked}": the volume at "{outer.asked}" has no '
                       "such file or directory")  # fmt: skip
    directory = os.path.isdir(bind.source)
    if stat.S_ISDIR(found.st_mode) != directory:
        ours, theirs = ("directory", "file") if directory else ("file", "directory")
        raise RktError(f'cannot mount a {ours} at "{bind.asked}": the volume at "{outer.asked}" '
                       f"has a {theirs} there")  # fmt: skip


def _bind(
    volume: Volume, target: str, point: MountPoint | None, pod_dir: str, users: Range | None
) -> Bind:
    read_only = volume.read_only
    if read_only is None:
        read_only = point.read_only if point else False
    if volume.kind == "empty":
        uid, gid = volume.uid, volume.gid
        if users is not None:
            uid, gid = users.outside(uid, "user"), users.outside(gid, "group")
        source, _ = _empty(pod_dir, volume.name, volume.mode, uid, gid)
        empty = Bind(source, target, read_only=read_only)
        empty.own = True
        return empty
    bind = Bind(volume.source, target, read_only=read_only, recursive=volume.recursive is not False)
    try:
        info = os.stat(volume.source)
    except FileNotFoundError:
        raise NotFound(
            f'volume "{volume.name}": source "{volume.source}": no such file or directory'
        ) from None
    except OSError as err:
        raise KernelError(f'volume "{volume.name}": cannot use source', err, volume.source) from err
    if not stat.S_ISDIR(info.st_mode):
        bind.recursive = False  # crun 1.8 opens the target of a recursive one as a directory
    kind = "c" if stat.S_ISCHR(info.st_mode) else "b" if stat.S_ISBLK(info.st_mode) else ""
    if kind:
        bind.device = (kind, os.major(info.st_rdev), os.minor(info.st_rdev))
    return bind


def _empty(pod_dir: str, name: str, mode: int, uid: int, gid: int) -> tuple[str, bool]:
    """Give an empty volume of the pod, and whether it is a new one."""
    shared = f"{pod_dir}/sharedVolumes"
    path = f"{shared}/{name}"
    try:
        os.makedirs(shared, 0o700, exist_ok=True)
        os.mkdir(path, 0o700)
    except FileExistsError:
        return path, False  # another app of the pod names it too, or an earlier one did
    except OSError as err:
        raise KernelError(f'cannot make empty volume "{name}"', err, path) from err
    os.chown(path, uid, gid)
    os.chmod(path, mode)
    context = os.environ.get(SELINUX_MOUNT_CONTEXT_ENV)
    if context:
        from rkt.linux import selinux

        selinux.set_context(path, context)
    return path, True


def _implicit(
    app: App, point: MountPoint, target: str, pod_dir: str, root: Root, fills: list[Fill] | None
) -> Bind:
    log.warning(
        f'no volume specified for mount point "{point.name}", implicitly creating an "empty"'
        " volume. This volume will be removed when the pod is garbage-collected."
    )
    owner = root.users.shift if root.users is not None else 0
    source, is_new = _empty(pod_dir, f"{app.name}-{point.name}", 0o755, owner, owner)
    if app.is_converted and is_new:  # else it is as an app left it, with links to anywhere
        fill = _fill(root, target, source, point.name)
        if fill is not None and fills is not None:
            fills.append(fill)
        elif fill is not None:
            fill.run()
    bind = Bind(source, target, read_only=point.read_only)
    bind.own = True
    return bind


def _fill(root: Root, target: str, destination: str, name: str) -> Fill | None:
    """Prepare to fill a new volume with what the image has at its path, if it has anything."""
    info = root.stat(target)
    if info is None or not stat.S_ISDIR(info.st_mode):
        return None
    log.info(
        "Docker converted image, initializing implicit volume with data contained at the mount"
        f' point "{name}".'
    )
    return Fill(root.open(target, os.O_RDONLY | os.O_DIRECTORY), destination)
