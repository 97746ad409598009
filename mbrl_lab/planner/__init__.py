"""Search for actions in a world model: nothing here learns."""

from mbrl_lab.planner.cem import CEM
from mbrl_lab.planner.icem import ICEM
from mbrl_lab.planner.mppi import MPPI
from mbrl_lab.planner.random_shooting import RandomShooting

__all__ = ["CEM", "ICEM", "MPPI", "RandomShooting"]
