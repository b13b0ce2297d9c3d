"""`python -m t5x_lite` is `t5x-lite`."""

from t5x_lite import cli

if __name__ == '__main__':
  cli.main()
