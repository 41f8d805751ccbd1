"""The book's figures beside ours, line by line."""

from dataclasses import dataclass, field


@dataclass
class Table:
    """Prints a row for each figure.

    `=` marks a figure that equals the book's in every digit that the book prints, `~` one
    within `rtol` of it, and DIFFERS any other.
    """

    rtol: float = 1e-5
    marks: list[str] = field(default_factory=list)

    def row(self, name: str, book: str, ours: float) -> None:
        """Print a figure; `book` is written as in the book, so that its digits are known."""
        if not self.marks:
            print(f"{'':40s} {'book':>14s} {'ours':>14s}   {'difference':>11s}")
        digits = len(book.partition(".")[2])
        difference = ours - float(book)
        tolerance = self.rtol * abs(float(book)) + 0.5 * 10**-digits
        if f"{ours:.{digits}f}" == book:
            mark = "="
        elif abs(difference) <= tolerance:
            mark = "~"
        else:
            mark = "DIFFERS"
        self.marks.append(mark)
        print(f"{name:40s} {book:>14s} {ours:14.{digits}f} {mark} {difference:11.1e}")

    def close(self) -> None:
        """Print how many agreed."""
        equal, near, differs = (self.marks.count(mark) for mark in ("=", "~", "DIFFERS"))
        words = f"of {len(self.marks)} figures {equal} equal the book's in every digit"
        if near:
            words += f", {near} within {self.rtol:g} of it"
        if differs:
            words += f", {differs} DIFFER"
        print(words + "\n")
