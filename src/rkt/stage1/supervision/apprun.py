"""One app of a running pod, as its supervisor sees it."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from rkt.stage1.app import policy, spec
    from rkt.stage1.host import journal
    from rkt.stage1.streams import applog, pump, terminal
    from rkt.stage1.supervision import iomux, reason

    class Checks(Protocol):
        """The health checks of an app (rkt.stage1.supervision.health)."""

        def start(self) -> None:
            """Begin: the main process runs."""

        def stop(self) -> None:
            """End: it has gone."""


class AppRun:
    """One app: the containers it still has to run, in rounds if it restarts, and how it ended."""

    __slots__ = (
        "begun",
        "between",
        "bundle",
        "config",
        "console",
        "end",
        "health",
        "ident",
        "idents",
        "io",
        "journal",
        "log",
        "oom_kills",
        "overdue",
        "pid",
        "plan",
        "prefixed",
        "restarts",
        "since",
        "slots",
        "sources",
        "starter",
        "status",
        "step",
        "steps",
        "stopping",
        "tail",
        "timer",
        "uncompiled",
        "unhealthy",
    )  # fmt: skip

    def __init__(self, plan: spec.AppPlan, config: dict[str, object]) -> None:
        self.plan = plan
        self.config = config
        self.steps = self._round()
        self.step = ""
        self.ident = ""
        self.idents: list[str] = []  # of the containers of this round
        self.bundle = ""
        self.uncompiled = b""  # what `filters` is to keep the filter of the container under
        self.prefixed = False
        self.starter = 0  # PID of the runtime while it starts or deletes a container
        self.pid = 0  # PID of the container's process
        self.sources: list[pump.Source] = []
        self.console: terminal.ConsoleSocket | None = None
        self.io: iomux.Streams | None = None  # if one can attach to it
        self.stopping = ""  # why it alone was asked to end
        self.log: applog.AppLog | None = None
        self.journal: journal.AppJournal | None = None
        self.tail = b""  # what it wrote last on stderr
        self.health: Checks | None = None
        self.unhealthy = ""
        self.begun = False
        self.since = 0.0
        self.oom_kills = 0
        self.overdue = False
        self.restarts: policy.Restarts | None = None
        self.between = False  # waits for its next round
        self.timer: pump.Timer | None = None
        self.slots: list[reason.Slot] = []
        self.end: reason.End | None = None  # of the last round
        self.status: int | None = None  # of the last of all rounds

    @property
    def name(self) -> str:
        """Give the app's name."""
        return self.plan.name

    @property
    def process(self) -> dict[str, object]:
        """Give the `process` object of the app's configuration."""
        process = self.config["process"]
        assert isinstance(process, dict)
        return process

    @property
    def restart_count(self) -> int:
        """Give how often it was started again."""
        return self.restarts.count if self.restarts else 0

    @property
    def ended(self) -> bool:
        """Whether nothing is left to run or to wait for."""
        return not self.steps and not self.starter and not self.pid and not self.between

    def hear_out(self) -> None:
        """Read what is there of its last words: they come before ours, and may tell why."""
        for source in self.sources:
            if not source.closed:
                source.read()

    def rewind(self) -> None:
        """Begin another round."""
        self.steps = self._round()
        self.between = False
        self.end = None
        self.unhealthy = ""
        self.stopping = ""
        self.tail = b""

    def _round(self) -> list[str]:
        return [step for step in ("pre-start", "main", "post-stop") if self._has(step)]

    def _has(self, step: str) -> bool:
        return step == "main" or bool(self.plan.handlers.get(step))
