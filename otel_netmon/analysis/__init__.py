"""State over time, bounded: differences between readings, the largest flows, coverage, the edge rule."""
