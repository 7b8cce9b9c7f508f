"""The one type of settings that nobody else may read: keys, passwords, addresses with a password in them."""

from __future__ import annotations

from typing import Any, Self

from pydantic import SecretStr


class Secret(SecretStr):
    """A text that shows itself only to whoever calls `get_secret_value()`.

    Neither `repr`, `str`, formatting, `dataclasses.asdict` and a model's dump nor the comparison of two settings in a
    failing test print it. It can't be pickled, since a pickle is a file or a message with the text in it.
    """

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, _memo: dict[int, Any]) -> Self:
        return self

    def __reduce_ex__(self, _protocol: object) -> tuple[Any, ...]:
        raise TypeError("A secret is not pickled; read the settings anew where they are needed.")
