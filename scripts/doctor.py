"""Doctor: python scripts/doctor.py examines this machine; with overrides, such as algo=mpc env=pendulum, that job."""

import sys

if __name__ == "__main__":
    try:
        from mbrl_lab.cli.__main__ import load

        main = load("doctor")
    except ModuleNotFoundError as error:
        raise SystemExit(f"missing: {error.name} is not installed: make setup, or pip install -e .") from None
    raise SystemExit(main(sys.argv[1:]))
