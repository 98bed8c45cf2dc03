"""The machine: processes, devices, signals, files."""
