"""What a server counts, and how Prometheus reads it."""

from skeg.net.metrics.exposition import render
from skeg.net.metrics.recording import Metrics
from skeg.net.metrics.state import IndexState, ProcessState, State

__all__ = ["IndexState", "Metrics", "ProcessState", "State", "render"]
