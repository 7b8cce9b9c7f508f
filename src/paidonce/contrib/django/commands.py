"""What the management commands share: whatever the user can mend is a sentence, never a traceback."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from paidonce.contrib.django import conf
from paidonce.contrib.django.schema import is_current
from paidonce.errors import ConfigError, PaidonceError

NOT_CURRENT = "The database has not the tables of this version. Run: manage.py migrate"


class Command(BaseCommand):
    """A command of paidonce. Subclasses implement `work`."""

    needs_tables = True

    def handle(self, *args: Any, **options: Any) -> None:
        """Run `work`; its errors become Django's."""
        try:
            if self.needs_tables and not is_current(conf.read().database):
                raise ConfigError([NOT_CURRENT])
            self.work(**options)
        except ConfigError as error:
            raise CommandError("\n".join(error.problems)) from None
        except PaidonceError as error:
            raise CommandError(str(error)) from None

    def work(self, **options: Any) -> None:
        """Do what the command is for. Raises `PaidonceError` for what the user can mend."""
        raise NotImplementedError
