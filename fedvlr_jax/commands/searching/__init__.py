"""The space of a search and its trials."""
