"""Records to OpenTelemetry: the catalogue of names, the points of one cycle, the resource."""
