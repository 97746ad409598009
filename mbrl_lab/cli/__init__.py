"""The commands, a file each: `mbrl-lab train ...`, and scripts/train.py and so on, which call the same functions."""
