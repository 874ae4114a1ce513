"""Shifted-window multi-head self-attention (Swin), straight from and to token order."""

from .op import can_run_window_attention, window_attention

__all__ = ["can_run_window_attention", "window_attention"]
