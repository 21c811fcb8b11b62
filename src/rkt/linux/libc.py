"""The C library's system calls that Python's `os` lacks, and libseccomp's names of them all.

The only user of ctypes.  Every function raises OSError with errno and the path it was about.
"""

from __future__ import annotations

import ctypes
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import NoReturn

_libc = ctypes.CDLL(None, use_errno=True)
_c = ctypes

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_MOVE = 0x2000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
MS_SLAVE = 0x80000
MS_SHARED = 0x100000

MNT_DETACH = 0x2
UMOUNT_NOFOLLOW = 0x8

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

PR_SET_PDEATHSIG = 1
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_SET_NAME = 15

RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

_AT_FDCWD = -100
IN_MODIFY = 0x2
IN_CLOSE_WRITE = 0x8
IN_CLOSE_NOWRITE = 0x10
IN_MOVED_TO = 0x80
IN_CREATE = 0x100
IN_DELETE = 0x200
IN_DELETE_SELF = 0x400
IN_MOVE_SELF = 0x800
IN_Q_OVERFLOW = 0x4000
IN_IGNORED = 0x8000
IN_ONLYDIR = 0x01000000
_IN_CLOEXEC = os.O_CLOEXEC

# The same numbers on every architecture.
_SYS_OPEN_TREE = 428
_SYS_MOVE_MOUNT = 429
_SYS_FSOPEN = 430
_SYS_CLONE3 = 435
_SYS_OPENAT2 = 437
_SYS_MOUNT_SETATTR = 442

OPEN_TREE_CLONE = 0x1
AT_RECURSIVE = 0x8000
_MOVE_MOUNT_F_EMPTY_PATH = 0x4
_MOVE_MOUNT_T_EMPTY_PATH = 0x40
_AT_EMPTY_PATH = 0x1000
_MOUNT_ATTR_RDONLY = 0x1
_MOUNT_ATTR_NODEV = 0x4
_MOUNT_ATTR_IDMAP = 0x00100000
_CLONE_PARENT = 0x8000

_libc.mount.argtypes = (_c.c_char_p, _c.c_char_p, _c.c_char_p, _c.c_ulong, _c.c_char_p)
_libc.umount2.argtypes = (_c.c_char_p, _c.c_int)
_libc.unshare.argtypes = (_c.c_int,)
_libc.setns.argtypes = (_c.c_int, _c.c_int)
_libc.prctl.argtypes = (_c.c_int, _c.c_ulong, _c.c_ulong, _c.c_ulong, _c.c_ulong)
_libc.sethostname.argtypes = (_c.c_char_p, _c.c_size_t)
_libc.pivot_root.argtypes = (_c.c_char_p, _c.c_char_p)
_libc.inotify_add_watch.argtypes = (_c.c_int, _c.c_char_p, _c.c_uint32)
_libc.syncfs.argtypes = (_c.c_int,)
_libc.renameat2.argtypes = (_c.c_int, _c.c_char_p, _c.c_int, _c.c_char_p, _c.c_uint)
_libc.opendir.restype = _libc.readdir64.restype = _c.c_void_p
_libc.opendir.argtypes = (_c.c_char_p,)
_libc.readdir64.argtypes = _libc.closedir.argtypes = (_c.c_void_p,)
_libc.setfsuid.argtypes = (_c.c_uint,)
_libc.setfsgid.argtypes = (_c.c_uint,)


def _fail(path: str = "") -> NoReturn:
    errno = _c.get_errno()
    if path:
        raise OSError(errno, os.strerror(errno), path)
    raise OSError(errno, os.strerror(errno))


def mount(source: str, target: str, fstype: str = "", flags: int = 0, data: str = "") -> None:
    """mount(2); the error names the target."""
    raw = (os.fsencode(source), os.fsencode(target), fstype.encode() or None)
    if _libc.mount(*raw, flags, os.fsencode(data) or None) != 0:
        _fail(target)


def has_filesystem(name: str) -> bool:
    """Say whether the kernel has a type of file system; it loads the module if need be."""
    fd = _libc.syscall(_c.c_long(_SYS_FSOPEN), _c.c_char_p(name.encode()), _c.c_uint(1))
    if fd < 0:
        return False
    os.close(fd)
    return True


def open_tree(path: str, flags: int) -> int:
    """open_tree(2) of a path; with OPEN_TREE_CLONE a mount that is nowhere attached yet."""
    raw, how = _c.c_char_p(os.fsencode(path)), _c.c_uint(flags | os.O_CLOEXEC)
    fd: int = _libc.syscall(_c.c_long(_SYS_OPEN_TREE), _c.c_int(_AT_FDCWD), raw, how)
    if fd < 0:
        _fail(path)
    return fd


