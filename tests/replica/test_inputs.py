"""What one input of a batch is, and what counts as a list of answers."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from muleteer.base.errors import BadArguments, BadModelOutput, StartError
from muleteer.replica.inputs import Inputs


@dataclasses.dataclass
class Item:
    name: str
    size: int = 1


def beside(single, batch="auto"):
    """Inputs of a class with `predict` and an unhinted predict_batch."""

    def predict_batch(inputs):
        return inputs

    return Inputs.of(predict_batch, single, batch=batch)


def alone(method, batch="auto"):
    return Inputs.of(method, None, batch=batch)


def refused(inputs, value):
    with pytest.raises(BadArguments) as caught:
        inputs.take(value)
    return caught.value.message


def test_one_parameter_is_its_value_however_it_is_sent():
    def predict(text: str): ...

    inputs = beside(predict)
    assert inputs.take({"text": "a"}) == "a"
    assert inputs.take("a") == "a"
    assert "expected `str`, got `int`" in refused(inputs, {"text": 1})
    assert "unknown argument 'txt'" in refused(inputs, {"txt": "a"})


def test_one_parameter_with_a_default():
    def predict(text: str = "none"): ...

    assert beside(predict).take({}) == "none"


def test_one_parameter_by_keyword_only_or_by_position_only():
    def by_name(*, text: str): ...
    def by_place(item, /): ...

    assert beside(by_name).take({"text": "a"}) == "a"
    assert "not a single value" in refused(beside(by_name), "a")
    assert beside(by_place).take({"item": 1}) == {"item": 1}


def test_a_record_is_taken_whole():
    def predict(item: Item): ...

    inputs = beside(predict)
    assert inputs.take({"name": "a"}) == inputs.take({"item": {"name": "a"}}) == Item("a")


def test_several_parameters_are_a_dict_with_defaults():
    def predict(a: int, /, b: str, c: float = 0.5, *, d: bool = False): ...

    inputs = beside(predict)
    assert inputs.take({"a": 1, "b": "x"}) == {"a": 1, "b": "x", "c": 0.5, "d": False}
    assert inputs.take({"a": 1, "b": "x", "d": True}) == {"a": 1, "b": "x", "c": 0.5, "d": True}
    assert "missing argument 'b'" in refused(inputs, 1)


def test_a_single_value_of_several_parameters():
    def predict(a: int, b: str = "b"): ...

    assert beside(predict).take(7) == {"a": 7, "b": "b"}


def test_open_signatures():
    def rest(a, **others): ...
    def spread(*inputs): ...

    assert beside(rest).take({"a": 1, "z": 2}) == {"a": 1, "z": 2}
    assert beside(spread).take({"a": 1}) == {"a": 1}


@pytest.mark.parametrize("hint", [list[Item], Sequence[Item], tuple[Item, ...]])
def test_the_hint_of_the_list_types_each_input(hint):
    def predict_batch(items): ...

    predict_batch.__annotations__["items"] = hint
    inputs = alone(predict_batch)
    assert inputs.take({"name": "a", "size": 2}) == Item("a", 2)
    assert inputs.take({"items": {"name": "a"}}) == Item("a")
    assert refused(inputs, {"nme": "a"}) == "argument 'items': unknown field 'nme' (did you mean 'name'?)"


@pytest.mark.parametrize("hint", [list, tuple[int, str], "list[Missing]", None])
def test_a_hint_that_does_not_say_it_lets_anything_through(hint):
    def predict_batch(items): ...

    if hint is not None:
        predict_batch.__annotations__["items"] = hint
    assert alone(predict_batch).take([1, None]) == [1, None]


def test_a_list_is_not_an_input_of_a_list_of_numbers():
    def predict(numbers: list[float]): ...

    inputs = alone(predict, "list")
    assert inputs.take(1.5) == 1.5
    assert "expected `float`, got `array`" in refused(inputs, [1.5])


@pytest.mark.parametrize("batch", ["stack", "auto"])
def test_an_array_hint_stacks(batch):
    def predict_batch(rows: npt.NDArray[np.float32]): ...

    inputs = alone(predict_batch, batch)
    rows = {place: inputs.take(value) for place, value in enumerate([[1, 2], [3, 4.5], [1, 2, 3], [0, 0]])}
    assert inputs.portions(rows) == [[0, 1, 3], [2]]
    stacked = inputs.join([rows[0], rows[1]])
    assert (stacked.dtype, stacked.tolist()) == (np.float32, [[1, 2], [3, 4.5]])
    assert "ragged" in refused(inputs, [[1], [2, 3]])
    assert "float32" in refused(inputs, ["a"])
    assert "got `null`" in refused(inputs, None)


def test_neighbours_do_not_change_the_type_of_an_input():
    def predict(rows): ...

    inputs = alone(predict, "stack")
    rows = {place: inputs.take(value) for place, value in enumerate([[2**60 + 1], [0.5], [True], [3]])}
    assert inputs.portions(rows) == [[0, 3], [1], [2]]
    assert inputs.join([rows[0], rows[3]]).tolist() == [[2**60 + 1], [3]]


def test_stacking_what_predict_takes_as_a_list():
    def predict(row: list[float]): ...

    def predict_batch(rows: np.ndarray): ...

    inputs = Inputs.of(predict_batch, predict, batch="auto")
    assert inputs.take({"row": [1.0]}).tolist() == [1.0]
    assert "expected `float`" in refused(inputs, ["a"])


def test_several_arguments_cannot_be_stacked():
    def predict(a, b): ...
    def predict_batch(rows: np.ndarray): ...

    with pytest.raises(StartError, match="only where predict takes one argument"):
        Inputs.of(predict_batch, predict, batch="auto")


def test_what_counts_as_answers():
    inputs = beside(lambda x: x)
    for result in ([1, 2], (1, 2), iter([1, 2]), (n for n in (1, 2)), {1: 0, 2: 0}.keys(), np.array([1, 2])):
        assert inputs.split(result, 2) == [1, 2]
    rows = inputs.split(np.array([[1, 2], [3, 4]]), 2)
    assert [row.tolist() for row in rows] == [[1, 2], [3, 4]]
    for result, said in [
        ("ab", "type str"),
        (b"ab", "type bytes"),
        ({1: 1, 2: 2}, "type dict"),
        ({1, 2}, "type set"),
        (7, "type int"),
        (np.float64(1), "type float64"),
        ([1], "returned 1 answers for 2 inputs"),
        (iter(int, 1), "returned more than 2 answers for 2 inputs"),
    ]:
        with pytest.raises(BadModelOutput, match=said):
            inputs.split(result, 2)
