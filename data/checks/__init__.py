"""Whether a store of recordings can be trusted: one kind of finding per file."""
