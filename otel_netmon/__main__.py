"""``python -m otel_netmon``: the same as the ``otel-netmon`` command."""

import sys

from otel_netmon.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
