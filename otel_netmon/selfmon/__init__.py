"""What the agent tells about itself: log, own metrics, health."""
