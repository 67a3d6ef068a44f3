"""The one training loop and the one scoring path: they know no method and no reader."""
