"""Networks: MLPs and batched ensembles of them, encoders, decoders, heads and optimisers."""

from mbrl_lab.nets.ensemble import EnsembleMLP

__all__ = ["EnsembleMLP"]
