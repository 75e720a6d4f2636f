"""Field types that manifests share, and the sentences that say what is wrong with a field."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic_core import ErrorDetails, PydanticCustomError

from plenum.adapters.manifests.document import API_VERSION, Document, Mapping
from plenum.model.errors import FieldError
from plenum.model.fleet import LEVEL, level_id
from plenum.model.units import MAX_QUANTITY, parse, parse_duration, unit_of

ALIASES: dict[str, str] = {
    "cpu": "cpu_milli",
    "memory": "memory_bytes",
    "power": "power_w",
    "gpu": "gpu_milli",
    "cxl": "cxl_bytes",
    "nvmeof": "nvmeof_bytes",
    "uplink": "uplink_bps",
}
"""Short names of resources in manifests; any other resource goes by its own name, unit last."""

MAX_NAME = 253
MOST_NAMED = 8
"""Fields of a mapping that the sentence names which says that it must be one."""

_NAME = re.compile(r"[^\s{}]([^{}]*[^\s{}])?")


class Strict(BaseModel):
    """A part of a manifest: camelCase, nothing unknown, nothing changed after reading."""

    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, frozen=True, allow_inf_nan=False, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _known(cls, data: Any) -> Any:
        names = names_in(cls)
        if isinstance(data, dict):
            for key in data:
                if key not in names:
                    sentence = (
                        f"there is no such field{did_you_mean(key, names)}; the fields here are {', '.join(names)}"
                    )
                    raise PydanticCustomError("unknown_field", "{sentence}", {"sentence": sentence, "key": key})
        elif not isinstance(data, cls):
            listed = f" with {', '.join(names)}" if len(names) <= MOST_NAMED else ""
            sentence = f"must be a mapping{listed}, not {_shown(data)}"
            raise PydanticCustomError("wrong", "{sentence}", {"sentence": sentence})
        return data


def names_in(part: type[Strict]) -> list[str]:
    """Return the names of a part's fields, as they are written."""
    return [field.alias or name for name, field in part.model_fields.items()]


def nearest(word: str, choices: Iterable[str]) -> str:
    """Return the choice that a word is, or may be meant to be; empty: none is close."""
    by_lower = {choice.lower(): choice for choice in choices}
    close = difflib.get_close_matches(word.lower(), by_lower, n=1)
    return by_lower[close[0]] if close else ""


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the closest choice, or nothing."""
    close = nearest(word, choices)
    return f" (did you mean {close!r}?)" if close else ""


def one_of(word: str, choices: Iterable[str], what: str) -> str:
    """Return the sentence for a word that is none of the choices."""
    choices = list(choices)
    listed = f"there is {', '.join(choices)}" if choices else "there is none"
    return f"there is no {what} {word[:60]!r}{did_you_mean(word, choices)}; {listed}"


def fail(error: FieldError) -> PydanticCustomError:
    """Carry one of our errors through Pydantic."""
    return PydanticCustomError("wrong", "{sentence}", {"sentence": error.sentence})


def _read(unit: str) -> BeforeValidator:
    return BeforeValidator(lambda value: amount_of(value, unit))


def _shape(example: str) -> WithJsonSchema:
    return WithJsonSchema({"type": ["integer", "number", "string"], "minimum": 0, "examples": [example]})


def amount_of(value: object, unit: str) -> int:
    """Read a quantity; whole numbers exactly.

    Raises
    ------
    PydanticCustomError
        It is none.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        exact = value * 1000 if unit == "milli" else value
        if 0 <= exact < MAX_QUANTITY:
            return exact
    try:
        return parse(value, unit, "")
    except FieldError as error:
        raise fail(error) from None


def _read_duration(value: object) -> float:
    try:
        return parse_duration(value, "")
    except FieldError as error:
        raise fail(error) from None


