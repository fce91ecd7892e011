"""Arguments: raw JSON to the values that a task function's annotations ask for.

Everything is compiled once for each function. A call with positional arguments only, which nearly every call is, is one
call of a msgspec decoder for that number of arguments; anything else binds names first and decodes value by value.
Only the annotations decide what is built, never the message.
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable
from typing import Any, Final

import msgspec
from msgspec import Raw

from common.errors import InvalidTask, WarrenError
from common.tasks import resolved_hints
from common.wire import json_depth

Bound = tuple[tuple[Any, ...], dict[str, Any]]

_NO_KWARGS: Final = b"{}"
_INDEX = re.compile(r"`\$\[(\d+)\]")
_MAX_COUNTS: Final = 64
_raw_list = msgspec.json.Decoder(list[Raw])
_raw_dict = msgspec.json.Decoder(dict[str, Raw])
_POSITIONAL: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class BadArguments(WarrenError):
    """The arguments do not fit the function; the text says which one and why."""


class Arguments:
    """Decodes the arguments of one function.

    Args:
        function: the plain function; its annotations are read now.
        name: what messages call it, for messages.

    Raises:
        InvalidTask: an annotation is not a type that JSON can be converted to, or nobody can say what it takes.
    """

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        self._signature = _signature(function, name)
        self._parameters = list(self._signature.parameters.values())
        annotations = _annotations(function, self._parameters)
        self._decoders = {
            parameter.name: _decoder(annotations[parameter.name], parameter.name, name)
            for parameter in self._parameters
        }
        self._annotations = annotations
        self._positional = [parameter for parameter in self._parameters if parameter.kind in _POSITIONAL]
        self._by_count: dict[int, msgspec.json.Decoder[tuple[Any, ...]]] = {}
        self._exact = self._exact_count()

    def decode(self, args: Raw, kwargs: Raw, max_depth: int) -> Bound:
        """The positional and the keyword arguments, converted.

        Args:
            args: a JSON array.
            kwargs: a JSON object.
            max_depth: how deep arrays and objects may nest.

        Raises:
            BadArguments: not JSON, nested too deep, or not what the function takes.
        """
        try:
            check_depth(args, max_depth)
            if bytes(kwargs) != _NO_KWARGS:
                check_depth(kwargs, max_depth)
                return self._bind(_raw_list.decode(args), _raw_dict.decode(kwargs))
            if self._exact is not None:
                return self._exact.decode(args), {}
            return self._positional_only(args)
        except RecursionError:
            raise BadArguments("nested too deep") from None
        except (msgspec.MsgspecError, UnicodeDecodeError, OverflowError, ValueError) as error:
            raise BadArguments(self._explain(str(error), args)) from None

    def _exact_count(self) -> msgspec.json.Decoder[tuple[Any, ...]] | None:
        """The one decoder of a function that takes a fixed number of positional arguments, else None."""
        fixed = len(self._positional) == len(self._parameters)
        if fixed and all(parameter.default is parameter.empty for parameter in self._parameters):
            return self._for_count(len(self._parameters))
        return None

    def _for_count(self, count: int) -> msgspec.json.Decoder[tuple[Any, ...]]:
        decoder = self._by_count.get(count)
        if decoder is None:
            types = tuple(self._annotations[name] for name in self._names(count))
            expected: Any = tuple[types]  # type: ignore[valid-type]
            decoder = msgspec.json.Decoder(expected)
            if count <= _MAX_COUNTS:  # the caller chooses the count: what is kept has to be bounded
                self._by_count[count] = decoder
        return decoder

    def _names(self, count: int) -> list[str]:
        """The parameters that `count` positional arguments go to; ``*args`` as often as it takes."""
        names = [parameter.name for parameter in self._positional[:count]]
        variadic = [each.name for each in self._parameters if each.kind is inspect.Parameter.VAR_POSITIONAL]
        return names + variadic * (count - len(names))

    def _positional_only(self, args: Raw) -> Bound:
        raws = _raw_list.decode(args)
        if len(raws) > _MAX_COUNTS:
            return self._bind(raws, {})
        self._check(raws, {})
        return self._for_count(len(raws)).decode(args), {}

    def _bind(self, args: list[Raw], kwargs: dict[str, Raw]) -> Bound:
        self._check(args, kwargs)
        names = self._names(len(args))
        values = tuple(self._one(name, raw) for name, raw in zip(names, args, strict=True))
        extra = next((each.name for each in self._parameters if each.kind is inspect.Parameter.VAR_KEYWORD), "")
        own = {each.name for each in self._parameters if each.kind not in _VARIADIC}
        return values, {name: self._one(name if name in own else extra, raw, name) for name, raw in kwargs.items()}

    def _check(self, args: list[Raw], kwargs: dict[str, Raw]) -> None:
        try:
            self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise BadArguments(str(error)) from None

    def _one(self, parameter: str, raw: Raw, name: str = "") -> Any:
        try:
            return self._decoders[parameter].decode(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError, OverflowError, ValueError) as error:
            raise BadArguments(f"argument {name or parameter!r}: {error}") from None

    def _explain(self, text: str, args: Raw) -> str:
        """`text` of msgspec with the name of the argument instead of its position alone."""
        if text.startswith("Expected `array` of length"):
            try:
                self._check(_raw_list.decode(args), {})
            except BadArguments as error:
                return str(error)
        at = _INDEX.search(text)
        if at is None:
            return text
        names = self._names(int(at[1]) + 1)
        return f"argument {names[-1]!r}: {text}" if names else text


_VARIADIC: Final = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def check_depth(raw: Raw | bytes, limit: int) -> None:
    """Refuse JSON that nests deeper than `limit`.

    Raises:
        BadArguments: it does.
    """
    data = bytes(raw)
    # Nearly always there are fewer brackets in all than the depth allowed, and counting them is quick.
    if data.count(b"[") + data.count(b"{") > limit and json_depth(data) > limit:
        raise BadArguments(f"nested deeper than {limit} levels")


def _signature(function: Callable[..., Any], task: str) -> inspect.Signature:
    try:
        return inspect.signature(function)
    except (TypeError, ValueError) as error:  # written in C, without a word on its arguments
        raise InvalidTask(f"task function {task!r}: {error}; write a function around it") from None


def _annotations(function: Callable[..., Any], parameters: list[inspect.Parameter]) -> dict[str, Any]:
    """The annotation of each parameter; `Any` where there is none or it cannot be resolved when the program runs."""
    hints = resolved_hints(function if inspect.isroutine(function) else type(function).__call__)
    return {
        parameter.name: Any if isinstance(hint := hints.get(parameter.name, Any), typing.TypeVar) else hint
        for parameter in parameters
    }


def _decoder(annotation: Any, parameter: str, task: str) -> msgspec.json.Decoder[Any]:
    try:
        if _has_custom(msgspec.inspect.type_info(annotation)):
            raise TypeError(f"{annotation!r} is not a type that JSON can be converted to")
        return msgspec.json.Decoder(annotation)
    except (TypeError, NameError, AttributeError) as error:  # the last two: a name that only a type checker sees
        raise InvalidTask(
            f"task function {task!r}, argument {parameter!r}: {error}; annotate it with builtins, dataclasses, enums, "
            f"datetimes or msgspec Structs"
        ) from None


def _has_custom(info: msgspec.inspect.Type) -> bool:
    if isinstance(info, msgspec.inspect.CustomType):
        return True
    if isinstance(info, msgspec.inspect.UnionType):
        return any(_has_custom(each) for each in info.types)
    return isinstance(info, msgspec.inspect.Metadata) and _has_custom(info.type)
