"""The book's figures beside ours, line by line."""

from dataclasses import dataclass, field


@dataclass
class Table:
    """Prints a row a figure: = is equal in every digit the book prints, ~ within `rtol` of it,
    else DIFFERS.
    """

    rtol: float = 1e-5
    marks: list[str] = field(default_factory=list)

    def row(self, what: str, book: str, ours: float) -> None:
        """Print a figure; `book` is written as the book writes it, so that its digits are
        known.
        """
        if not self.marks:
            print(f"{'':40s} {'book':>14s} {'ours':>14s}   {'difference':>11s}")
        digits, difference = len(book.partition(".")[2]), ours - float(book)
        near = abs(difference) <= self.rtol * abs(float(book)) + 0.5 * 10**-digits
        self.marks.append("=" if f"{ours:.{digits}f}" == book else "~" if near else "DIFFERS")
        print(f"{what:40s} {book:>14s} {ours:14.{digits}f} {self.marks[-1]} {difference:11.1e}")

    def close(self) -> None:
        """Print how many agreed."""
        equal, near, differs = (self.marks.count(mark) for mark in ("=", "~", "DIFFERS"))
        told = f"of {len(self.marks)} figures {equal} equal the book's in every digit"
        print(
            told
            + f", {near} within {self.rtol:g} of it" * bool(near)
            + f", {differs} DIFFER" * bool(differs)
            + "\n"
        )
