"""Fills the outgoing messages. Pure functions; used by the executor's thread."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from vla_ros.graph.stamps import to_duration, to_time
from vla_ros.motion import MotionCounters
from vla_ros.msg import VlaAction, VlaStatus
from vla_ros.parameters.definition import Parameters
from vla_ros.ros.inputs import Inputs
from vla_ros.ros.shared import RequestCounters
from vla_ros.ros.situation import Situation
from vla_ros.scheduling import ActionGate, Result, SlotStatistics, WorkerStatus
from vla_ros.text import printable
from vla_ros.types import PolicyInfo, WarmupTimes

_LEVELS = {
    VlaStatus.RUNNING: DiagnosticStatus.OK,
    VlaStatus.READY: DiagnosticStatus.OK,
    VlaStatus.ERROR: DiagnosticStatus.ERROR,
}  # the others: WARN
_COUNTERS = tuple(
    name for name, kind in VlaStatus.get_fields_and_field_types().items() if kind == 'uint64'
)


def action_message(
    result: Result, now_ns: int, max_action_age_s: float, frame_id: str, sequence: int
) -> VlaAction:
    """:param result: one with a prediction."""
    prediction, observation = result.prediction, result.observation
    assert prediction is not None
    normalized, tokens = prediction.normalized_actions, prediction.tokens
    columns = len(prediction.action)
    message = VlaAction(
        observation_stamp=to_time(observation.stamp_ns),
        valid_until=to_time(observation.stamp_ns + round(max_action_age_s * 1e9)),
        sequence=sequence,
        instruction=observation.instruction,
        unnorm_key=printable(prediction.unnorm_key),  # whatever a policy calls it
        action=prediction.action.tolist(),
        normalized_action=[] if normalized is None else normalized[0].tolist(),
        token_probabilities=[] if tokens is None else tokens.probabilities[:columns].tolist(),
        inference_time=to_duration(result.inference_s),
        latency=to_duration((now_ns - observation.stamp_ns) / 1e9),
    )
    message.header.stamp = to_time(now_ns)
    message.header.frame_id = frame_id
    return message


def status_message(
    robot: str,
    situation: Situation,
    parameters: Parameters,
    inputs: Inputs,
    gate: ActionGate,
    motions: MotionCounters,
    why_no_motion: str,
    worker: WorkerStatus | None,
    slot: SlotStatistics,
    requests: RequestCounters,
    clock_jumps: int,
) -> VlaStatus:
    """All but the stamp and ``elapsed_s``.

    :param robot: its name; empty if it needs none.
    :param why_no_motion: why the last action moved nothing; empty if it did, or should not.
    :param worker: None while the node is unconfigured. Until a policy is loaded, what was asked
        for is shown.
    """
    chosen = (worker and worker.info) or PolicyInfo(
        parameters.model,
        parameters.revision,
        parameters.device,
        parameters.dtype,
        parameters.quantization,
        parameters.compile,
    )
    times = (worker and worker.warmup_times) or WarmupTimes(0.0, 0.0, 0.0)
    latency, inference = gate.latency.percentiles(), gate.inference.percentiles()
    status = VlaStatus(
        robot=robot,
        state=situation.state,
        reason=situation.reason,
        why=situation.message,
        preprocessing=parameters.preprocessing,
        unnorm_key=parameters.unnorm_key,
        instruction=inputs.instruction,
        **dataclasses.asdict(chosen),
        load_s=worker.load_s if worker else 0.0,
        warmup_s=times.total_s,
        first_inference_s=times.first_inference_s,
        steady_inference_s=times.steady_inference_s,
        **dataclasses.asdict(inputs.counters),
        **dataclasses.asdict(inputs.camera.counters),
        **dataclasses.asdict(gate.counters),
        **dataclasses.asdict(gate.drafts),
        draft_acceptance=gate.drafts.acceptance,
        motion=parameters.motion,
        why_no_motion=why_no_motion,
        **dataclasses.asdict(motions),
        **dataclasses.asdict(requests),
        **_slot_counters(slot),
        in_flight=slot.taken - gate.counters.total,
        latency_p50_s=latency.p50_s,
        latency_p95_s=latency.p95_s,
        latency_p99_s=latency.p99_s,
        inference_p50_s=inference.p50_s,
        inference_p95_s=inference.p95_s,
        inference_p99_s=inference.p99_s,
        clock_jumps=clock_jumps,
    )
    return _with_clean_text(status)


def _slot_counters(slot: SlotStatistics) -> dict[str, int]:
    counters = dataclasses.asdict(slot)
    del counters['submitted']  # it is what was received, less what the inputs count
    return counters


def _with_clean_text(status: VlaStatus) -> VlaStatus:
    """Whatever a parameter, a file or a library put into it: bounded and visible."""
    for name, kind in status.get_fields_and_field_types().items():
        if kind == 'string':
            setattr(status, name, printable(getattr(status, name)))
    return status


def diagnostics_message(statuses: Sequence[VlaStatus], name: str) -> DiagnosticArray:
    """The statuses once more, in the form that rqt and robot monitors read.

    :param statuses: one of each robot.
    :param name: the node's.
    """
    message = DiagnosticArray(status=[_diagnostic(status, name) for status in statuses])
    message.header.stamp = statuses[0].header.stamp
    return message


def _diagnostic(status: VlaStatus, name: str) -> DiagnosticStatus:
    values = [KeyValue(key=key, value=str(getattr(status, key))) for key in _COUNTERS]
    values.append(KeyValue(key='draft_acceptance', value=f'{status.draft_acceptance:.3f}'))
    values.append(KeyValue(key='latency_p95_s', value=f'{status.latency_p95_s:.4f}'))
    values.append(KeyValue(key='inference_p95_s', value=f'{status.inference_p95_s:.4f}'))
    values.append(KeyValue(key='why_no_motion', value=status.why_no_motion))
    level = _LEVELS.get(status.state, DiagnosticStatus.WARN)
    if status.why_no_motion and level == DiagnosticStatus.OK:
        level = DiagnosticStatus.WARN
    why = status.why or status.why_no_motion
    return DiagnosticStatus(
        level=level,
        name=f'{name}: {status.robot}' if status.robot else name,
        message=f'{status.state}: {why}' if why else status.state,
        hardware_id=status.device,
        values=values,
    )