Seconds = Annotated[float, BeforeValidator(_read_duration), _shape("5m")]
Bytes = Annotated[int, _read("bytes"), _shape("2TiB")]
Watts = Annotated[int, _read("w"), _shape("40kW")]
BitsPerSecond = Annotated[int, _read("bps"), _shape("400Gb/s")]
Cores = Annotated[int, _read("milli"), _shape("500m")]


def _read_budgets(value: Any) -> object:
    if not isinstance(value, dict):
        return value  # Pydantic says what is wrong with it
    amounts: dict[str, int] = {}
    for name, amount in value.items():
        resource = ALIASES[name] if name in ALIASES else name  # noqa: SIM401
        if not _is_name(name):
            raise PydanticCustomError("unknown_field", "{sentence}", {"sentence": "is not a name", "key": name[:60]})
        unit = unit_of(resource)
        # A resource named in full states its unit: cpu_milli: 64000 is 64 cores, as cpu: 64 is.
        if unit == "milli" and name == resource and isinstance(amount, int):
            unit = "count"
        try:
            number = amount_of(amount, unit)
        except PydanticCustomError as error:
            raise PydanticCustomError(
                "unknown_field", "{sentence}", {"sentence": error.message(), "key": name}
            ) from None
        if resource in amounts:
            sentence = f"{resource} is given twice, under its short and its full name"
            raise PydanticCustomError("unknown_field", "{sentence}", {"sentence": sentence, "key": name})
        amounts[resource] = number
    return amounts


Budgets = Annotated[
    dict[str, int],
    BeforeValidator(_read_budgets),
    WithJsonSchema(
        {
            "type": "object",
            "additionalProperties": {"type": ["integer", "number", "string"]},
            "examples": [{"cpu": 64, "memory": "2TiB", "power": "8kW", "licences": 4}],
        }
    ),
]
"""Resource to amount in its base unit."""


def _check_level(value: object) -> object:
    if isinstance(value, str) and value not in LEVEL:
        try:
            level_id(value, "")
        except FieldError as error:
            sentence = error.sentence.replace(";", f"{did_you_mean(value, LEVEL)};", 1)
            raise PydanticCustomError("wrong", "{sentence}", {"sentence": sentence}) from None
    return value


def _check_name(value: object) -> object:
    if isinstance(value, str) and not _is_name(value):
        sentence = f"{value[:60]!r} is not a name: 1 to {MAX_NAME} printable characters, no braces, no space at an end"
        raise PydanticCustomError("wrong", "{sentence}", {"sentence": sentence})
    return value


def _is_name(text: str) -> bool:
    return len(text) <= MAX_NAME and text.isprintable() and _NAME.fullmatch(text) is not None


def _check_path(value: object) -> object:
    if isinstance(value, str):
        level, colon, name = value.partition(":")
        if not colon:
            sentence = f"{value[:60]!r} is not a domain: write axis.level:name, for example place.rack:r7"
            raise PydanticCustomError("wrong", "{sentence}", {"sentence": sentence})
        _check_level(level)
        _check_name(name)
    return value


Level = Annotated[str, BeforeValidator(_check_level), WithJsonSchema({"type": "string", "enum": list(LEVEL)})]
Name = Annotated[str, BeforeValidator(_check_name), Field(min_length=1, max_length=MAX_NAME)]
Path = Annotated[str, BeforeValidator(_check_path)]
"""``axis.level:name``."""


MAX_LABELS = 64
MAX_LABEL = 1024


def _check_labels(value: dict[str, str]) -> dict[str, str]:
    sentence = f"{len(value)} labels are too many; at most {MAX_LABELS}" if len(value) > MAX_LABELS else ""
    for key, text in value.items():
        if not _is_name(key):
            sentence = f"{key[:60]!r} is not a label: 1 to {MAX_NAME} printable characters, no braces"
        elif len(text) > MAX_LABEL:
            sentence = f"the value of {key} has {len(text):,} characters; at most {MAX_LABEL:,}"
    if sentence:
        raise PydanticCustomError("wrong", "{sentence}", {"sentence": sentence})
    return value


Labels = Annotated[dict[str, str], AfterValidator(_check_labels)]


