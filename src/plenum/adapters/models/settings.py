"""A model's settings with checked values: what is missing or out of range ends in a sentence that names the field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from plenum.model.errors import FieldError

LAYERS_LIMIT = 2000
WHOLE_LIMIT = 2**31
"""No shape of a model is larger; what is comes from a broken or hostile file."""


class Settings:
    """Values by name, as a ``config.json`` or a GGUF header has them."""

    def __init__(self, values: Mapping[str, Any], prefix: str = "") -> None:
        self.values = values
        self.prefix = prefix

    def __contains__(self, name: str) -> bool:
        return self.values.get(name) is not None

    def whole(self, first: str, *others: str, default: int | None = None, low: int = 0, high: int = WHOLE_LIMIT) -> int:
        """Return the first of the named values that is there, as a whole number of [low, high].

        Raises
        ------
        FieldError
            It is something else, or none is there and there is no default.
        """
        name = next((name for name in (first, *others) if name in self), "")
        if not name:
            if default is None:
                or_else = f" (or {', '.join(others)})" if others else ""
                raise FieldError(self.prefix + first, f"is missing{or_else}: a whole number")
            return default
        value = self.values[name]
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise FieldError(self.prefix + name, f"must be a whole number from {low} to {high}, not {_short(value)}")
        return value

    def flag(self, name: str, default: bool = False) -> bool:
        """Return whether something is so.

        Raises
        ------
        FieldError
            It is neither true nor false.
        """
        value = self.values.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise FieldError(self.prefix + name, f"must be true or false, not {_short(value)}")
        return value

    def text(self, name: str, default: str = "") -> str:
        """Return a string.

        Raises
        ------
        FieldError
            It is something else.
        """
        value = self.values.get(name)
        if value is None:
            return default
        if not isinstance(value, str):
            raise FieldError(self.prefix + name, f"must be a text, not {_short(value)}")
        return value[:200]

    def each(self, name: str) -> Sequence[Any]:
        """Return a list, empty where there is none.

        Raises
        ------
        FieldError
            It is something else, or longer than a model has layers.
        """
        value = self.values.get(name)
        if value is None:
            return ()
        if not isinstance(value, list) or len(value) > LAYERS_LIMIT:
            raise FieldError(self.prefix + name, f"must be a list of at most {LAYERS_LIMIT}, not {_short(value)}")
        return value

    def part(self, name: str) -> Settings | None:
        """Return the settings in a nested object; None where there is none.

        Raises
        ------
        FieldError
            It is something else.
        """
        value = self.values.get(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise FieldError(self.prefix + name, f"must be an object, not {_short(value)}")
        return Settings(value, f"{self.prefix}{name}.")

    def wrong(self, name: str, sentence: str) -> FieldError:
        """Return the error that says what is wrong with a value."""
        return FieldError(self.prefix + name, sentence)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
