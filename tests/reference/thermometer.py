"""Chapter 5 in plain torch: a line through the thermometer's readings, every epoch's loss and
parameters.

python -m tests.reference.thermometer prints torch's own figures beside the book's: they differ
in their last digits too, since float32 sums depend on the machine.
"""

import torch

T_C = [0.5, 14.0, 15.0, 28.0, 11.0, 8.0, 3.0, -4.0, 6.0, 13.0, 21.0]
T_U = [35.7, 55.9, 58.2, 81.9, 56.3, 48.9, 33.9, 21.8, 48.4, 60.4, 68.4]


def train(optimizer, lr: float, *, epochs: int, scale: float = 1.0, dtype=torch.float32):
    """Full-batch training from w=1, b=0.

    Returns:
      `(losses [epochs], w [epochs], b [epochs])`, the loss and parameters before each epoch's
      step.
    """
    t_u, t_c = scale * torch.tensor(T_U, dtype=dtype), torch.tensor(T_C, dtype=dtype)
    w, b = (torch.tensor(value, dtype=dtype, requires_grad=True) for value in (1.0, 0.0))
    step = optimizer([w, b], lr=lr)
    rows = []
    for _ in range(epochs):
        loss = ((w * t_u + b - t_c) ** 2).mean()
        step.zero_grad()
        loss.backward()
        rows.append((loss.item(), w.item(), b.item()))
        step.step()
    return tuple(
        torch.tensor(column, dtype=torch.float64).numpy() for column in zip(*rows, strict=True)
    )


def main() -> None:
    """Torch's figures and the book's."""
    book = {
        ("SGD", 1e-2, 1.0): {1: "1763.884644", 2: "5802485.5", 3: "19408035840"},
        ("SGD", 1e-4, 1.0): {99: "29.0236"},
        ("SGD", 1e-2, 0.1): {1: "80.364342", 2: "37.574917", 3: "30.871077", 100: "22.148710"}
        | {500: "7.860118", 1000: "3.828538", 5000: "2.927648"},
        ("Adam", 1e-1, 1.0): {
            500: "7.612903",
            1000: "3.086700",
            1500: "2.928578",
            2000: "2.927646",
        },
    }
    equal = total = 0
    for (name, lr, scale), figures in book.items():
        losses, _, _ = train(getattr(torch.optim, name), lr, epochs=max(figures), scale=scale)
        for epoch, figure in figures.items():
            ours = f"{losses[epoch - 1]:.{len(figure.partition('.')[2])}f}"
            equal, total = equal + (ours == figure), total + 1
            print(
                f"{name} {lr:g} on {scale:g} t_u, epoch {epoch:4d}: book {figure:>14s}  torch "
                f"{ours:>14s}"
            )
    print(
        f"torch {torch.__version__} equals the book in every digit in {equal} of {total} "
        "figures"
    )


if __name__ == "__main__":
    main()
