"""What people write as YAML 1.2: a region called ``no`` stays a text, and a key that is there twice is an error."""

from typing import Final, TypeVar

from pydantic import BaseModel, ValidationError

from firmware_store.errors import InvalidInputError
from server.domain.choices import members_of

MAX_BYTES: Final = 1 << 20

Model = TypeVar("Model", bound=BaseModel)


def read_documents(data: bytes, *, name: str) -> list[object]:
    """Return a text's documents, one at least. ``name`` is what the text is called in an error.

    Raises:
        InvalidInputError: it is too long, not YAML, or empty; the text says where.
    """
    from ruamel.yaml import YAML  # noqa: PLC0415 - slow to import, and few commands read YAML
    from ruamel.yaml.error import YAMLError  # noqa: PLC0415

    if len(data) > MAX_BYTES:
        raise InvalidInputError(f"{name} has more than {MAX_BYTES} bytes.")
    try:
        documents = list(YAML(typ="safe", pure=True).load_all(data.decode()))
    except (YAMLError, ValueError, RecursionError) as exc:
        raise InvalidInputError(f"{name} is not YAML: {exc}") from exc
    if not documents:
        raise InvalidInputError(f"{name} has no document.")
    return documents


def validated(model: type[Model], document: object, *, claim: str) -> Model:
    """Return what a document says. ``claim`` is what it was to be, as in "x.yaml is not a scenario".

    Raises:
        InvalidInputError: it is not that; the text names each member that is wrong.
    """
    try:
        return model.model_validate(document)
    except ValidationError as exc:
        wrong = [
            f"  {'.'.join(members_of(entry['loc'])) or 'the document'}: {entry['msg']}"
            for entry in exc.errors(include_url=False, include_context=False, include_input=False)
        ]
        raise InvalidInputError("\n".join((f"{claim}:", *wrong))) from exc
