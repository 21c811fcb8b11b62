"""What the control socket asks for: apps come and go in a running pod, clients attach.

An app is added (its root mounted, all about it resolved), started, stopped and started again, and
removed.  Only mutable pods take such requests; those about streams any pod with attachable apps.
"""

from __future__ import annotations

import os

from rkt import log
from rkt.const import SELINUX_MOUNT_CONTEXT_ENV
from rkt.errors import (
    KernelError,
    NotFound,
    PodStateError,
    RktError,
    SchemaError,
    describe,
)
from rkt.linux import libc, proc
from rkt.stage1.app import files, manifest
from rkt.stage1.host import cgroup
from rkt.stage1.streams import control
from rkt.stage1.supervision.children import kill

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from rkt.stage1.app.manifest import App
    from rkt.stage1.app.manifest import Pod as PodManifest
    from rkt.stage1.app.spec import AppPlan
    from rkt.stage1.app.volumes import Fill
    from rkt.stage1.streams.control import Message, Reply
    from rkt.stage1.supervision import iomux
    from rkt.stage1.supervision.apprun import AppRun
    from rkt.stage1.supervision.supervisor import Supervisor

    class Pod(Protocol):
        """What is asked of the pod."""

        dir: str
        rootfs: str
        manifest: PodManifest
        layout: cgroup.Layout | None

        def plan_late(self, app: App, fills: list[Fill]) -> AppPlan: ...
        def app_run(self, plan: AppPlan, io: iomux.Streams | None) -> AppRun: ...
        def streams(self, app: App) -> iomux.Streams | None: ...


_SWEEP_PAUSE = 0.02
_SWEEPS = 250
_LAST_BYTES = 1.0
_MAX_SIZE = 0xFFFF
_STOPPED = "it was stopped by rkt app stop"
_REMOVED = "it was removed by rkt app rm"


class Entry:
    """An app as the control socket knows it."""

    __slots__ = ("io", "over", "plan", "round", "run", "started", "sweeps", "swept", "waiting")

    def __init__(self, plan: AppPlan, io: iomux.Streams | None) -> None:
        self.plan = plan
        self.io = io
        self.run: AppRun | None = None
        self.round = 0  # how often it was started
        self.started = False  # the marker of this round is there
        self.over = False  # the end of this round was handled
        self.swept = False  # nothing of this round runs any more
        self.sweeps = 0
        self.waiting: list[tuple[str, Reply]] = []

    @property
    def alive(self) -> bool:
        """Whether the app runs, starts or ends."""
        return self.run is not None and not self.run.ended

    @property
    def ending(self) -> bool:
        """Whether the app was asked to end, or did, and something of it is still there."""
        if self.run is None:
            return False
        asked = any(what != "start" for what, _ in self.waiting)
        return asked or not (self.alive or self.swept)

    @property
    def state(self) -> str:
        """What the app does, in a word."""
        if self.run is None:
            return "created"
        return "running" if self.alive else "exited"


