"""`manage.py paidonce_doctor`: what `paidonce doctor` does, for this project."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from django.core.management.base import CommandError

from paidonce.contrib.django import checks, doctor
from paidonce.contrib.django.commands import Command as Base
from paidonce.doctor import Finding, Health, as_json, as_lines, worst
from paidonce.errors import ConfigError


class Command(Base):
    """Looks, and changes nothing."""

    help = "Look at settings, database, worker, gateways, webhooks and TLS; say what is wrong and how to mend it."
    needs_tables = False

    def add_arguments(self, parser: Any) -> None:
        """`--json`."""
        parser.add_argument("--json", action="store_true", help="For programs.")

    def work(self, **options: Any) -> None:
        """Tell each finding. Raises `CommandError`: exit code 1 if one is red, 2 if the settings can't be read."""
        silent = bool(options["json"])
        try:
            found = asyncio.run(self._examine(silent=silent))
        except ConfigError as error:
            found = [*_checked(), *(Finding("settings", Health.RED, problem) for problem in error.problems)]
            self._show(found, silent=silent)
            raise CommandError("The settings can't be read; what is wrong stands above.", returncode=2) from None
        if silent:
            self.stdout.write(json.dumps(as_json(found), indent=2, ensure_ascii=False))
        red = sum(one.health is Health.RED for one in found)
        if worst(found) is Health.RED:
            raise CommandError(f"{red} of these {'has' if red == 1 else 'have'} to be mended.")

    async def _examine(self, *, silent: bool) -> list[Finding]:
        async with doctor.open_patient() as patient:
            return await doctor.findings(patient, lambda one: None if silent else self._tell(one))

    def _tell(self, finding: Finding) -> None:
        for line in as_lines(finding):
            self.stdout.write(line)

    def _show(self, found: list[Finding], *, silent: bool) -> None:
        if silent:
            self.stdout.write(json.dumps(as_json(found), indent=2, ensure_ascii=False))
            return
        for one in found:
            self._tell(one)


def _checked() -> list[Finding]:
    """What Django's checks say of settings that are too wrong for more; problems of our own are told in any case."""
    return [
        Finding("django", Health.RED, str(one.msg), str(one.hint or ""))
        for one in checks.check_settings()
        if one.is_serious() and one.id not in ("paidonce.E001", "paidonce.E002")
    ]
