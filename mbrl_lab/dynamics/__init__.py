"""World models: learners of what happens next."""

from mbrl_lab.dynamics.analytic import Analytic
from mbrl_lab.dynamics.ends import Ends
from mbrl_lab.dynamics.ensemble import Ensemble
from mbrl_lab.dynamics.fit import Fit
from mbrl_lab.dynamics.latent import Latent

__all__ = ["Analytic", "Ends", "Ensemble", "Fit", "Latent"]
