"""The kernel contract, user side: what bpf/include/netmon_abi.h says, as Python."""
