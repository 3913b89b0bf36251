"""Distil several super-resolution teachers into one small student, on two pools of workers."""

__version__ = "0.1.0"
