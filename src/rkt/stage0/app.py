"""Apps of a mutable pod: added, started, stopped and removed while it runs (rkt-cli section 11).

The pod's own stage1 does the work.  What stage0 keeps of an app (manifest, trees, the entry in the
pod manifest) changes under the lock file `pod.lck`, and in such an order that a killed command
leaves an app that can be removed, or files that the next app of that name replaces.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager

from rkt import const, log
from rkt.errors import (
    CommandError,
    KernelError,
    LockedError,
    NotFound,
    PodStateError,
    RktError,
    SchemaError,
)
from rkt.linux import atomic, lock, proc, sig, tree
from rkt.pod import mutable, report, view
from rkt.schema.struct import replace
from rkt.stage0 import registration
from rkt.stage0.entrypoint import Stage1

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import NoReturn

    from rkt.fetch.finder import Finder
    from rkt.image.render import Tree
    from rkt.pod.lifecycle import Pod
    from rkt.schema.pod import Mount, PodManifest, RuntimeApp
    from rkt.stage0.request import AppRequest
    from rkt.store.images import Store
    from rkt.store.records import ImageRecord

_LOCK = "pod.lck"
_NOT_RUNNING = "is not running"


def check_accepts(pod: Pod) -> None:
    """Raise PodStateError unless the pod runs, is mutable and its supervisor listens."""
    if pod.state() != "running":
        raise PodStateError(f'pod "{pod.uuid}" isn\'t currently running')
    check_mutable(pod)
    if not mutable.is_ready(pod):
        raise PodStateError(
            f'supervisor for pod "{pod.uuid}" is not yet ready',
            hint=f"rkt status --wait-ready {pod.uuid}",
        )


def check_mutable(pod: Pod) -> None:
    """Raise PodStateError for a pod whose apps are what it was made with."""
    if not mutable.is_mutable(view.manifest(pod)):
        raise PodStateError("immutable pod", hint='only pods of "rkt app sandbox" can be changed')


def check_app(pod: Pod, name: str) -> None:
    """Raise NotFound unless the pod has an app of that name."""
    known = view.app_names(pod)
    if name not in known:
        raise NotFound(f'error: nonexistent app "{name}"',
                       hint=f"apps of the pod: {', '.join(known) or 'none'}")  # fmt: skip


def add(
    pod: Pod, request: AppRequest, store: Store, finder: Finder, *, debug: bool = False
) -> str:  # fmt: skip
    """Add an app to a running pod, not started yet; gives its name.

    After a failure nothing of it is left.
    """
    from rkt.image import render

    check_accepts(pod)
    # Keeps `image gc` and `image rm` away until the pod's files name what it uses.
    os.umask(0o022)  # the caller's is not that of the apps
    with store.guard(exclusive=False):
        record = finder.require_trusted(finder.find(request.image))
        app = _runtime_app(request, record, store)
        rendered = render.render(store, record.key)
        with _editing(pod):
            check_accepts(pod)  # it may have ended while we waited
            manifest = view.manifest(pod)
            if manifest.app(app.name) is not None:
                raise RktError(
                    f"error: multiple apps with name {app.name}",
                    hint="give it another name: --name=NAME after the image",
                )
            _discard(pod, app.name)
            try:
                _fill(pod, app.name, store.manifest_bytes(record.key), rendered)
                _save(pod, replace(manifest, apps=(*manifest.apps, app)))
                _operate(pod, "add", app.name, f"--uuid={pod.uuid}", debug=debug)
            except BaseException as err:
                _take_back(pod, app.name, manifest)
                if isinstance(err, OSError):
                    raise RktError(f'pod "{pod.uuid}": cannot add app "{app.name}"') from err
                raise
            registration.update(pod, app.name)
    return app.name


def _take_back(pod: Pod, name: str, before: PodManifest) -> None:
    """Undo an addition that failed somewhere."""
    try:
        _operate(pod, "rm", name)
    except RktError as err:  # the reason of the failure counts, not this one
        log.debug(f"cannot take the app back: {err.message}")
    _discard(pod, name)  # first: on a full disk this is what makes room
    try:
        _save(pod, before)
    except OSError as err:
        log.warning(f'app "{name}" stays in the manifest of the pod: {err.strerror}')
        log.plain(f"hint: rkt app rm --app={name} {pod.uuid}")


def start(pod: Pod, name: str, *, debug: bool = False) -> None:
    """Start an app that was added, or again one that ended."""
    check_accepts(pod)
    check_app(pod, name)
    _operate(pod, "start", name, debug=debug)


def stop(pod: Pod, name: str, *, debug: bool = False) -> None:
    """Stop an app and wait for its end.  Raises RktError if it does not run."""
    check_accepts(pod)
    check_app(pod, name)
    if _state_of(pod, name) != report.RUNNING:
        raise PodStateError(f'app "{name}" {_NOT_RUNNING}')
    _operate(pod, "stop", name, debug=debug)


def remove(pod: Pod, name: str, *, debug: bool = False) -> None:
    """Take an app out of a pod with all its files, after stopping it."""
    running = pod.state() == "running"
    check_mutable(pod)
    if running and not mutable.is_ready(pod):
        raise PodStateError(f'pod "{pod.uuid}" is running but its supervisor is not ready yet')
    check_app(pod, name)
    if running and _state_of(pod, name) == report.RUNNING:
        try:  # before the lock is taken: it may take its time
            _operate(pod, "stop", name, debug=debug)
        except RktError as err:
            if _NOT_RUNNING not in err.message:
                raise
    with _editing(pod):
        check_app(pod, name)
        manifest = view.manifest(pod)
        if running and pod.state() == "running":
            _operate(pod, "rm", name, debug=debug)
        else:
            _lock_ended(pod)
        left = tuple(app for app in manifest.apps if app.name != name)
        _save(pod, replace(manifest, apps=left))
        _discard(pod, name)
        if running:
            registration.update(pod)


def _lock_ended(pod: Pod) -> None:
    """Keep others away from a pod that has ended, until it is closed."""
    try:
        pod.lock()
    except LockedError as err:
        raise PodStateError(f'pod "{pod.uuid}" is in use') from err


def _state_of(pod: Pod, name: str) -> str:
    manifest = view.manifest(pod)
    app = manifest.app(name)
    return report.app(pod, app, manifest, pod.state()).state if app else report.UNKNOWN


@contextmanager
def _editing(pod: Pod) -> Iterator[None]:
    """Hold the lock under which the apps of a pod change."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(_LOCK, flags, 0o600, dir_fd=pod.fd)
    try:
        lock.acquire(fd, what=f"{pod.path}/{_LOCK}")
        yield
    finally:
        os.close(fd)


