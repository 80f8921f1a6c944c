# SPDX-License-Identifier: Apache-2.0
"""A policy without a model that follows a script: valid actions, and any fault on demand.

For testing a robot's stack without a GPU or a checkpoint, and for testing the node itself. The
node's parameter ``model`` holds the script::

    scripted                            valid actions immediately
    scripted:nan@5                      the fifth action is not a number
    scripted:slow=0.3,hung@20           every call takes 0.3 s, the twentieth never ends
    scripted:raise@5%,seed=1            one call in twenty fails, the same ones in every run
    scripted:slow=10@load,oom@warmup    loading takes 10 s, then the warm-up is out of memory
    scripted:cameras=2,state=8,chunk=8  needs two cameras and a state, gives eight actions a call

The colon is followed by items, separated by commas without spaces::

    item = fault[=number][@when]  or  option=number
    when = load, warmup, or calls of predict, which are counted from 1 after the warm-up:
           N, N-M, N- (N and all later ones) or P% (at random); without @when: every call

    faults at any time
        slow=SECONDS    takes SECONDS longer; can be cancelled
        stuck           never ends; can be cancelled
        hung[=SECONDS]  cannot be cancelled; without a number it never ends
        lock[=SECONDS]  keeps the interpreter's lock, as a faulty native call may: no other thread
                        of the process runs; without a number it never ends
        exit[=CODE]     the process ends with CODE; without one it aborts (SIGABRT), as it does
                        when a native library crashes
        raise           RuntimeError
        oom             MemoryError
    faults at warmup only
        self_check      SelfCheckError
    faults at calls only
        refuse          InstructionError
        nan, inf        the first value of the first action is nan or inf, and the prediction says
                        it is valid
        dim=D           the actions have D values
        row=K           the chunk has K actions
        unbounded       all normalized values of the first action are beyond [-1, 1]
        invalid         the prediction says it is not valid
        changed         from that call on, a file of the checkpoint has changed (PolicyError)
    options
        seed=N          seed of random faults; default 0
        action_dim=D    number of values of a valid action; default 7
        chunk=K         number of actions of a call; default 1
        cameras=N       number of cameras it needs: image, or camera_1 to camera_N; default 1
        state=S         number of values of the state it needs; default 0: it takes no state
        period=SECONDS  time between two actions of a chunk; default: unknown
        tokens=0        it emits no tokens; default tokens=1

Of several faults in one call, slow comes first and the others follow in the order they are written
in; a fault that raises or ends the process hides those after it.

Independent of ROS and torch. Runs in the policy's thread.
"""

from vla_ros.scripted.policy import ScriptedPolicy
from vla_ros.scripted.script import is_scripted

__all__ = ['ScriptedPolicy', 'is_scripted']
