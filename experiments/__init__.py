"""One script for each idea of the book; `python -m experiments --list` names them."""
