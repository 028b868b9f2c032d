"""Early stopping: the best epoch by ``val_loss``, and when to stop."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from flowercnn.training.run import History

__all__ = ["BestEpoch"]


class BestEpoch:
    """Early stopping: keeps the weights of the epoch with the lowest ``val_loss``.

    Args:
        patience: How many epochs in a row may be worse than the best.
    """

    def __init__(self, patience: int) -> None:
        self._patience = patience
        self._best = math.inf
        self._waited = 0
        self.weights: Sequence[Any] = ()

    def resume(self, history: History, weights: Sequence[Any]) -> None:
        """Take up the state after the epochs of ``history``, of which the best had ``weights``."""
        for epoch in history.epochs:
            self._count(epoch)
        self.weights = weights

    def see(self, epoch: Mapping[str, float], weights: Sequence[Any]) -> bool:
        """Take an epoch's figures and weights; return whether to stop."""
        if self._count(epoch):
            self.weights = weights
        return self.has_waited

    @property
    def has_waited(self) -> bool:
        """Whether so many epochs in a row were worse than the best."""
        return self._waited >= self._patience

    def _count(self, epoch: Mapping[str, float]) -> bool:
        if "val_loss" not in epoch:  # a training may go on with val that began without
            return False
        loss = epoch["val_loss"]
        better = loss < self._best
        self._best = min(self._best, loss)
        self._waited = 0 if better else self._waited + 1
        return better
