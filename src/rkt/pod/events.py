"""What happened to pods, apps and images, told from what is on disk: nobody keeps a record of it.

Each event has a time that some file has: a creation, the start of an app, the record of its end.
Of an app that was started several times the last start and the last end are known, and how often.
"""

from __future__ import annotations

import os
import time

from rkt.const import RELEASED
from rkt.errors import NotFound, RktError, describe
from rkt.pod import lifecycle, reason, view
from rkt.pod.state import EXITED_GARBAGE, GARBAGE, PREPARE, PREPARED, RUN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rkt.pod.lifecycle import Pod

POD = "pod"
APP = "app"
IMAGE = "image"

STATUSES = {
    POD: ("created", "prepared", "aborted", "started", "exited", "garbage", "removed"),
    APP: ("created", "started", "exited", "failed", "restarting", "health", "removed"),
    IMAGE: ("imported", "removed"),
}
TOLD = (PREPARE, PREPARED, RUN, EXITED_GARBAGE, GARBAGE)
"""The state directories whose pods are told of."""


class Event:
    """Something that happened: when (ns since 1970), to what, and more about it.

    `id` is the pod's UUID or the image's key; `name` that of the pod, the app or the image.
    """

    __slots__ = ("attributes", "id", "kind", "name", "status", "time")

    def __init__(
        self, time: int, kind: str, status: str, id: str, name: str,  # noqa: A002
        attributes: dict[str, str] | None = None,
    ) -> None:  # fmt: skip
        self.time = time
        self.kind = kind
        self.status = status
        self.id = id
        self.name = name
        self.attributes = attributes or {}


class Tracker:
    """One pod, and what was told of it."""

    __slots__ = ("_apps", "_told", "name", "uuid", "where")

    def __init__(self, uuid: str) -> None:
        self.uuid = uuid
        self.where = ""
        self.name = ""
        self._told: set[str] = set()
        self._apps: dict[str, dict[str, int]] = {}  # app -> status -> time of what was told

    def look(
        self, pod: Pod, *, observed: int | None = None, problem: Callable[[str], None]
    ) -> list[Event]:
        """Tell what happened since the last look, oldest first.

        `observed` is the time for what left no time on disk; without it the best guess is made.
        Raises NotFound if the pod is gone.
        """
        state = pod.state()
        where = self.where = pod.where
        found: list[Event] = []
        try:
            self.name = self.name or pod.name()
            self._tell(found, "created", pod.created())
            if where == PREPARED or (where == GARBAGE and pod.exists("pod")):
                self._tell(found, "prepared", pod.mtime("pod") or pod.created())
            if state == "aborted prepare" or (where == GARBAGE and "prepared" not in self._told):
                self._tell(found, "aborted", observed or os.fstat(pod.fd).st_mtime_ns)
            if where in (RUN, EXITED_GARBAGE) and "exited" not in self._told:
                self._run(pod, state, found, observed, problem)
        except (RktError, OSError) as err:
            if isinstance(err, NotFound):
                raise
            problem(trouble(self.uuid, err))
            if view.has_ended(state):
                self._tell(found, "exited", observed or _guess(pod), guessed=observed is None)
        if where in (EXITED_GARBAGE, GARBAGE):
            self._tell(found, "garbage", pod.marked())
        found.sort(key=lambda event: event.time)
        return found

    def imply(self, where: str, observed: int) -> list[Event]:
        """Tell what must have happened to a pod that was in a directory and is gone by now."""
        found: list[Event] = []
        self._tell(found, "created", observed)
        if where == PREPARED:
            self._tell(found, "prepared", observed)
        if where == EXITED_GARBAGE:
            self._tell(found, "exited", observed)
        if where == GARBAGE and "prepared" not in self._told:
            self._tell(found, "aborted", observed)
        if where in (EXITED_GARBAGE, GARBAGE):
            self._tell(found, "garbage", observed)
        self.where = where
        return found

    def removed(self, observed: int) -> list[Event]:
        """Tell that the pod was deleted."""
        found: list[Event] = []
        if self.where == PREPARE:
            self._tell(found, "aborted", observed)
        self._tell(found, "removed", observed)
        return found

    def _tell(
        self, found: list[Event], status: str, time: int | None, *, guessed: bool = False
    ) -> None:
        if time is None or status in self._told:
            return
        self._told.add(status)
        attributes = {"estimated": "true"} if guessed else None
        found.append(Event(time, POD, status, self.uuid, self.name, attributes))

    def _run(
        self, pod: Pod, state: str, found: list[Event], observed: int | None,
        problem: Callable[[str], None],
    ) -> None:  # fmt: skip
        started = pod.started()
        self._tell(found, "started", started)
        ended = view.has_ended(state)
        end, is_guess = 0, False
        if ended:
            end, is_guess = _end(pod, observed)
        try:
            names = view.app_names(pod)
            reasons = reason.of_apps(pod, state, names)
            base = f"{pod.stage1_rootfs()}/rkt"
            for app in names:
                self._app(pod, base, app, reasons.get(app), found, end)
            for app in [app for app in self._apps if app not in names]:
                del self._apps[app]
                time_ = observed or _guess(pod)
                found.append(Event(time_, APP, "removed", self.uuid, app, self._about()))
        except (RktError, OSError) as err:
            problem(trouble(self.uuid, err))
        if ended:
            # A file's time may lag some milliseconds behind the clock.
            told = (time for times in self._apps.values() for time in times.values())
            end = max([end, *told, *(event.time for event in found)])
            self._tell(found, "exited", end, guessed=is_guess)

    def _app(
        self, pod: Pod, base: str, app: str, why: reason.Reason | None, found: list[Event], end: int
    ) -> None:
        created = pod.mtime(f"{base}/status/{app}-created")
        started = pod.mtime(f"{base}/status/{app}.pid") or pod.mtime(f"{base}/status/{app}-started")
        self._note(found, pod, app, "created", created)
        if why is None or not why.again or (started or 0) <= why.time:
            self._note(found, pod, app, "started", started)
        if why is not None:
            recorded = why.time or pod.mtime(f"{base}/status/{app}") or max(end, started or 0)
            status = "restarting" if why.again and not end else "exited"
            if started is None and "started" not in self._apps.get(app, {}):
                status = "failed"
            more = {"reason": why.text}
            if why.kind not in ("rebooted", "supervisor", "unknown"):
                more["exit-code"] = str(why.status)
            if why.signal:
                more["signal"] = str(why.signal)
            if why.restarts:
                more["restarts"] = str(why.restarts)
            self._note(found, pod, app, status, recorded, more)
            if why.again and (started or 0) > why.time:
                self._note(found, pod, app, "started", started)
        state = reason.health(pod, app)
        if state:
            when = pod.mtime(f"{base}/health/{app}")
            self._note(found, pod, app, "health", when, {"health": state})

    def _note(
        self, found: list[Event], pod: Pod, app: str, status: str, time: int | None,
        more: Mapping[str, str] = {},
    ) -> None:  # fmt: skip
        known = self._apps.setdefault(app, {})
        if time is None or known.get(status) == time:
            return
        known[status] = time
        attributes = self._about()
        image = view.image_name(pod, app)
        if image != "--":
            attributes["image"] = image
        attributes.update(more)
        found.append(Event(time, APP, status, self.uuid, app, attributes))

    def _about(self) -> dict[str, str]:
        return {"pod": self.name} if self.name else {}


