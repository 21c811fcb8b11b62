"""Being in a pod's network namespace for a moment; only in a single-threaded process."""

from __future__ import annotations

import os

from rkt.errors import KernelError, NetworkError
from rkt.linux import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType


class Inside:
    """The caller is in the namespace for the length of the block.

    Raises NetworkError if it cannot enter, KernelError if it cannot return.
    """

    __slots__ = ("_fd", "_own")

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __enter__(self) -> None:
        self._own = -1
        try:
            self._own = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            libc.setns(self._fd, libc.CLONE_NEWNET)
        except OSError as err:
            if self._own >= 0:
                os.close(self._own)
            raise NetworkError(f"cannot enter the pod's network: {err.strerror}") from err

    def __exit__(
        self,
        kind: type[BaseException] | None,
        err: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            libc.setns(self._own, libc.CLONE_NEWNET)
        except OSError as failure:  # not a NetworkError: nothing may go on from here
            raise KernelError("cannot return to the host's network namespace", failure) from failure
        finally:
            os.close(self._own)


def sockets(fd: int) -> int:
    """Count the sockets that keep the namespace `fd`, those of ended processes among them.

    The kernel goes on with a connection whose last data is not acknowledged, for minutes.
    """
    with Inside(fd), open("/proc/thread-self/net/sockstat", "rb", buffering=0) as file:
        first = file.read(256).split(b"\n")[0]  # sockets: used 3
    return int(first.split()[-1])
