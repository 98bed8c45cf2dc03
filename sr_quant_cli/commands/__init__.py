"""The work of the commands; nothing here reads options."""
