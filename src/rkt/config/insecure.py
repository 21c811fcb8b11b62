"""The checks that `--insecure-options` switches off."""

from __future__ import annotations

_FETCH = ("image", "tls", "http", "pubkey")
_RUN = ("capabilities", "paths", "seccomp")
_SETS = {
    "none": (),
    "all-fetch": _FETCH,
    "all-run": _RUN,
    "all": (*_FETCH, *_RUN, "ondisk"),
}


class InsecureOptions:
    """One attribute for each check: True means that it is switched off."""

    __slots__ = ("capabilities", "http", "image", "ondisk", "paths", "pubkey", "seccomp", "tls")

    def __init__(
        self,
        *,
        image: bool = False,
        tls: bool = False,
        http: bool = False,
        pubkey: bool = False,
        capabilities: bool = False,
        paths: bool = False,
        seccomp: bool = False,
        ondisk: bool = False,
    ) -> None:
        self.image = image
        self.tls = tls
        self.http = http
        self.pubkey = pubkey
        self.capabilities = capabilities
        self.paths = paths
        self.seccomp = seccomp
        self.ondisk = ondisk

    @classmethod
    def parse(cls, text: str) -> InsecureOptions:
        """Read a comma-separated list, in any case.  Raises ValueError naming the bad word."""
        chosen: set[str] = set()
        seen: set[str] = set()
        for word in text.split(","):
            name = word.strip().lower()
            if name in seen:
                raise ValueError(f'duplicated option "{word}"')
            seen.add(name)
            if name not in _SETS and name not in cls.__slots__:
                raise ValueError(f'unknown option "{word}"')
            chosen.update(_SETS.get(name, (name,)))
        return cls(**dict.fromkeys(chosen, True))

    def without_verification(self) -> InsecureOptions:
        """Give these options and what `--insecure-skip-verify` switches off: image and tls."""
        now = {name: getattr(self, name) for name in self.__slots__}
        return InsecureOptions(**{**now, "image": True, "tls": True})
