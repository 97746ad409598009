"""Hub: a trained agent as a folder or a repository of the Hugging Face Hub, without pickle, and back."""

from mbrl_lab.hub.bundle import Agent, write_bundle
from mbrl_lab.hub.fetch import PREFIX, fetch
from mbrl_lab.hub.upload import upload
from mbrl_lab.hub.weights import WEIGHTS, read_weights

__all__ = ["PREFIX", "WEIGHTS", "Agent", "fetch", "read_weights", "upload", "write_bundle"]
