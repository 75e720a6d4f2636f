"""The control plane's core: events, the state they add up to, commands, the reconcile loop. Its I/O goes through ports.

Way in: :class:`~plenum.control.service.Service` (live), :class:`~plenum.control.controller.Controller` (one step at a time),
:class:`~plenum.control.state.State`.
"""
