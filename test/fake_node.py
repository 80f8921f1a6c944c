"""The node's main() around a policy that misbehaves; what kind is the first argument."""

from __future__ import annotations

import sys
import time

from fakes import FakePolicy, a_prediction

from vla_ros.ros.node import main
from vla_ros.ros.parameters import Parameters
from vla_ros.types import Cancel, InferenceCancelled, Policy, Prediction, ProgressCallback


def hang() -> None:
    """Hears nothing and does not come back for longer than any test."""
    time.sleep(120)


class StuckWarmup(FakePolicy):
    def warmup(
        self, progress: ProgressCallback | None = None, cancel: Cancel | None = None
    ) -> float:
        hang()
        return 0.0


def hang_then_predict(cancel: Cancel) -> Prediction:
    hang()
    return a_prediction()


def wait_for_cancel(cancel: Cancel) -> Prediction:
    while not cancel.is_set():
        time.sleep(0.002)
    raise InferenceCancelled


def load(parameters: Parameters, progress: ProgressCallback) -> Policy:
    kind = sys.argv[1]
    if kind == 'stuck-load':
        hang()
    if kind == 'stuck-warmup':
        return StuckWarmup()
    if kind == 'hung-inference':
        return FakePolicy(hang_then_predict)
    if kind == 'slow':
        return FakePolicy(wait_for_cancel)
    return FakePolicy()


if __name__ == '__main__':
    sys.exit(main(sys.argv, load_policy=load))
