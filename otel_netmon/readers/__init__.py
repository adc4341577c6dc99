"""Bytes out of maps and procfs into arrays; what they mean is decided later."""
