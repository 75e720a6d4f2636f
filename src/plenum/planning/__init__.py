"""Answers to "what should we buy, and how should we run it": serving plans, sizing, training.

Pure: candidates are confirmed by a simulator that the caller passes in.
"""
