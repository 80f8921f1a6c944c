"""From an action's numbers to a robot's motion: what they mean, and by which data set."""

from vla_ros.motion.contract import ActionContract, ContractError, load_contracts

__all__ = ['ActionContract', 'ContractError', 'load_contracts']
