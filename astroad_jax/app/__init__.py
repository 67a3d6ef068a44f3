"""The verbs of the command line as functions: where readers, methods and engine meet."""
