"""The options of the verbs that are one module each. Nothing here imports what the verbs work with."""
