"""Points leave the agent: OTLP to a collector, and pages for Prometheus and for people."""
