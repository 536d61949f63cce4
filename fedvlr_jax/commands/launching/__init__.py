"""How a command starts and ends: flags, notes, exit status, faults from outside, processes."""
