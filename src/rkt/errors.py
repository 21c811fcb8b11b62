"""Every failure that rkt reports, and how its text is made.

    RktError                  any failure of rkt itself; exit code 254
      UsageError              bad flags or arguments
      ConfigError             a configuration file cannot be used
      SchemaError             a manifest or another wire document is invalid
      NotFound                no image, pod, key or network of that name
      AmbiguousName           more than one object matches
      LockedError             somebody else holds the lock
      PodStateError           the pod is not in a state that allows the operation
      ArchiveError            an image archive is malformed or hostile
      RenderError             an image cannot be turned into a root file system
      StoreError              the image store is damaged or unusable
      FetchError              an image or a key cannot be obtained
        DiscoveryError        meta discovery yields nothing usable
        HTTPStatusError       a server answers with a status that is no success
        AuthError             credentials are missing or refused
        VerifyError           digest, size or signature do not hold
          UntrustedError      the signature is by a key that nobody trusts
      NetworkError            a network of a pod cannot be made or taken away
        PluginError           a network plugin said no
      CommandError            a program that rkt started failed
      KernelError             a system call failed

Library code raises one of these with `raise X(...) from err`; only `rkt.cli.main` turns
them into text and an exit code.  A message is lower case, one line, without a full stop; it names
the object, the operation and the cause.  `hint` is a command or an action that helps.
"""

from __future__ import annotations

EXIT_FAILURE = 254
EXIT_USAGE_BARE = 2


class RktError(Exception):
    """A failure to report to the user: one line of text and maybe a hint."""

    exit_code = EXIT_FAILURE

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(RktError):
    """Bad flags or arguments; `command` names the verb whose help is shown."""

    def __init__(self, message: str, *, command: str | None = None) -> None:
        super().__init__(message)
        self.command = command


class ConfigError(RktError):
    """A configuration file cannot be read, parsed or merged."""


class SchemaError(RktError):
    """A wire document (manifest, configuration value) is invalid."""


class NotFound(RktError):
    """Nothing of that name or ID exists."""


class AmbiguousName(RktError):
    """A prefix or a name stands for more than one object."""


class LockedError(RktError):
    """A lock is held by another process."""


class PodStateError(RktError):
    """A pod is not in the state that an operation needs."""


class ArchiveError(RktError):
    """An archive is malformed, oversized or tries to leave its root."""


class RenderError(RktError):
    """An image and its dependencies cannot be made a root file system."""


class StoreError(RktError):
    """The image store cannot be used."""


class FetchError(RktError):
    """An image, a signature or a key cannot be obtained."""


class DiscoveryError(FetchError):
    """Meta discovery found nothing for a name."""


class HTTPStatusError(FetchError):
    """A server answered with a status other than the expected one."""

    def __init__(self, status: int, url: str, *, hint: str | None = None) -> None:
        super().__init__(f'"{url}": bad HTTP status code: {status}', hint=hint)
        self.status = status
        self.url = url


class AuthError(FetchError):
    """A server wants credentials that rkt has not, or refuses those it has."""


class VerifyError(FetchError):
    """A digest, a size or a signature does not hold."""


class UntrustedError(VerifyError):
    """A signature was made by a key that is not trusted for the image name."""

    def __init__(self, message: str, *, key_id: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.key_id = key_id


class NetworkError(RktError):
    """A network of a pod cannot be found, made or taken away."""


class PluginError(NetworkError):
    """A network plugin failed: its name, and the code, message and details that it gave."""

    def __init__(self, message: str, *, plugin: str, code: int = 0, details: str = "") -> None:
        super().__init__(f"{message}; {details}" if details else message)
        self.plugin = plugin
        self.code = code
        self.details = details


class CommandError(RktError):
    """A program ended with a failure; `status` is its exit code, or minus the signal."""

    def __init__(self, message: str, *, status: int, stderr: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.stderr = stderr


class KernelError(RktError):
    """A system call failed: operation, path and errno text."""

    def __init__(self, operation: str, err: OSError, path: str = "") -> None:
        where = f' "{path}"' if path else ""
        super().__init__(f"{operation}{where}: {err.strerror or err}")
        self.errno = err.errno


def one_line(text: str) -> str:
    """Make text that somebody else wrote fit for a terminal line: no control characters.

    A byte that is no UTF-8, which Python has as U+DC80 to U+DCFF, is shown as that byte.
    """
    return "".join(c if c.isprintable() else f"\\x{_number(c):02x}" for c in text)


def _number(c: str) -> int:
    return ord(c) - 0xDC00 if "\udc80" <= c <= "\udcff" else ord(c)


def chain(err: BaseException) -> list[str]:
    """Give the texts of an exception and its causes, outermost first."""
    texts: list[str] = []
    cause: BaseException | None = err
    while cause is not None:
        text = one_line(cause.message if isinstance(cause, RktError) else _foreign(cause))
        if not texts or text != texts[-1]:
            texts.append(text)
        cause = cause.__cause__
    return texts


def _foreign(err: BaseException) -> str:
    if isinstance(err, OSError) and err.strerror:
        return f'"{err.filename}": {err.strerror}' if err.filename else err.strerror
    return str(err) or type(err).__name__


_NO_MEMORY = ("failed to map segment", "not enough memory")


def shortage(err: BaseException) -> str:
    """Say what the host has too little of, if that is what an exception not of ours means."""
    text = str(err)
    if isinstance(err, MemoryError) or any(words in text for words in _NO_MEMORY):
        return "there is not enough memory"
    if text == "can't start new thread":
        return "no thread can be started: too little memory, or too many processes (ulimit -u)"
    return ""


def internal(err: BaseException) -> str:
    """Render an exception that nobody expected: a shortage of the host's, else a fault of rkt's."""
    return shortage(err) or f"internal error: {type(err).__name__}: {describe(err)}"


def describe(err: BaseException, *, debug: bool = False) -> str:
    """Render an exception as `outermost: root cause`, or as a tree with `debug`."""
    texts = chain(err)
    if not debug:
        # KernelError has its cause in its own text, if not the very path
        cause = texts[-1].rpartition('": ')[2]
        return texts[0] if texts[0].endswith(cause) else f"{texts[0]}: {texts[-1]}"
    lines = [texts[0]]
    lines += [f"{'  ' * depth}└─{text}" for depth, text in enumerate(texts[1:], 1)]
    return "\n".join(lines)