def move_mount(fd: int, target: str) -> None:
    """move_mount(2): attach a mount from `open_tree` at a path."""
    number, empty, flags = _c.c_long(_SYS_MOVE_MOUNT), _c.c_char_p(b""), _MOVE_MOUNT_F_EMPTY_PATH
    where = _c.c_char_p(os.fsencode(target))
    if _libc.syscall(number, _c.c_int(fd), empty, _c.c_int(_AT_FDCWD), where, _c.c_uint(flags)):
        _fail(target)


class _MountAttr(_c.Structure):
    _fields_ = (
        ("attr_set", _c.c_uint64),
        ("attr_clr", _c.c_uint64),
        ("propagation", _c.c_uint64),
        ("userns_fd", _c.c_uint64),
    )


def idmap_mount(fd: int, userns_fd: int) -> None:
    """mount_setattr(2): show the files of a detached mount with owners of a user namespace."""
    attr = _MountAttr(_MOUNT_ATTR_IDMAP, 0, 0, userns_fd)
    number, empty, size = _c.c_long(_SYS_MOUNT_SETATTR), _c.c_char_p(b""), _c.c_size_t(32)
    flags = _c.c_uint(_AT_EMPTY_PATH)
    if _libc.syscall(number, _c.c_int(fd), empty, flags, _c.byref(attr), size) != 0:
        _fail()


def read_only_mount(fd: int, *, recursive: bool) -> None:
    """mount_setattr(2): make a mount, and with `recursive` those below it, read-only."""
    attr = _MountAttr(_MOUNT_ATTR_RDONLY, 0, 0, 0)
    number, empty, size = _c.c_long(_SYS_MOUNT_SETATTR), _c.c_char_p(b""), _c.c_size_t(32)
    flags = _c.c_uint(_AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0))
    if _libc.syscall(number, _c.c_int(fd), empty, flags, _c.byref(attr), size) != 0:
        _fail()


def no_devices_mount(fd: int, *, recursive: bool) -> None:
    """mount_setattr(2): make a mount, and with `recursive` those below it, nodev."""
    attr = _MountAttr(_MOUNT_ATTR_NODEV, 0, 0, 0)
    number, empty, size = _c.c_long(_SYS_MOUNT_SETATTR), _c.c_char_p(b""), _c.c_size_t(32)
    flags = _c.c_uint(_AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0))
    if _libc.syscall(number, _c.c_int(fd), empty, flags, _c.byref(attr), size) != 0:
        _fail()


def attach_mount(fd: int, target_fd: int) -> None:
    """move_mount(2): attach a mount from `open_tree` at an open file or directory."""
    number, empty = _c.c_long(_SYS_MOVE_MOUNT), _c.c_char_p(b"")
    flags = _c.c_uint(_MOVE_MOUNT_F_EMPTY_PATH | _MOVE_MOUNT_T_EMPTY_PATH)
    if _libc.syscall(number, _c.c_int(fd), empty, _c.c_int(target_fd), empty, flags) != 0:
        _fail()


class _CloneArgs(_c.Structure):
    _fields_ = tuple(
        (name, _c.c_uint64)
        for name in (
            "flags", "pidfd", "child_tid", "parent_tid", "exit_signal", "stack", "stack_size",
            "tls",
        )
    )  # fmt: skip


def fork_sibling() -> int:
    """clone3(2) with CLONE_PARENT: as fork, but the child is one of this process's parent.

    Only in a single-threaded process, and for a child that soon execs: Python is not told.
    """
    args = _CloneArgs(flags=_CLONE_PARENT)
    size = _c.c_size_t(_c.sizeof(args))
    pid: int = _libc.syscall(_c.c_long(_SYS_CLONE3), _c.byref(args), size)
    if pid < 0:
        _fail()
    return pid


def umount(target: str, flags: int = 0) -> None:
    """umount2(2)."""
    if _libc.umount2(os.fsencode(target), flags) != 0:
        _fail(target)


def unshare(flags: int) -> None:
    """unshare(2); only in a single-threaded process."""
    if _libc.unshare(flags) != 0:
        _fail()


def setns(fd: int, kind: int) -> None:
    """setns(2) with a namespace fd, or a pidfd and a set of kinds."""
    if _libc.setns(fd, kind) != 0:
        _fail()


def inotify_init() -> int:
    """inotify_init1(2); gives a close-on-exec fd."""
    fd: int = _libc.inotify_init1(_IN_CLOEXEC)
    if fd < 0:
        _fail()
    return fd


def inotify_add_watch(fd: int, path: str, events: int) -> int:
    """inotify_add_watch(2); gives the number that the events will have."""
    watch: int = _libc.inotify_add_watch(fd, os.fsencode(path), events)
    if watch < 0:
        _fail(path)
    return watch


def inotify_rm_watch(fd: int, watch: int) -> None:
    """inotify_rm_watch(2)."""
    if _libc.inotify_rm_watch(fd, watch) < 0:
        _fail()


def prctl(option: int, arg: int = 0) -> int:
    """prctl(2) with one argument."""
    result: int = _libc.prctl(option, arg, 0, 0, 0)
    if result < 0:
        _fail()
    return result