def _runtime_app(request: AppRequest, record: ImageRecord, store: Store) -> RuntimeApp:
    from rkt.stage0 import podmanifest
    from rkt.stage0.request import PodRequest

    image = podmanifest.Image(record, store.manifest(record.key))
    if request.args and image.manifest.app is not None:
        # Here, unlike in `rkt run`, arguments replace all but the first word (rkt-cli 5.2).
        section = replace(image.manifest.app, exec=image.manifest.app.exec[:1])
        image.manifest = replace(image.manifest, app=section)
    app = podmanifest.build(PodRequest([request]), [image]).apps[0]
    own = [_mount_volume(text) for text in request.flags.get("mnt-volume", ())]
    if len({mount.volume for mount in own}) < len(own):
        raise RktError("--mnt-volume names a volume twice")
    return replace(app, mounts=(*own, *app.mounts))


def _mount_volume(text: str) -> Mount:
    """Read a volume with its target: `NAME,kind=host,source=/a,target=/b`."""
    from rkt.schema.pod import Mount
    from rkt.schema.textual import parse_volume

    words = text.removeprefix("name=").split(",")
    targets = [word.partition("=")[2] for word in words if word.startswith("target=")]
    rest = ",".join(word for word in words if not word.startswith("target="))
    try:
        if len(targets) != 1 or not targets[0]:
            raise RktError("missing target= parameter")
        volume = parse_volume(rest)
        return Mount(volume=volume.name, path=targets[0], app_volume=volume)
    except (SchemaError, RktError, ValueError) as err:
        raise RktError(f'invalid value in --mnt-volume flag "{text}"') from err


