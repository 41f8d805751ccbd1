"""Chapters 9 to 14: find nodules in a chest CT; `python -m experiments nodules [COMMAND]`.

Each command is a module with `Config` and `main(config)`, like the other experiments.
"""

# In the order of the book. Without a command all but the tools run one after the other.
TOOLS = ("cohort", "convert", "detect")
COMMANDS = (*TOOLS, "segment", "end_to_end")
