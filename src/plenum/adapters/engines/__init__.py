"""Drivers of inference engines behind :class:`plenum.ports.engine.Engine`: llama.cpp, vLLM, SGLang, emulated."""
