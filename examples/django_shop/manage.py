#!/usr/bin/env python3
"""Django's command line for this shop."""

import os
import sys

from django.core.management import execute_from_command_line

if __name__ == "__main__":
    # What is made here, the database above all, holds people's orders: no other user of this machine shall read it.
    os.umask(0o077)
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "django_shop.settings")
    execute_from_command_line(sys.argv)
