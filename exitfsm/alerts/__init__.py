"""Alarms that arrive: what is sent to whom and when, and the threads that send it.

Rules of this room: what is due is decided in `deciding` and worded in `wording`, by functions of alarms, settings and a
time; nothing there reads a clock or sends anything. `channels` send, each in threads of its own; `alerting` brings them
together. None of it is on the path of an exit: the manager is only asked which alarms are active. No address of a
channel is part of any text that is made here.
"""

from exitfsm.alerts.alerting import Alerting
from exitfsm.alerts.channels import Channel, open_channels

__all__ = ["Alerting", "Channel", "open_channels"]
