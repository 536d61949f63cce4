"""Speed, scale, memory and survival, each a command that prints a table."""
