"""One module a probe: its readers, its analysis and its points put together, with the state that outlives the process."""
