"""Structs: values with named fields that `codec` reads from JSON and writes as JSON.

They behave as frozen structs of msgspec do.  To load msgspec, with `typing` and whatever else it
needs, takes as long as all else that `rkt run` does before it has a pod.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, ClassVar, TypeVar, dataclass_transform

    S = TypeVar("S", bound="Struct")
else:

    def dataclass_transform(**_):
        return lambda cls: cls


_ABSENT: Any = type("Absent", (), {})()


class _Field:
    def __init__(self, default: object, factory: Callable[[], object] | None, always: bool) -> None:
        self.default = default
        self.factory = factory
        self.always = always


def field(
    *,
    default: Any = _ABSENT,
    default_factory: Callable[[], object] | None = None,
    always: bool = False,
) -> Any:
    """Describe a field: a default made anew for each value, or (`always`) one that is written."""
    return _Field(default, default_factory, always)


@dataclass_transform(eq_default=True, frozen_default=True, field_specifiers=(field,))
class Struct:
    """The base of all structs.

    `rename` gives fields another key in JSON; `omit_defaults` leaves fields out of it that have
    their default; `strict` refuses keys that no field has.  A `__post_init__` that checks the whole
    value may raise BadValue.
    """

    struct_fields: ClassVar[tuple[str, ...]] = ()
    struct_keys: ClassVar[dict[str, str]] = {}
    """The JSON key of each field."""
    struct_defaults: ClassVar[dict[str, object]] = {}
    struct_factories: ClassVar[dict[str, Callable[[], object]]] = {}
    struct_omitted: ClassVar[dict[str, object]] = {}
    """The value with which a field is left out of JSON."""
    struct_strict: ClassVar[bool] = False

    def __init_subclass__(
        cls,
        *,
        rename: Mapping[str, str] | None = None,
        omit_defaults: bool = False,
        strict: bool = False,
    ) -> None:
        own = cls.__dict__
        names = tuple(own.get("__annotations__", ()))
        defaults, factories, omitted = {}, {}, {}
        for name in names:
            default = own.get(name, _ABSENT)
            always = False
            if isinstance(default, _Field):
                described, always = default, default.always
                default = described.default
                if described.factory is not None:
                    factories[name] = described.factory
                delattr(cls, name)
            if default is not _ABSENT:
                defaults[name] = default
            if omit_defaults and not always and (name in defaults or name in factories):
                omitted[name] = factories[name]() if name in factories else default
        cls.struct_fields = names
        cls.struct_keys = {name: (rename or {}).get(name, name) for name in names}
        cls.struct_defaults, cls.struct_factories = defaults, factories
        cls.struct_omitted, cls.struct_strict = omitted, strict

    def __init__(self, *args: object, **named: object) -> None:
        names = self.struct_fields
        values = self.__dict__
        values.update(self.struct_defaults)
        values.update(zip(names, args))  # noqa: B905 - compared below
        values.update(named)
        for name, factory in self.struct_factories.items():
            if name not in values:
                values[name] = factory()
        if values.keys() != self.struct_keys.keys() or len(args) > len(names):
            wrong = sorted(values.keys() ^ set(names)) or len(args)
            raise TypeError(f"{type(self).__name__}: missing or unknown arguments: {wrong}")
        self.__post_init__()

    def __post_init__(self) -> None:
        """Check the value as a whole."""

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__}.{name} cannot be set")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__}.{name} cannot be removed")

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        return hash((type(self), *(self.__dict__[name] for name in self.struct_fields)))

    def __repr__(self) -> str:
        listed = ", ".join(f"{name}={self.__dict__[name]!r}" for name in self.struct_fields)
        return f"{type(self).__name__}({listed})"


def replace(value: S, **changes: object) -> S:
    """Give a struct with other values of some fields, checked anew."""
    return type(value)(**{**value.__dict__, **changes})


def settle(value: Struct, name: str, item: object) -> None:
    """Set a field of a struct that is being made: for `__post_init__`."""
    value.__dict__[name] = item