def trouble(uuid: str, err: Exception) -> str:
    """Say what cannot be read of a pod, which is named once."""
    text, name = describe(err), f'pod "{uuid}"'
    return text if text.startswith(name) else f"{name}: {text}"


def _end(pod: Pod, observed: int | None) -> tuple[int, bool]:
    """Give the time at which a pod ended, and whether that is a guess."""
    released = pod.mtime(RELEASED)
    if released is not None:
        return released, False
    if observed is not None:
        return observed, False
    return _guess(pod), True


def _guess(pod: Pod) -> int:
    """Give the time of the pod's last sign of life."""
    return max(os.fstat(pod.fd).st_mtime_ns, pod.started() or 0)


def past(data_dir: str, *, problem: Callable[[str], None]) -> list[Event]:
    """Tell all that can be seen of the past of the pods that are there, oldest first."""
    found: list[Event] = []
    for pod in lifecycle.every(data_dir, TOLD):
        try:
            found += Tracker(pod.uuid).look(pod, problem=problem)
        except NotFound:
            continue  # deleted meanwhile
    found.sort(key=lambda event: event.time)
    return found


class Images:
    """The images of the store, and what was told of them.

    `stored` gives name and time of import of each image there is, by its key.
    """

    __slots__ = ("_known", "_stored")

    def __init__(self, stored: Callable[[], dict[str, tuple[str, int]]]) -> None:
        self._stored = stored
        self._known: dict[str, tuple[str, int]] = {}

    def look(self) -> list[Event]:
        """Tell what happened since the last look, oldest first."""
        now, stored = time.time_ns(), self._stored()
        found = [
            Event(when, IMAGE, "imported", key, name)
            for key, (name, when) in stored.items()
            if self._known.get(key, ("", 0))[1] != when
        ]
        found.sort(key=lambda event: event.time)
        found += [
            Event(now, IMAGE, "removed", key, name)
            for key, (name, _) in self._known.items()
            if key not in stored
        ]
        self._known = stored
        return found
