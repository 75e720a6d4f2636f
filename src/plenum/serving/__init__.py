"""LLM serving: what a model costs on hardware, how fast an engine runs it, and how traffic is routed, admitted and scaled.

Way in: :class:`~plenum.serving.instance.Instance` says what runs; :func:`~plenum.serving.roofline.compile_steps` makes of it the
coefficients that :func:`~plenum.serving.steps.step` turns into seconds. Pure: the simulator and the live gateway call it.
"""
