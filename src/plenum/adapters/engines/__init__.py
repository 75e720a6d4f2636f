"""Drivers of inference engines behind :class:`plenum.ports.engine.Engine`: llama.cpp, vLLM, SGLang, emulated.

Way in: :func:`~plenum.adapters.engines.table.engine_for` reaches a replica that runs,
:func:`~plenum.adapters.engines.table.engine_to_start` makes one that is to be started. All of them are
:class:`~plenum.adapters.engines.http.HttpEngine`, over one small HTTP client (:mod:`~plenum.adapters.engines.wire`)::

    gateway ── engine_for ──► HttpEngine ── wire ──► the engine's own server
    engine host ── engine_to_start ──► HttpEngine ── server ──► its process, on a leash

Hand-offs of prefilled prompts: llama.cpp and the emulated engine have a second address for them (``handoff``, ``llamacpp_handoff``); vLLM
and SGLang have flows of their own. What an engine's cache holds, ``kv_events`` hears.
"""
