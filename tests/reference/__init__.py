"""The book's programs in plain torch, as we would write them: what ours are compared with."""
