"""From a finished run to one model file, and to eight bits."""