def _fill(pod: Pod, name: str, manifest: bytes, rendered: Tree) -> None:
    """Write what the supervisor needs to bring the app up."""
    base = pod.path
    info = f"{base}/appsinfo/{name}"
    os.mkdir(info, 0o755)
    atomic.write_file(f"{info}/manifest", manifest, durable=False)
    if not pod.exists("overlay-prepared"):
        from rkt.image import render

        rootfs = f"{base}/{const.STAGE2_DIR}/{name}/rootfs"
        os.makedirs(rootfs, 0o755)
        render.copy_tree(rendered.rootfs, rootfs)
        return
    upper, work = (f"{base}/overlay/{rendered.id}/{kind}/{name}" for kind in ("upper", "work"))
    os.makedirs(f"{base}/overlay/{rendered.id}", 0o700, exist_ok=True)  # closed to the group
    os.makedirs(upper, 0o755)
    os.makedirs(work, 0o755)
    top = os.stat(rendered.rootfs)
    os.chown(upper, top.st_uid, top.st_gid)
    os.chmod(upper, top.st_mode & 0o7777)
    atomic.write_file(f"{info}/treeStoreID", f"{rendered.id}\n".encode(), durable=False)


def _discard(pod: Pod, name: str) -> None:
    """Delete what there is of an app on disk; nothing is success."""
    stage1 = pod.read_text("stage1TreeStoreID")
    found = [("appsinfo", name), (const.LOG_DIR, name)]
    if pod.exists("overlay-prepared"):
        for tree_id in os.listdir(f"{pod.path}/overlay"):
            if tree_id != stage1:  # whose upper directory has no apps but stage1's own files
                found += [(f"overlay/{tree_id}/{kind}", name) for kind in ("upper", "work")]
    else:
        found.append((const.STAGE2_DIR, name))
    for parent, entry in found:
        try:
            fd = lock.open_dir(parent, dir_fd=pod.fd)
        except FileNotFoundError:
            continue
        try:
            tree.remove_at(fd, entry)
        finally:
            os.close(fd)


def _save(pod: Pod, manifest: PodManifest) -> None:
    from rkt.schema import codec

    atomic.write_file(f"{pod.path}/pod", codec.encode(manifest), mode=0o640)


def _operate(pod: Pod, name: str, app: str, *extra: str, debug: bool = False) -> None:
    """Run one of stage1's app programs; its last words become the error."""
    argv = [Stage1(pod).program(f"app/{name}"), *(["--debug"] if debug else [])]
    env = {**proc.BASE_ENV, **entry_environment(pod, app)}
    try:
        done = proc.run([*argv, f"--app={app}", *extra], cwd=pod.path, env=env)
    except CommandError as err:
        text, hint = _last_words(err.stderr)
        raise RktError(text or err.message, hint=hint) from None
    if done.stderr:
        log.plain(done.stderr.decode("utf-8", "replace").rstrip())


def _last_words(stderr: str) -> tuple[str, str | None]:
    lines = stderr.splitlines()
    hint = None
    if lines and lines[-1].startswith("hint: "):
        hint = lines.pop()[len("hint: ") :]
    return (lines[-1].removeprefix("rkt: "), hint) if lines else ("", hint)


def entry_environment(pod: Pod, app: str) -> dict[str, str]:
    """Give what tells a stage1 program how to get into the pod (rkt-internals 2.2)."""
    pid = pod.pid()
    enter = Stage1(pod).manifest.annotation(f"{const.STAGE1_PREFIX}enter") or ""
    return {
        "RKT_STAGE1_ENTERCMD": f"stage1/rootfs{os.path.normpath('/' + enter)}" if enter else "",
        "RKT_STAGE1_ENTERPID": "" if pid is None else str(pid),
        "RKT_STAGE1_ENTERAPP": app,
    }


def attach(pod: Pod, app: str, action: str, flags: Sequence[str], *, debug: bool) -> NoReturn:
    """Replace this process by stage1's attach program."""
    check_app(pod, app)
    program = Stage1(pod).program("attach")
    argv = [program, *(["--debug"] if debug else []), f"--action={action}", f"--app={app}", *flags]
    environment = {**os.environ, **entry_environment(pod, app)}
    os.chdir(pod.path)
    sys.stdout.flush()
    try:
        sig.end_by_default()
        os.execve(program, argv, environment)
    except OSError as err:
        raise KernelError("cannot execute the attach program of stage1", err, program) from err
