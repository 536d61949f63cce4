"""Tables of several runs, as text, files and pages."""
