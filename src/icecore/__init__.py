"""icecore: frozen pretrained transformers as universal computation engines."""

__version__ = "0.1.0"
