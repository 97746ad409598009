"""Data: recorded episodes in files, out of a run's replay and into a new one's."""

from mbrl_lab.data.episodes import Recorded
from mbrl_lab.data.replay import episodes_of, fill
from mbrl_lab.data.store import MINARI, read_episodes, write_minari, write_npz

__all__ = ["MINARI", "Recorded", "episodes_of", "fill", "read_episodes", "write_minari", "write_npz"]
