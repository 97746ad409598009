"""World models: learners of what happens next."""

from mbrl_lab.dynamics.analytic import Analytic
from mbrl_lab.dynamics.ensemble import Ensemble
from mbrl_lab.dynamics.ensemble_trainer import EnsembleTrainer
from mbrl_lab.dynamics.frames import FrameModel
from mbrl_lab.dynamics.grid import GridModel
from mbrl_lab.dynamics.image_trainer import ImageTrainer
from mbrl_lab.dynamics.implicit import Implicit
from mbrl_lab.dynamics.latent import Latent
from mbrl_lab.dynamics.rssm import RSSM
from mbrl_lab.dynamics.sequence import SequenceModel
from mbrl_lab.dynamics.sequence_trainer import SequenceTrainer
from mbrl_lab.dynamics.termination import TerminationModel
from mbrl_lab.dynamics.visual import Visual

__all__ = [
    "RSSM",
    "Analytic",
    "Ensemble",
    "EnsembleTrainer",
    "FrameModel",
    "GridModel",
    "ImageTrainer",
    "Implicit",
    "Latent",
    "SequenceModel",
    "SequenceTrainer",
    "TerminationModel",
    "Visual",
]
