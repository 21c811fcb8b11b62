"""Structs: made, compared, checked and written as those of msgspec, which they stand in for."""

from __future__ import annotations

import pytest

from rkt.errors import SchemaError
from rkt.schema import codec
from rkt.schema.struct import Struct, field, replace, settle
from rkt.schema.types import BadValue


class Point(Struct, omit_defaults=True, rename={"far_out": "farOut"}):
    x: int
    y: int = 0
    far_out: bool = False
    tags: dict[str, str] = field(default_factory=dict)
    path: str = field(default="", always=True)

    def __post_init__(self) -> None:
        if self.x < 0:
            raise BadValue("x must not be negative")
        if self.y == 99:
            settle(self, "y", 100)


class Line(Struct, strict=True):
    ends: tuple[Point, ...]
    width: float = 1.0
    note: str | None = None
    row: tuple[str, int] = ("", 0)


def test_arguments_go_where_they_belong() -> None:
    assert Point(1).__dict__ == {"x": 1, "y": 0, "far_out": False, "tags": {}, "path": ""}
    assert Point(1, 2, path="p") == Point(x=1, y=2, path="p")
    assert Point(1).tags is not Point(1).tags
    for args, named in (((), {}), ((1, 2, True, {}, "", 6), {}), ((1,), {"z": 2})):
        with pytest.raises(TypeError, match="Point: missing or unknown arguments"):
            Point(*args, **named)  # type: ignore[arg-type]


def test_structs_do_not_change() -> None:
    point = Point(1)
    with pytest.raises(AttributeError, match=r"Point\.x cannot be set"):
        point.x = 2  # type: ignore[misc]
    with pytest.raises(AttributeError, match=r"Point\.x cannot be removed"):
        del point.x
    assert replace(point, x=2) == Point(2) != point
    with pytest.raises(BadValue, match="x must not be negative"):
        replace(point, x=-1)


def test_equal_structs_are_one_key_of_a_dict() -> None:
    assert len({Line((), note="a"), Line((), note="a"), Line(())}) == 2
    assert Point(1) != (1, 0)
    assert repr(Line(())) == "Line(ends=(), width=1.0, note=None, row=('', 0))"


def test_defaults_are_left_out_unless_asked_for() -> None:
    assert codec.encode(Point(1)) == b'{"x":1,"path":""}'
    assert codec.encode(Point(1, 99, True, {"a": "b"})) == (
        b'{"x":1,"y":100,"farOut":true,"tags":{"a":"b"},"path":""}'
    )
    assert codec.encode(Line((Point(1),))) == (
        b'{"ends":[{"x":1,"path":""}],"width":1.0,"note":null,"row":["",0]}'
    )


def test_documents_become_structs() -> None:
    data = b'{"ends":[{"x":1,"farOut":true,"other":1}],"width":2,"note":null,"row":["a",1]}'
    line = codec.decode(data, Line, "line")
    assert line == Line((Point(1, far_out=True),), 2.0, None, ("a", 1))
    assert isinstance(line.width, float)
    assert codec.decode(b'[[{"x":1}],[]]', list[tuple[Point, ...]], "lists") == [(Point(1),), ()]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b'{"ends":[],"more":1}', "object contains unknown field `more`"),
        (b'{"ends":{}}', "expected `array`, got `object` - at $.ends"),
        (b'{"ends":[{"x":1},{"x":-1}]}', "x must not be negative - at $.ends[1]"),
        (
            b'{"ends":[{"x":1,"tags":{"a":1}}]}',
            "expected `str`, got `int` - at $.ends[0].tags[...]",
        ),
        (b'{"ends":[],"note":1}', "expected `str | null`, got `int` - at $.note"),
        (b'{"ends":[],"width":"1"}', "expected `float`, got `str` - at $.width"),
        (b'{"ends":[],"width":true}', "expected `float`, got `bool` - at $.width"),
        (b'{"ends":[],"row":["a"]}', "expected `array` of length 2, got 1 - at $.row"),
        (b'{"ends":[],"row":["a","b"]}', "expected `int`, got `str` - at $.row[1]"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(data: bytes, text: str) -> None:
    with pytest.raises(SchemaError) as caught:
        codec.decode(data, Line, "line")
    assert caught.value.message == f"line: {text}"
