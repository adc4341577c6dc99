"""bpf(2), program images, loading, links, interfaces. Standard library only: the supervisor lives on this package."""
