"""World models: learners of what happens next."""

from mbrl_lab.dynamics.analytic import Analytic
from mbrl_lab.dynamics.ends import Ends
from mbrl_lab.dynamics.ensemble import Ensemble
from mbrl_lab.dynamics.fit import Fit
from mbrl_lab.dynamics.latent import Latent
from mbrl_lab.dynamics.rssm import RSSM

__all__ = ["RSSM", "Analytic", "Ends", "Ensemble", "Fit", "Latent"]
