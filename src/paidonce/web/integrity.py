"""What our own scripts and style sheets have to be, byte for byte, as browsers check it before they run them.

The hashes are those of the files at start-up. A file that somebody changes afterwards, or that something between this
process and the browser changes, is refused by the browser. Modules import one another, and an attribute `integrity`
covers the named file alone; the import map covers whatever is imported, also later (docs/content-security.md).
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from markupsafe import Markup

from paidonce.gateways.base import Component

OWN = Path(__file__).parent.parent / "components" / "assets"

_CHECKED = frozenset({".js", ".css"})


def of_text(content: bytes) -> str:
    """The integrity metadata of `content`, as HTML and import maps have it."""
    return "sha384-" + base64.b64encode(hashlib.sha384(content).digest()).decode()


@dataclass(frozen=True)
class Integrity:
    """The hashes of the files that a page may load from us, by the address at which it loads them."""

    hashes: Mapping[str, str]

    @classmethod
    def of_components(cls, components: Mapping[str, Component]) -> Integrity:
        """Those of the shared files and of each gateway's, where the shop serves them."""
        folders = {"/assets": OWN} | {f"/assets/gateways/{name}": part.assets for name, part in components.items()}
        return cls({path: of_text(file.read_bytes()) for path, file in _files(folders)})

    @cached_property
    def import_map(self) -> str:
        """The text of the import map: the hash of every module, so that imports are checked as well."""
        modules = {path: value for path, value in self.hashes.items() if path.endswith(".js")}
        # Within a script element, where nothing may look like its end.
        return json.dumps({"integrity": modules}, separators=(",", ":")).replace("<", "\\u003c")

    @cached_property
    def import_map_source(self) -> str:
        """The source that lets a policy without a nonce allow the import map, which is an inline script."""
        digest = hashlib.sha256(self.import_map.encode()).digest()
        return f"'sha256-{base64.b64encode(digest).decode()}'"

    def scripts(self, paths: Iterable[str], *, nonce: str | None) -> Markup:
        """The tags of the modules at `paths`, after the import map for what they import; nothing without modules."""
        modules = list(paths)
        if not modules:
            return Markup("")
        mark = Markup(' nonce="{}"').format(nonce) if nonce else Markup("")
        # It holds our own paths and hashes, and entities would not be read within a script.
        tags = [Markup('<script type="importmap"{}>{}</script>\n').format(mark, Markup(self.import_map))]  # noqa: S704
        tag = Markup('<script type="module" src="{}" integrity="{}"{}></script>\n')
        return Markup("").join(tags + [tag.format(path, self.hashes[path], mark) for path in modules])

    def stylesheet(self, path: str) -> Markup:
        """The tag of the style sheet at `path`."""
        return Markup('<link rel="stylesheet" href="{}" integrity="{}">').format(path, self.hashes[path])


def _files(folders: Mapping[str, Path]) -> Iterable[tuple[str, Path]]:
    for prefix, folder in folders.items():
        for file in sorted(folder.rglob("*")):
            if file.suffix in _CHECKED:
                yield f"{prefix}/{file.relative_to(folder).as_posix()}", file
