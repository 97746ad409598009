"""Networks: plain multilayer perceptrons and batched ensembles of them."""

from mbrl_lab.nets.ensemble import EnsembleMLP

__all__ = ["EnsembleMLP"]
