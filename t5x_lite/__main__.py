"""`python -m t5x_lite` is `t5x-lite`."""

import sys

from t5x_lite import cli

if __name__ == '__main__':
  sys.exit(cli.main())
