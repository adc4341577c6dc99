"""Names for what the kernel counts by number. Never blocks."""