def sethostname(name: str) -> None:
    """sethostname(2)."""
    raw = name.encode()
    if _libc.sethostname(raw, len(raw)) != 0:
        _fail()


def pivot_root(new_root: str, put_old: str) -> None:
    """pivot_root(2)."""
    if _libc.pivot_root(os.fsencode(new_root), os.fsencode(put_old)) != 0:
        _fail(new_root)


def syncfs(fd: int) -> None:
    """syncfs(2): write everything of the file system of fd to disk."""
    if _libc.syncfs(fd) != 0:
        _fail()


def exchange(one: str, other: str) -> None:
    """renameat2(2) with RENAME_EXCHANGE: swap two names at once."""
    if _libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), 2) != 0:
        _fail(one)


class FsIds:
    """Use the file systems as another user: setfsuid(2), for this thread and only inside `with`.

    Of root's capabilities those over files are off meanwhile.
    """

    __slots__ = ("_gid", "_old", "_uid")

    def __init__(self, uid: int, gid: int) -> None:
        self._uid = uid
        self._gid = gid

    def __enter__(self) -> None:
        old_gid: int = _libc.setfsgid(self._gid)
        old_uid: int = _libc.setfsuid(self._uid)
        self._old = old_uid, old_gid
        # These calls report nothing; an impossible ID changes nothing and gives the present one.
        if (_libc.setfsuid(0xFFFFFFFF), _libc.setfsgid(0xFFFFFFFF)) != (self._uid, self._gid):
            self._restore()
            raise OSError(1, os.strerror(1), "setfsuid")

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, at: TracebackType | None
    ) -> None:
        self._restore()

    def _restore(self) -> None:
        uid, gid = self._old
        _libc.setfsuid(uid)
        _libc.setfsgid(gid)


class _OpenHow(_c.Structure):
    _fields_ = (("flags", _c.c_uint64), ("mode", _c.c_uint64), ("resolve", _c.c_uint64))


def openat2(dir_fd: int, path: str, flags: int, *, resolve: int, mode: int = 0) -> int:
    """openat2(2): open a path with limits on how it may be resolved; gives a close-on-exec fd."""
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    size = _c.c_size_t(_c.sizeof(how))
    raw = _c.c_char_p(os.fsencode(path))
    while True:
        fd: int = _libc.syscall(_c.c_long(_SYS_OPENAT2), _c.c_int(dir_fd), raw, _c.byref(how), size)
        if fd >= 0:
            return fd
        if _c.get_errno() not in (4, 11):  # EINTR; EAGAIN: a rename raced with the resolution
            _fail(path)


class _CapHeader(_c.Structure):
    _fields_ = (("version", _c.c_uint32), ("pid", _c.c_int))


def drop_all_capabilities() -> None:
    """Empty the bounding, permitted, effective and inheritable sets and forbid regaining them."""
    drop_bounding_capabilities()
    clear_capabilities()


def drop_bounding_capabilities() -> None:
    """Empty the bounding set; needs CAP_SETPCAP."""
    for cap in range(64):
        if _libc.prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) != 0:
            if cap and _c.get_errno() == 22:  # EINVAL: this kernel knows no more
                return
            _fail()


def limit_bounding_capabilities(keep: set[int]) -> None:
    """Empty the bounding set but for those numbers; needs CAP_SETPCAP if it drops any."""
    for cap in range(64):
        if cap not in keep and _libc.prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) != 0:
            if cap and _c.get_errno() == 22:  # EINVAL: this kernel knows no more
                return
            _fail()


def clear_capabilities() -> None:
    """Empty the permitted, effective and inheritable sets and forbid regaining them."""
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    header = _CapHeader(0x20080522, 0)
    if _libc.capset(_c.byref(header), _c.byref((_c.c_uint32 * 6)())) != 0:
        _fail()


def has_entry_types(path: str) -> bool:
    """Say whether reading a directory tells what its entries are (d_type); an empty one does."""
    stream = _libc.opendir(os.fsencode(path))
    if not stream:
        _fail(path)
    try:
        while entry := _libc.readdir64(stream):
            # struct dirent64: two 64 bit numbers, a 16 bit length, the type, the name.
            if _c.string_at(entry + 19) not in (b".", b".."):  # of these XFS always knows
                return _c.string_at(entry + 18, 1) != b"\0"  # "unknown"
        return True
    finally:
        _libc.closedir(stream)


def unknown_syscalls(names: list[str]) -> list[str]:
    """Give those that are no system call of any architecture; none if libseccomp cannot say."""
    try:
        resolve = ctypes.CDLL("libseccomp.so.2").seccomp_syscall_resolve_name
    except (OSError, AttributeError):
        return []
    # -1 is an unknown name, other negative numbers are calls of other architectures.
    return [name for name in names if resolve(_c.c_char_p(os.fsencode(name))) == -1]
