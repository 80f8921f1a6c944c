# SPDX-License-Identifier: Apache-2.0
"""The outgoing messages. Pure functions; used by the executor's thread."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from vla_ros.clock import latency_s
from vla_ros.graph.heard import cleaned
from vla_ros.graph.stamps import to_duration, to_time
from vla_ros.msg import (
    VlaAction,
    VlaCounters,
    VlaLatencies,
    VlaMotion,
    VlaPercentiles,
    VlaPolicyInfo,
    VlaRecording,
    VlaStatus,
)
from vla_ros.parameters.definition import Parameters
from vla_ros.reasons import Cause, Reason, State
from vla_ros.ros.output import Admitted
from vla_ros.ros.situation import Situation
from vla_ros.scheduling import ActionGate, LatencyWindow, WorkerStatus
from vla_ros.text import printable
from vla_ros.types import PolicyInfo, PolicySpec, WarmupTimes

_LEVELS = {
    State.RUNNING: DiagnosticStatus.OK,
    State.READY: DiagnosticStatus.OK,
    State.ERROR: DiagnosticStatus.ERROR,
}  # the others: WARN
_WAITS_FOR_ORDERS = (Reason.NO_INSTRUCTION, Reason.INSTRUCTION_CHANGED)  # OK, though it holds


def action_message(admitted: Admitted, frame_id: str) -> VlaAction:
    """Return the message of an admitted chunk."""
    result, description = admitted.result, admitted.description
    prediction, observation = result.predicted(), result.observation
    tokens, now_ns = prediction.tokens, admitted.published.node_ns
    message = VlaAction(
        observation_stamp=to_time(observation.stamp_ns),
        valid_until=to_time(admitted.valid_until_ns),
        due=to_time(admitted.due_ns),
        sequence=admitted.sequence,
        instruction=observation.instruction,
        unnorm_key=printable(prediction.unnorm_key),  # a policy may call it anything
        action_space=description.action_space,
        names=[printable(name) for name in description.names],
        action=prediction.action.tolist(),
        horizon=len(prediction.actions),
        actions=prediction.actions.ravel().tolist(),
        period=to_duration(description.period_s or 0.0),
        token_probabilities=[] if tokens is None else tokens.probabilities.tolist(),
        inference_time=to_duration(result.inference_s),
        latency=to_duration(latency_s(observation.stamp_ns, now_ns)),
        **dataclasses.asdict(description.gripper),
    )
    message.header.stamp = to_time(now_ns)
    message.header.frame_id = frame_id
    return message


def status_message(
    robot: str,
    situation: Situation,
    instruction: str,
    policy: VlaPolicyInfo,
    counters: VlaCounters,
    latencies: VlaLatencies,
    motion: VlaMotion,
    recording: VlaRecording,
) -> VlaStatus:
    """Return the status without stamp and ``elapsed_s``.

    :param robot: its name; empty if it needs none.
    :param instruction: the current one.
    """
    status = VlaStatus(
        robot=robot,
        state=situation.state,
        reason=situation.reason,
        message=situation.text,
        instruction=instruction,
        policy=policy,
        counters=counters,
        latencies=latencies,
        motion=motion,
        recording=recording,
    )
    return cleaned(status)  # parameters, files and libraries may have put anything into it


def policy_message(parameters: Parameters, worker: WorkerStatus | None) -> VlaPolicyInfo:
    """Return what was loaded, or what was asked for until then.

    :param worker: None while the node is unconfigured.
    """
    chosen = (worker and worker.info) or PolicyInfo(
        parameters.model,
        parameters.revision,
        parameters.device,
        parameters.dtype,
        parameters.quantization,
        parameters.compile,
        parameters.recomputed_patches,
    )
    times = (worker and worker.warmup_times) or WarmupTimes(0.0, 0.0, 0.0)
    return VlaPolicyInfo(
        **dataclasses.asdict(chosen),
        preprocessing=parameters.preprocessing,
        unnorm_key=(worker and worker.unnorm_key) or parameters.unnorm_key,
        **_spec_fields(worker.spec if worker else None),
        graphs=times.graphs,
        load_s=worker.load_s if worker else 0.0,
        warmup_s=times.total_s,
        first_inference_s=times.first_inference_s,
        steady_inference_s=times.steady_inference_s,
    )


def _spec_fields(spec: PolicySpec | None) -> dict[str, Any]:
    if spec is None:
        return {}
    return {
        'cameras': list(spec.cameras),
        'state_dim': spec.state_dim,
        'action_dim': spec.action_dim,
        'horizon': spec.horizon,
        'action_space': spec.action_space,
        'emits_tokens': spec.emits_tokens,
        'deterministic': spec.deterministic,
    }


def counters_message(*groups: Any, **counts: int) -> VlaCounters:
    """Return the counters by name: the fields of VlaCounters are those of the groups.

    :param groups: dataclasses.
    :param counts: counters that no group has.
    """
    message = VlaCounters(**counts)
    for group in groups:
        for field in dataclasses.fields(group):
            setattr(message, field.name, getattr(group, field.name))
    return message


def latencies_message(gate: ActionGate) -> VlaLatencies:
    """Return the latencies of the published actions."""
    return VlaLatencies(
        image_to_action=_percentiles(gate.latency), inference=_percentiles(gate.inference)
    )


def _percentiles(window: LatencyWindow) -> VlaPercentiles:
    return VlaPercentiles(**dataclasses.asdict(window.percentiles()))


def motion_message(
    parameters: Parameters, cause: Cause | None = None, limited: str = ''
) -> VlaMotion:
    """Return the motion.

    :param cause: why the last action moved nothing; None if it did, or should not.
    :param limited: what shortened the last motion, apart from speeds; empty if nothing did.
    """
    message = VlaMotion(
        mode=parameters.motion, chunk_timing=parameters.chunk_timing, limited=limited
    )
    if cause is not None:
        message.reason, message.message = cause.reason, cause.message
    return message


def recording_message(
    on: bool, episode: str = '', success: bool = False, cause: Cause | None = None
) -> VlaRecording:
    """Return what the status says of the recording.

    :param episode: the current one, or the last one; empty: there was none.
    :param cause: why not all of it is recorded; None if all is.
    """
    message = VlaRecording(on=on, episode=episode, success=success)
    if cause is not None:
        message.reason, message.message = cause.reason, cause.message
    return message


def diagnostics_message(statuses: Sequence[VlaStatus], name: str) -> DiagnosticArray:
    """Return the statuses in the form that rqt and robot monitors read.

    :param statuses: one for each robot.
    :param name: of the node.
    """
    message = DiagnosticArray(status=[_diagnostic(status, name) for status in statuses])
    message.header.stamp = statuses[0].header.stamp
    return message


def _diagnostic(status: VlaStatus, name: str) -> DiagnosticStatus:
    counters, latencies = status.counters, status.latencies
    values = {key: str(getattr(counters, key)) for key in counters.get_fields_and_field_types()}
    values['draft_acceptance'] = f'{counters.accepted / max(1, counters.drafted):.3f}'
    values['image_to_action_p95_s'] = f'{latencies.image_to_action.p95_s:.4f}'
    values['inference_p95_s'] = f'{latencies.inference.p95_s:.4f}'
    values['motion'] = status.motion.message or status.motion.limited
    values['recording'] = status.recording.message or status.recording.episode
    level = _LEVELS.get(State(status.state), DiagnosticStatus.WARN)
    if status.reason in _WAITS_FOR_ORDERS:
        level = DiagnosticStatus.OK
    told = [
        status.message,
        *([f'no motion: {status.motion.message}'] if status.motion.message else []),
        *([f'recording: {status.recording.message}'] if status.recording.message else []),
    ]
    if len(told) > 1 and level == DiagnosticStatus.OK:
        level = DiagnosticStatus.WARN
    return DiagnosticStatus(
        level=level,
        name=f'{name}: {status.robot}' if status.robot else name,
        message='; '.join(told),
        hardware_id=status.policy.device,
        values=[KeyValue(key=key, value=value) for key, value in values.items()],
    )
