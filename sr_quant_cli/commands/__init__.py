"""What the commands do; nothing here reads options."""