class Metadata(Strict):
    """Name, tenant and labels."""

    name: Name
    tenant: Name = "default"
    labels: Labels = Field(default_factory=dict)


class Manifest(Strict):
    """What every manifest starts with."""

    api_version: Literal["plenum.dev/v1alpha1"]
    metadata: Metadata


M = TypeVar("M", bound=Strict)


def check_head(document: Document, kinds: Iterable[str]) -> None:
    """Check apiVersion and kind, so that the wrong sort of file gets one sentence about that.

    Raises
    ------
    FieldError
        Another version or kind.
    """
    kinds = list(kinds)
    version, kind = document.value.get("apiVersion"), document.value.get("kind")
    if version != API_VERSION:
        raise document.wrong(("apiVersion",), f"must be {API_VERSION}, not {_shown(version)}")
    if kind not in kinds:
        choice = kinds[0] if len(kinds) == 1 else f"{', '.join(kinds[:-1])} or {kinds[-1]}"
        raise document.wrong(("kind",), f"must be {choice}, not {_shown(kind)}{did_you_mean(str(kind), kinds)}")


_BY_SYSTEM = ("uid", "generation", "resourceVersion", "createdAt", "createdBy", "traceId")


def written(document: Document) -> tuple[Document, str]:
    """Leave out what only the system writes, so that what was read from a control plane can be applied again.

    Returns
    -------
    document, version
        Without ``status`` and the like; ``metadata.resourceVersion``, or empty.
    """
    version = ""
    value = _without(document.value, ("status",))
    metadata = value.get("metadata")
    if isinstance(metadata, Mapping):
        version = str(metadata.get("resourceVersion", ""))[:MAX_NAME]
        value["metadata"] = _without(metadata, _BY_SYSTEM)
    return Document(value, document.file), version


def _without(mapping: Mapping, keys: Iterable[str]) -> Mapping:
    rest = Mapping(mapping.line)
    rest.update((key, item) for key, item in mapping.items() if key not in keys)
    rest.lines = mapping.lines
    return rest


def validated(model: type[M], document: Document) -> M:
    """Check a document against a manifest's type.

    Raises
    ------
    FieldError
        The topmost thing that is wrong, with its file, line, field and what would be right.
    """
    try:
        return model.model_validate(document.value)
    except ValidationError as error:
        faults = [_fault(document, details) for details in error.errors(include_url=False)]
        raise min(faults, key=lambda fault: fault.where.line) from None


def _fault(document: Document, details: ErrorDetails) -> FieldError:
    context = details.get("ctx", {})
    path = tuple(step for step in details["loc"] if step != "[key]")
    if details["type"] == "unknown_field":
        path = (*path, context["key"])
    return document.wrong(path, _sentence(details, context))


def _sentence(details: ErrorDetails, context: dict[str, Any]) -> str:
    kind, given = details["type"], details.get("input")
    if kind in ("wrong", "unknown_field"):
        return context["sentence"]
    if kind == "missing":
        return "is missing, and it is required"
    if kind == "literal_error":
        choices = re.findall(r"'([^']*)'", context["expected"])
        return f"must be {context['expected']}, not {_shown(given)}{did_you_mean(str(given), choices)}"
    bound = next((f"{word} {context[key]:,g}" for key, word in _BOUNDS.items() if key in context), None)
    if bound:
        return f"must be {bound}, not {_shown(given)}"
    such = f" such as [{given}]," if kind == "list_type" and isinstance(given, str) and len(given) <= MAX_NAME else ","
    return f"must be {_WANTED.get(kind, details['msg'])}{such} not {_shown(given)}"


_BOUNDS = {
    "ge": "at least",
    "gt": "above",
    "le": "at most",
    "lt": "below",
    "min_length": "of length at least",
    "max_length": "of length at most",
}
_WANTED = {
    "string_type": "text (put quotes round it)",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing_size": "a smaller number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}


def _shown(value: object) -> str:
    if value is None:
        return "empty"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
