"""Parameters of paths and queries: declared once, for reading them strictly and for the OpenAPI document."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from starlette.datastructures import QueryParams

from plenum.api.errors import ParameterError

MAX_INTEGER = 2**53
TEXT_CHARACTERS = 500
REPEATS = 32
"""Times that one parameter may be given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One parameter.

    Parameters
    ----------
    pattern
        That a text must match as a whole.
    many
        It may be given several times; its value is then a tuple.
    """

    name: str
    about: str
    kind: Literal["string", "integer", "number", "boolean"] = "string"
    default: Any = None
    low: int = 0
    high: int = MAX_INTEGER
    choices: tuple[str, ...] = ()
    pattern: str = ""
    many: bool = False
    example: Any = None

    def read(self, text: str) -> Any:
        """Return the value that a text stands for.

        Raises
        ------
        ParameterError
            It cannot be meant.
        """
        if self.kind == "boolean":
            if text not in ("true", "false"):
                raise ParameterError(self.name, f"must be true or false, not {text[:60]!r}")
            return text == "true"
        if self.kind == "integer":
            # Sixteen digits hold every whole number that JSON can carry exactly; longer text is not even turned into a number.
            if not re.fullmatch(r"-?[0-9]{1,16}", text) or not self.low <= int(text) <= self.high:
                raise ParameterError(
                    self.name, f"must be a whole number from {self.low} to {self.high}, not {text[:60]!r}"
                )
            return int(text)
        if self.kind == "number":
            return self._number(text)
        if self.choices and text not in self.choices:
            raise ParameterError(self.name, f"must be one of {', '.join(self.choices)}, not {text[:60]!r}")
        if len(text) > TEXT_CHARACTERS or not text.isprintable():
            raise ParameterError(self.name, f"must be at most {TEXT_CHARACTERS} printable characters")
        if self.pattern and not re.fullmatch(self.pattern, text):
            raise ParameterError(self.name, f"must match {self.pattern}, which {text[:60]!r} does not")
        return text

    def _number(self, text: str) -> float:
        try:
            value = float(text) if len(text) <= 40 else math.nan
        except ValueError:
            value = math.nan
        if not self.low <= value <= self.high:
            raise ParameterError(self.name, f"must be a number from {self.low} to {self.high}, not {text[:60]!r}")
        return value

    def schema(self) -> dict[str, Any]:
        """Return its JSON Schema."""
        schema: dict[str, Any] = {"type": self.kind}
        if self.kind in ("integer", "number"):
            schema |= {"minimum": self.low, "maximum": self.high}
        if self.choices:
            schema["enum"] = list(self.choices)
        if self.pattern:
            schema["pattern"] = f"^{self.pattern}$"
        if self.kind == "string" and not self.choices:
            schema["maxLength"] = TEXT_CHARACTERS
        if self.default is not None and not self.many:
            schema["default"] = self.default
        return {"type": "array", "items": schema, "maxItems": REPEATS} if self.many else schema


NAME = r"[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?"

PATH: dict[str, Parameter] = {
    p.name: p
    for p in (
        Parameter(name="tenant", about="Name of the tenant.", pattern=NAME, example="research"),
        Parameter(name="name", about="Name of the job within its tenant.", pattern=NAME, example="pretrain"),
        Parameter(name="user", about="Name of the user.", pattern=NAME, example="ada"),
        Parameter(name="token", about="Id of the token.", pattern=r"[A-Za-z0-9_-]{1,64}", example="4k1x9c2m7qpd"),
        Parameter(name="fleet", about="Name of the fleet.", pattern=NAME, example="hall-1"),
        Parameter(name="node", about="Name of the node.", pattern=r"[^/\\]{1,253}", example="n001"),
        Parameter(name="agent", about="Name of the agent.", pattern=NAME, example="host-1"),
        Parameter(name="gateway", about="Name of the gateway.", pattern=NAME, example="edge-1"),
        Parameter(name="key", about="Id of the key.", pattern=r"[A-Za-z0-9_-]{1,64}", example="4k1x9c2m7qpd"),
        Parameter(name="position", about="Position in the log.", kind="integer", low=1, example=17),
    )
}
"""By name: those that stand in paths."""


def read_query(given: QueryParams, declared: Iterable[Parameter]) -> dict[str, Any]:
    """Return the values of a query, with defaults for what is not given.

    Raises
    ------
    ParameterError
        One cannot be meant, is given too often, or is not known: a misspelt filter must not show everything.
    """
    by_name = {parameter.name: parameter for parameter in declared}
    values: dict[str, Any] = {name: () if p.many else p.default for name, p in by_name.items()}
    if not given:
        return values
    for name in given:
        parameter = by_name.get(name)
        if parameter is None:
            known = ", ".join(by_name) or "none"
            raise ParameterError(name[:60], f"there is no such parameter here; there is {known}")
        texts = given.getlist(name)
        if len(texts) > (REPEATS if parameter.many else 1):
            raise ParameterError(
                name, f"is given {len(texts)} times; at most {REPEATS if parameter.many else 1} is read"
            )
        read = tuple(parameter.read(text) for text in texts)
        values[name] = read if parameter.many else read[0]
    return values