class Operations:
    """The apps of a pod, open to requests."""

    __slots__ = ("_entries", "_filling", "_host", "_operations", "_pod", "_removing", "_server")

    def __init__(self, pod: Pod, host: Supervisor) -> None:
        self._pod = pod
        self._host = host
        self._entries: dict[str, Entry] = {}
        self._filling: dict[str, int] = {}  # PIDs of what fills volumes, by app
        self._removing: dict[str, list[Reply]] = {}  # who wants such an app removed
        self._operations: dict[str, Callable[[str, Message, Reply], None]] = {
            "add": self._add,
            "start": self._start,
            "stop": self._stop,
            "rm": self._remove,
            "resize": self._resize,
            "streams": self._streams,
        }
        self._server = control.Server(host.loop, self._handle)
        host.on_step = self._step

    def watch(self, run: AppRun) -> None:
        """Take in an app that the pod came with."""
        entry = Entry(run.plan, run.io)
        entry.run = run
        self._entries[run.name] = entry

    def _handle(self, request: Message, reply: Reply) -> None:
        name = manifest.string(request, "app", "request")
        operation = self._operations.get(manifest.string(request, "op", "request"))
        if operation is None or not name or "/" in name or name.startswith("."):
            raise SchemaError("malformed request")
        if operation not in (self._resize, self._streams):
            if not self._host.keep:
                raise PodStateError("immutable pod")
            if self._host.stopping:
                raise PodStateError("the pod is being stopped")
        operation(name, request, reply)

    def _entry(self, name: str) -> Entry:
        entry = self._entries.get(name)
        if entry is None:
            raise NotFound(f'app "{name}" is not complete', hint="remove it: rkt app rm")
        return entry

    # Adding

    def _add(self, name: str, _request: Message, reply: Reply) -> None:
        if name in self._filling:
            raise PodStateError(f'app "{name}" is being added')
        old = self._entries.get(name)
        if old is not None and old.alive:
            raise PodStateError(f'app "{name}" exists and runs')
        self._forget(name)  # what a killed `rkt app add` or `rm` left
        pod = self._pod
        fresh = manifest.load(pod.dir, empty=True)
        app = next((app for app in fresh.apps if app.name == name), None)
        if app is None:
            raise NotFound(f'no app "{name}" in the pod')
        pod.manifest = fresh
        fills: list[Fill] = []
        try:
            self._mount(name)
            plan = pod.plan_late(app, fills)
        except (RktError, OSError):
            for fill in fills:
                fill.discard()
            self._forget(name)
            raise
        self._fill(app, plan, fills, reply)

    def _fill(self, app: App, plan: AppPlan, fills: list[Fill], reply: Reply) -> None:
        """Copy what new volumes begin with, one after the other; the pod goes on meanwhile."""
        if not fills:
            self._added(app, plan, reply)
            return
        fill = fills.pop(0)
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)

        def copied(code: int) -> None:
            del self._filling[app.name]
            removals = self._removing.pop(app.name, [])
            if code == 0 and not removals:
                self._answered(reply, lambda: self._fill(app, plan, fills, reply))
                return
            for left in (fill, *fills):
                left.discard()
            self._forget(app.name)
            why = f"cp exited with status {code}" if code > 0 else "cp was killed"
            if removals:
                why = "the app was removed meanwhile"
            text = f'app "{app.name}": cannot fill the volume "{fill.destination}": {why}'
            reply({"error": text})
            for removed in removals:
                removed({})

        try:
            program = proc.find_program(fill.argv[0]) or fill.argv[0]
            stdio = (null, null, null)
            argv = [program, *fill.argv[1:]]
            self._filling[app.name] = self._host.children.spawn_tied(argv, stdio, fill.fd, copied)
        except OSError:
            for left in (fill, *fills):
                left.discard()
            self._forget(app.name)
            raise
        finally:
            os.close(null)
            fill.close()

    def _answered(self, reply: Reply, action: Callable[[], None]) -> None:
        """Do the rest of what was asked for; what goes wrong is the answer."""
        try:
            action()
        except (RktError, OSError) as err:
            reply({"error": describe(err)})

    def _added(self, app: App, plan: AppPlan, reply: Reply) -> None:
        try:
            self._entries[app.name] = Entry(plan, self._pod.streams(app))
            self._mark(f"{app.name}-created")
        except (RktError, OSError):
            self._forget(app.name)
            raise
        reply({})

    def _root(self, name: str) -> str:
        return f"{self._pod.rootfs}/opt/stage2/{name}"

    def _mount(self, name: str) -> None:
        """Mount the app's overlay, which stage0 has prepared below the pod directory."""
        from rkt.linux import mounts

        target = f"{self._root(name)}/rootfs"
        context = os.environ.get(SELINUX_MOUNT_CONTEXT_ENV, "")
        if not os.path.exists(f"{self._pod.dir}/overlay-prepared"):
            if context:
                from rkt.linux import selinux

                selinux.set_contexts_below(target, context)
            return
        path = f"appsinfo/{name}/treeStoreID"
        try:
            with open(path, encoding="ascii", errors="replace") as file:
                tree = file.read(256).strip()
        except OSError as err:
            raise KernelError(f'app "{name}": cannot read', err, path) from err
        if not tree or not all(c.isalnum() or c == "-" for c in tree):
            raise SchemaError(f'app "{name}": file "{path}" is damaged')
        os.makedirs(target, 0o755, exist_ok=True)
        upper, work = f"overlay/{tree}/upper/{name}", f"overlay/{tree}/work/{name}"
        lower = f"../../../cas/tree/{tree}/rootfs"
        if context:
            from rkt.linux import selinux

            selinux.share(lower)
        mounts.mount_overlay(lower, upper, work, target, label=context)

    def _mark(self, name: str) -> None:
        path = f"{self._host.rkt_dir}/status/{name}"
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644))
        os.utime(path)

    # Starting and stopping

    def _start(self, name: str, _request: Message, reply: Reply) -> None:
        entry = self._entry(name)
        if entry.ending:
            raise PodStateError(f'app "{name}" is still being stopped')
        if not entry.alive:
            self._begin(entry, name)
        entry.waiting.append(("start", reply))

    def _begin(self, entry: Entry, name: str) -> None:
        for left in (name, f"{name}.reason"):
            _unlink(f"{self._host.rkt_dir}/status/{left}")
        entry.started = entry.over = entry.swept = False
        entry.round += 1
        entry.sweeps = 0
        again = entry.run is not None
        try:
            if entry.run is None:
                entry.run = self._pod.app_run(entry.plan, entry.io)
                self._host.start(entry.run, -1, prefixed=True)
            else:
                self._host.revive(entry.run)
        except OSError as err:
            if again and entry.run is not None:
                entry.run.steps = []
            elif entry.run is not None:  # not even prepared: the next start begins anew
                self._host.forget(entry.run)
                entry.run = None
            raise KernelError(f'cannot start app "{name}"', err) from err

    def _stop(self, name: str, _request: Message, reply: Reply) -> None:
        entry = self._entry(name)
        if entry.run is None or not entry.alive:
            raise PodStateError(f'app "{name}" is not running')
        self._host.end_app(entry.run, _STOPPED)
        entry.waiting.append(("stop", reply))

    def _remove(self, name: str, _request: Message, reply: Reply) -> None:
        if name in self._filling:  # nobody else may have the name before its volumes are gone
            self._removing.setdefault(name, []).append(reply)
            kill(self._filling[name])
            return
        entry = self._entries.get(name)
        if entry is None or entry.run is None or (entry.swept and not entry.alive):
            self._forget(name)
            reply({})
            return
        if entry.alive:
            self._host.end_app(entry.run, _REMOVED)
        entry.waiting.append(("rm", reply))

    # What comes of it

    def _step(self) -> None:
        if self._filling and (self._host.stopping or not self._host.init_alive):
            for pid in self._filling.values():
                kill(pid)
        for name, entry in list(self._entries.items()):
            run = entry.run
            if run is None:
                continue
            if run.begun and not entry.started:
                entry.started = True
                if self._host.keep:
                    self._note_start(name)
            if run.ended and not entry.over:
                entry.over = True
                self._sweep(entry)
            if run.ended and entry.io and all(source.closed for source in run.sources):
                entry.io.end()
            if entry.waiting:
                self._answer(name, entry, run)

    def _note_start(self, name: str) -> None:
        try:
            self._mark(f"{name}-started")
        except OSError as err:  # a full disk: the app runs all the same
            self._host.say(f'warning: app "{name}": cannot note that it started: {err.strerror}')

    def _sweep(self, entry: Entry) -> None:
        """Kill what an app of a mutable pod left running: in other pods it ends with the pod."""
        layout = self._pod.layout
        left = cgroup.members(layout, entry.plan.cgroup) if layout and self._host.keep else set()
        entry.sweeps += 1
        if not left or entry.sweeps > _SWEEPS:
            entry.swept = True
            return
        for pid in left:
            cgroup.kill_if_member(pid, entry.plan.cgroup)
        self._host.loop.after(_SWEEP_PAUSE, lambda: self._sweep(entry))

    def _answer(self, name: str, entry: Entry, run: AppRun) -> None:
        gone = run.ended and entry.swept
        waiting, entry.waiting = entry.waiting, []
        removed = False
        for what, reply in waiting:
            if what == "start" and (run.begun or run.ended):
                if run.begun:
                    reply({})
                else:
                    text = run.end.text if run.end else "it was not started"
                    reply({"error": f'app "{name}" {text}'})
            elif what == "stop" and gone:
                reply({})
            elif what == "rm" and gone:
                if not removed:
                    self._forget(name)
                    removed = True
                reply({})
            else:
                entry.waiting.append((what, reply))

    # Removing

    def _forget(self, name: str) -> None:
        """Take away all that the supervisor has of an app that does not run."""
        entry = self._entries.pop(name, None)
        host, pod = self._host, self._pod
        if entry is not None and entry.io:
            entry.io.close()
        if entry is not None and entry.run is not None:
            host.forget(entry.run)
            for ident in entry.run.idents:
                if not host.runtime.forgets_by_removal:
                    host.runtime.delete(ident)
                files.remove_tree(f"{host.runtime.state}/{ident}")
                files.remove_tree(f"{pod.dir}/bundle/{ident}")
        if entry is not None and pod.layout is not None:
            for left in cgroup.remove(pod.layout, entry.plan.cgroup):
                log.warning(f'cannot remove cgroup "{left}"')
        for left in ("", ".reason", ".pid", "-created", "-started"):
            _unlink(f"{host.rkt_dir}/status/{name}{left}")
        for kind in ("env", "health"):
            _unlink(f"{host.rkt_dir}/{kind}/{name}")
        if os.path.exists(f"{pod.dir}/overlay-prepared"):
            self._unmount(name)

    def _unmount(self, name: str) -> None:
        top = self._root(name)
        target = f"{top}/rootfs"
        try:
            libc.umount(target, libc.UMOUNT_NOFOLLOW | libc.MNT_DETACH)
        except OSError:  # it is not mounted
            pass
        for path in (target, top):
            try:
                os.rmdir(path)
            except OSError as err:
                log.debug(f'cannot remove "{path}": {err.strerror}')

    # Streams

    def _resize(self, name: str, request: Message, reply: Reply) -> None:
        entry = self._entry(name)
        rows, columns = (manifest.integer(request, key, "request") for key in ("rows", "columns"))
        if not (0 <= rows <= _MAX_SIZE and 0 <= columns <= _MAX_SIZE):
            raise SchemaError("malformed request")
        if entry.io:
            entry.io.resize(rows, columns)
        reply({})

    def _streams(self, name: str, _request: Message, reply: Reply) -> None:
        entry = self._entry(name)
        reply({"state": entry.state, "round": entry.round})

    def close(self) -> None:
        """Hear no more requests; let clients that read have the last bytes."""
        self._server.close()
        self._host.on_step = None
        streams = [entry.io for entry in self._entries.values() if entry.io]
        for io in streams:
            io.end()
        timer: list[bool] = []
        self._host.loop.after(_LAST_BYTES, lambda: timer.append(True))
        while not timer and any(io.pending for io in streams):
            self._host.loop.step(limit=_LAST_BYTES)
        for io in streams:
            io.close()


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
