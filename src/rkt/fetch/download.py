"""Large downloads: one at a time for each URL, resumable, to a file that only this user writes.

The bytes go to `cas/partial/<hash of the URL>`.  A download that breaks off stays there only when
the server lets it be continued (ranges, and an ETag or a date to tell that nothing has changed).
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from rkt import log
from rkt.errors import (
    FetchError,
    HTTPStatusError,
    KernelError,
    LockedError,
    RktError,
    SchemaError,
    one_line,
)
from rkt.fetch.http import shown
from rkt.fetch.progress import Progress
from rkt.linux import atomic, lock
from rkt.schema import codec
from rkt.schema.struct import Struct

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Protocol

    from rkt.fetch.http import Reply

    class Opener(Protocol):
        """What sends the requests of a download: a Client, or what adds to one."""

        def open(self, url: str, headers: Mapping[str, str] | None = None) -> Reply:
            """Send a GET."""


_ATTEMPTS = 3
_KEEP_SECONDS = 7 * 86400
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)")
_MAX_AGE = re.compile(r"max-age=\"?([0-9]{1,10})")
_COPY = 1 << 20
_PIECE = 256 << 10
_UPDATED = "cannot use cached partial download, resource updated."


class Sink:
    """Takes the bytes of a download in order; this one throws them away."""

    def restart(self) -> None:
        """Forget what was fed: the download begins again."""

    def feed(self, chunk: bytes | bytearray | memoryview) -> None:
        """Take the next bytes."""


class Download(Struct):
    """A complete download; `path` leads to the very file that was written, whatever its name."""

    path: str
    etag: str
    max_age: int


class _Note(Struct):
    """What is kept beside a partial download to continue it."""

    url: str
    validator: str


@contextmanager
def exclusive(directory: str, url: str) -> Iterator[None]:
    """Hold the lock of a URL, so that it is downloaded once even if many ask for it."""
    path = f"{_base(directory, url)}.lock"
    with ExitStack() as stack:
        try:
            stack.enter_context(lock.held(path, blocking=False))
        except LockedError:
            log.info("another rkt instance is downloading this file, waiting...")
            stack.enter_context(lock.held(path))
        yield


@contextmanager
def download(
    client: Opener,
    url: str,
    directory: str,
    *,
    sink: Sink,
    limit: int,
    label: str = "Downloading aci",
) -> Iterator[Download]:
    """Download a URL, feed `sink` and give the file; it is removed at the end.

    Progress is shown under a label, if there is one.  The caller holds `exclusive`.  Raises
    FetchError; nothing stays unless it can be continued.
    """
    _remove_stale(directory)
    part = _Partial(_base(directory, url), url, label)
    try:
        done = _transfer(client, part, sink, limit)
    except BaseException as err:
        part.close(keep=part.validator != "" and not isinstance(err, (KernelError, OSError)))
        raise
    try:
        yield done
    finally:
        part.close(keep=False)


def _transfer(client: Opener, part: _Partial, sink: Sink, limit: int) -> Download:
    for attempt in range(1, _ATTEMPTS + 1):
        before = part.size
        try:
            return _attempt(client, part, sink, limit)
        except HTTPStatusError:
            part.validator = ""
            raise
        except FetchError as err:
            # Only worth it while the server can continue and each attempt brings something.
            if attempt == _ATTEMPTS or not part.validator or part.size <= before:
                raise
            log.info(f"{one_line(err.message)}; resuming")
    raise AssertionError("unreachable")


def _attempt(client: Opener, part: _Partial, sink: Sink, limit: int) -> Download:
    have = part.size
    asked = {"Range": f"bytes={have}-", "If-Range": part.validator} if have else {}
    with client.open(part.url, asked) as reply:
        if not (have and _is_other(part, reply)):
            total = _begin(part, reply, sink)
            _receive(part, reply, sink, limit, total)
            etag, age = reply.headers.get("ETag", ""), max_age(reply)
            return Download(f"/proc/self/fd/{part.fd}", etag, age)
    log.info(_UPDATED)
    part.reset()
    sink.restart()
    return _attempt(client, part, sink, limit)


def _is_other(part: _Partial, reply: Reply) -> bool:
    """Say whether what the server would continue is not what was begun."""
    if reply.status == 416:
        return True  # there is nothing after what we have: the file has shrunk
    if reply.status != 206:
        return False
    # A server need not know If-Range; a 206 has the validators that a 200 would have (RFC 9110).
    name = "ETag" if part.validator.startswith('"') else "Last-Modified"
    return reply.headers.get(name, part.validator) != part.validator


def _begin(part: _Partial, reply: Reply, sink: Sink) -> int | None:
    """Prepare the file for the body of an answer; gives the size of the whole if it is known."""
    have = part.size
    if have and reply.status == 206:
        found = _CONTENT_RANGE.fullmatch(reply.headers.get("Content-Range", ""))
        if found is None or int(found[1]) != have:
            part.validator = ""
            raise FetchError(f'"{shown(part.url)}": the server continues at another place')
        part.feed_to(sink)
        return int(found[3]) if found[3] != "*" else None
    if reply.status != 200:
        raise HTTPStatusError(reply.status, shown(part.url))
    if have:
        log.info(_UPDATED)
        sink.restart()
    part.reset()
    etag, date = reply.headers.get("ETag", ""), reply.headers.get("Last-Modified", "")
    if reply.headers.get("Accept-Ranges", "").lower() == "bytes":
        part.note(etag if etag.startswith('"') else date)
    return reply.length


def _receive(part: _Partial, reply: Reply, sink: Sink, limit: int, total: int | None) -> None:
    progress = Progress(part.label, total, start=part.size) if part.label else None
    pending = bytearray()  # a chunk is a TLS record: too small to write, and to wake gpgv for
    try:
        for chunk in reply.chunks(limit=limit - part.size):
            pending += chunk
            if len(pending) >= _PIECE:
                piece, pending = pending, bytearray()  # never written twice, come what may
                part.write(piece)
                sink.feed(piece)
            if progress is not None:
                progress.advance(len(chunk))
    except BaseException:
        if progress is not None:
            progress.abort()
        raise
    finally:
        part.write(pending)
        sink.feed(pending)
    if progress is not None:
        progress.finish()
    if total is not None and part.size != total:
        where = shown(part.url)
        raise FetchError(f'"{where}": cut short: {part.size} bytes of {total}')


def max_age(reply: Reply) -> int:
    """Give the seconds for which an answer may be used without asking again."""
    text = reply.headers.get("Cache-Control", "").lower()
    found = _MAX_AGE.search(text)
    if found is None or "no-store" in text or "no-cache" in text:
        return 0
    return min(int(found[1]), 2**31)


def _base(directory: str, url: str) -> str:
    return f"{directory}/{hashlib.sha256(url.encode()).hexdigest()}"


class _Partial:
    """The file of a download, and beside it what is needed to continue it later."""

    def __init__(self, base: str, url: str, label: str = "") -> None:
        self.url = url
        self.label = label
        self.size = 0
        self.validator = ""
        self._fed = 0
        self._path = base
        self._note = f"{base}.json"
        self.fd = self._open()

    def _open(self) -> int:
        """Open what an earlier run left, if it is ours alone, else a new file."""
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            try:
                fd = os.open(self._path, flags | os.O_NONBLOCK)
            except OSError:
                return self._create(flags)
            note = _read_note(self._note)
            if note is None or note.url != shown(self.url) or not _is_private(fd):
                os.close(fd)
                return self._create(flags)
            self.validator = note.validator
            self.size = os.lseek(fd, 0, os.SEEK_END)
            return fd
        except OSError as err:
            raise KernelError("cannot write", err, self._path) from err

    def _create(self, flags: int) -> int:
        # Never write into a file that somebody else made: a new name gives a new inode.
        _unlink(self._path)
        _unlink(self._note)
        return os.open(self._path, flags | os.O_CREAT | os.O_EXCL, 0o600)

    def reset(self) -> None:
        """Begin again with an empty file."""
        os.ftruncate(self.fd, 0)
        os.lseek(self.fd, 0, os.SEEK_SET)
        self.size = self._fed = 0
        self.validator = ""

    def note(self, validator: str) -> None:
        """Remember how a later run can tell that the resource is still the same."""
        self.validator = validator
        if validator:
            data = codec.encode(_Note(shown(self.url), validator))
            atomic.write_file(self._note, data, mode=0o600, durable=False)

    def feed_to(self, sink: Sink) -> None:
        """Give the sink what the file has and the sink has not."""
        while self._fed < self.size:
            chunk = os.pread(self.fd, min(_COPY, self.size - self._fed), self._fed)
            if not chunk:
                raise FetchError(f'"{self._path}": the partial download has become shorter')
            sink.feed(chunk)
            self._fed += len(chunk)

    def write(self, chunk: bytes | bytearray) -> None:
        """Append bytes that the sink is about to get."""
        view = memoryview(chunk)
        try:
            while view:
                view = view[os.write(self.fd, view) :]
        except OSError as err:
            raise KernelError("cannot write", err, self._path) from err
        self.size += len(chunk)
        self._fed += len(chunk)

    def close(self, *, keep: bool) -> None:
        """Close the file; without `keep` it is removed."""
        os.close(self.fd)
        if not (keep and self.size):
            _unlink(self._path)
            _unlink(self._note)


def _is_private(fd: int) -> bool:
    info = os.fstat(fd)
    is_mine = info.st_uid == os.geteuid() and info.st_nlink == 1
    return is_mine and stat.S_ISREG(info.st_mode) and not info.st_mode & 0o077


def _read_note(path: str) -> _Note | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    with os.fdopen(fd, "rb") as file:
        if not _is_private(file.fileno()):
            return None
        try:
            return codec.decode(file.read(65536), _Note, "note")
        except SchemaError:
            return None


def _remove_stale(directory: str) -> None:
    """Remove what broke off long ago and was never continued."""
    for name in os.listdir(directory):
        if len(name) != 64:
            continue
        path = f"{directory}/{name}"
        try:
            if os.stat(path).st_mtime > time.time() - _KEEP_SECONDS:
                continue
            with lock.held(f"{path}.lock", blocking=False):
                _unlink(path)
                _unlink(f"{path}.json")
        except (OSError, RktError):
            continue  # in use, or another user's


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
