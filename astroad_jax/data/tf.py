"""tensorflow, brought in when a pipeline is built and never before: the import takes seconds."""

from __future__ import annotations

from types import ModuleType


def tensorflow() -> ModuleType:
    """Import tensorflow and keep its hands off the accelerator, whose memory belongs to JAX."""
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")
    return tf
