# SPDX-License-Identifier: Apache-2.0
"""What exists from configure to clean-up: the parameters, the worker, a session for each robot.

Used by the executor's thread, but for the two methods that the worker calls.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from vla_ros.errors import VlaError
from vla_ros.images.raw import backend
from vla_ros.motion import Contract, load_contracts
from vla_ros.motion.joint_limits import JointLimit
from vla_ros.motion.state import StatePart, state_topics
from vla_ros.motion.state_parts import ContractState, state_of
from vla_ros.motion.urdf import load_urdf
from vla_ros.parameters.check import ParameterError
from vla_ros.parameters.definition import Parameters
from vla_ros.reasons import Cause, Reason
from vla_ros.ros.loading import LoadPolicy, silence_limit, warmup_text, why_too_slow
from vla_ros.ros.output import close_outputs
from vla_ros.ros.recording import make_recorder, make_track
from vla_ros.ros.robot import RobotPort
from vla_ros.ros.robot_session import LoadedPolicy, RobotSession
from vla_ros.ros.shared import Shared
from vla_ros.scheduling import Deadline, InferenceWorker, Phase, WorkerLimits, WorkerStatus
from vla_ros.types import Policy, PolicyError, PolicySpec, ProgressCallback

Beat = Callable[[float, str], None]

LOAD_AGAIN = 'deactivate, clean up, set, configure'  # advice


class Configuration:
    """A policy that is loading, warming up or ready, and the robots that it moves."""

    def __init__(
        self,
        parameters: Parameters,
        robots: Sequence[RobotPort],
        shared: Shared,
        load_policy: LoadPolicy,
        beat: Beat,
        wake: Callable[[], None],
    ) -> None:
        """Make the worker without starting it.

        :param load_policy: called by the worker; what it raises puts the node into ERROR.
        :param beat: of the watchdog.
        :param wake: called by the worker when its phase has changed, or a result waits.
        """
        self.parameters = parameters
        self.sessions: list[RobotSession] = []  # one for each robot once the policy is warm
        self._robots = robots
        self._shared = shared
        self._load_policy = load_policy
        self._beat, self._wake = beat, wake
        self._loaded: Mapping[str, Contract] | None = None  # contracts, once the worker read them
        self._changed: Mapping[str, Contract] | None = None  # contracts that were set since
        self._description: Mapping[str, JointLimit] = {}  # limits, of the file
        self._state: Sequence[StatePart] = ()  # its parts, as told in the log
        self._is_activated = False
        self.recorder = make_recorder(parameters)
        self._worker = InferenceWorker(
            self._build_policy,
            _worker_limits(parameters),
            clock=shared.clock,
            unnorm_key=parameters.unnorm_key,
            notify=self._on_notified,
            sources=len(robots),
        )
        for robot in robots:
            robot.configure(parameters)

    # -- worker only -------------------------------------------------------------------------------

    def _build_policy(self, progress: ProgressCallback) -> Policy:
        """Load the policy. It may take seconds, while the executor must answer."""
        self._shared.log.info(f'images are converted by: {backend()}')
        parameters = self.parameters  # the executor may replace them while this loads
        self._loaded = load_contracts(parameters.contracts or None)
        if parameters.robot_description not in ('', 'topic'):
            self._description = load_urdf(parameters.robot_description)
        policy = self._load_policy(parameters, progress)
        try:
            self._check_state(policy)
        except PolicyError:
            policy.close()
            raise
        return policy

    def _check_state(self, policy: Policy) -> None:
        """Raise ContractError if the state of the contract in force is not this policy's.

        It is known before the warm-up, which takes long.
        """
        key = self.parameters.unnorm_key or None
        if policy.spec(key).state_dim:
            session = policy.session(key)
            key = getattr(session, 'unnorm_key', None) or ''
            state_of(session.spec, self._contracts.get(key), self.parameters.state_from)

    def _on_notified(self) -> None:
        """Wake the executor. What begins now may keep the interpreter's lock for its own time."""
        status = self._worker.status()
        if status.progress is None and status.phase in (Phase.WARMING_UP, Phase.READY):
            self._beat(*silence_limit(status, self.parameters))
        self._wake()

    # -- lifecycle ---------------------------------------------------------------------------------

    def start(self) -> None:
        """Start to load the policy, and return immediately."""
        self._beat(*silence_limit(self.status(), self.parameters))
        self._start_recorder()
        self._worker.start()

    def _start_recorder(self) -> None:
        """Start the recorder's thread where it is needed."""
        if self.parameters.record:
            self.recorder.start()

    def status(self) -> WorkerStatus:
        """Return the state of the worker."""
        return self._worker.status()

    @property
    def is_warm(self) -> bool:
        """Whether the robots have their sessions."""
        return bool(self.sessions)

    @property
    def is_activated(self) -> bool:
        """Whether the robots may move, now or as soon as the policy is warm."""
        return self._is_activated

    @property
    def is_active(self) -> bool:
        """Whether the robots may move now."""
        return any(session.active for session in self.sessions)

    def prepare(self) -> bool:
        """Begin the sessions if the policy is warm; return whether they have begun just now.

        :raises ContractError: if the state of a contract set since is not the policy's.
        """
        status = self.status()
        if status.phase is not Phase.READY or status.spec is None or status.warmup_times is None:
            return False
        if self.is_warm:
            return False
        state = self._state_of(status.spec, status.unnorm_key)
        policy = LoadedPolicy(self._worker, status.spec, self._contracts, state, self._description)
        self.sessions = [
            robot.begin(self.parameters, policy, make_track(self.recorder))
            for robot in self._robots
        ]
        self._shared.log.info(warmup_text(status.load_s, status.warmup_times))
        if why := why_too_slow(status, self.parameters):
            self._shared.log.warning(why)
        return True

    @property
    def _contracts(self) -> Mapping[str, Contract]:
        """The contracts in force, by unnorm_key."""
        return (self._loaded or {}) if self._changed is None else self._changed

    def _state_of(self, spec: PolicySpec, key: str) -> ContractState:
        """Return the state by the contract of the data set that is in force."""
        contract = self._contracts.get(key)
        parts = state_of(spec, contract, self.parameters.state_from)
        if parts and parts != self._state:
            self._shared.log.info(f'the state is made of {" and ".join(state_topics(parts))}')
        self._state = parts
        return ContractState(parts, getattr(contract, 'frame', 'base'))

    def adjust(self, parameters: Parameters, rereads_contracts: bool) -> None:
        """Apply the parameters that may change while the node is configured.

        :param parameters: checked; all others are as before.
        :param rereads_contracts: whether the file of contracts may have changed.
        :raises VlaError: if they cannot be in force; nothing changes then.
        """
        before = self.parameters, self._changed
        if rereads_contracts:
            contracts = load_contracts(parameters.contracts or None)
            self._check_crop(contracts)
            self._changed = contracts
        self.parameters = parameters
        state = ContractState((), 'base')
        try:
            status = self.status()
            if self.is_warm and status.spec is not None:
                state = self._state_of(status.spec, status.unnorm_key)
        except VlaError:
            self.parameters, self._changed = before
            raise
        self._shared.commands.adjust(parameters.max_command_age_s)
        self._start_recorder()
        self._worker.adjust(_worker_limits(parameters))
        for robot in self._robots:
            robot.adjust(parameters, self._contracts, state)

    def _check_crop(self, contracts: Mapping[str, Contract]) -> None:
        """Raise ParameterError if the policy would have to be loaded again for these contracts.

        Before it is loaded, its data set may be unknown: then no contract may have another crop.
        """
        if self.parameters.preprocessing != 'training':
            return
        before = self._loaded if self._changed is None else self._changed
        if before is None:
            before = load_contracts(self.parameters.contracts or None)
        key = self.status().unnorm_key or self.parameters.unnorm_key
        for name in [key] if key else sorted({*before, *contracts}):
            if _crops(before.get(name)) != _crops(contracts.get(name)):
                raise ParameterError(
                    f'parameter contracts: the contract of {name!r} has another center_crop, which '
                    'the policy depends on',
                    LOAD_AGAIN,
                    value='center_crop',
                )

    def activate(self) -> None:
        """Let the robots act; call it again when their sessions have begun."""
        self._is_activated = True
        for session in self.sessions:
            session.activate()

    def deactivate(self) -> None:
        """Drop everything: no running inference becomes an action."""
        self._is_activated = False
        for session in self.sessions:
            session.deactivate()
        self._worker.reset()

    def close(self, join_timeout_s: float) -> bool:
        """Stop all robots, end the worker, and end the sessions.

        :returns: whether the worker's thread has ended.
        """
        # First of all: the worker may take its time.
        outputs = [output for session in self.sessions for output in session.hand_over_outputs()]
        close_outputs(outputs, self._shared.clock)
        ended = self._worker.close(join_timeout_s)
        self.settle_results()
        for robot in self._robots:
            robot.release()
        self.recorder.close()
        return ended

    # -- regularly ---------------------------------------------------------------------------------

    def settle_results(self) -> None:
        """Publish the results that wait, or count why not."""
        self.watch()  # the clock may have jumped since the timer looked
        # One by one: what one of them changes decides about the next.
        while (result := self._worker.next_result()) is not None:
            self.sessions[result.source].settle(result)

    def enforce_deadline(self) -> Deadline:
        """Make the robots hold that wait for a late inference; return how late it is."""
        deadline = self._worker.enforce_deadline()
        if deadline is Deadline.MISSED and self.is_active:
            limit_s = self.parameters.inference_timeout_s
            message = f'overrun: inference_timeout_s, {limit_s:g} s, is over'
            for source in self.overdue():
                self.sessions[source].hold(Cause(Reason.INFERENCE_OVERRUN, message))
        return deadline

    def overdue(self) -> set[int]:
        """Return the robots that wait for a late inference."""
        return self._worker.overdue()

    def watch(self, overdue: Collection[int] = ()) -> None:
        """Drop what each robot's clock, cameras and instruction no longer support.

        :param overdue: robots that hold already, with a reason that must stay.
        """
        clock = self._shared.clock.look()
        if clock.jumped:  # also of what is heard while the robots are inactive: the poses
            for session in self.sessions:
                session.forget_stamps()
        if not self.is_active:
            return
        for source, session in enumerate(self.sessions):
            if clock.jumped or source not in overdue:
                session.watch(clock.fault, clock.jumped)

    def catch_up(self, stalled_s: float) -> None:
        """Send what is due.

        :param stalled_s: for how long the executor has stalled just now [s]; 0: it has not.
        """
        for session in self.sessions:
            if stalled_s and session.active:
                session.drop(_stalled(stalled_s))
            session.catch_up()


def _crops(contract: Contract | None) -> bool:
    return bool(getattr(contract, 'center_crop', False))


def _worker_limits(parameters: Parameters) -> WorkerLimits:
    return WorkerLimits(
        parameters.max_image_age_s,
        parameters.inference_timeout_s,
        parameters.hang_timeout_s,
        parameters.replan_rows,
    )


def _stalled(stalled_s: float) -> Cause:
    return Cause(
        Reason.EXECUTOR_STALLED,
        f'the node did not run for {stalled_s:.1f} s (suspended, or the machine is overloaded); '
        'observations and inferences are dropped, and commands that waited are refused',
    )
