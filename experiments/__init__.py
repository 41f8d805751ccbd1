"""One script per idea of the book; `python -m experiments --list` names them."""
