"""Shared by the commands: flags, runs and their directories, members, processes, faults."""
