"""One run in its directory: loaded, begun or resumed, trained, saved, summarised, exported."""
