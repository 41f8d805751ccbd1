"""Chapters 9 to 14: find nodules in a chest CT; `python -m experiments nodules [COMMAND]`.

Each command is a module with `Config` and `main(config)`, like the other experiments.
"""

TOOLS = ("cohort", "convert", "detect")
# In the order of the book. Without a command they run one after the other.
CHAPTERS = ("data", "classify", "augment", "segment", "end_to_end")
EXPECT = "about 10 minutes on two free cores, with the made-up cohort"
COMMANDS = (*TOOLS, *CHAPTERS)
