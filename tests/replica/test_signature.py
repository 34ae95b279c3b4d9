# ruff: noqa: UP007, UP045 - both spellings of unions are what users write
import dataclasses
import datetime as dt
import enum
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NotRequired, Optional, TypedDict, Union

import msgspec
import numpy as np
import numpy.typing as npt
import pydantic
import pytest

from muleteer.base.errors import BadArguments
from muleteer.replica.signature import Signature


class Color(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Item:
    name: str
    tags: list[int] = dataclasses.field(default_factory=list)


class Typed(TypedDict):
    a: int
    b: NotRequired[str]


class Strict(msgspec.Struct, forbid_unknown_fields=True):
    a: int


class Priced(pydantic.BaseModel):
    price: float
    day: dt.date = dt.date(2020, 1, 1)


class StrictPriced(pydantic.BaseModel, strict=True):
    price: float
    day: dt.date


def call(function, value):
    positional, keywords = Signature.of(function).bind(value)
    return function(*positional, **keywords)


def refused(function, value):
    with pytest.raises(BadArguments) as caught:
        Signature.of(function).bind(value)
    return caught.value.message


def test_names_defaults_and_kinds():
    def predict(a, /, b, c=3, *args, d, e=5, **rest):
        return a, b, c, d, e, rest

    assert call(predict, {"a": 1, "b": 2, "d": 4}) == (1, 2, 3, 4, 5, {})
    assert call(predict, {"d": 4, "c": 9, "b": 2, "a": 1, "z": 0}) == (1, 2, 9, 4, 5, {"z": 0})
    assert "missing arguments 'b', 'd'" in refused(predict, {"a": 1})
    assert "missing arguments 'b', 'd'" in refused(predict, 1)


def test_positional_only_with_defaults():
    def predict(a, b=2, c=3, /):
        return a, b, c

    assert call(predict, {"a": 1, "c": 9}) == (1, 2, 9)


def test_a_single_value_is_the_first_argument():
    def predict(text: str, times: int = 1):
        return text * times

    assert call(predict, "x") == "x"
    assert "argument 'text'" in refused(predict, 5)
    assert "argument 'text'" in refused(predict, ["x"])
    assert call(lambda x: x, None) is None
    assert call(lambda x: x, [1]) == [1]
    assert call(lambda *args: args, 5) == (5,)
    assert call(lambda *args: args, {"a": 1}) == ({"a": 1},)
    assert call(lambda: 1, {}) == 1
    assert "no arguments" in refused(lambda: 1, {"x": 1})
    assert "not a single value" in refused(lambda: 1, 5)

    def named(*, text):
        return text

    assert "object of arguments (text)" in refused(named, "x")


def test_unknown_and_missing_are_all_named():
    def predict(text: str, direction: str = "a"):
        return text

    message = refused(predict, {"txt": "x", "zzz": 1})
    assert "unknown argument 'txt' (did you mean 'text'?)" in message
    assert "unknown argument 'zzz'" in message
    assert "missing argument 'text'" in message
    assert "predict takes text: str, direction: str = 'a'" in message
    assert len(refused(predict, {"k" * 10_000: 1})) < 500


@pytest.mark.parametrize("hint", [dict, dict[str, int], Mapping[str, int], Typed, Optional[dict], Any, None])
def test_an_object_for_a_single_parameter(hint):
    def predict(item): ...

    if hint is not None:
        predict.__annotations__["item"] = hint
    bind = Signature.of(predict).bind
    assert bind({"item": {"a": 1}}) == ([], {"item": {"a": 1}})
    if hint in (Any, None):
        with pytest.raises(BadArguments):
            bind({"a": 1})
    else:
        assert bind({"a": 1}) == ([{"a": 1}], {})


def test_a_positional_only_parameter_takes_the_object():
    def predict(item, /):
        return item

    assert call(predict, {"item": 1}) == {"item": 1}


def test_records():
    def dataclass(item: Item):
        return item

    def struct(item: Strict):
        return item

    def model(item: Priced):
        return item

    def beside(item: Item, top: int = 1):
        return item, top

    assert call(dataclass, {"name": "x", "tags": [1]}) == Item("x", [1])
    assert call(dataclass, {"item": {"name": "x"}}) == Item("x")
    assert call(struct, {"a": 1}) == Strict(1)
    assert call(model, {"price": 1}) == Priced(price=1)
    assert call(beside, {"item": {"name": "x"}, "top": 2}) == (Item("x"), 2)
    assert "unknown field 'nam' (did you mean 'name'?)" in refused(dataclass, {"nam": "x"})
    assert "expected `int`, got `str` at item.tags[1]" in refused(dataclass, {"name": "x", "tags": [1, "a"]})
    assert "at item" not in refused(struct, {"a": 1, "b": 2}) and "unknown field `b`" in refused(
        struct, {"a": 1, "b": 2}
    )
    assert "argument 'item': price: Input should be a valid number" in refused(model, {"price": "x"})
    assert "missing argument 'item'" in refused(beside, {"name": "x"})


def test_pydantic_by_its_own_json_rules():
    def strict(item: StrictPriced):
        return item.day

    def many(items: list[Priced], best: Priced | None = None):
        return [item.price for item in items], best

    assert call(strict, {"price": 1.5, "day": "2024-02-29"}) == dt.date(2024, 2, 29)
    assert "price" in refused(strict, {"price": "1.5", "day": "2024-02-29"})
    assert call(many, {"items": [{"price": 1}], "best": {"price": 2}})[0] == [1.0]
    assert call(many, {"items": [], "best": None}) == ([], None)
    assert "at items[1]" in refused(many, {"items": [{"price": 1}, {}]})


@pytest.mark.parametrize(
    ("hint", "value", "expected"),
    [
        (int, 5, 5),
        (int, 2**70, 2**70),
        (int, True, BadArguments),
        (int, 1.0, BadArguments),
        (int, "1", BadArguments),
        (float, 1, 1.0),
        (float, 2**53 + 1, BadArguments),
        (float, 10**400, BadArguments),
        (list[float], [10**400], BadArguments),
        (int | float, 2**53 + 1, 2**53 + 1),
        (float | None, 2**53 + 1, BadArguments),
        (bool, 1, BadArguments),
        (str, None, BadArguments),
        (bytes, "YWI=", b"ab"),
        (bytes, "not base64!", BadArguments),
        (Color, "red", Color.RED),
        (Color, "blue", BadArguments),
        (Literal["a", "b"], "b", "b"),
        (Literal["a", "b"], "c", BadArguments),
        (dt.datetime, "2024-01-02T03:04:05Z", dt.datetime(2024, 1, 2, 3, 4, 5, tzinfo=dt.UTC)),
        (dt.date, "2024-13-01", BadArguments),
        (Optional[int], None, None),
        (int | str, "x", "x"),
        (int | str, [], BadArguments),
        (Union[dt.date, str], "2024-01-02", dt.date(2024, 1, 2)),
        (Union[dt.date, str], "soon", "soon"),
        (Item | Typed, {"a": 1}, {"a": 1}),
        (Item | Typed | None, {"zz": 1}, BadArguments),
        (Item | Typed | None, None, None),
        (Item | Typed, None, BadArguments),
        (tuple[int, str], [1, "a"], (1, "a")),
        (set[int], [1, 1, 2], {1, 2}),
        (list[list[float]], [[1, 2.5]], [[1.0, 2.5]]),
        (list[float], [1, "x"], BadArguments),
        (Annotated[int, msgspec.Meta(ge=3)], 2, BadArguments),
        (object, [1], [1]),
        (type(None), None, None),
    ],
)
def test_hints(hint, value, expected):
    def predict(x, y=0):
        return x

    predict.__annotations__["x"] = hint
    if expected is BadArguments:
        assert "argument 'x'" in refused(predict, {"x": value})
    else:
        result = call(predict, {"x": value})
        assert result == expected
        assert type(result) is type(expected)


def test_none_as_default_means_optional():
    def predict(x: int = None, y: Any = None):  # noqa: RUF013
        return x

    assert call(predict, {"x": None}) is None
    assert "argument 'x'" in refused(predict, {"x": "a"})


def test_rest_is_converted_too():
    def predict(**scores: int):
        return scores

    assert call(predict, {"a": 1}) == {"a": 1}
    assert "argument 'a'" in refused(predict, {"a": "x"})
    assert "not a single value" in refused(predict, 5)


def test_arrays():
    def any_array(x: np.ndarray, y: int = 0):
        return x

    def floats(x: npt.NDArray[np.float32], y: int = 0):
        return x

    def bytes_(x: npt.NDArray[np.uint8] | None, y: int = 0):
        return x

    array = call(any_array, {"x": [[1, 2], [3, 4]]})
    assert array.dtype == np.int64
    assert array.tolist() == [[1, 2], [3, 4]]
    assert call(any_array, {"x": [1, 2.5]}).dtype == np.float64
    assert call(any_array, {"x": ["a", "bc"]}).tolist() == ["a", "bc"]
    assert call(any_array, {"x": []}).shape == (0,)
    assert call(any_array, {"x": [2**63]}).tolist() == [2**63]
    assert call(floats, {"x": [1, 2]}).dtype == np.float32
    assert call(bytes_, {"x": [0, 255]}).dtype == np.uint8
    assert call(bytes_, {"x": None}) is None
    for value in ([[1], [1, 2]], 5, "x", [1, "a"], [None], [{}], [2**70], [2**63, -1], [2**53 + 1, 0.5]):
        assert "argument 'x'" in refused(any_array, {"x": value})
    for value in ([256], [-1], [1.5], ["a"]):
        assert "argument 'x'" in refused(bytes_, {"x": value})
    assert "argument 'x'" in refused(floats, {"x": [1e300]})
    assert "argument 'x'" in refused(floats, {"x": ["1.5"]})


def test_unions_with_arrays_and_models():
    def predict(x: np.ndarray | Priced | str, y: int = 0):
        return x

    assert call(predict, {"x": [1]}).tolist() == [1]
    assert call(predict, {"x": {"price": 2}}).price == 2
    assert call(predict, {"x": "text"}) == "text"
    assert "fits none of its types" in refused(predict, {"x": 5})
    assert "fits none of its types" in refused(predict, {"x": None})


def test_hints_that_cannot_be_checked_are_told_and_let_through():
    def predict(x: "NotThere", y: "dict[int | str, np.ndarray | str]" = None):  # noqa: F821, RUF013
        return x

    notices = []
    signature = Signature.of(predict, notices.append)
    assert signature.bind({"x": object, "y": 5}) == ([], {"x": object, "y": 5})
    assert len(notices) == 2
    assert "'x'" in notices[0]
    assert signature.texts() == ["x: NotThere", "y: dict[int | str, np.ndarray | str] = None"]


def test_methods_partials_and_c_functions():
    import functools
    import operator

    class Model:
        def predict(self, text: "str"):
            return text

        def __call__(self, n: int):
            return n

    assert call(Model().predict, "x") == "x"
    assert call(Model(), {"n": 2}) == 2
    assert call(functools.partial(Model.predict, Model()), {"text": "x"}) == "x"
    assert call(operator.itemgetter(1), [1, 2]) == 2
