"""World models: learners of what happens next."""

from mbrl_lab.dynamics.analytic import Analytic
from mbrl_lab.dynamics.ends import Ends
from mbrl_lab.dynamics.ensemble import Ensemble
from mbrl_lab.dynamics.fit import Fit
from mbrl_lab.dynamics.fit_visual import FitVisual
from mbrl_lab.dynamics.frames import Frames
from mbrl_lab.dynamics.grid import Grid
from mbrl_lab.dynamics.latent import Latent
from mbrl_lab.dynamics.rssm import RSSM
from mbrl_lab.dynamics.visual import Visual

__all__ = ["RSSM", "Analytic", "Ends", "Ensemble", "Fit", "FitVisual", "Frames", "Grid", "Latent", "Visual"]
