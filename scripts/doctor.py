"""Doctor: python scripts/doctor.py examines this machine; with overrides, such as algo=mpc env=pendulum, that job."""

import sys

try:
    from mbrl_lab.cli.doctor import main
except ModuleNotFoundError as error:
    raise SystemExit(f"missing: {error.name} is not installed: make setup, or pip install -e .") from None

if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
