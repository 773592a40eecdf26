"""The `codec` command, one file a subcommand.

Whatever takes long to import (torch above all) is imported where it is used, so that `codec --help` answers at once.
"""
