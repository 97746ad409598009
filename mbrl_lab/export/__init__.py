"""Export: a run's policy as a file that does not need this package, by torch.export and as ONNX.

What is exported holds everything between an observation and an action without exploration: the normaliser, the encoder,
a model's belief. Files are written only after they chose the same actions as the run's policy on real observations.
"""

from mbrl_lab.export.acting import acting
from mbrl_lab.export.write import Exported, export

__all__ = ["Exported", "acting", "export"]
