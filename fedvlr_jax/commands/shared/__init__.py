"""What the commands share: flags, runs and their directories, members, processes, faults."""
