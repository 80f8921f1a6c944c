"""A policy without a model that does what a script says: sound actions, and any fault on demand.

For testing a robot's stack where there is neither a GPU nor a checkpoint, and for testing the node
itself. The node's parameter ``model`` holds the script::

    scripted                            sound actions at once
    scripted:nan@5                      the fifth action is not a number
    scripted:slow=0.3,hung@20           every call takes 0.3 s, the twentieth never ends
    scripted:raise@5%,seed=1            one call in twenty fails, the same ones in every run
    scripted:slow=10@load,oom@warmup    loading takes 10 s, then the warm-up is out of memory
    scripted:cameras=2,state=8,chunk=8  needs two cameras and a state, gives eight actions a call

After the colon stand items, with commas between them and no spaces::

    item = fault[=number][@when]  or  option=number
    when = load, warmup, or calls of predict, which are counted from 1 after the warm-up:
           N, N-M, N- (N and all later ones) or P% (at random); without @when: every call

    faults at any time
        slow=SECONDS    takes so much longer; hears a cancel
        stuck           never ends; hears a cancel
        hung[=SECONDS]  hears no cancel; without a number it never ends
        lock[=SECONDS]  keeps the interpreter's lock, as a native call may that has a fault: no
                        other thread of the process runs; without a number for ever
        exit[=CODE]     the process ends with that code; without one it aborts (SIGABRT), as it
                        does when a native library crashes
        raise           RuntimeError
        oom             MemoryError
    faults at warmup only
        self_check      SelfCheckError
    faults at calls only
        refuse          InstructionError
        nan, inf        the first value of the first action is that, and the prediction says it is
                        valid
        dim=D           the actions have D values
        row=K           the chunk has K actions
        unbounded       all normalized values of the first action are beyond [-1, 1]
        invalid         the prediction says it is not valid
        changed         from that call on, a file of the checkpoint has changed (PolicyError)
    options
        seed=N          of what is at random; 0 if left out
        action_dim=D    how many values a sound action has; 7 if left out
        chunk=K         how many actions a call gives; 1 if left out
        cameras=N       how many cameras it needs: image, or camera_1 to camera_N; 1 if left out
        state=S         how many values of a state it needs; 0 if left out: it takes no state
        period=SECONDS  time between two actions of a chunk; if left out, it does not say
        tokens=0        it emits no tokens; tokens=1 if left out

Of several faults in one call, slow comes first and the others in the order they are written in;
one that raises or ends the process hides those after it.

Knows neither ROS nor torch. Runs in the policy's thread.
"""

from vla_ros.scripted.policy import ScriptedPolicy
from vla_ros.scripted.script import is_scripted

__all__ = ['ScriptedPolicy', 'is_scripted']
